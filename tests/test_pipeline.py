"""translate() from arrays to arrays, through both stages of a tiny network pair."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from oeft_jax import golden, pipeline
from oeft_jax._checks import InputError
from oeft_jax.config import (
    Config,
    CorrespondenceConfig,
    InversionConfig,
    OutputConfig,
    RefineConfig,
    SelectionConfig,
    preset,
)
from oeft_jax.models import backbone as models
from oeft_jax.weights import save_weights

FEATURES = {"depths": [1, 1, 1, 1, 1], "widths": [4, 4, 4, 4, 4]}
GENERATOR = {"resolution": 16, "z_dim": 8, "fmap_base": 64, "fmap_max": 8}
SIDE, GRID, STEPS = 32, 8, 3


def save_tiny_weights(folder):
    """features.safetensors and generator.safetensors with random weights."""
    network = models.backbone("vgg", FEATURES)
    taps = tuple(f"relu{block}_1" for block in range(1, 6))
    params = jax.jit(lambda key: network.init(key, taps))(jax.random.key(1))
    save_weights(folder / "features.safetensors", params, network="vgg", config=FEATURES)
    params = models.generator("pggan", GENERATOR).init(jax.random.key(2))
    save_weights(folder / "generator.safetensors", params, network="pggan", config=GENERATOR)
    return folder


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    return save_tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def make_config(weights):
    """A small config; words with a double underscore reach into a section."""

    def make(**changes):
        config = Config(
            CorrespondenceConfig(
                steps=STEPS,
                features=str(weights / "features.safetensors"),
                image_size=SIDE,
                grid=GRID,
                taps=("relu2_1", "relu3_1"),
                gram_taps=("relu1_1",),
                contextual_taps=("relu2_1",),
                num_queries=16,
                augment=False,
            ),
            InversionConfig(
                generator=str(weights / "generator.safetensors"),
                composing_layers=(4,),
                num_codes=(2, 3),
                steps=4,
            ),
            refine=RefineConfig(give_up=1.0),
        )
        for name, value in changes.items():
            section, _, option = name.partition("__")
            part = getattr(config, section)
            part = dataclasses.replace(part, **{option: value}) if option else value
            config = dataclasses.replace(config, **{section: part})
        return config

    return make


@pytest.fixture(scope="module")
def pair():
    """Pictures of different sizes, neither square."""
    rng = np.random.default_rng(0)
    return rng.uniform(size=(40, 48, 3)), rng.uniform(size=(64, 36, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def plain(make_config, pair):
    """(the translation, the progress it told) of the small config as it is."""
    told = []
    return pipeline.translate(*pair, make_config(), on_progress=told.append), told


def same(a, b):
    """Equal to the last bit, wall times aside."""
    a, b = (result._replace(seconds={}) for result in (a, b))
    leaves, others = jax.tree.leaves(a), jax.tree.leaves(b)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(leaves, others, strict=True):
        np.testing.assert_array_equal(one, other)
        assert np.asarray(one).dtype == np.asarray(other).dtype


# Results


def test_shapes_and_ranges(plain):
    result, _ = plain
    shapes = [(result.soft_warped, (SIDE, SIDE, 3)), (result.target, (58, 33, 3))]
    shapes += [(picture, (SIDE, SIDE, 3)) for _, picture in result.history]
    shapes += [(picture, (40, 48, 3)) for picture in (result.image, result.warped, result.source)]
    for picture, shape in shapes:
        assert isinstance(picture, np.ndarray)
        assert picture.shape == shape
        assert picture.dtype == np.float32
        assert picture.min() >= -1e-6
        assert picture.max() <= 1 + 1e-6
    assert result.confidence.shape == (GRID, GRID)
    assert np.all((result.confidence > 0) & (result.confidence <= 1 + 1e-6))
    assert set(result.seconds) == {"correspondence", "finish", "inversion"}
    assert result.field.shape == (10, 12, 2)
    assert np.all((result.field >= 0) & (result.field <= result.target.shape[:2]))


def test_history_losses_and_progress(plain):
    result, told = plain
    assert [mark for mark, _ in result.history] == [0, 1, STEPS]
    np.testing.assert_array_equal(result.history[-1][1], result.soft_warped)
    assert len(result.losses) == STEPS
    for row in result.losses:
        terms = [value for name, value in row.items() if name != "loss"]
        assert len(terms) == 5
        np.testing.assert_allclose(row["loss"], sum(terms), rtol=1e-5)
    steps = [(one.stage, one.step, one.total) for one in told]
    assert steps[:STEPS] == [("correspondence", n, STEPS) for n in (1, 2, 3)]
    assert steps[STEPS:] == [("inversion", n, 4) for n in (1, 2, 3, 4)]
    assert [one.values for one in told[:STEPS]] == list(result.losses)


def test_every_hypothesis_is_scored(plain):
    result, _ = plain
    assert [(h.composing_layer, h.num_codes) for h in result.hypotheses] == [(4, 2), (4, 3)]
    assert all(h.image.shape == (16, 16, 3) for h in result.hypotheses)
    assert len(result.choice.scores) == len(result.choice.eligible) == 2
    assert result.choice.eligible[result.choice.chosen]


def with_last_score(config, last):
    """Parts whose score is 1 but for the last picture, which is the warp where the warp is scored."""

    def scorer(images, _target):
        scores = np.ones(len(images))
        scores[-1] = last
        return scores

    return pipeline.load_parts(config)._replace(scorer=scorer)


@pytest.mark.parametrize(
    ("mode", "limit", "last", "uses", "made"),
    [
        ("never", 0.5, 1.0, False, 0),
        ("always", 0.5, 0.5, True, 2),
        ("auto", -1.0, 1.0, True, 2),
        ("auto", -1.0, 0.5, False, 2),
        ("auto", 1.0, 1.0, False, 1),  # the trial alone
    ],
)
def test_refine_decides_what_the_result_is_made_of(
    make_config, pair, mode, limit, last, uses, made
):
    config = make_config(refine=RefineConfig(mode, limit), correspondence__steps=0)
    result = pipeline.translate(*pair, config, parts=with_last_score(config, last))
    assert result.uses_generator is uses
    assert len(result.hypotheses) == made
    assert (result.choice is None) == (mode == "never")
    assert result.image.shape == result.warped.shape  # the generator's 16 pixels are not the limit
    assert np.array_equal(result.image, result.warped) != uses
    assert result.verdict.endswith(".")
    assert result.losses == ()
    assert [mark for mark, _ in result.history] == [0]


def told_of(told):
    return [(one.stage, one.step, one.total) for one in told]


TRIED, WHOLE = [("trial inversion", 1, 1)], [("inversion", n + 1, 4) for n in range(4)]


@pytest.mark.parametrize(
    ("counts", "limit", "last", "expected", "uses"),
    [
        ((2, 3), 1.0, 1.0, TRIED, False),
        ((2, 3), -1.0, 1.0, TRIED + WHOLE, True),
        ((2, 3), -1.0, 0.9, TRIED + WHOLE, False),
        ((3,), 1.0, 1.0, WHOLE[:1], False),  # alone it goes on where the trial ended
        ((3,), -1.0, 1.0, WHOLE, True),
    ],
)
def test_a_hopeless_inversion_is_given_up(
    make_config, pair, tmp_path, counts, limit, last, expected, uses
):
    config = make_config(
        refine=RefineConfig(limit=limit), correspondence__steps=0, inversion__num_codes=counts
    )
    run = partial(
        pipeline.translate,
        *pair,
        config,
        parts=with_last_score(config, last),
        state_folder=tmp_path,
    )
    told, again = [], []
    result = run(on_progress=told.append)
    assert told_of(told) == expected
    assert result.uses_generator is uses
    given_up = limit == 1
    assert ("given up after 1 of 4 steps" in result.verdict) is given_up
    assert ("and 1 other hypothesis with it." in result.verdict) is (given_up and counts == (2, 3))
    tried = ((4, 3),) if given_up else tuple((4, count) for count in counts)
    assert tuple((h.composing_layer, h.num_codes) for h in result.hypotheses) == tried
    resumed = run(on_progress=again.append)
    assert again == []
    same(resumed, result)


@pytest.fixture(scope="module")
def tried(make_config, pair):
    """(a config whose inversion is tried for two steps and then made, its unbroken result)."""
    config = make_config(
        refine=RefineConfig(limit=-1.0), correspondence__steps=0, inversion__steps=6
    )
    return config, pipeline.translate(*pair, config, parts=with_last_score(config, 1.0))


def test_what_is_made_after_a_trial_is_what_is_made_without_one(tried, pair):
    config, result = tried
    without = dataclasses.replace(config, refine=RefineConfig(limit=-1.0, give_up=1.0))
    made = pipeline.translate(*pair, without, parts=with_last_score(without, 1.0))
    same(result, made)


@pytest.mark.parametrize(
    ("stage", "step", "then"),
    [
        ("trial inversion", 1, ("trial inversion", 2, 2)),
        ("trial inversion", 2, ("inversion", 1, 6)),
        ("inversion", 1, ("inversion", 2, 6)),
        ("inversion", 6, None),
    ],
)
def test_interrupted_about_its_trial_and_continued_equals_unbroken(
    tried, pair, tmp_path, monkeypatch, stage, step, then
):
    monkeypatch.setattr(pipeline, "SAVE_EVERY", 1)
    config, unbroken = tried
    run = partial(
        pipeline.translate,
        *pair,
        config,
        parts=with_last_score(config, 1.0),
        state_folder=tmp_path,
    )

    def stop(progress):
        if (progress.stage, progress.step) == (stage, step):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(on_progress=stop)
    told = []
    same(run(on_progress=told.append), unbroken)
    assert next(iter(told_of(told)), None) == then


@pytest.fixture(scope="module")
def untuned(make_config):
    """A config without steps and without a generator."""
    return make_config(correspondence__steps=0, refine=RefineConfig("never"))


def with_output(config, **options):
    return dataclasses.replace(config, output=OutputConfig(**options))


def test_the_working_size_is_the_square_that_is_tuned_on(untuned, pair):
    soft = dataclasses.replace(untuned.correspondence, finish="soft")
    results = [
        pipeline.translate(*pair, with_output(config, size="working"))
        for config in (untuned, dataclasses.replace(untuned, correspondence=soft))
    ]
    for result in results:
        assert result.image.shape == result.source.shape == result.target.shape == (SIDE, SIDE, 3)
        assert result.field.shape == (SIDE // 4, SIDE // 4, 2)
    np.testing.assert_array_equal(results[1].warped, results[1].soft_warped)
    assert not np.array_equal(results[0].warped, results[1].warped)


@pytest.mark.parametrize(
    ("size", "fit", "shape"),
    [
        ("source", "squeeze", (40, 48, 3)),
        ("96", "squeeze", (80, 96, 3)),
        ("33", "squeeze", (28, 33, 3)),
        ("source", "crop", (40, 40, 3)),
        ("working", "crop", (SIDE, SIDE, 3)),
    ],
)
def test_size_and_proportions_of_the_result(untuned, pair, size, fit, shape):
    stage = dataclasses.replace(untuned.correspondence, fit=fit)
    config = with_output(dataclasses.replace(untuned, correspondence=stage), size=size)
    result = pipeline.translate(*pair, config)
    assert result.image.shape == result.warped.shape == result.source.shape == shape


def test_the_sources_size_is_bounded_unless_a_number_is_given(untuned, pair, monkeypatch):
    monkeypatch.setattr("oeft_jax.config.LONGEST", 36)
    sizes = [
        pipeline.translate(*pair, with_output(untuned, size=size)).image.shape[1]
        for size in ("source", "48")
    ]
    assert sizes == [36, 48]


def test_structure_of_a_result_is_changed_without_a_run(untuned, pair, make_config):
    of_patches, half = (with_output(untuned, structure=number) for number in (0.0, 0.5))
    results = [pipeline.translate(*pair, config) for config in (of_patches, half)]
    same(pipeline.with_structure(results[0], half), results[1])
    same(pipeline.with_structure(results[1], of_patches), results[0])
    assert not np.array_equal(results[0].image, results[1].image)
    config = make_config(correspondence__steps=0, refine=RefineConfig("always"))
    with_bands = pipeline.translate(*pair, config)
    same(pipeline.with_structure(with_bands, config), with_bands)
    with pytest.raises(InputError, match="--structure=2 .*accepted"):
        pipeline.with_structure(results[0], with_output(untuned, structure=2))
    with pytest.raises(InputError, match="--structure: accepted: .*'working'"):
        pipeline.with_structure(results[0], with_output(untuned, size="working"))


# Repetition


def test_same_seed_same_bytes_and_another_differs(make_config, pair, plain):
    same(pipeline.translate(*pair, make_config()), plain[0])
    other = pipeline.translate(*pair, make_config(seed=1))
    assert not np.array_equal(other.soft_warped, plain[0].soft_warped)
    assert other.losses != plain[0].losses
    assert not np.array_equal(other.hypotheses[0].image, plain[0].hypotheses[0].image)


def test_a_second_call_traces_and_compiles_nothing(make_config, pair, plain):
    """Networks read again are the same ones to JAX, whoever calls without `parts`."""
    seen = []

    def listen(event, _seconds, **told):
        if event.endswith(("jaxpr_trace_duration", "backend_compile_duration")):
            seen.append(told.get("fun_name"))

    pipeline.translate(*pair, make_config())
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        pipeline.translate(*pair, make_config())
        assert seen == []
        jax.jit(lambda x: x + 1)(pair[0])
        assert seen  # it would be
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture(scope="module")
def two_layers(make_config, pair):
    """(a config that inverts at two layers and drops half midway, its unbroken result)."""
    config = make_config(inversion__composing_layers=(4, 2), inversion__halving=1)
    return config, pipeline.translate(*pair, config)


@pytest.mark.parametrize(
    ("stage", "step"), [("correspondence", 2), ("inversion", 3)], ids=["tuning", "inversion"]
)
def test_interrupted_and_continued_equals_unbroken(
    two_layers, pair, tmp_path, monkeypatch, stage, step
):
    monkeypatch.setattr(pipeline, "SAVE_EVERY", 1)
    config, unbroken = two_layers

    def stop(progress):
        if (progress.stage, progress.step) == (stage, step):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.translate(*pair, config, on_progress=stop, state_folder=tmp_path)
    told = []
    again = pipeline.translate(*pair, config, on_progress=told.append, state_folder=tmp_path)
    same(again, unbroken)
    first = (told[0].stage, told[0].step)
    # Not from the start, and a finished stage is not done again.
    assert first == (stage, step + 1)


def test_a_loss_from_outside_takes_part(make_config, pair):
    config = make_config(refine=RefineConfig("never"), correspondence__steps=1)
    parts = pipeline.load_parts(config)
    mine = {"mine": (2.0, lambda x: ((x.warped - x.target) ** 2).mean())}
    result = pipeline.translate(*pair, config, parts=parts._replace(losses=mine))
    assert set(result.losses[0]) == {"loss", "mine"}


# Errors


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        (np.zeros((40, 40)), "shape"),
        (np.zeros((40, 40, 4)), "shape"),
        (np.zeros((1, 40, 3)), "shape"),
        (np.zeros((40, 40, 3), np.uint8), "dtype"),
        (np.full((40, 40, 3), 255.0), "outside"),
        (np.full((40, 40, 3), -0.1), "outside"),
        (np.full((40, 40, 3), np.nan), "not finite"),
    ],
    ids=["grey", "alpha", "thin", "integer", "above", "below", "nan"],
)
def test_pictures_that_cannot_be_used(make_config, pair, broken, word):
    config = make_config(refine=RefineConfig("never"))
    parts = pipeline.load_parts(config)
    with pytest.raises(InputError, match=f"^source .*{word}"):
        pipeline.translate(broken, pair[1], config, parts=parts)
    with pytest.raises(InputError, match=f"^target .*{word}"):
        pipeline.translate(pair[0], broken, config, parts=parts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"correspondence__grid": 7}, "--grid"),
        ({"correspondence__steps": -1}, "--steps"),
        ({"correspondence__alpha": float("nan")}, "--alpha"),
        ({"correspondence__warp": "none"}, "--warp"),
        ({"correspondence__taps": ()}, "--taps"),
        ({"seed": -1}, "--seed"),
        ({"inversion__num_codes": (0,)}, "--inversion-num-codes"),
        ({"inversion__composing_layers": (7,)}, "--inversion-composing-layers"),
        ({"refine": RefineConfig("sometimes")}, "--refine"),
        ({"correspondence__taps": ("relu9_1",)}, "relu9_1"),
        ({"correspondence__gram_taps": ("relu1_2",)}, "relu1_2"),
        ({"selection": SelectionConfig(tap="layer1")}, "layer1"),
        ({"inversion__perceptual_tap": "relu3_4"}, "relu3_4"),
        ({"correspondence__features": "missing.safetensors"}, "no such weight file"),
        ({"correspondence__features": "no_such_network"}, "not in"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_be_used(make_config, pair, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        pipeline.translate(*pair, make_config(**changes))
    assert "accepted" in str(caught.value)


def test_weights_of_the_wrong_kind(make_config, weights):
    names = {role: str(weights / f"{role}.safetensors") for role in ("features", "generator")}
    with pytest.raises(InputError, match="cannot serve as features"):
        pipeline.load_parts(make_config(correspondence__features=names["generator"]))
    with pytest.raises(InputError, match="cannot serve as generator"):
        pipeline.load_parts(make_config(inversion__generator=names["features"]))


def test_weights_shallower_than_the_taps(make_config, tmp_path):
    network = models.backbone("vgg", FEATURES)
    params = network.init(jax.random.key(1), ("relu2_1",))
    save_weights(tmp_path / "shallow.safetensors", params, network="vgg", config=FEATURES)
    with pytest.raises(InputError, match="missing conv3_1/kernel"):
        pipeline.load_parts(
            make_config(correspondence__features=str(tmp_path / "shallow.safetensors"))
        )


def test_without_a_generator_none_is_loaded(make_config):
    config = make_config(inversion__generator="nowhere.safetensors", refine=RefineConfig("never"))
    parts = pipeline.load_parts(config)
    assert parts.generator is None
    assert [weights.network for weights in parts.weights] == ["vgg"]


@pytest.mark.parametrize("config", [{"depths": 5}, {"depths": [1, 1, 1], "widths": [4]}])
def test_a_weight_file_whose_description_builds_nothing_is_refused(config, tmp_path):
    path = tmp_path / "odd.safetensors"
    leaf = {"conv1_1": {"kernel": np.zeros((3, 3, 3, 4), np.float32)}}
    save_weights(path, leaf, network="vgg", config=config)
    settings = dataclasses.replace(Config().correspondence, features=str(path))
    with pytest.raises(InputError, match="odd.safetensors"):
        pipeline.load_parts(dataclasses.replace(Config(), correspondence=settings))


def test_paper_preset_names_everything_missing_and_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("OEFT_JAX_CACHE", str(tmp_path))
    with pytest.raises(InputError) as caught:
        pipeline.load_parts(preset("paper"))
    text = str(caught.value)
    assert "'vgg19', 'inception_fid', 'pggan_celebahq1024' are not in " + str(tmp_path) in text
    assert "weights_convert fetch vgg19 inception_fid pggan_celebahq1024`" in text


def test_score_can_have_a_network_of_its_own(make_config, weights, tmp_path):
    path = tmp_path / "judge.safetensors"
    config = {"depths": [1], "widths": [6]}
    network = models.backbone("vgg", config)
    params = network.init(jax.random.key(5), ("relu1_1",))
    header = golden.header("vgg", config, params)
    save_weights(path, params, network="vgg", config=config, metadata=header, dtype="float32")
    config = make_config(selection__features=str(path), selection__tap="relu1_1")
    parts = pipeline.load_parts(config)
    assert [one.origin for one in parts.weights] == [
        str(weights / "features.safetensors"),
        str(path),
        str(weights / "generator.safetensors"),
    ]
    images, target = np.random.default_rng(0).uniform(size=(3, 16, 16, 3)), np.ones((32, 32, 3))
    same = pipeline.load_parts(make_config(selection__tap="relu1_1"))
    images = list(images.astype(np.float32))
    assert not np.allclose(parts.scorer(images, target), same.scorer(images, target))


def test_weights_that_no_longer_compute_the_same_are_refused(make_config, tmp_path):
    path = tmp_path / "features.safetensors"
    network = models.backbone("vgg", FEATURES)
    params = network.init(jax.random.key(1), ("relu5_1",))
    header = golden.header("vgg", FEATURES, params)
    kernel = params["conv3_1"]["kernel"]
    params["conv3_1"]["kernel"] = kernel[..., ::-1]  # the right shape, the wrong order
    save_weights(path, params, network="vgg", config=FEATURES, metadata=header, dtype="float32")
    with pytest.raises(InputError, match="does not compute what it computed"):
        pipeline.load_parts(make_config(correspondence__features=str(path)))
