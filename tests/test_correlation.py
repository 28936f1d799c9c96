"""Hypercolumns and correlation against loops in float64, and what a cosine must satisfy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from oracles import correspondence as oracle

from oeft_jax import correlation as ours
from oeft_jax._checks import InputError

pytestmark = pytest.mark.usefixtures("full_compile")

TOLERANCE = {"float32": 1e-5, "float64": 1e-6}  # our cosines keep an eps of 1e-6 beside the norm


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def plain_correlate(source, target, centre="positions", neighbourhood=1):
    options = {"centre": centre, "neighbourhood": neighbourhood}
    return ours.correlation(
        ours.match_features(source, **options), ours.match_features(target, **options)
    )


correlate = jax.jit(plain_correlate, static_argnames=("centre", "neighbourhood"))


@pytest.mark.parametrize("centre", ours.CENTRES)
@pytest.mark.parametrize(("n", "p", "q", "c"), [(2, 4, 9, 5), (3, 7, 2, 8), (1, 16, 16, 6)])
def test_correlation_is_the_centred_cosine_of_loops(n, p, q, c, centre):
    source, target = draw(0, n, p, c) + 1, draw(1, n, q, c) - 2
    expected = oracle.correlation(source, target, centre)
    for run in (correlate, plain_correlate) if n == 2 else (correlate,):
        found = run(source, target, centre)
        assert found.shape == (n, p, q)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, atol=TOLERANCE["float32"])


def test_correlation_in_double_precision_is_the_oracle(x64):
    source, target = draw(2, 2, 9, 5).astype(np.float64), draw(3, 2, 4, 5).astype(np.float64)
    found = correlate(jnp.asarray(source), jnp.asarray(target))
    assert found.dtype == jnp.float64
    expected = oracle.correlation(source, target)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE["float64"])


@pytest.mark.parametrize("centre", ["positions", "channels"])
@pytest.mark.parametrize(("p", "q"), [(9, 4), (4, 16)])
def test_neighbourhood_of_three_joins_the_eight_neighbours(p, q, centre):
    source, target = draw(4, 2, p, 4), draw(5, 2, q, 4)
    found = correlate(source, target, centre, 3)
    expected = oracle.correlation(source, target, centre, 3)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE["float32"])


@pytest.mark.parametrize("centre", ours.CENTRES)
def test_correlation_of_constant_features_is_finite_with_finite_gradients(centre):
    def total(source, target):
        return jnp.sum(correlate(source, target, centre))

    for value in (0.0, 3.0):
        cells = jnp.full((1, 4, 3), value)
        result, grads = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(cells, cells)
        assert np.isfinite(result)
        assert all(np.all(np.isfinite(g)) for g in grads)


def test_correlation_has_a_diagonal_of_ones_against_itself():
    cells = draw(6, 2, 9, 5)
    found = correlate(cells, cells)
    np.testing.assert_allclose(np.einsum("npp->np", found), 1, atol=1e-5)


@settings(derandomize=True, max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), scale=st.floats(0.5, 100), centre=st.sampled_from(ours.CENTRES))
def test_correlation_is_a_cosine_and_ignores_feature_scale(seed, scale, centre):
    source, target = draw(seed, 2, 4, 6), draw(seed + 100, 2, 9, 6)
    found = correlate(source, target, centre)
    assert np.max(np.abs(found)) <= 1 + 1e-6
    scaled = correlate(np.float32(scale) * source, 2 * target, centre)
    np.testing.assert_allclose(scaled, found, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_centring_over_positions_ignores_an_offset_of_the_features(seed):
    source, target, offset = draw(seed, 2, 9, 4), draw(seed + 9, 2, 4, 4), draw(seed + 5, 1, 1, 4)
    found = correlate(source + offset, target - 2 * offset)
    np.testing.assert_allclose(found, correlate(source, target), atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_permuting_cells_permutes_the_correlation(seed):
    rng = np.random.default_rng(seed)
    source, target = draw(seed, 2, 4, 5), draw(seed + 7, 2, 9, 5)
    rows, columns = rng.permutation(4), rng.permutation(9)
    found = correlate(source[:, rows], target[:, columns])
    expected = correlate(source, target)[:, rows][:, :, columns]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_correlation_gradient_is_the_finite_difference(x64):
    args = jnp.asarray(draw(8, 1, 4, 3), jnp.float64), jnp.asarray(draw(9, 1, 9, 3), jnp.float64)
    for options in ({}, {"centre": "channels"}, {"neighbourhood": 3}):
        check_grads(lambda s, t, o=options: correlate(s, t, **o), args, 1, modes=["rev"])


def test_correlation_of_different_channels_or_ranks_is_refused():
    with pytest.raises(AssertionError):
        ours.correlation(jnp.ones((1, 4, 3)), jnp.ones((1, 4, 2)))
    with pytest.raises(AssertionError):
        ours.correlation(jnp.ones((4, 3)), jnp.ones((4, 3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"centre": "rows"}, "accepted: channels, none, positions"), ({"neighbourhood": 2}, "1, 3")],
)
def test_unknown_options_are_named_with_the_accepted_ones(options, message):
    with pytest.raises(InputError, match=message):
        ours.match_features(jnp.ones((1, 4, 3)), **options)


# Hypercolumns


@pytest.mark.parametrize(
    ("mode", "grid", "sides"),
    [
        ("rms", 4, (8, 4, 2)),
        ("rms", 6, (12, 3, 1)),
        ("rms", 3, (9, 2, 3)),
        ("channels", 4, (8, 4, 2)),
        ("channels", 6, (12, 3, 1)),
    ],
)
def test_hypercolumn_is_the_loops_over_taps(mode, grid, sides):
    names = ("relu3_1", "relu1_2", "relu2_2")  # not in order
    features = {
        name: draw(k, 2, side, side, k + 2) * 10.0**k
        for k, (name, side) in enumerate(zip(names, sides, strict=True))
    }
    references = {name: 2 * value + 1 for name, value in features.items()}
    scales = ours.layer_scales(references, mode)
    expected = oracle.hypercolumn(features, references, grid, mode)

    def plain(features, scales):
        return ours.hypercolumn(features, scales, grid=grid)

    for run in (jax.jit(plain), plain) if grid == 4 else (jax.jit(plain),):
        found = run(features, scales)
        assert found.shape == (2, grid**2, 9)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_layer_scales_modes_are_root_mean_square_or_one():
    features = {"relu1_1": draw(0, 2, 4, 4, 3), "relu2_1": 50 * draw(1, 2, 2, 2, 5)}
    for tap, scale in ours.layer_scales(features, "rms").items():
        assert float(scale) == pytest.approx(oracle.root_mean_square(features[tap]), rel=1e-5)
    for mode in ("unit", "none"):
        assert [float(x) for x in ours.layer_scales(features, mode).values()] == [1, 1]
    with pytest.raises(InputError, match="accepted: channels, none, rms, unit"):
        ours.layer_scales(features, "max")


def test_scaled_channel_by_channel_a_photo_matches_one_of_other_levels_and_contrasts():
    """Channels that are the same but for a factor and an offset of their own are the same again."""
    features = {"relu1_1": draw(0, 1, 6, 6, 5)}
    factors, offsets = np.array([[[[0.2, 3, 1, 9, 0.5]]], [[[4.0, 0, -2, 1, 7]]]], np.float32)
    others = {"relu1_1": features["relu1_1"] * factors + offsets}
    for mode, is_same in (("channels", True), ("rms", False)):
        cells = [
            ours.match_features(ours.hypercolumn(x, ours.layer_scales(x, mode), grid=6))
            for x in (features, others)
        ]
        similar = jnp.sum(cells[0] * cells[1], axis=-1)
        assert (float(similar.min()) > 0.75) == is_same  # not 1: channels are steadied


def test_unit_layer_scale_gives_every_tap_the_same_weight():
    features = {"relu1_1": draw(0, 2, 4, 4, 3), "relu2_1": 50 * draw(1, 2, 2, 2, 5)}
    scales = ours.layer_scales(features, "unit")
    cells = ours.hypercolumn(features, scales, grid=4, layer_scale="unit")
    np.testing.assert_allclose(jnp.linalg.norm(cells[..., :3], axis=-1), 1, atol=1e-4)
    np.testing.assert_allclose(jnp.linalg.norm(cells[..., 3:], axis=-1), 1, atol=1e-4)


def test_features_of_zero_keep_finite_scales_and_gradients():
    features = {"relu1_1": jnp.zeros((1, 4, 4, 3))}
    for mode in ours.LAYER_SCALES:

        def value(f, mode=mode):
            scales = ours.layer_scales(f, mode)
            return jnp.sum(ours.hypercolumn(f, scales, grid=2, layer_scale=mode))

        result, grads = jax.jit(jax.value_and_grad(value))(features)
        assert np.isfinite(result)
        assert np.all(np.isfinite(grads["relu1_1"]))


@pytest.mark.parametrize("side", [8, 4, 2])
def test_resizing_a_constant_map_keeps_its_value(side):
    np.testing.assert_allclose(ours.resize_features(jnp.full((1, side, side, 2), 0.7), 4), 0.7)


def test_resizing_a_map_to_its_own_size_changes_nothing():
    features = draw(0, 1, 5, 5, 2)
    np.testing.assert_array_equal(ours.resize_features(features, 5), features)


@pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
def test_correlations_scaled_and_added_are_the_mean_of_both_and_of_their_factors(weight):
    rng = np.random.default_rng(4)
    sides = [rng.normal(size=(2, cells, 3)).astype(np.float32) for cells in (4, 5, 4, 5)]
    one, other = (ours.Matches(a, b, ours.correlation(a, b)) for a, b in (sides[:2], sides[2:]))
    share = 1 / (1 + weight)
    found = ours.added(ours.scaled(one, share), ours.scaled(other, weight * share))
    expected = np.zeros((2, 4, 5))
    for n, u, v in np.ndindex(expected.shape):
        first = np.dot(np.float64(sides[0][n, u]), np.float64(sides[1][n, v]))
        second = np.dot(np.float64(sides[2][n, u]), np.float64(sides[3][n, v]))
        expected[n, u, v] = (first + weight * second) / (1 + weight)
    np.testing.assert_allclose(found.matrix, expected, atol=1e-5)
    np.testing.assert_allclose(ours.correlation(found.source, found.target), expected, atol=1e-5)
    bare = ours.scaled(one._replace(matrix=None), share)
    factors = ours.added(bare, ours.scaled(other, weight * share))
    assert bare.matrix is None
    assert factors.matrix is None
    np.testing.assert_array_equal(factors.source, found.source)
