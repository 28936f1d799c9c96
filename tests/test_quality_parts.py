"""Comparators, inversions and selections of the quality benchmark, on tiny random networks."""

import ast
import inspect
import io
import json
import math
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_networks import NETWORKS

from benchmarks import refining
from benchmarks.quality import contest, inversions, judge, rules, selections, summary
from benchmarks.quality.comparators import (
    COMPARATORS,
    colour,
    gatys,
    image2stylegan,
    inverters,
    mganprior,
    pulse,
    spaces,
)
from benchmarks.quality.judge import Judge
from benchmarks.quality.pairs import PhotoPair
from benchmarks.quality.runs import Kept
from oeft_jax import correspondence, golden, inversion, loss_terms, metrics, selection
from oeft_jax._checks import InputError
from oeft_jax.config import (
    Config,
    CorrespondenceConfig,
    InversionConfig,
    SelectionConfig,
)
from oeft_jax.image import resize
from oeft_jax.inversion import Hypothesis
from oeft_jax.losses import gram
from oeft_jax.models import backbone as models
from oeft_jax.pipeline import Parts
from oeft_jax.refine import refined
from training import photos, squeezenet
from training.invertibility import reach

SIDE, GRID, NUM_HELD_OUT = 32, 8, 8
FEATURES = {"depths": [1] * 5, "widths": [4] * 5}
GENERATORS = {name: NETWORKS[name] for name in ("pggan", "stylegan2")}
QUICK = InversionConfig(composing_layers=(2, 4), num_codes=(2,), steps=3, perceptual_tap="relu2_1")
PLAN = ((2, 2), (4, 2))
MODULES = {
    "colour transfer": colour,
    "Gatys": gatys,
    "Image2StyleGAN": image2stylegan,
    "mGANprior": mganprior,
    "PULSE": pulse,
}


def drawn(network, config, seed):
    """Random weights of a size that keeps signals alive and pictures near [-1, 1]."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        deviation = {"mapping": 100, "to_rgb0": 0.1, "to_rgb1": 0.1}.get(path[0].key, 1)
        if network == "vgg":
            deviation = (2 / np.prod(leaf.shape[:-1])) ** 0.5
        return rng.normal(0, deviation, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, golden.shapes(network, config))


@pytest.fixture(scope="module")
def config():
    stage = CorrespondenceConfig(
        steps=0, image_size=SIDE, grid=GRID, taps=("relu2_1", "relu3_1"), augment=False
    )
    return Config(stage, QUICK, SelectionConfig(tap="relu2_1"))


@pytest.fixture(scope="module")
def make_parts(config):
    kept = {}

    def make(name):
        if name not in kept:
            net = models.backbone("vgg", FEATURES)
            params = drawn("vgg", FEATURES, 1)
            kept[name] = Parts(
                backbone=net,
                params=params,
                losses=loss_terms.default_losses(config.correspondence),
                optimizer=correspondence.default_optimizer(config.correspondence),
                generator=models.generator(name, GENERATORS[name]),
                generator_params=drawn(name, GENERATORS[name], 2),
                inversion_optimizer=inversion.default_optimizer(config.inversion),
                scorer=selection.single_image(net, params, "relu2_1"),
            )
        return kept[name]

    return make


@pytest.fixture(scope="module")
def parts(make_parts):
    return make_parts("pggan")


def smooth(seed, size=SIDE):
    """A smooth random picture. [size, size, 3] float32 in [0, 1]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture, np.float32) / 255


@pytest.fixture(scope="module")
def pair():
    return smooth(1), smooth(2)


# Colour transfer


def cells(image):
    return np.asarray(image, np.float64).reshape(-1, 3)


