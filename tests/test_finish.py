"""Votes of patches and the knob against loops in float64, their limits and their ranges."""

import jax.numpy as jnp
import numpy as np
import pytest
from oracles import finish as oracle
from PIL import Image

from oeft_jax import finish, guided, patches
from oeft_jax.image import resize
from oeft_jax.metrics import edge_agreement


def photo(seed, h, w, c=3):
    return np.random.default_rng(seed).uniform(size=(h, w, c)).astype(np.float32)


def smooth(seed, h, w):
    return resize(photo(seed, h // 6, w // 6), (h, w))


def identity(shape):
    return np.stack(np.meshgrid(*map(patches.centres, shape[:2]), indexing="ij"), axis=-1)


# Patches


@pytest.mark.parametrize(("length", "expected"), [(8, [2, 6]), (9, [2, 6, 7]), (3, [1]), (1, [0])])
def test_centres_are_a_cell_apart_and_inside(length, expected):
    assert list(patches.centres(length)) == expected


@pytest.mark.parametrize(
    ("shape", "other"), [((8, 12), (16, 8)), ((9, 13), (11, 6)), ((4, 5), (3, 40))]
)
def test_vote_is_the_loops(shape, other):
    rng, target = np.random.default_rng(1), photo(0, *other)
    random = rng.integers(-5, 60, (*identity(shape).shape[:2], 2))
    field = patches.inside(random, other)
    assert field.min() >= 0
    found = patches.vote(target, field, shape)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, oracle.vote(target, field, shape), atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 16), (17, 23), (30, 7), (5, 2), (1, 9)])
def test_vote_of_the_identity_gives_the_target_back(shape):
    target = photo(2, *shape)
    found = patches.vote(target, patches.inside(identity(shape), shape), shape)
    np.testing.assert_allclose(found, target, atol=1e-6)


def test_vote_of_a_shift_is_the_shifted_target():
    target = photo(3, 40, 44)
    field = patches.inside(identity((24, 28)) + np.array([9, 5]), (40, 44))
    found = patches.vote(target, field, (24, 28))
    np.testing.assert_allclose(found, target[9:33, 5:33], atol=1e-6)


# Box means and the guided filter


@pytest.mark.parametrize(("shape", "radius"), [((5, 7), 2), ((6, 4), 9), ((1, 8), 1), ((4, 3), 0)])
def test_box_mean_is_the_loops(shape, radius):
    image = photo(4, *shape)
    found = guided.box_mean(image, radius)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, oracle.box_mean(image, radius), atol=1e-6)


@pytest.mark.parametrize(("shape", "radius", "eps"), [((9, 11), 2, 1e-2), ((6, 13), 4, 1e-3)])
def test_guided_filter_is_the_regression_of_loops(shape, radius, eps):
    image, guide = photo(5, *shape), photo(6, *shape)
    found = guided.guided_filter(image, guide, radius=radius, eps=eps)
    expected = oracle.guided_filter(image, guide, radius, eps)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_guided_filter_of_an_affine_function_of_the_guide_is_that_function():
    guide = photo(7, 20, 16)
    mixed = guide @ np.float32([[0.5, 0.1, 0], [0, 0.3, 0.2], [0.1, 0, 0.4]]) + np.float32(0.1)
    found = guided.guided_filter(mixed, guide, radius=4, eps=1e-7)
    np.testing.assert_allclose(found, mixed, atol=1e-3)


def test_fewer_places_give_nearly_the_same():
    image, guide = smooth(8, 60, 72), smooth(9, 60, 72)
    fine, coarse = (
        guided.guided_filter(image, guide, radius=12, eps=1e-2, step=step) for step in (1, 3)
    )
    assert np.abs(fine - coarse).mean() < 0.02
    assert np.abs(image - coarse).mean() > 0.1


