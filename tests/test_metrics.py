"""Metrics against loops in float64, closed forms and the properties a score must have."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import finish as block_oracle
from oracles import metrics as oracle

from oeft_jax import metrics
from oeft_jax._checks import InputError

blockiness = jax.jit(metrics.blockiness, static_argnums=1)
TOLERANCE = {"float32": 2e-5, "float64": 1e-9, "eigenvalues": 1e-5}


def samples(seed, n, d, *, scale=1.0, shift=0.0):
    """Correlated Gaussian rows with unequal deviations."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(d, d)) * np.geomspace(1, 0.05, d)
    return scale * rng.normal(size=(n, d)) @ mixing + shift


def images(seed, *shape):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


# Frechet distance


@pytest.mark.parametrize(("n", "m", "d"), [(40, 25, 6), (9, 30, 8), (12, 12, 1)])
def test_frechet_of_full_rank_samples_is_the_matrix_root_formula(n, m, d):
    a, b = samples(0, n, d), samples(1, m, d, scale=1.5, shift=0.3)
    statistics = (*oracle.mean_and_covariance(a), *oracle.mean_and_covariance(b))
    expected = oracle.frechet_by_matrix_root(*statistics)
    assert expected > 0.1
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=TOLERANCE["float64"])
    to_statistics = metrics.frechet_to_statistics(a, *statistics[2:])
    assert to_statistics == pytest.approx(expected, rel=TOLERANCE["float64"])


@pytest.mark.parametrize(("n", "m", "d"), [(5, 7, 12), (3, 40, 10), (40, 3, 10), (2, 2, 20)])
def test_formulas_agree_on_low_rank_samples(n, m, d):
    a, b = samples(2, n, d), samples(3, m, d, shift=0.2)
    statistics = (*oracle.mean_and_covariance(a), *oracle.mean_and_covariance(b))
    assert min(np.linalg.matrix_rank(statistics[1]), np.linalg.matrix_rank(statistics[3])) < d
    from_samples = metrics.frechet_distance(a, b)  # nuclear norm
    expected = oracle.frechet_by_eigenvalues(*statistics)
    assert from_samples == pytest.approx(expected, rel=TOLERANCE["eigenvalues"])
    to_statistics = metrics.frechet_to_statistics(a, *statistics[2:])  # n x n eigenvalues, or d x d
    assert to_statistics == pytest.approx(from_samples, rel=1e-6)


def test_formulas_agree_where_the_choice_changes():
    a, b = samples(4, 8, 8), samples(5, 9, 8)
    mean, cov = metrics.feature_statistics(b)
    for rows in (a, a[:7]):
        distance = metrics.frechet_distance(rows, b)
        assert metrics.frechet_to_statistics(rows, mean, cov) == pytest.approx(distance, rel=1e-7)


def test_feature_statistics_are_mean_and_covariance():
    a = samples(6, 11, 5)
    mean, cov = oracle.mean_and_covariance(a)
    found_mean, found_cov = metrics.feature_statistics(a.astype(np.float32))
    assert found_mean.dtype == found_cov.dtype == np.float64
    np.testing.assert_allclose(found_mean, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found_cov, cov, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(metrics.feature_statistics(a[:1])[1], 0)


@pytest.mark.parametrize(("n", "d"), [(30, 6), (4, 10)])
def test_frechet_of_equal_samples_is_zero_and_ignores_their_order(n, d):
    a, b = samples(7, n, d), samples(8, n + 3, d)
    size = np.trace(metrics.feature_statistics(a)[1])
    shuffled = np.random.default_rng(0).permutation(a)
    assert 0 <= metrics.frechet_distance(a, a) < 1e-7 * size
    assert 0 <= metrics.frechet_distance(a, shuffled) < 1e-7 * size
    distance = metrics.frechet_distance(a, b)
    assert metrics.frechet_distance(shuffled, b) == pytest.approx(distance, rel=1e-9)
    assert metrics.frechet_distance(b, a) == pytest.approx(distance, rel=1e-7)


@pytest.mark.parametrize(("n", "d"), [(30, 6), (4, 10)])
def test_frechet_of_shifted_samples_is_the_squared_shift(n, d):
    a = samples(9, n, d)
    shift = np.linspace(-1, 2, d)
    assert metrics.frechet_distance(a, a + shift) == pytest.approx(shift @ shift, rel=1e-6)


def test_frechet_of_one_row_is_a_point_mass():
    row, b = samples(10, 1, 6), samples(11, 20, 6)
    mean, cov = oracle.mean_and_covariance(b)
    expected = np.sum((row[0] - mean) ** 2) + np.trace(cov)
    assert metrics.frechet_to_statistics(row, mean, cov) == pytest.approx(expected, rel=1e-12)
    assert metrics.frechet_distance(row, b) == pytest.approx(expected, rel=1e-12)
    twice = np.concatenate([row, row])  # formula 4 with A = 0, by covariance 0
    assert metrics.frechet_to_statistics(twice, mean, cov) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("n", "d"), [(60, 6), (8, 20)])