def test_colour_transfer_gives_the_targets_mean_and_covariance_exactly(pair):
    moved = cells(colour.linear_transport(*pair))
    np.testing.assert_allclose(moved.mean(0), cells(pair[1]).mean(0), rtol=0, atol=1e-12)
    found, expected = np.cov(moved.T), np.cov(cells(pair[1]).T)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_colour_transfer_is_the_optimal_linear_map(pair):
    """Of the maps that match the covariance only one is symmetric and positive: it moves least."""
    ours, moved = cells(pair[0]), cells(colour.linear_transport(*pair))
    matrix = np.linalg.lstsq(ours - ours.mean(0), moved - moved.mean(0), rcond=None)[0]
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-10)
    assert np.linalg.eigvalsh(matrix).min() > 0


def test_colour_transfer_of_a_grey_source_is_finite_and_has_the_targets_mean(pair):
    grey = np.repeat(pair[0][..., :1], 3, axis=-1)
    moved = cells(colour.linear_transport(grey, pair[1]))
    np.testing.assert_allclose(moved.mean(0), cells(pair[1]).mean(0), atol=1e-12)
    assert np.linalg.matrix_rank(np.cov(moved.T), tol=1e-8) == 1
    flat = colour.linear_transport(np.full_like(grey, 0.3), pair[1])
    assert np.ptp(cells(flat), axis=0).max() < 1e-12


# Comparators


def options_of(name):
    """What makes a comparator quick."""
    return {"colour transfer": {}, "Gatys": {"steps": 3}}.get(name, {"config": QUICK})


def test_every_comparator_has_the_one_signature():
    assert {name: module.picture for name, module in MODULES.items()} == COMPARATORS
    for function in COMPARATORS.values():
        parameters = inspect.signature(function).parameters.values()
        needed = [p.name for p in parameters if p.default is p.empty]
        assert needed == ["source", "target", "parts", "seed"]


@pytest.mark.parametrize(
    ("name", "network"),
    [*((name, "pggan") for name in sorted(MODULES)), ("Image2StyleGAN", "stylegan2")],
)
def test_comparators_give_a_picture_of_the_sources_size_the_same_each_time(
    make_parts, pair, name, network
):
    def run(seed):
        return MODULES[name].picture(*pair, make_parts(network), seed, **options_of(name))

    found = run(0)
    assert found.shape == (SIDE, SIDE, 3)
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1
    assert found.std() > 0.01
    np.testing.assert_array_equal(found, run(0))


@pytest.mark.parametrize("module", [image2stylegan, mganprior, pulse])
def test_comparators_that_need_a_generator_say_so(parts, pair, module):
    with pytest.raises(InputError, match="--refine never leaves no generator .*accepted: auto"):
        module.picture(*pair, parts._replace(generator=None), 0)


def test_gatys_lowers_its_objective_and_nears_the_targets_grams(parts, pair):
    source, target = (jnp.asarray(image)[None] for image in pair)
    see = parts.backbone.apply
    content = see(parts.params, source, (gatys.CONTENT,))[gatys.CONTENT]
    grams = {tap: gram(v) for tap, v in see(parts.params, target, gatys.STYLE).items()}
    objective = jax.jit(gatys.make_objective(parts.backbone))
    after = gatys.picture(*pair, parts, 0, steps=20)
    losses = [
        float(objective(x, parts.params, content, grams))
        for x in (source, jnp.asarray(after)[None])
    ]
    assert losses[1] < 0.7 * losses[0]
    assert float(objective(target, parts.params, content * 0, grams)) > 0
    own = see(parts.params, target, (gatys.CONTENT,))[gatys.CONTENT]
    assert float(objective(target, parts.params, own, grams)) < 1e-9


# Spaces of one code


@pytest.mark.parametrize(("network", "names"), [("pggan", ["z"]), ("stylegan2", ["z", "W", "W+"])])
def test_spaces_of_a_generator(make_parts, network, names):
    assert [space.name for space in spaces.spaces(make_parts(network).generator)] == names


