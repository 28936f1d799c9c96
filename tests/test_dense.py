"""The dense correlation from coarse maps against the hypercolumn's own, and against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from oracles import correspondence as oracle

from oeft_jax import correlation, dense, tiled

pytestmark = pytest.mark.usefixtures("full_compile")

SIDES = [(8, 8), (16, 8, 4, 2), (8, 3), (4, 2), (24, 8, 5)]  # of the taps, on a grid of 8


def draw(seed, sides, channels=3, n=2):
    rng = np.random.default_rng(seed)
    shape = [(n, side, side, channels + i) for i, side in enumerate(sides)]
    features = {f"relu{i}_1": rng.normal(size=s).astype(np.float32) for i, s in enumerate(shape)}
    return features, {tap: jnp.float32(0.5 + i) for i, tap in enumerate(features)}


@pytest.mark.parametrize("sides", SIDES)
def test_joined_columns_are_the_hypercolumn_up_to_the_order_of_channels(sides):
    features, scales = draw(0, sides)
    found = dense.joined(dense.columns(features, scales, grid=8))
    expected = correlation.hypercolumn(features, scales, grid=8)
    order = np.lexsort(np.asarray(expected)[0, :2])
    ours = np.lexsort(np.asarray(found)[0, :2])
    np.testing.assert_allclose(found[..., ours], expected[..., order], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sides", SIDES)
def test_centring_columns_centres_what_they_join_to(sides):
    cells = dense.columns(*draw(1, sides), grid=8)
    found = dense.joined(dense.centred(cells))
    expected = correlation.centred(dense.joined(cells))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("sides", SIDES)
def test_products_are_the_loops_over_cells(sides):
    left, right = (dense.columns(*draw(seed, sides), grid=8) for seed in (2, 3))
    weights = np.random.default_rng(4).uniform(0.5, 2, (2, 64)).astype(np.float32)
    a, b = (np.asarray(dense.joined(cells), np.float64) for cells in (left, right))
    expected = np.zeros((2, 64, 64))
    for n, u, v in np.ndindex(expected.shape):
        expected[n, u, v] = weights[n, u] * (a[n, u] @ b[n, v])
    found = jax.jit(dense.products)(left, weights, dense.joined(right))
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_products_with_fewer_and_more_right_cells():
    left, right = (dense.columns(*draw(seed, (8, 4)), grid=8) for seed in (2, 3))
    weights = jnp.ones((2, 64))
    whole = dense.products(left, weights, dense.joined(right))
    some = dense.products(left, weights, dense.joined(right)[:, 5:9])
    np.testing.assert_allclose(some, whole[:, :, 5:9], atol=1e-5)


def test_gradient_of_products_is_that_of_joined_cells():
    features, scales = draw(5, (8, 4, 2))
    other = dense.joined(dense.columns(*draw(6, (8, 4, 2)), grid=8))
    g = jnp.asarray(np.random.default_rng(7).normal(size=(2, 64, 64)), jnp.float32)
    weights = jnp.linspace(0.5, 2, 64)[None].repeat(2, 0)

    def ours(features, weights, other):
        return jnp.sum(g * dense.products(dense.columns(features, scales, grid=8), weights, other))

    def plain(features, weights, other):
        cells = dense.joined(dense.columns(features, scales, grid=8))
        return jnp.sum(g * weights[..., None] * jnp.einsum("npc,nqc->npq", cells, other))

    found, expected = (
        jax.jit(jax.grad(f, (0, 1, 2)))(features, weights, other) for f in (ours, plain)
    )
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, two, atol=2e-5 * float(jnp.abs(two).max()))


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_mix_is_the_softmax_warp(scale):
    rng = np.random.default_rng(8)
    logits = (scale * rng.uniform(-1, 1, (2, 5, 7))).astype(np.float32)
    values = rng.random((2, 7, 4), np.float32)
    expected = np.zeros((2, 5, 4))
    for n, u in np.ndindex(2, 5):
        weights = np.exp(logits[n, u].astype(np.float64) - logits[n, u].max())
        expected[n, u] = weights @ values[n] / weights.sum()
    np.testing.assert_allclose(jax.jit(dense.mix)(logits, values), expected, atol=1e-6)


def test_mix_gradient_is_the_finite_difference_and_the_tiled_one():
    rng = np.random.default_rng(9)
    source, target = (jnp.asarray(rng.normal(size=(1, 6, 4)), jnp.float32) for _ in "st")
    values = jnp.asarray(rng.random((1, 6, 3)), jnp.float32)
    logits = jnp.einsum("npc,nqc->npq", source, target)
    check_grads(dense.mix, (logits, values), 1, modes=["rev"], atol=1e-2, rtol=1e-2)

    def through(warp):
        return jax.grad(lambda *x: jnp.sum(warp(*x) ** 2), (0, 1, 2))(source, target, values)

    ours = through(lambda s, t, v: dense.mix(jnp.einsum("npc,nqc->npq", s, t), v))
    theirs = through(lambda s, t, v: tiled.attend(s, t, v, tile=4)[0])
    for one, two in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_correlation_of_columns_is_the_oracles():
    (source, scales), (target, _) = draw(10, (8, 4, 2), n=1), draw(11, (8, 4, 2), n=1)
    a, b = (dense.centred(dense.columns(f, scales, grid=8)) for f in (source, target))
    units = correlation.unit(dense.joined(b))
    found = dense.products(a, correlation.inverse_norms(dense.joined(a)), units)
    cells = [
        np.asarray(correlation.hypercolumn(f, scales, grid=8), np.float64) for f in (source, target)
    ]
    expected = oracle.correlation(*cells)
    np.testing.assert_allclose(found, expected, atol=1e-5)