def test_frechet_grows_with_added_noise(n, d):
    a = samples(12, n, d)
    noise = np.random.default_rng(13).normal(size=a.shape)
    distances = [metrics.frechet_distance(a, a + level * noise) for level in (0, 0.5, 1, 2, 4)]
    assert np.all(np.diff(distances) > 0)


def test_frechet_adds_no_epsilon_to_degenerate_directions():
    a = np.zeros((50, 30))
    b = np.zeros((50, 30))
    b[:, 1:] = np.random.default_rng(14).normal(scale=0.01, size=(50, 29))
    expected = np.sum(b.mean(axis=0) ** 2) + np.trace(metrics.feature_statistics(b)[1])
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.ones((3, 4)), np.ones((3, 5)), "accepted: as many in both"),
        (np.ones(4), np.ones((3, 4)), r"a has shape \(4,\); accepted: "),
        (np.ones((3, 4)), np.ones((0, 4)), "b has shape .* accepted: "),
        (np.full((3, 4), np.nan), np.ones((3, 4)), "a holds NaN"),
    ],
)
def test_frechet_words_its_errors(a, b, message):
    with pytest.raises(InputError, match=message):
        metrics.frechet_distance(a, b)


def test_frechet_to_statistics_words_its_errors():
    with pytest.raises(InputError, match=r"accepted for samples of 4 features: \(4,\) and"):
        metrics.frechet_to_statistics(np.ones((3, 4)), np.ones(4), np.ones((5, 5)))
    with pytest.raises(InputError, match="mean and cov hold NaN"):
        metrics.frechet_to_statistics(np.ones((3, 4)), np.ones(4), np.full((4, 4), np.inf))


# Functions of images and maps