@pytest.mark.parametrize("network", sorted(GENERATORS))
def test_generator_as_one_layer_gives_the_pictures_of_its_latents(make_parts, network):
    parts = make_parts(network)
    generator, params = parts.generator, parts.generator_params
    z = jax.random.normal(jax.random.key(3), (2, generator.z_dim))
    view = spaces.by_latent(generator)
    found = jax.jit(lambda p, z: view.to_image(p, view.segment(p, None, z[:, None], 0, 1)))(
        params, z
    )
    np.testing.assert_allclose(found, jax.jit(generator.sample)(params, z), atol=1e-5)
    assert view is spaces.by_latent(generator)


@pytest.mark.parametrize("place", range(3))
def test_each_space_is_inverted_with_its_importances_held(make_parts, place):
    parts = make_parts("stylegan2")
    space = spaces.spaces(parts.generator)[place]
    latents = spaces.start(jax.random.key(0), space, parts.generator_params)
    setup = spaces.setup(space, parts, QUICK)
    first, last = reach(smooth(5), latents, setup, (1, 25))
    assert last.hypotheses[0].loss < (0.9 if place == 2 else 1) * first.hypotheses[0].loss
    np.testing.assert_array_equal(last.latents[0].importance, latents[0].importance)
    layers = parts.generator.num_codes(0, parts.generator.num_layers)
    moved = image2stylegan.codes_of(space, last) if place else last.latents[0].codes
    assert moved.shape == ((layers if place else 1), parts.generator.code_dim if place else 6)
    apart = float(jnp.abs(moved - moved[:1]).max())
    assert (apart > 1e-3) == (space.name == "W+")


def test_mixed_codes_of_one_picture_are_that_picture_and_both_photos_count(make_parts):
    parts = make_parts("stylegan2")
    space = spaces.spaces(parts.generator)[-1]
    one, other = (image2stylegan.embed(smooth(s), space, parts, 0, QUICK) for s in (5, 6))
    codes = [image2stylegan.codes_of(space, reached) for reached in (one, other)]
    same = image2stylegan.mixed(space, parts, codes[0], codes[0])
    np.testing.assert_allclose(same, one.hypotheses[0].image, atol=1e-5)
    half = len(codes[0]) // 2
    crossed = image2stylegan.mixed(space, parts, *codes)
    by_hand = jnp.concatenate([codes[0][:half], codes[1][half:]])
    np.testing.assert_array_equal(crossed, image2stylegan.mixed(space, parts, by_hand, by_hand))
    assert np.abs(crossed - same).max() > 1e-3


def test_pulse_stays_on_the_sphere_and_nears_the_small_picture(parts):
    latents = pulse.first_latents(jax.random.key(0), parts)
    small = pulse.made_small(smooth(7), parts.generator)
    assert small.shape == (4, 4, 3)  # half of 8
    np.testing.assert_allclose(small, smooth(7).reshape(4, 8, 4, 8, 3).mean((1, 3)), atol=1e-6)
    first, last = reach(small, latents, pulse.setup(parts, QUICK), (1, 20))
    for one in (latents, first.latents, last.latents):
        length = np.linalg.norm(one[0].codes)
        np.testing.assert_allclose(length, parts.generator.z_dim**0.5, rtol=1e-5)
    assert last.hypotheses[0].loss < first.hypotheses[0].loss
    made = last.hypotheses[0].image.reshape(4, 2, 4, 2, 3).mean((1, 3))
    error = np.mean((2 * made - 2 * small) ** 2)  # the loss, but for clipping
    assert error <= last.hypotheses[0].loss * 1.001


