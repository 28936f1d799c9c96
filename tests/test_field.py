"""The field from coarse to fine: what is known in advance comes back, nothing leaves its range."""

import numpy as np
import pytest

from oeft_jax import field as ours
from oeft_jax.image import resize
from oeft_jax.patches import CELL, centres, vote

GRID = 8  # so the smallest size of the pyramid has about 32 x 32 pixels


def photo(seed, h, w, scale=5):
    """Random, with features of about `scale` pixels."""
    coarse = np.random.default_rng(seed).uniform(size=(-(-h // scale), -(-w // scale), 3))
    return resize(coarse, (h, w))


def identity_matches():
    return np.arange(GRID**2).reshape(GRID, GRID)


def middles(shape):
    return np.stack(np.meshgrid(*map(centres, shape[:2]), indexing="ij"), axis=-1)


@pytest.mark.parametrize(
    ("side", "sizes"),
    [(20, [(20, 30)]), (36, [(36, 54)]), (72, [(36, 54), (72, 108)])],
)
def test_pyramid_doubles_from_about_the_size_that_was_tuned_on(side, sizes):
    source, target = photo(0, side, side * 3 // 2), photo(1, side * 3 // 2, side)
    found = list(ours.pyramid(source, target, smallest=CELL * GRID))
    assert [size.source.shape[:2] for size in found] == sizes
    assert [size.target.shape[1::-1] for size in found] == sizes
    np.testing.assert_array_equal(found[-1].source, source)


# Matches of squares


@pytest.mark.parametrize("shape", [(32, 32, 3), (48, 20, 3), (31, 57, 3)])
def test_identity_matches_are_the_identity_field(shape):
    field = ours.from_matches(identity_matches(), shape, shape)
    np.testing.assert_array_equal(field, middles(shape))


def test_a_match_ties_middles_of_cells_and_moves_along_in_pixels():
    best = np.full((GRID, GRID), 2 * GRID + 5)  # row 2, column 5
    field = ours.from_matches(best, (32, 64, 3), (80, 16, 3))
    assert field.shape == (8, 16, 2)
    np.testing.assert_array_equal(field[..., 0], 25)  # 2.5 cells of 10 pixels
    np.testing.assert_array_equal(field[0, :4, 1], [9, 13, 9, 13])  # 5.5 cells of 2, 2 pixels off


def test_enlarged_identity_is_the_identity():
    small = [ours.Size(np.zeros((24, 33, 3)), np.zeros((24, 33, 3)))]
    large = ours.Size(np.zeros((48, 66, 3)), np.zeros((48, 66, 3)))
    found = ours.enlarged(middles((24, 33)), small[0], large)
    assert np.abs(found - middles((48, 66))).max() <= 1  # an odd corner may lie between pixels


# The whole


@pytest.mark.parametrize("shape", [(40, 40), (64, 64), (70, 101), (97, 35), (130, 66)])
def test_identity_field_of_one_photo_gives_it_back(shape):
    image = photo(2, *shape)
    field, picture = ours.coarse_to_fine(image, image, identity_matches())
    assert field.shape[:2] == (-(-shape[0] // CELL), -(-shape[1] // CELL))
    assert np.abs(picture - image).mean() < 0.02
    np.testing.assert_array_equal(vote(image, field, image.shape), picture)


def test_a_known_shift_is_kept_to_the_pixel():
    large = photo(3, 88, 88)
    source, target = large[8:72, 8:72], large[:64, :64]  # a cell down and right of it
    rows, columns = np.minimum(np.mgrid[:GRID, :GRID] + 1, GRID - 1)
    field, picture = ours.coarse_to_fine(source, target, rows * GRID + columns)
    inner = slice(0, 56 // CELL - 1)
    moved = (field - middles(source.shape))[inner, inner]
    assert np.all(moved == [8, 8], axis=-1).mean() > 0.95
    np.testing.assert_allclose(picture[:48, :48].mean(), source[:48, :48].mean(), atol=2e-3)
    assert np.abs(picture - source)[:48, :48].mean() < 0.01


def test_wrong_matches_here_and_there_are_mended_by_their_neighbours():
    image = photo(4, 64, 64)
    best = identity_matches()
    wrong = np.random.default_rng(5).choice(GRID**2, 6, replace=False)
    best.flat[wrong] = (best.flat[wrong] + 27) % GRID**2
    start = vote(image, ours.from_matches(best, image.shape, image.shape), image.shape)
    _, picture = ours.coarse_to_fine(image, image, best)
    before, after = (np.abs(one - image).mean() for one in (start, picture))
    assert after < 0.5 * before


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_constant_target_gives_a_constant_picture(value):
    target = np.full((45, 70, 3), value, np.float32)
    best = np.random.default_rng(6).integers(0, GRID**2, (GRID, GRID))
    _, picture = ours.coarse_to_fine(photo(7, 66, 49), target, best)
    np.testing.assert_allclose(picture, value, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "other"), [((33, 79), (90, 31)), ((64, 64), (20, 200)), ((5, 3), (1, 9))]
)
def test_rectangles_stay_inside_the_target_and_repeat(shape, other):
    source, target = photo(8, *shape), 0.2 + 0.5 * photo(9, *other)
    best = np.random.default_rng(10).integers(0, GRID**2, (GRID, GRID))
    field, picture = ours.coarse_to_fine(source, target, best)
    assert picture.shape == source.shape
    assert picture.dtype == np.float32
    assert field.dtype == np.int32
    assert np.all((field >= 0) & (field <= other))
    assert picture.min() >= target.min() - 1e-6
    assert picture.max() <= target.max() + 1e-6
    again = ours.coarse_to_fine(source, target, best)
    np.testing.assert_array_equal(again[0], field)
    np.testing.assert_array_equal(again[1], picture)


def test_the_picture_is_drawn_like_the_source():
    """Random matches of a texture: after the search its edges are nearer to the source's."""
    source, target = photo(11, 96, 80, scale=12), photo(12, 90, 84, scale=7)
    best = np.random.default_rng(13).integers(0, GRID**2, (GRID, GRID))
    field = ours.from_matches(best, source.shape, target.shape)
    start = vote(target, field, source.shape)
    picture = ours.coarse_to_fine(source, target, best)[1]

    def alike(image):
        return np.corrcoef(*(ours.drawing(one).ravel() for one in (image, source)))[0, 1]

    assert alike(picture) > alike(start) + 0.1


def test_an_improved_field_fits_no_worse():
    source, target = photo(14, 40, 52), photo(15, 44, 48)
    size = ours.Size(source, target)
    best = np.random.default_rng(16).integers(0, GRID**2, (GRID, GRID))
    field = ours.from_matches(best, source.shape, target.shape)
    picture = vote(target, field, source.shape)
    better = ours.improved(field, picture, size)
    ys, xs = centres(40), centres(52)
    misfit = ours._misfit(picture, size, ys, xs)

    def cost(one):
        return misfit(one) + ours.COHERENCE * ours._disagreement(one, field, ys, xs)

    assert np.all(cost(better) <= cost(field) + 1e-6)
    assert cost(better).mean() < 0.8 * cost(field).mean()


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_drawing_of_a_flat_photo_is_nothing(value):
    np.testing.assert_allclose(ours.drawing(np.full((20, 9, 3), value, np.float32)), 0, atol=1e-4)


def test_drawing_does_not_change_with_brightness_and_hardly_with_contrast():
    image = photo(17, 50, 60)
    plain = ours.drawing(image)
    np.testing.assert_allclose(ours.drawing(0.5 + 0.3 * image), plain, atol=0.05)
    assert 0.5 < plain.std() < 1.5