@pytest.mark.parametrize("shape", [(9, 5), (2, 3), (1, 7), (4, 12)])
def test_enlarged_is_bilinear_and_keeps_what_is_linear(shape):
    coarse = photo(10, *shape, c=2)
    size = (shape[0] * 2, shape[1] * 3)
    found = guided.enlarged(coarse, size)
    assert found.shape == (*size, 2)
    for channel in range(2):
        plane = Image.fromarray(coarse[..., channel])
        expected = np.asarray(plane.resize(size[::-1], Image.Resampling.BILINEAR))
        np.testing.assert_allclose(found[..., channel], expected, atol=1e-5)


# The knob


@pytest.fixture(scope="module")
def pair():
    """A source with edges and a picture with others."""
    shapes = (smooth(11, 120, 168).mean(-1, keepdims=True) > 0.5) * np.float32(0.6)
    tint = np.float32([0.9, 1.0, 0.7])
    return (shapes + np.float32(0.2)) * tint, smooth(12, 120, 168)


def test_structure_zero_is_the_picture(pair):
    source, picture = pair
    np.testing.assert_array_equal(finish.led_by(source, picture, 0.0), picture)


def test_edges_of_the_source_grow_with_the_structure(pair):
    source, picture = pair
    led = [finish.led_by(source, picture, number) for number in (0.0, 0.25, 0.5, 0.75, 1.0)]
    found = [float(edge_agreement(jnp.asarray(one), jnp.asarray(source))) for one in led]
    assert found == sorted(found)
    assert found[-1] > found[0] + 0.3
    moved = [float(np.abs(one - picture).mean()) for one in led]
    assert moved == sorted(moved)


@pytest.mark.parametrize("structure", [0.3, 1.0])
def test_range_is_never_left(pair, structure):
    source, _ = pair
    hard = (photo(13, 120, 168) > 0.5).astype(np.float32)
    found = finish.led_by(source, hard, structure)
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1
    assert not np.array_equal(found, hard)


@pytest.mark.parametrize("structure", [0.5, 1.0])
def test_a_flat_source_draws_nothing_and_a_flat_picture_gets_the_sources_drawing(pair, structure):
    source, picture = pair
    flat = np.full_like(picture, 0.4)
    np.testing.assert_allclose(finish.led_by(flat, flat, structure), flat, atol=1e-4)
    softened = finish.led_by(flat, picture, structure)
    assert np.abs(np.diff(softened, axis=0)).mean() < np.abs(np.diff(picture, axis=0)).mean()
    drawn = finish.led_by(source, flat, structure)
    assert np.ptp(drawn, axis=-1).max() < 1e-4  # grey, as the picture is
    grey = source.mean(-1, keepdims=True)
    detail = grey - guided.box_mean(grey, round(finish.SURROUNDINGS * np.sqrt(grey.size)))
    expected = np.clip(0.4 + structure * detail, 0, 1)  # as the source has it, no less
    np.testing.assert_allclose(drawn[..., :1], expected, atol=1e-3)


def test_local_colours_remain_the_pictures(pair):
    source, picture = pair
    found = finish.led_by(source, picture, 1.0)
    blocks = [one.reshape(3, 40, 3, 56, 3).mean((1, 3)) for one in (found, picture, source)]
    assert np.abs(blocks[0] - blocks[1]).mean() < 0.3 * np.abs(blocks[2] - blocks[1]).mean()


@pytest.mark.parametrize("shape", [(1, 40, 3), (2, 2, 3), (7, 31, 3)])
def test_thin_pictures_are_finished_too(shape):
    found = finish.led_by(photo(14, *shape[:2]), photo(15, *shape[:2]), 0.5)
    assert found.shape == shape
    assert np.all(np.isfinite(found))


@pytest.mark.parametrize(("shape", "other"), [((30, 10, 3), (200, 200)), ((7, 90), (512, 301, 3))])
def test_like_size_keeps_proportions_and_the_number_of_pixels(shape, other):
    h, w = finish.like_size(shape, other)
    assert h / w == pytest.approx(shape[0] / shape[1], rel=0.03)
    assert h * w == pytest.approx(other[0] * other[1], rel=0.03)
