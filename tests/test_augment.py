"""Online augmentation: exact geometry, and draws whose statistics fit the stated ranges."""

import colorsys

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from oeft_jax import augment

DRAWS = 200
SHAPE = (DRAWS, 16, 16, 3)  # one for all statistics, so that they share one compilation
STILL = augment.Photometric(0.0, 0.0, 0.0, 0.0, 0.0)
FIXED = augment.Geometric(1.0, 0.0, 0.0, 0.0)


photometric = jax.jit(augment.photometric)
geometric = jax.jit(augment.geometric)
affine = jax.jit(augment.affine)
affine_matrices = jax.jit(
    jax.vmap(augment.affine_matrix, in_axes=(0, None, None)), static_argnums=1
)


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(size=(3, 9, 9, 3)).astype(np.float32)


def jitter(key, images, **ranges):
    return np.asarray(photometric(key, images, STILL._replace(**ranges)))


AUGMENTATIONS = {
    "photometric": lambda key, images: photometric(key, images, augment.Photometric()),
    "geometric": lambda key, images: geometric(key, images, augment.Geometric()),
}


def assert_uniform(values, low, high):
    """Inside the range, filling it, and by the Kolmogorov-Smirnov test uniform."""
    values = np.asarray(values, np.float64)
    slack = 1e-4 * (high - low)
    assert values.min() >= low - slack
    assert values.max() <= high + slack
    assert np.ptp(values) > 0.9 * (high - low)
    assert stats.kstest((values - low) / (high - low), "uniform").pvalue > 0.01


# Both


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmented_images_keep_shape_type_and_range(name, key, images):
    found = AUGMENTATIONS[name](key, images)
    assert found.shape == images.shape
    assert found.dtype == jnp.float32
    assert found.min() >= 0
    assert found.max() <= 1
    assert np.all(np.abs(found - images).max(axis=(1, 2, 3)) > 0.01)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_draws_are_fixed_by_the_key_and_differ_by_key_and_image(name, key, images):
    augmented = AUGMENTATIONS[name]
    same = np.broadcast_to(images[:1], images.shape)
    first = augmented(key, same)
    np.testing.assert_array_equal(augmented(key, same), first)
    for i, j in [(0, 1), (0, 2), (1, 2)]:
        assert np.max(np.abs(first[i] - first[j])) > 0.01
    other = augmented(jax.random.key(1), same)
    assert np.all(np.abs(other - first).max(axis=(1, 2, 3)) > 0.01)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_vmap_over_keys_equals_a_loop_over_keys(name, key, images):
    keys = jax.random.split(key, 2)
    found = jax.jit(jax.vmap(AUGMENTATIONS[name], in_axes=(0, None)))(keys, images)
    for k, result in zip(keys, found, strict=True):
        np.testing.assert_allclose(result, AUGMENTATIONS[name](k, images), atol=1e-5)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_black_images_stay_finite_and_in_range(name, key):
    found = AUGMENTATIONS[name](key, np.zeros((3, 9, 9, 3), np.float32))
    assert np.all(np.isfinite(found))
    assert found.min() >= 0
    assert found.max() <= 1


# Geometric


