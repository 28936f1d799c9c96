"""What measures trained networks, against oracles: ground truth, matching, agreement."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from smooth_picture import picture

from oeft_jax import correspondence
from oeft_jax.config import CorrespondenceConfig
from oeft_jax.models.backbone import backbone
from oeft_jax.tuning import make_init
from training import (
    agreement,
    evaluate_features,
    ground_truth,
    matching,
    neighbours,
    separable,
)


def test_nearest_finds_a_mirrored_copy(key):
    faces = np.asarray(jax.random.uniform(key, (5, 32, 32, 3)))
    training = neighbours.small_pixels(faces)
    queries = np.stack([faces[3], faces[2, :, ::-1] + 0.01])
    found = neighbours.nearest(queries, training, neighbours.small_pixels)
    assert found.rows.tolist() == [3, 2]
    assert found.mirrored.tolist() == [False, True]
    np.testing.assert_allclose(found.distance, [0, 0.01], atol=1e-3)
    np.testing.assert_array_equal(neighbours.pictures(found, faces)[1], faces[2, :, ::-1])


def test_landmarks_move_with_the_face():
    image = np.zeros((60, 80, 3), np.uint8)
    points = np.array([[30.0, 20.0], [45.0, 33.0], [37.0, 26.0]])
    for x, y in points.astype(int):
        image[y - 1 : y + 2, x - 1 : x + 2] = 255
    for seed in range(3):
        rng = np.random.default_rng(seed)
        crop, moved, side = ground_truth.face_crop(
            Image.fromarray(image), np.array([28, 18, 20, 18.0]), points, size=128, rng=rng
        )
        assert 0.35 * 128 <= side <= 0.6 * 128
        rows, columns = np.mgrid[:128, :128]
        for x, y in moved:
            near = np.hypot(columns - x, rows - y) < side / 8
            weight = crop[..., 0] * near
            centre = [(weight * axis).sum() / weight.sum() for axis in (columns, rows)]
            assert np.hypot(centre[0] - x, centre[1] - y) < 0.5


def test_known_warp_points_at_the_same_place_of_the_picture(key):
    rows, columns = np.mgrid[:64, :64] / 63.0
    photo = np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.float32)
    points = np.array([[20.0, 30.0], [40.0, 25.0], [32.0, 50.0]])
    plain = ground_truth.Photometric(0.0, 0.0, 0.0, 0.0, 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ground_truth, "Photometric", lambda: plain)
        match = ground_truth.known_warp(key, photo, points)
    assert len(match.source_points) > 0
    for (x, y), (u, v) in zip(match.source_points, match.target_points, strict=True):
        colour = match.target[round(v), round(u), :2] * 63
        assert np.hypot(colour[0] - y, colour[1] - x) < 1.5


def test_other_draws_of_a_match_show_the_same_points():
    rows, columns = np.mgrid[:64, :64] / 63.0
    photo = np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.float32)
    points = np.array([[20.0, 30.0], [40.0, 25.0], [32.0, 50.0]])
    match = ground_truth.Match(photo, photo[:, ::-1], points, points * [-1, 1] + [63, 0], 40.0)
    drawn = ground_truth.drawn_again([match, match], 3, seed=0)
    assert len(drawn) == 8
    assert drawn[0] is match
    assert drawn[4] is match
    lengths = {found.length for found in drawn}
    assert len(lengths) == 7  # each of its own size
    assert all(40 / 1.21 < length < 40 * 1.21 for length in lengths)
    for found in drawn:
        assert len(found.source_points) == len(found.target_points) > 0
        for (x, y), (u, v) in zip(found.source_points, found.target_points, strict=True):
            ours, theirs = found.source[round(y), round(x)], found.target[round(v), round(u)]
            assert np.hypot(*(ours - theirs)[:2] * 63) < 2


def test_a_draw_that_loses_every_point_is_the_match_itself():
    photo, corner = np.zeros((8, 8, 3), np.float32), np.array([[-5.0, -5.0]])
    match = ground_truth.Match(photo, photo, corner, corner, 4.0)
    assert all(found is match for found in ground_truth.drawn_again([match], 2, seed=0))


def test_matching_finds_a_shift(key):
    features = jax.random.normal(key, (1, 16, 16, 8))
    target = jnp.roll(features, (2, 3), axis=(1, 2))
    points = jnp.array([[5.5, 9.5], [21.5, 17.5]])  # centres of cells of 4 pixels
    found = matching.match_points(
        {"relu1_1": features}, {"relu1_1": target}, points, ("relu1_1",), size=64, grid=16
    )
    np.testing.assert_allclose(found, points + jnp.array([[12.0, 8.0]]), atol=1e-5)
    elsewhere = np.asarray(found) + np.array([[3, 4], [0, 0]])  # the first is 5 pixels off
    match = ground_truth.Match(None, None, None, elsewhere, 40.0)
    assert matching.share_correct(np.asarray(found), match, 0.1).tolist() == [False, True]


def test_agreement_sees_through_linear_maps_and_not_through_noise():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 5))
    y = np.maximum(x @ rng.normal(size=(5, 7)), 0)
    noise = rng.normal(size=(400, 7))
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    assert agreement.linear_cka(x, 3 * x @ turn + 1) == pytest.approx(1)
    assert agreement.linear_cka(x, noise) < 0.1
    kernel, bias = agreement.fit_ridge(x, x @ np.arange(10.0).reshape(5, 2) + 4)
    np.testing.assert_allclose(kernel, np.arange(10.0).reshape(5, 2), atol=0.02)
    np.testing.assert_allclose(bias, 4, atol=0.02)

    def on_the_other_half(target):
        kernel, bias = agreement.fit_through_relu(x[:200], target[:200])
        return agreement.correlation(np.maximum(x[200:] @ kernel + bias, 0), target[200:])

    assert on_the_other_half(y) > 0.999
    assert abs(on_the_other_half(np.maximum(noise, 0))) < 0.2


def test_a_map_that_ends_in_a_relu_is_fitted_through_it():
    rng = np.random.default_rng(0)
    x, truth = rng.normal(size=(2000, 4)), rng.normal(size=(4, 6))
    said = x @ truth - np.abs(truth).sum(axis=0)  # below 0 in nine of ten rows
    y = np.maximum(said, 0)

    def error(kernel, bias):
        return np.mean((np.maximum(x @ kernel + bias, 0) - y) ** 2) / np.var(y)

    assert 0.05 < np.mean(said > 0) < 0.15
    assert error(*agreement.fit_ridge(x, y)) > 0.2
    assert error(*agreement.fit_through_relu(x, y)) < 0.01


def test_each_network_is_compared_with_the_real_one_padded_as_itself():
    """Rows of the padded forms have nothing in common, so that what is taken shows."""
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(2):
        zeros, reflected, deep = (np.maximum(rng.normal(size=(300, 4)), 0) for _ in range(3))
        first, last = evaluate_features.TAPS[:3], evaluate_features.TAPS[3:]
        real = {tap: [zeros] for tap in first}
        other = {tap: [reflected] for tap in first}
        parts.append(
            {
                "real VGG-19": real,
                evaluate_features.REFLECTED: other,
                "ours": {**real, **{tap: [deep] for tap in last}},
                "stand-in": {**other, **{tap: [deep] for tap in last}},
                "random": {tap: [rng.normal(size=(300, 4))] for tap in (*first, *last)},
            }
        )
    fitted, tested = parts
    for tap, cell in evaluate_features.agreement(fitted, {"photos": tested})["photos"].items():
        of_real = tap in evaluate_features.TAPS[:3]
        assert cell["teacher"] == ("real VGG-19" if of_real else "stand-in")
        assert {"ours", "stand-in", "random"} - set(cell) == (set() if of_real else {"stand-in"})
        for name in {"ours", "stand-in"} & set(cell):
            assert cell[name]["correlation"] > 0.999
        assert cell["random"]["correlation"] < 0.3


# Commands


def test_only_what_differs_is_told_apart():
    rng = np.random.default_rng(0)
    real, like = rng.normal(3, [1, 20, 0.01], size=(2, 3000, 3))
    assert abs(separable.told_apart(real, like) - 0.5) < 0.05
    other = np.copy(like)
    other[:, 2] += 0.02  # two deviations: a threshold between is right in 84 of 100 cases
    assert abs(separable.told_apart(real, other) - 0.841) < 0.02


def test_how_far_a_network_is_ahead_is_told_pair_by_pair():
    points = [np.array(hit, bool) for hit in ([1, 1], [1, 0], [0, 0], [1, 0], [0, 0], [0, 1])]
    ours, theirs = ({"joined": {"PCK": points[part]}} for part in (slice(3), slice(3, 6)))
    mean, low, high = evaluate_features.ahead(ours, theirs, seed=0)["joined"]["PCK"]
    assert np.isclose(mean, (0.5 + 0.5 - 0.5) / 3)
    assert -0.5 <= low < mean < high <= 0.5
    assert evaluate_features.shares(ours) == {"joined": {"PCK": 0.5}}


def test_how_far_ahead_is_told_by_pairs_of_which_there_are_several_draws():
    points = [np.array([hit], bool) for hit in (1, 0, 0, 0, 1, 1, 0, 0)]
    ours, theirs = ({"joined": {"PCK": points[part]}} for part in (slice(4), slice(4, 8)))
    found = evaluate_features.ahead(ours, theirs, seed=0, alike=2)["joined"]["PCK"]
    assert found[0] == pytest.approx(-0.25)
    assert found[1:] == pytest.approx([-0.5, 0])  # of two pairs: one lost half, one nothing


def test_stage_one_is_measured_as_the_package_matches_untuned(key):
    network = backbone("vgg", {"depths": (1,) * 5, "widths": (4,) * 5})
    config = CorrespondenceConfig(image_size=64, grid=16)
    params = network.init(key, evaluate_features.TAPS)
    rng = np.random.default_rng(0)
    source, target = (jnp.asarray(picture(rng, 64), jnp.float32)[None] / 255 for _ in range(2))
    optimizer = correspondence.default_optimizer(config)
    state, pair = make_init(network, config, optimizer)(params, source, target)
    warp = correspondence.make_warp(network, config)(state.params, pair)
    sides = [network.apply(params, image, matching.JOINED) for image in (source, target)]
    best = jax.jit(matching.best_cells, static_argnames="grid")(*sides, grid=16)
    assert len(np.unique(best)) > 16
    assert np.mean(np.asarray(best) == np.asarray(warp.best[0])) > 0.98  # but for ties