# Inversions


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data folder with one pair and a few faces."""
    folder = tmp_path_factory.mktemp("data")
    for name, seed in (("a.png", 1), ("b.png", 2)):
        Image.fromarray((smooth(seed, 40) * 255).astype(np.uint8)).save(folder / name)
    entry = {"id": "000-x", "kind": "x", "content": "a.png", "exemplar": "b.png"}
    (folder / "pairs.json").write_text(json.dumps([entry]))
    (folder / "lfw128").mkdir()
    with zipfile.ZipFile(folder / "lfw128" / "lfw128.zip", "w") as archive:
        for number in range(NUM_HELD_OUT + 3):
            file = io.BytesIO()
            face = (smooth(100 + number, 128) * 255).astype(np.uint8)
            Image.fromarray(face).save(file, "PNG")
            archive.writestr(f"{number:03}.png", file.getvalue())
    return folder


@pytest.fixture
def few_faces(monkeypatch):
    monkeypatch.setattr(photos, "HELD_OUT", NUM_HELD_OUT)
    monkeypatch.setattr(rules, "REFERENCE_SIDE", SIDE)


def block_features(arrays, images):
    """A stand-in for SqueezeNet's features: means of quarters."""
    n, size = images.shape[:2]
    blocks = np.float64(images).reshape(n, 2, size // 2, 2, size // 2, 3)
    return blocks.mean((2, 4)).reshape(n, -1)


@pytest.fixture(scope="module")
def ready(parts, config):
    return contest.prepare(parts, config, smooth(3, 8))


def test_equal_compute_is_what_the_whole_plan_costs(parts, ready):
    costs = {name: budget.operations for name, budget in ready.budgets.items()}
    programs = inversion.make_programs(
        parts.generator, parts.backbone, QUICK, parts.inversion_optimizer
    )
    goal = programs.make_goal(smooth(3, 8), params=parts.generator_params, phi=parts.params)
    state = inversion.init(
        jax.random.key(0), parts.generator, parts.generator_params, PLAN, parts.inversion_optimizer
    )
    together = programs.step.lower(state, goal, (0, 1)).cost_analysis()["flops"]
    total = sum(costs[inverters.name_of(*one)] for one in PLAN)
    np.testing.assert_allclose(total, together, rtol=0.03)
    for budget in ready.budgets.values():
        assert budget.equal_steps == QUICK.steps
        work = budget.equal_compute * budget.operations
        assert abs(work - QUICK.steps * total) <= budget.operations
    assert costs["layer 2, 2 codes"] < costs["layer 4, 2 codes"] < costs["mGANprior"]
    assert costs["single code, z"] < costs["layer 4, 2 codes"]


def test_inversion_rows_judge_every_method_at_both_budgets(
    parts, config, ready, data, few_faces, monkeypatch, tmp_path
):
    monkeypatch.setattr(contest, "prepare", lambda *_: ready)  # compiled already
    monkeypatch.setattr(inversions, "FRECHET_AT_LEAST", 2)
    monkeypatch.setattr(squeezenet, "read", lambda folder: {})
    monkeypatch.setattr(squeezenet, "pooled_features", block_features)
    kept = Kept(tmp_path / "rows.jsonl")
    inversions.run(kept.do, tmp_path, data, parts, config, seeds=(0,), num=2)
    found = [{**row["job"], **row} for row in kept.rows]
    assert json.loads(json.dumps(found)) == found
    table = summary.all_tables(
        [{**row, "job": {"section": "inversion", **row["job"]}} for row in kept.rows]
    )["Inversion"]
    assert table["mGANprior, equal compute"]["PSNR gain, held out"].value == 0
    assert {"PSNR, sampled", "Frechet distance, held out"} <= set(table["MGI, equal steps"])
    pictures = [row for row in found if "PSNR" in row]
    assert not any("SSIM" in row for row in pictures)  # 8 pixels hold no window
    settings = [inverters.name_of(*one) for one in PLAN]
    names = ["single code, z", "PULSE", *settings, "mGANprior", contest.CHOSEN]
    keys = {(row["origin"], row["id"], row["method"], row["budget"]) for row in pictures}
    assert len(pictures) == len(keys) == 2 * 2 * (2 * len(names) + 1)
    assert {row["method"] for row in pictures} == {*names, contest.HALVED}
    frechet = [row for row in found if "Frechet distance" in row]
    again = [row["method"] for row in frechet if row["budget"] == "equal steps"]
    assert sorted(again) == sorted([inversions.REAL, *names])
    for origin, number in {(row["origin"], row["id"]) for row in pictures}:
        of = {
            (row["method"], row["budget"]): row
            for row in pictures
            if (row["origin"], row["id"]) == (origin, number)
        }
        for name in names[:-1]:
            assert of[name, "equal steps"]["steps"] == QUICK.steps
            whole, own = (of[n, "equal compute"] for n in (contest.CHOSEN, name))
            assert abs(whole["operations"] - own["operations"]) <= own["operations"] / own["steps"]
        for budget in contest.BUDGETS:  # one of the plan after the same steps
            mine = of[contest.CHOSEN, budget]
            theirs = [of[name, "equal steps"] for name in settings]
            assert mine["PSNR"] in [row["PSNR"] for row in theirs]
            total = sum(row["operations"] for row in theirs)
            np.testing.assert_allclose(mine["operations"], total)


def test_longer_inversion_is_never_further_from_its_goal(ready):
    found = contest.trials(jax.random.key(0), smooth(3, 8), ready)
    for trial in found:
        for other in found:
            if trial.method == other.method and trial.steps < other.steps:
                assert other.hypothesis.loss <= trial.hypothesis.loss
    again = contest.trials(jax.random.key(0), smooth(3, 8), ready)
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one.hypothesis.image, other.hypothesis.image)


