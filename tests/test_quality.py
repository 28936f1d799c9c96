"""The quality benchmark: its halves, measures, intervals and tables; a whole run on tiny photos."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_networks import fill

from benchmarks.quality import __main__ as command
from benchmarks.quality import (
    bent,
    judge,
    pairs,
    summary,
    tables,
    truth,
    tuned,
    variants,
)
from benchmarks.quality.judge import Judge
from benchmarks.quality.pairs import PhotoPair
from benchmarks.quality.runs import Kept
from benchmarks.quality.variants import APART
from oeft_jax import pipeline
from oeft_jax._checks import InputError
from oeft_jax.config import OutputConfig, RefineConfig, check
from training import intervals
from training.ground_truth import Match


def entries(*kinds):
    return [{"id": f"{n:03}-{kind}", "kind": kind} for n, kind in enumerate(kinds)]


def test_halves_share_nothing_miss_nothing_and_hold_the_kinds_that_come_twice():
    listed = entries("a", "a", "a", "b", "c", "c", "d")
    choose, report = (pairs.half(listed, which) for which in pairs.HALVES)
    assert sorted(e["id"] for e in choose + report) == sorted(e["id"] for e in listed)
    assert abs(len(choose) - len(report)) <= 1
    for side in (choose, report):
        assert {"a", "c"} <= {e["kind"] for e in side}


def test_few_pairs_are_of_many_kinds():
    chosen = pairs.spread(entries("a", "a", "a", "b", "b", "c"), 4)
    assert [e["kind"] for e in chosen] == ["a", "a", "b", "c"]


def test_a_folder_without_pairs_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"--data .*: holds no pairs.json"):
        pairs.listed(tmp_path)


@pytest.mark.parametrize(("fit", "columns"), [("crop", range(2, 6)), ("squeeze", range(0, 8, 2))])
def test_labels_are_cut_as_the_photo_is(tmp_path, fit, columns):
    labels = np.arange(32, dtype=np.uint8).reshape(4, 8)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    read = pairs.read_labels(tmp_path / "labels.png", size=4, fit=fit)
    offset = 0 if fit == "crop" else 1  # the middle of two squeezed columns is the second's edge
    np.testing.assert_array_equal(read, labels[:, np.array(columns) + offset])


def test_mean_iou_is_what_a_loop_says():
    rng = np.random.default_rng(0)
    said, true = rng.integers(0, 4, 50), rng.integers(1, 5, 50)
    each = []
    for label in range(5):
        both = sum(1 for a, b in zip(said, true, strict=True) if a == label and b == label)
        either = sum(1 for a, b in zip(said, true, strict=True) if a == label or b == label)
        each.append(both / either)
    assert truth.mean_iou(said, true) == pytest.approx(np.mean(each))


def test_the_way_back_of_a_known_shift():
    grid, cells = 8, np.arange(64)
    rows, columns = cells // grid, cells % grid
    best = rows * grid + (columns + 2) % grid
    back = rows * grid + (columns + 1) % grid  # ends three to the right, or five to the left
    found = truth.consistency(best, back, np.full(64, 0.5), grid=grid)
    expected = np.abs((columns + 3) % grid - columns) / grid
    assert found["cycle error"] == pytest.approx(expected.mean())
    assert found["target cells used"] == 1
    assert found["confidence"] == 0.5


def test_points_move_with_the_patch_of_their_cell():
    grid, size, cells = 8, 32, np.arange(64)
    best = (cells // grid + 1) % grid * grid + cells % grid  # a cell, four pixels, down
    photo = np.zeros((size, size, 3), np.float32)
    points = np.array([[0.0, 0.0], [3.4, 3.6], [14.2, 9.9], [31.0, 20.0]])
    ends = points + np.array([[0, 4], [0, 4], [0, 4], [0, 7.9]])  # the last one 3.9 pixels beside
    found = truth.points(best, Match(photo, photo, points, ends, size), size=size, grid=grid)
    assert found == {"PCK@0.02": 0.75, "PCK@0.05": 0.75, "PCK@0.1": 0.75}
    near = truth.points(best, Match(photo, photo, points, ends, 40.0), size=size, grid=grid)
    assert near["PCK@0.1"] == 1


def test_carried_labels_are_right_under_the_right_field():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, (8, 8))
    photo = np.zeros((8, 8, 3), np.float32)
    pair = PhotoPair("x", "scene", photo, photo, labels[:, ::-1], labels)
    mirrored = np.arange(64).reshape(8, 8)[:, ::-1].ravel()
    assert truth.labels(mirrored, pair, grid=8) == {"mean IoU": 1.0, "label accuracy": 1.0}
    assert truth.labels(np.arange(64), pair, grid=8)["label accuracy"] < 1
    assert truth.labels(mirrored, PhotoPair("x", "painting", photo, photo), grid=8) == {}


def test_bent_photo_shows_each_point_where_it_is_said_to_be():
    size, rng = 96, np.random.default_rng(2)
    style = rng.uniform(size=(size, size, 3)).astype(np.float32)
    ramp = np.linspace(0, 1, size, dtype=np.float32)
    photo = np.stack([*np.meshgrid(ramp, ramp), np.full((size, size), 0.5, np.float32)], axis=-1)
    with pytest.MonkeyPatch.context() as patch:
        # Without a change of colours these tell the place.
        patch.setattr(bent, "_photometric", lambda _, images: images)
        patch.setattr(bent, "restyled", lambda image, _: image)
        match = bent.bent(photo, style, 3)
    columns, rows = np.rint(match.target_points).astype(int).T
    there = match.target[rows, columns, :2] * (size - 1)
    assert len(match.source_points) > 100
    assert np.abs(there - match.source_points).max() < 2.5  # rounding times the bending's slope
    assert np.abs(match.source_points - match.target_points).max() > 5


def test_restyled_has_the_other_pictures_mean_and_deviation():
    rng = np.random.default_rng(4)
    image, style = rng.uniform(0.3, 0.7, (2, 16, 16, 3)).astype(np.float32)
    made = bent.restyled(image, 0.4 + 0.2 * style)
    np.testing.assert_allclose(made.mean((0, 1)), (0.4 + 0.2 * style).mean((0, 1)), atol=1e-5)
    np.testing.assert_allclose(made.std((0, 1)), (0.2 * style).std((0, 1)), atol=1e-5)


def raw_judge():
    """A judge that looks at the pixels and at their halves."""

    def features(images):
        small = images.reshape(images.shape[0], 16, 2, 16, 2, 3).mean((2, 4))
        return {"pixels": images, "halves": small}

    return Judge("pixels", jax.jit(features), ("pixels", "halves"), "halves", "pixels")


def test_a_judge_finds_no_fault_with_the_photo_itself():
    rng = np.random.default_rng(5)
    photo = rng.uniform(size=(32, 32, 3)).astype(np.float32)
    labels = rng.integers(0, 2, (32, 32))
    pair = PhotoPair("x", "scene", photo, photo, labels, labels)
    one = raw_judge()
    found = judge.measures(one, judge.prepare(one, pair), photo)
    assert found["edge agreement"] == pytest.approx(1, abs=1e-4)
    assert found["style relevance"] == pytest.approx(1, abs=1e-6)
    for name in ("self-similarity distance", "Gram distance", "Frechet distance"):
        assert found[name] == pytest.approx(0, abs=1e-5), name


def test_structure_is_compared_with_the_source_and_appearance_with_the_target():
    rng = np.random.default_rng(6)
    source, target = rng.uniform(size=(2, 32, 32, 3)).astype(np.float32)
    target = target**3
    one = raw_judge()
    ready = judge.prepare(one, PhotoPair("x", "photo", source, target))
    of_source, of_target = (judge.measures(one, ready, picture) for picture in (source, target))
    assert of_source["edge agreement"] > 0.99 > of_target["edge agreement"]
    for name in ("Gram distance", "Frechet distance"):
        assert of_target[name] < 1e-4 < of_source[name], name
    assert "style relevance" not in of_source


def test_intervals_hold_the_true_mean_about_as_often_as_they_say():
    rng = np.random.default_rng(7)
    hits = [
        one.low <= 3 <= one.high
        for one in (intervals.mean(rng.normal(3, 1, 30), seed=n) for n in range(100))
    ]
    assert 85 <= sum(hits) <= 99


def test_a_ratio_is_the_geometric_mean_of_ratios():
    found = intervals.ratio(np.array([2.0, 8.0]), np.array([1.0, 1.0]))
    assert found.value == pytest.approx(4)
    assert found.pairs == 2
    assert (found.low, found.high) == (pytest.approx(2), pytest.approx(8))


def tuning_row(variant, step, pair, **values):
    job = {"section": "tuning", "variant": variant, "family": "pictures", "id": pair, "kind": "k"}
    return {"job": job, "step": step, "judge": "J", "picture": "voted", **values}


def test_tables_compare_a_pair_with_itself_before_tuning():
    rows = [
        tuning_row("default", step, pair, **{"Gram distance": value, "confidence": value})
        for step, pair, value in ((0, "a", 4.0), (0, "b", 1.0), (9, "a", 1.0), (9, "b", 1.0))
    ]
    found = tables.cells(rows, "J", "voted")
    line = "default, 9 steps"
    assert tables.ratios(found)[line]["Gram distance"].value == pytest.approx(0.5)
    assert tables.gains(found)[line]["confidence"].value == pytest.approx(-1.5)
    assert tables.means(found)[line]["Gram distance"].value == 1
    assert "| default, 9 steps | 0.500 [0.250, 1.000] |" in tables.markdown(
        "t", tables.ratios(found)
    )


def test_tuning_is_also_compared_with_the_papers_warp_where_that_was_measured():
    rows = [
        tuning_row(variant, step, "a", **{"Gram distance": value})
        for variant, step, value in (("default", 0, 3.0), ("default", 9, 1.0), (APART, 0, 4.0))
    ]
    rows = [{**row, "job": {**row["job"], "half": "report"}} for row in rows]
    title = "voted warp over patches apart without tuning, J, the half to report"
    found = summary.all_tables(rows)[title]
    assert {line: row["Gram distance"].value for line, row in found.items()} == {
        "default, 0 steps": pytest.approx(0.75),
        "default, 9 steps": pytest.approx(0.25),
    }


def test_methods_are_compared_on_the_pairs_that_all_were_run_on():
    rows = []
    for method, pair, value in (("A", "x", 1.0), ("A", "y", 5.0), ("B", "x", 2.0)):
        numbers = {**dict.fromkeys(tables.RATIOS, value), "seconds": value}
        rows.append({"job": {"method": method, "id": pair}, "judge": "J", **numbers})
    found = tables.methods(rows, "J")
    assert found["A"]["Gram distance"].value == 1
    assert found["B"]["Gram distance"].value == 2


def test_a_job_whose_rows_are_there_is_not_done_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert Kept(path).do({"id": 1}, lambda: [{"x": 1}, {"x": 2}])
    again = Kept(path)
    assert not again.do({"id": 1}, lambda: pytest.fail("done again"))
    assert [row["x"] for row in again.rows] == [1, 2]


def test_a_job_that_fails_leaves_no_row(tmp_path):
    def failing():
        yield {"x": 1}
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="middle"):
        Kept(tmp_path / "rows.jsonl").do({"id": 1}, failing)
    assert not (tmp_path / "rows.jsonl").exists()


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_what_is_looked_at_is_what_a_run_of_so_many_steps_gives(schedule, tmp_path):
    photos = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype(np.float32)
    tiny = {
        "features": str(fill(tmp_path) / "features.safetensors"),
        "taps": ("relu1_1", "relu2_1"),
        "gram_taps": ("relu1_1",),
        "contextual_taps": ("relu2_1",),
        "num_queries": 16,
    }

    def config(steps):
        made = variants.settings("default", size=32, steps=steps)
        stage = replace(made.correspondence, schedule=schedule, **tiny)
        others = {
            "inversion": replace(made.inversion, perceptual_tap="relu2_1"),
            "selection": replace(made.selection, tap="relu2_1"),
            "refine": RefineConfig(mode="never"),
            "output": OutputConfig(size="working"),
        }
        return replace(made, correspondence=stage, **others)

    looks = list(tuned.looks(*photos, config(3), pipeline.load_parts(config(3)), (0, 1, 3)))
    assert [look.step for look in looks] == [0, 1, 3]
    alone = pipeline.translate(*photos, config(1))
    np.testing.assert_allclose(looks[0].warp.soft[0], alone.history[0][1], atol=1e-6)
    np.testing.assert_allclose(looks[1].warp.soft[0], alone.soft_warped, atol=1e-6)
    assert not np.allclose(looks[1].warp.soft, looks[2].warp.soft, atol=1e-3)


def test_every_variant_is_a_setting_that_can_be_used():
    for name in variants.VARIANTS:
        assert not {",", "/"} & set(name)  # in lists of the command, in names of pictures
        check(variants.settings(name, size=128, steps=4))


def test_real_pairs_make_both_halves(shared_data):
    listed = pairs.listed(shared_data)
    for which in pairs.HALVES:
        chosen = pairs.spread(pairs.half(listed, which), 16)
        assert len(chosen) == 16
        assert len({entry["kind"] for entry in chosen}) >= 8
    labelled = next(e for e in listed if e["kind"] == "scene")
    pair = pairs.read_pair(shared_data, labelled, size=64, fit="crop")
    assert pair.source_labels is not None
    assert pair.source_labels.shape == (64, 64)


def test_judges_rank_a_recoloured_photo_between_itself_and_another(shared_data):
    entry = pairs.listed(shared_data)[0]
    pair = pairs.read_pair(shared_data, entry, size=128, fit="crop")
    halfway = bent.restyled(pair.source, pair.target)
    for make in (judge.squeezenet, judge.real_vgg):
        one = make(shared_data)
        ready = judge.prepare(one, pair)
        source, middle, target = (
            judge.measures(one, ready, picture) for picture in (pair.source, halfway, pair.target)
        )
        name = "Gram distance"
        assert source[name] > middle[name] > target[name] - 1e-6
        name = "self-similarity distance"
        assert source[name] < middle[name] < target[name]


def test_pictures_of_another_program_have_a_table_without_ours():
    job = {"section": "comparators", "method": "theirs", "size": 64}
    rows = [
        {"job": {**job, "id": name}, "judge": "J", **dict.fromkeys(tables.RATIOS, value)}
        for name, value in (("a", 1.0), ("b", 3.0))
    ]
    (row,) = summary.all_tables(rows)["Methods, judged in J"].values()
    assert {name: number.value for name, number in row.items()} == dict.fromkeys(tables.RATIOS, 2.0)


def test_command_names_what_it_does_not_know(tmp_path, capsys):
    paths = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    args = command.parse([*paths, "--sections", "none", "--truths", "landmarks, SPair"])
    assert (args.sections, args.truths) == (("none",), ("landmarks", "SPair"))
    for flag in ("--sections", "--truths"):
        assert command.main([*paths, flag, "points"]) == 2
        assert f"{flag}='points' is not known; accepted: " in capsys.readouterr().err
