"""Soft and voted warps against loops in float64, their limits and what a warp must satisfy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from oracles import correspondence as oracle

from oeft_jax import warp as ours
from oeft_jax._checks import InputError
from oeft_jax.consensus import consensus_matches
from oeft_jax.correlation import Matches

pytestmark = pytest.mark.usefixtures("full_compile")

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


TILE = 5  # several tiles, and cells left over


def factors(matrix):
    """Matches whose inner products are the entries of `matrix`."""
    n, _, q = matrix.shape
    return Matches(matrix, jnp.broadcast_to(jnp.eye(q, dtype=matrix.dtype), (n, q, q)))


def plain_warp(values, matrix, **options):
    return ours.warp(values, factors(matrix), tile=TILE, **options)


def plain_warp_image(target, matrix, **options):
    return ours.warp_image(target, factors(matrix), tile=TILE, **options)


def plain_voted_warp(target, matrix, **options):
    best = consensus_matches(factors(matrix), window=1, alpha=1.0)[0]
    return ours.voted_warp(target, best, grid=round(matrix.shape[-1] ** 0.5), **options)


warp = jax.jit(plain_warp)
warp_image = jax.jit(plain_warp_image, static_argnames="mode")
voted_warp = jax.jit(plain_voted_warp, static_argnames="overlap")


def cosines(seed, n, p, q):
    return np.random.default_rng(seed).uniform(-1, 1, size=(n, p, q)).astype(np.float32)


def images(seed, n, size):
    return np.random.default_rng(seed).uniform(size=(n, size, size, 3)).astype(np.float32)


def identity(n, cells):
    return np.broadcast_to(np.eye(cells, dtype=np.float32), (n, cells, cells))


# Oracles


@pytest.mark.parametrize(
    ("n", "p", "q", "d", "alpha"), [(2, 4, 9, 3, 10), (3, 5, 2, 1, 100), (1, 9, 9, 4, 0)]
)
def test_warp_is_the_softmax_of_loops(n, p, q, d, alpha):
    values, matrix = cosines(0, n, q, d), cosines(1, n, p, q)
    expected = oracle.warp(values, matrix, alpha)
    for run in (warp, plain_warp) if n == 2 else (warp,):
        found = run(values, matrix, alpha=alpha)
        assert found.shape == (n, p, d)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, atol=TOLERANCE["float32"])


def test_warp_in_double_precision_is_the_oracle(x64):
    values, matrix = cosines(2, 2, 9, 3).astype(np.float64), cosines(3, 2, 4, 9).astype(np.float64)
    found = plain_warp(jnp.asarray(values), jnp.asarray(matrix), alpha=100.0)
    assert found.dtype == jnp.float64
    expected = oracle.warp(values, matrix, 100.0)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE["float64"])


@pytest.mark.parametrize(("n", "size", "cells"), [(2, 6, 9), (1, 8, 4), (3, 4, 16)])
def test_patch_warp_is_the_loops(n, size, cells):
    target, matrix = images(0, n, size), cosines(1, n, cells, cells)
    expected = oracle.patch_warp(target, matrix, 5.0)
    for run in (warp_image, plain_warp_image) if n == 2 else (warp_image,):
        found = run(target, matrix, alpha=5.0)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE["float32"])


@pytest.mark.parametrize(
    ("n", "size", "p", "q"),
    [(2, 6, 9, 9), (1, 12, 4, 9), (1, 8, 9, 4), (1, 3, 9, 9), (1, 4, 1, 1)],
)
def test_overlapping_warp_is_the_loops(n, size, p, q):
    target, matrix = images(0, n, size), cosines(1, n, p, q)
    expected = oracle.overlapping_warp(target, matrix, 5.0, ours.FADE)
    for run in (warp_image, plain_warp_image) if n == 2 else (warp_image,):
        found = run(target, matrix, alpha=5.0, mode="overlap")
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=TOLERANCE["float32"])


@pytest.mark.parametrize(("n", "size", "p", "q"), [(2, 6, 9, 4), (1, 8, 4, 16), (2, 4, 4, 4)])
def test_pooled_warp_is_the_loops(n, size, p, q):
    target, matrix = images(0, n, size), cosines(1, n, p, q)
    expected = oracle.pooled_warp(target, matrix, 5.0)
    for run in (warp_image, plain_warp_image) if p == 9 else (warp_image,):
        found = run(target, matrix, alpha=5.0, mode="pooled")
        assert found.shape == (n, size, size, 3)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE["float32"])


@pytest.mark.parametrize(
    ("n", "size", "p", "q", "overlap"),
    [(2, 8, 16, 16, 2), (1, 9, 9, 9, 2), (2, 8, 4, 16, 3), (1, 8, 9, 4, 2), (1, 6, 9, 9, 1)],
)
def test_voted_warp_is_the_loops(n, size, p, q, overlap):
    target, matrix = images(2, n, size), cosines(3, n, p, q)
    expected = oracle.voted_warp(target, matrix, overlap)
    for run in (voted_warp, plain_voted_warp) if overlap == 1 else (voted_warp,):
        found = run(target, matrix, overlap=overlap)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=TOLERANCE["float32"])


# Limits


def test_warp_at_infinite_alpha_is_the_argmax():
    values, matrix = cosines(4, 2, 9, 3), cosines(5, 2, 4, 9)
    found = warp(values, matrix, alpha=1e6)
    expected = np.take_along_axis(values, matrix.argmax(-1)[..., None], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_warp_at_alpha_zero_is_the_mean():
    values, matrix = cosines(4, 2, 9, 3), cosines(5, 2, 4, 9)
    expected = np.broadcast_to(values.mean(1, keepdims=True), (2, 4, 3))
    np.testing.assert_allclose(warp(values, matrix, alpha=0.0), expected, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 100.0])
def test_warp_of_one_target_cell_returns_that_cell(alpha):
    values, matrix = cosines(6, 2, 1, 3), cosines(7, 2, 4, 1)
    expected = np.broadcast_to(values, (2, 4, 3))
    np.testing.assert_allclose(warp(values, matrix, alpha=alpha), expected, atol=1e-7)


def test_image_with_distinct_cells_warps_to_itself_at_large_alpha():
    target = images(8, 2, 8)
    cells = ours.image_to_patches(target, 4)
    centred = cells - cells.mean(1, keepdims=True)
    unit = centred / jnp.linalg.norm(centred, axis=-1, keepdims=True)
    matrix = jnp.einsum("npc,nqc->npq", unit, unit)
    assert np.max(matrix - 2 * np.eye(16)[None]) < 0.98  # distinct
    np.testing.assert_allclose(warp_image(target, matrix, alpha=2000.0), target, atol=1e-6)
    np.testing.assert_allclose(voted_warp(target, matrix), target, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "cells", "overlap"), [(8, 16, 2), (9, 9, 2), (6, 9, 3), (4, 1, 1)]
)
def test_voted_warp_of_the_identity_gives_the_target_back(size, cells, overlap):
    target = images(9, 2, size)
    found = voted_warp(target, identity(2, cells), overlap=overlap)
    np.testing.assert_allclose(found, target, atol=1e-6)


@pytest.mark.parametrize(("size", "grid"), [(12, 3), (9, 3), (4, 4), (4, 2)])
def test_wide_patches_of_an_image_blend_into_it(size, grid):
    target = images(1, 2, size)
    patches = ours.wide_patches(target, grid)
    assert patches.shape == (2, grid**2, 4 * (size // grid) ** 2 * 3)
    np.testing.assert_allclose(ours.blended(patches, size), target, atol=1e-6)


def test_overlapping_warp_has_no_edge_between_cells_that_match_alike():
    """A dark half beside a bright one: a ramp, where patches leave a step."""
    target = np.zeros((1, 16, 16, 3), np.float32)
    target[:, :, 8:] = 1
    matrix = np.zeros((1, 16, 16), np.float32)
    for u in range(16):
        matrix[:, u, 3 if u % 4 > 1 else 0] = 9
    step = np.diff(warp_image(target, matrix, alpha=20.0)[0, :, :, 0], axis=1)
    ramp = np.diff(warp_image(target, matrix, alpha=20.0, mode="overlap")[0, :, :, 0], axis=1)
    assert step.max() == pytest.approx(1)
    assert 0 < ramp.max() < 0.4


def test_pooled_warp_of_a_constant_image_is_that_image():
    target = jnp.full((1, 8, 8, 3), 0.3)
    found = warp_image(target, cosines(0, 1, 16, 16), alpha=10.0, mode="pooled")
    np.testing.assert_allclose(found, 0.3, atol=1e-6)


# Properties


@settings(derandomize=True, max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), alpha=st.floats(0, 1000), low=st.floats(-5, 5))
def test_warp_stays_inside_the_range_of_its_values(seed, alpha, low):
    values = np.float32(low) + cosines(seed, 1, 9, 2)
    found = np.asarray(warp(values, cosines(seed + 1, 1, 4, 9), alpha=alpha))
    assert np.all(found >= values.min(1) - 1e-5)
    assert np.all(found <= values.max(1) + 1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_image_warps_stay_inside_the_range_of_the_target(seed):
    target, matrix = 0.2 + 0.5 * images(seed, 2, 8), cosines(seed, 2, 16, 16)
    results = [warp_image(target, matrix, alpha=20.0, mode=mode) for mode in ours.WARPS]
    for found in [*results, voted_warp(target, matrix)]:
        assert found.shape == target.shape
        assert found.min() >= target.min() - 1e-6
        assert found.max() <= target.max() + 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_permuting_target_cells_with_their_values_leaves_the_warp(seed):
    values, matrix = cosines(seed, 2, 9, 3), cosines(seed + 9, 2, 4, 9)
    order = np.random.default_rng(seed).permutation(9)
    found = warp(values[:, order], matrix[:, :, order], alpha=20.0)
    np.testing.assert_allclose(found, warp(values, matrix, alpha=20.0), atol=1e-6)


@pytest.mark.parametrize("mode", ours.WARPS)
def test_permuting_source_cells_permutes_the_warp(mode):
    target, matrix = images(0, 2, 9), cosines(1, 2, 9, 9)
    order = np.random.default_rng(0).permutation(9)
    values = ours.image_to_patches(target, 3)
    if mode == "pooled":
        values = values.reshape(2, 9, 9, 3).mean(2)
    found = warp(values, matrix[:, order], alpha=20.0)
    expected = warp(values, matrix, alpha=20.0)[:, order]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("size", "grid"), [(8, 4), (6, 2), (3, 3), (5, 1)])
def test_patches_come_back_as_the_image(size, grid):
    target = images(1, 2, size)
    patches = ours.image_to_patches(target, grid)
    assert patches.shape == (2, grid**2, (size // grid) ** 2 * 3)
    side = size // grid
    last = target[:, size - side :, size - side :].reshape(2, -1)
    np.testing.assert_array_equal(patches[:, -1], last)
    np.testing.assert_array_equal(ours.patches_to_image(patches, size), target)


# Gradients


def test_warp_gradient_is_the_finite_difference(x64):
    values = jnp.asarray(cosines(0, 1, 4, 3), jnp.float64)
    matrix = jnp.asarray(cosines(1, 1, 4, 4), jnp.float64)
    target = jnp.asarray(images(2, 1, 4), jnp.float64)
    check_grads(
        jax.jit(lambda v, m: plain_warp(v, m, alpha=7.0)), (values, matrix), 1, modes=["rev"]
    )
    for mode in ours.WARPS:
        check_grads(
            jax.jit(lambda t, m, mode=mode: plain_warp_image(t, m, alpha=7.0, mode=mode)),
            (target, matrix),
            1,
            modes=["rev"],
        )


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("mode", ours.WARPS)
def test_warp_of_constant_correlation_has_finite_gradients(mode, value):
    def total(target, matrix):
        return jnp.sum(plain_warp_image(target, matrix, alpha=1e4, mode=mode) ** 2)

    gradient = jax.jit(jax.grad(total, argnums=(0, 1)))
    grads = gradient(jnp.full((1, 4, 4, 3), value), jnp.full((1, 4, 4), value))
    assert all(np.all(np.isfinite(g)) for g in grads)


# Errors


def test_unknown_warp_is_named_with_the_accepted_ones():
    with pytest.raises(InputError, match="accepted: overlap, patch, pooled"):
        plain_warp_image(jnp.ones((1, 4, 4, 3)), jnp.ones((1, 4, 4)), alpha=1.0, mode="soft")


def test_warp_of_values_that_do_not_fit_the_correlation_is_refused():
    with pytest.raises(AssertionError):
        plain_warp(jnp.ones((1, 5, 3)), jnp.ones((1, 4, 4)), alpha=1.0)