@pytest.mark.parametrize(
    ("steps", "plan"), [(150, (2, 2)), (30, (3, 2)), (40, (5, 4)), (3, (2, 1))]
)
def test_halving_costs_what_no_halving_costs(steps, plan):
    stage = InversionConfig(
        composing_layers=tuple(range(1, plan[0] + 1)),
        num_codes=tuple(range(1, plan[1] + 1)),
        steps=steps,
    )
    whole, work, before, left = plan[0] * plan[1], 0, 0, plan[0] * plan[1]
    for step, kept in sorted(contest.schedule(stage).items()):
        work += (step - before) * left
        before, left = step, kept
    assert steps * whole - 2 * whole <= work <= steps * whole
    assert before >= steps
    assert left == math.ceil(math.ceil(whole / 2) / 2)


def test_halving_read_off_the_runs_is_the_packages_own(parts, ready):
    """With hypotheses that drop out in a run of all of them together."""
    found = contest.trials(jax.random.key(0), smooth(3, 8), ready)
    (mine,) = [trial for trial in found if trial.method == contest.HALVED]
    steps = max(ready.schedule)
    programs = inversion.make_programs(
        parts.generator, parts.backbone, QUICK, parts.inversion_optimizer
    )
    goal = programs.make_goal(smooth(3, 8), params=parts.generator_params, phi=parts.params)
    state = inversion.init(
        jax.random.key(0), parts.generator, parts.generator_params, PLAN, parts.inversion_optimizer
    )
    drops = {step: left for step, left in ready.schedule.items() if step < steps}
    state = inversion.run(state, goal, step=programs.step, num_steps=steps, drops=drops)
    kept = inversion.hypotheses_of(state, goal, programs)
    assert len(kept) == 1
    assert mine.hypothesis[:2] == kept[0][:2]
    np.testing.assert_allclose(mine.hypothesis.image, kept[0].image, atol=1e-3)
    assert mine.steps == steps > QUICK.steps


def test_faces_that_are_inverted_and_compared_with_are_disjoint():
    even, odd = inversions.disjoint(500, 50)
    assert len(set(even) | set(odd)) == 100
    assert max(odd) < 500
    assert len(set(np.concatenate(inversions.disjoint(500, 250)))) == 500


def test_sampled_pictures_have_an_answer(parts):
    images = inversions.sampled(parts, 2)
    z = jax.random.normal(jax.random.key(0), (2, parts.generator.z_dim))
    raw = np.asarray(jax.jit(parts.generator.sample)(parts.generator_params, z))
    np.testing.assert_allclose(images, np.clip(raw / 2 + 0.5, 0, 1), atol=1e-5)


# Selection