PAIRS = {
    "psnr": (metrics.psnr, lambda a, b: oracle.psnr(a, b, 1.0)),
    "ssim": (metrics.ssim, oracle.ssim),
    "edge_agreement": (metrics.edge_agreement, oracle.edge_agreement),
    "self_similarity_distance": (
        metrics.self_similarity_distance,
        oracle.self_similarity_distance,
    ),
    "gram_distance": (metrics.gram_distance, oracle.gram_distance),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("size", [(13, 15, 3), (16, 12, 1)])
def test_equals_the_loops(name, size):
    function, loops = PAIRS[name]
    if name == "self_similarity_distance":
        size = (4, 5, size[-1] + 2)
    a = images(20, 2, *size)
    b = 0.6 * a + 0.4 * images(21, 2, *size)
    expected = [loops(x, y) for x, y in zip(a, b, strict=True)]
    for variant in (jax.jit(function), jax.jit(jax.vmap(function))):
        found = variant(jnp.asarray(a), jnp.asarray(b))
        assert found.dtype == jnp.float32
        chex.assert_shape(found, (2,))
        np.testing.assert_allclose(found, expected, rtol=TOLERANCE["float32"])
    single = function(jnp.asarray(a[1]), jnp.asarray(b[1]))
    chex.assert_shape(single, ())
    np.testing.assert_allclose(single, expected[1], rtol=TOLERANCE["float32"])


@pytest.mark.parametrize("name", ["ssim", "edge_agreement"])
def test_equal_images_score_one(name):
    a = jnp.asarray(images(22, 14, 14, 3))
    np.testing.assert_allclose(PAIRS[name][0](a, a), 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["self_similarity_distance", "gram_distance"])
def test_equal_maps_have_distance_zero(name):
    a = jnp.asarray(images(23, 4, 4, 6))
    np.testing.assert_array_equal(PAIRS[name][0](a, a), 0)


@pytest.mark.parametrize(
    "name", ["ssim", "edge_agreement", "self_similarity_distance", "gram_distance"]
)
def test_gradients_are_finite_on_constant_input(name):
    gradient = jax.jit(jax.grad(PAIRS[name][0], argnums=(0, 1)))
    varied = jnp.asarray(images(24, 12, 12, 3))
    chex.assert_tree_all_finite(gradient(varied, varied[::-1]))
    for level in (0.0, 0.4, 1.0):
        flat = jnp.full_like(varied, level)
        for pair in ((flat, flat), (flat, varied), (varied, flat)):
            chex.assert_tree_all_finite(gradient(*pair))


def test_psnr_of_a_constant_offset():
    a = jnp.asarray(images(25, 6, 6, 3))
    np.testing.assert_allclose(metrics.psnr(a, a + 0.1), 20, rtol=1e-4)
    np.testing.assert_allclose(metrics.psnr(255 * a, 255 * a + 25.5, peak=255.0), 20, rtol=1e-4)
    assert metrics.psnr(a, a) == jnp.inf


def test_ssim_of_constant_images_is_its_luminance_term():
    x, y = 0.2, 0.7
    a, b = jnp.full((11, 11, 3), x), jnp.full((11, 11, 3), y)
    expected = (2 * x * y + 1e-4) / (x**2 + y**2 + 1e-4)
    np.testing.assert_allclose(metrics.ssim(a, b), expected, rtol=1e-4)


def test_likeness_is_both_measures_and_zero_where_the_window_does_not_fit():
    a, b = (jnp.asarray(images(seed, 2, 14, 11, 3)) for seed in (3, 4))
    near, alike = metrics.likeness(a, b)
    np.testing.assert_array_equal(near, metrics.psnr(a, b))
    np.testing.assert_array_equal(alike, metrics.ssim(a, b))
    near, alike = metrics.likeness(a[:, :, :10], b[:, :, :10])
    np.testing.assert_array_equal(near, metrics.psnr(a[:, :, :10], b[:, :, :10]))
    np.testing.assert_array_equal(alike, [0, 0])


def test_edge_agreement_ignores_brightness_contrast_and_sign():
    a = jnp.asarray(images(26, 20, 20, 3))
    np.testing.assert_allclose(metrics.edge_agreement(a, 0.9 - 0.5 * a), 1, rtol=1e-4)
    rolled = jnp.roll(a, 5, axis=0)
    assert abs(float(metrics.edge_agreement(a, rolled))) < 0.5
    np.testing.assert_allclose(metrics.edge_agreement(a, jnp.full_like(a, 0.3)), 0, atol=1e-5)


def test_self_similarity_ignores_shift_and_scale_but_not_layout():
    a = jnp.asarray(images(27, 5, 5, 8))
    same = metrics.self_similarity_distance(a, 3 * a + 1)
    moved = metrics.self_similarity_distance(a, a[::-1])
    assert same < 1e-8 < 1e-3 < moved


def test_self_similarity_accepts_other_channels():
    a, b = jnp.asarray(images(28, 4, 5, 8)), jnp.asarray(images(29, 4, 5, 3))
    expected = oracle.self_similarity_distance(np.asarray(a), np.asarray(b))
    np.testing.assert_allclose(metrics.self_similarity_distance(a, b), expected, rtol=2e-5)


def test_gram_distance_ignores_layout_and_size():
    a = jnp.asarray(images(30, 4, 6, 5))
    moved = a.reshape(24, 5)[::-1].reshape(3, 8, 5)
    assert metrics.gram_distance(moved, a) < 1e-10
    assert metrics.gram_distance(jnp.concatenate([a, a]), a) < 1e-10
    np.testing.assert_allclose(metrics.gram_distance(jnp.zeros_like(a), a), 1, rtol=1e-5)


def test_image_functions_word_their_errors():
    a = jnp.zeros((12, 12, 3))
    with pytest.raises(InputError, match=r"a has shape .* accepted: \[..., h, w, c\]"):
        metrics.psnr(a, a[:-1])
    with pytest.raises(InputError, match="peak=0 is out of range; accepted: "):
        metrics.psnr(a, a, peak=0)
    with pytest.raises(InputError, match="accepted: at least 11"):
        metrics.ssim(a[:10], a[:10])
    with pytest.raises(InputError, match="accepted: at least 5"):
        metrics.edge_agreement(a[:4], a[:4])
    with pytest.raises(InputError, match="accepted: equal but for channels"):
        metrics.self_similarity_distance(a, a[:-1])
    with pytest.raises(InputError, match="accepted: equal but for height and width"):
        metrics.gram_distance(a, a[..., :2])
    with pytest.raises(InputError, match=r"fa has shape \(12, 3\)"):
        metrics.gram_distance(a[0], a)


# Blockiness


@pytest.mark.parametrize("period", [(4, 4), (5.3, 7.0), (2.5, 11.2)])
def test_blockiness_is_the_loops(period):
    image = images(20, 37, 45, 3)
    expected = block_oracle.blockiness(image, period)
    np.testing.assert_allclose(blockiness(jnp.asarray(image), period), expected, rtol=1e-4)


@pytest.mark.parametrize("side", [4, 8])
def test_blockiness_of_blocks_smooth_and_constant_pictures(side):
    cells = jnp.asarray(images(21, 8, 8, 3))
    blocks = jnp.repeat(jnp.repeat(cells, side, axis=0), side, axis=1)
    smooth = jax.image.resize(cells, blocks.shape, "linear")
    softened = 0.9 * smooth + 0.1 * blocks
    found = [float(blockiness(image, (side, side))) for image in (blocks, softened, smooth)]
    assert found[0] > 1000
    assert 10 > found[1] > 1.3 * found[2]
    assert 1.5 > found[2] > 0.8
    assert blockiness(jnp.full((16, 24, 3), 0.5), (4, 4)) == 1
    ramp = jnp.broadcast_to(jnp.linspace(0, 1, 32)[:, None, None], (32, 32, 3))
    np.testing.assert_allclose(blockiness(ramp, (8, 8)), 1, atol=1e-3)
    noise = jnp.asarray(images(22, 200, 200, 3))
    np.testing.assert_allclose(blockiness(noise, (8, 8)), 1, atol=0.03)


def test_blockiness_keeps_the_batch_and_words_its_errors():
    batch = jnp.asarray(images(23, 2, 16, 16, 3))
    found = blockiness(batch, (4, 4))
    each = [blockiness(image, (4, 4)) for image in batch]
    np.testing.assert_allclose(found, jnp.stack(each), rtol=1e-6)
    with pytest.raises(InputError, match=r"period=1 .*accepted: \[2, 15\]"):
        metrics.blockiness(batch, (1, 4))
    with pytest.raises(InputError, match=r"period=16 .*accepted: \[2, 15\]"):
        metrics.blockiness(batch, (4, 16))
    with pytest.raises(InputError, match=r"accepted: \[..., h, w, c\]"):
        metrics.blockiness(batch[0, 0], (4, 4))