def parts(matrix, size):
    """zoom, degrees, degrees of shear, shift in sides of an output-to-input map."""
    matrix = np.asarray(matrix, np.float64)
    linear = matrix[:2, :2]
    zoom = np.linalg.det(linear) ** -0.5
    angle = np.arctan2(linear[1, 0], linear[0, 0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    upper = zoom * turn.T @ linear
    np.testing.assert_allclose(upper[:, 0], [1, 0], atol=1e-5)
    np.testing.assert_allclose(matrix[2], [0, 0, 1], atol=0)
    middle = np.full(2, (size - 1) / 2)
    shift = linear @ middle + matrix[:2, 2] - middle
    return zoom, np.rad2deg(angle), np.rad2deg(np.arctan(upper[0, 1])), *(shift / size)


def test_affine_draws_fill_their_ranges_independently(key):
    size, ranges = 64, augment.Geometric(scale=1.5, rotation=30.0, shear=12.0, translation=0.2)
    keys = jax.random.split(key, DRAWS)
    matrices = affine_matrices(keys, size, ranges)
    zoom, angle, shear, down, right = np.transpose([parts(m, size) for m in matrices])
    assert_uniform(np.log(zoom), -np.log(1.5), np.log(1.5))
    assert_uniform(angle, -30, 30)
    assert_uniform(shear, -12, 12)
    assert_uniform(down, -0.2, 0.2)
    assert_uniform(right, -0.2, 0.2)
    dependence = np.corrcoef([zoom, angle, shear, down, right]) - np.eye(5)
    assert np.abs(dependence).max() < 0.25


def test_affine_draws_have_the_mean_of_their_ranges(key):
    ranges = augment.Geometric()
    keys = jax.random.split(key, DRAWS)
    matrices = affine_matrices(keys, 64, ranges)
    values = np.transpose([parts(m, 64) for m in matrices])
    widths = [np.log(1.25), 10.0, 5.0, 0.05, 0.05]
    for value, width in zip([np.log(values[0]), *values[1:]], widths, strict=True):
        assert abs(np.mean(value)) < 4 * width / np.sqrt(3 * DRAWS)
        assert np.std(value) == pytest.approx(width / np.sqrt(3), rel=0.15)


def test_ranges_of_zero_give_the_identity(key, images):
    for size in (1, 64):
        matrix = augment.affine_matrix(key, size, FIXED)
        np.testing.assert_allclose(matrix, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(geometric(key, images, FIXED), images, atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 7, 3), (9, 9, 3), (4, 6, 1)])
def test_identity_matrix_is_exact(shape):
    image = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    np.testing.assert_array_equal(affine(image, jnp.eye(3)), image)


def test_quarter_turn_gives_the_exact_pixels(images):
    size = images.shape[1]
    matrix = jnp.array([[0.0, -1.0, size - 1], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    found = affine(images[0], matrix)  # out[r, c] = in[size - 1 - c, r]
    np.testing.assert_array_equal(found, np.rot90(images[0], k=-1))


@pytest.mark.parametrize(("down", "right"), [(2, -1), (-3, 0), (0, 4)])
def test_whole_translation_gives_the_exact_pixels_mirrored_at_the_border(down, right, images):
    matrix = jnp.eye(3).at[0, 2].set(down).at[1, 2].set(right)
    found = affine(images[0], matrix)
    size = images.shape[1]
    padded = np.pad(images[0], ((size - 1, size - 1), (size - 1, size - 1), (0, 0)), "reflect")
    row, column = size - 1 + down, size - 1 + right
    np.testing.assert_array_equal(found, padded[row : row + size, column : column + size])


def test_half_pixel_translation_is_the_mean_of_neighbours(images):
    found = affine(images[0], jnp.eye(3).at[0, 2].set(0.5))
    expected = (images[0, :-1] + images[0, 1:]) / 2
    np.testing.assert_allclose(found[:-1], expected, atol=1e-6)


def test_rotation_keeps_the_centre_of_the_image(key):
    image = np.zeros((3, 9, 9, 3), np.float32)
    image[:, 4, 4] = 1
    turned = augment.Geometric(scale=1.0, rotation=90.0, shear=0.0, translation=0.0)
    found = np.asarray(geometric(key, image, turned))[0]
    assert found[4, 4] == pytest.approx(1, abs=1e-4)
    weight = found[..., 0] / found[..., 0].sum()
    rows, columns = np.mgrid[:9, :9]
    assert (weight * rows).sum() == pytest.approx(4, abs=1e-3)
    assert (weight * columns).sum() == pytest.approx(4, abs=1e-3)


# Photometric


def test_no_jitter_changes_nothing(key, images):
    np.testing.assert_allclose(jitter(key, images), images, atol=1e-5)


def test_brightness_factors_fill_their_range(key):
    grey = np.full(SHAPE, 0.5, np.float32)
    found = jitter(key, grey, brightness=0.4)
    assert np.ptp(found, axis=(1, 2, 3)).max() < 1e-5
    assert_uniform(found[:, 0, 0, 0] / 0.5, 0.6, 1.4)


def test_contrast_factors_fill_their_range_and_leave_grey(key):
    levels = np.tile(np.array([0.4, 0.6], np.float32)[None, None, :, None], (DRAWS, 16, 8, 3))
    found = jitter(key, levels, contrast=0.3)
    np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), 0.5, atol=1e-5)
    assert_uniform((found[:, 0, 1, 0] - found[:, 0, 0, 0]) / 0.2, 0.7, 1.3)


def colours(found):
    return np.array([colorsys.rgb_to_hsv(*map(float, x)) for x in found[:, 0, 0]])


def test_saturation_factors_fill_their_range_and_leave_hue_and_value(key):
    colour = np.broadcast_to(np.array([0.6, 0.4, 0.3], np.float32), SHAPE)
    found = colours(jitter(key, colour, saturation=0.2))
    hue, saturation, value = colorsys.rgb_to_hsv(0.6, 0.4, 0.3)
    assert_uniform(found[:, 1] / saturation, 0.8, 1.2)
    np.testing.assert_allclose(found[:, 0], hue, atol=1e-4)
    np.testing.assert_allclose(found[:, 2], value, atol=1e-4)


def test_hue_turns_fill_their_range_and_leave_saturation_and_value(key):
    colour = np.broadcast_to(np.array([0.2, 0.7, 0.5], np.float32), SHAPE)
    found = colours(jitter(key, colour, hue=0.1))
    hue, saturation, value = colorsys.rgb_to_hsv(0.2, 0.7, 0.5)
    assert_uniform(found[:, 0] - hue, -0.1, 0.1)
    np.testing.assert_allclose(found[:, 1], saturation, atol=1e-4)
    np.testing.assert_allclose(found[:, 2], value, atol=1e-4)


def turned(pixel, factor, turns):
    hue, saturation, value = colorsys.rgb_to_hsv(*map(float, pixel))
    return colorsys.hsv_to_rgb((hue + turns) % 1, min(saturation * factor, 1), value)


@pytest.mark.parametrize(("factor", "turns"), [(1.0, 0.0), (1.2, 0.1), (0.8, -0.1), (3.0, 0.7)])
def test_colours_are_those_of_colorsys(factor, turns):
    levels = np.array([0.0, 1e-7, 0.25, 0.5, 0.5000001, 1.0], np.float32)  # equal, close and apart
    pixels = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    found = np.asarray(jax.jit(augment._adjust_colour)(pixels, factor, turns))[0]
    expected = [turned(pixel, factor, turns) for pixel in pixels[0]]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def asked(program):
    """The equations of a program that ask whether two floating numbers are equal, at any depth."""
    for equation in program.eqns:
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from asked(inner)
        floats = all(jnp.issubdtype(x.aval.dtype, jnp.floating) for x in equation.invars)
        if equation.primitive.name == "eq" and floats:
            yield equation


def test_nothing_hangs_on_two_equal_numbers(key, images):
    # Computed twice in a program, they may differ in the last bits: a fused multiplication rounds less.
    program = jax.make_jaxpr(lambda *x: augment.photometric(*x, augment.Photometric()))(key, images)
    assert not list(asked(program.jaxpr))
    doubted = jax.make_jaxpr(lambda x: jax.jit(lambda y: y == x)(x + 1))(1.0)
    assert list(asked(doubted.jaxpr))  # the question would be found


def test_noise_is_gaussian_with_a_uniform_deviation(key):
    grey = np.full(SHAPE, 0.5, np.float32)
    noise = jitter(key, grey, noise=0.1) - 0.5
    deviations = noise.std(axis=(1, 2, 3))
    assert stats.kstest(deviations / 0.1, "uniform").pvalue > 0.01
    assert deviations.min() < 0.005
    assert 0.095 < deviations.max() < 0.105
    assert np.abs(noise.mean(axis=(1, 2, 3)) / deviations).max() < 5 / np.sqrt(noise[0].size)
    standard = noise[np.argmax(deviations)].ravel() / deviations.max()
    assert stats.kstest(standard, "norm").pvalue > 0.01


def test_photometric_leaves_positions(key):
    squares = np.indices((9, 9)).sum(axis=0) % 2 == 0
    board = np.where(squares[..., None], [0.7, 0.4, 0.3], [0.2, 0.3, 0.5]).astype(np.float32)
    ranges = augment.Photometric(noise=0.0)
    boards = np.broadcast_to(board, (3, *board.shape))
    for found in np.asarray(photometric(key, boards, ranges)):
        assert np.ptp(found[squares], axis=0).max() < 1e-5
        assert np.ptp(found[~squares], axis=0).max() < 1e-5
        assert np.abs(found[squares][0] - found[~squares][0]).max() > 0.1