@pytest.fixture(scope="module")
def eye(parts):
    taps = ("relu1_1", "relu2_1", "relu3_1")
    features = jax.jit(lambda images: parts.backbone.apply(parts.params, images, taps))
    return Judge("tiny", features, taps[:2], "relu3_1", "relu2_1")


@pytest.fixture(scope="module")
def hypotheses(pair):
    """From nearly the warp to nothing of it."""
    near = np.asarray(Image.fromarray((pair[1] * 255).astype(np.uint8)).resize((16, 16))) / 255
    parts_of = np.random.default_rng(0).uniform(size=(16, 16, 3))
    return [
        Hypothesis(4, count, np.float32((1 - t) * near + t * parts_of), loss, 10.0, ssim)
        for count, t, loss, ssim in ((1, 0.5, 0.2, 0.5), (2, 0.02, 0.3, 0.4), (3, 0.9, 0.1, 0.3))
    ]


def test_selection_rows_rank_what_was_chosen(pair, hypotheses, eye, config):
    photos_of = PhotoPair("1", "x", *pair)
    choosing = {rules.DEFAULT: lambda h, target: 0, "last": lambda h, target: 2}
    scorer = lambda pictures, _: np.ones(len(pictures))  # noqa: E731
    found = list(
        selections.pair_rows(photos_of, pair[1], hypotheses, scorer, choosing, eye, config)
    )
    assert json.loads(json.dumps(found)) == found
    measures = {row["measure"] for row in found}
    assert {selections.TO_WARP, selections.ALL, "edge agreement", "Gram distance"} <= measures
    for measure in measures:
        of = {row["rule"]: row for row in found if row["measure"] == measure}
        settings = [of[f"layer 4, {count} codes"] for count in (1, 2, 3)]
        costs = np.array([row["cost"] for row in settings])
        span = np.ptp(costs)
        for row in of.values():
            np.testing.assert_allclose(row["regret"], (row["cost"] - costs.min()) / span, atol=1e-9)
        assert of["oracle"]["cost"] == costs.min()
        assert of["oracle"]["right"] == 1
        assert of[rules.DEFAULT]["cost"] == costs[0]
        assert of["last"]["right"] == float(np.argmin(costs) == 2)
        np.testing.assert_allclose(of["chance"]["cost"], costs.mean())
        np.testing.assert_allclose(of["chance"]["right"], 1 / 3)
        # SSIM 0.5 is below the limit, so the safe rule keeps the warp.
        assert of[selections.SAFE]["cost"] == of[selections.WARP]["cost"]
    edges = {row["rule"]: row for row in found if row["measure"] == "edge agreement"}
    for one in hypotheses:  # better when larger, so its cost is the negative
        picture = refined(one.image, pair[1], pair[0], config.output.structure)
        expected = -float(metrics.edge_agreement(jnp.asarray(picture), jnp.asarray(pair[0])))
        cost = edges[inverters.name_of(4, one.num_codes)]["cost"]
        np.testing.assert_allclose(cost, expected, atol=1e-5)
    to_warp = {row["rule"]: row for row in found if row["measure"] == selections.TO_WARP}
    assert to_warp["layer 4, 2 codes"]["right"] == 1
    assert to_warp["layer 4, 3 codes"]["regret"] == 1


def test_distance_to_the_warp_is_zero_for_the_warp_at_the_generators_size(pair, eye, hypotheses):
    held = hypotheses[0]._replace(image=resize(pair[1], (16, 16)))
    assert selections.distance_to_warp(held, pair[1], eye) < 1e-6
    assert selections.distance_to_warp(hypotheses[2], pair[1], eye) > 0.01


def test_regret_by_hand():
    assert selections.regret(3.0, np.array([1.0, 3.0, 5.0])) == 0.5
    assert selections.regret(0.0, np.array([1.0, 3.0, 5.0])) == -0.25
    assert selections.regret(2.0, np.array([2.0, 2.0])) == 0


def test_standings_average_seeds_and_draw_pairs_again():
    def row(name, regret, right):
        return {"id": name, "measure": "m", "rule": "r", "regret": regret, "right": right}

    found = [
        row("a", 0.0, 1),
        row("a", 1.0, 0),
        row("b", 0.2, 1),
        {**row("a", 9, 0), "measure": "n"},
    ]
    standing = selections.standings(found, "m")["r"]
    assert standing.regret.value == pytest.approx(0.35)
    assert standing.right.value == pytest.approx(0.75)
    assert standing.regret.pairs == 2
    assert standing.regret.low == pytest.approx(0.2)
    assert standing.regret.high == pytest.approx(0.5)


def test_reference_statistics_are_those_of_all_positions(parts, data, few_faces):
    mean, covariance = rules.reference_statistics(
        data, parts.backbone, parts.params, "relu2_1", SIDE
    )
    faces = photos.load_faces(data, SIDE)[-NUM_HELD_OUT:].astype(np.float32) / 255
    rows = np.asarray(parts.backbone.apply(parts.params, faces, ("relu2_1",))["relu2_1"])
    rows = rows.reshape(-1, 4).astype(np.float64)
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(covariance, np.cov(rows.T), atol=5e-3 * np.var(rows, axis=0).max())


def test_selection_from_a_data_folder(parts, config, data, eye, few_faces, monkeypatch, tmp_path):
    monkeypatch.setattr(judge, "squeezenet", lambda folder: eye)
    kept = Kept(tmp_path / "rows.jsonl")
    selections.run(kept.do, data, parts, config, seeds=(0, 1), num=1, half="choose")
    found = kept.rows
    assert {row["seed"] for row in found} == {0, 1}
    table = selections.standings(found, selections.ALL)
    assert table["oracle"].regret.value == pytest.approx(0, abs=1e-9)
    assert {"default rule", "chance", "smallest loss", "largest SSIM", "the warp"} <= set(table)
    assert {"reference relu2_1, all", "point relu2_1, near the best error"} <= set(table)
    fixed = [name for name in table if name.startswith("layer ")]
    assert len(fixed) == 2
    mean = np.mean([table[name].regret.value for name in fixed])
    assert table["chance"].regret.value == pytest.approx(mean)


# All of it


def test_nothing_of_the_benchmark_imports_from_tests():
    root = Path(inspect.getfile(inversions)).parents[2]
    files = [*(root / "benchmarks" / "quality").rglob("*.py"), root / "training/invertibility.py"]
    assert len(files) > 10
    test_modules = {path.stem for path in (root / "tests").rglob("*.py")} | {"tests", "pytest"}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & test_modules, path


def test_refining_summary_takes_the_measures_that_all_pairs_have():
    def row(pair, steps, ssim, codes=10, **over):
        return {
            "pair": pair,
            "steps": steps,
            "layer": 6,
            "codes": codes,
            "SSIM": ssim,
            "score over the warp": 1.2 - ssim / 2,
            "over the warp": over,
        }

    rows = [
        row("labelled", 50, 0.80, edges=1.0, style=3.0),
        row("plain", 50, 0.74, edges=4.0),
        row("labelled", 150, 0.93, edges=0.5, style=0.9),
        row("plain", 50, 0.76, codes=5, edges=4.0),  # not the one that is tried
        row("plain", 150, 0.84, edges=1.1),
    ]
    found = refining.summary_of(rows, Config())
    lowest, low, middle, high = found["by SSIM"]
    assert [part["hypotheses"] for part in (lowest, low, middle, high)] == [1, 1, 2, 1]
    assert np.isclose(middle["edges"], 1.1**0.5)
    assert "style" not in middle
    assert (high["edges"], high["style"]) == (0.5, 0.9)
    assert (middle["as good as the warp"], high["as good as the warp"]) == (0, 1)
    assert found["used in the end"] == ["labelled"]
    assert (found["given up"], found["given up wrongly"]) == (["plain"], [])
    assert np.isclose(found["largest rise of the best SSIM after a third"], 0.13)
