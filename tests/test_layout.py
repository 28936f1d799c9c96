"""The layout of a pair: the loops, known maps among wrong matches, and what it is for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import correspondence as oracle

from oeft_jax import layout
from oeft_jax.consensus import consensus_matches
from oeft_jax.correlation import Matches, added
from oeft_jax.warp import warp

layout_of = jax.jit(layout.layout_of, static_argnames=("window", "alpha"))
fitted = jax.jit(layout._fitted)
matches_of = jax.jit(consensus_matches, static_argnames=("window", "alpha"))


def draw(seed, side, grid, n=2, channels=5):
    rng = np.random.default_rng(seed)
    shapes = ((n, side**2, channels), (n, grid**2, channels))
    cells = (rng.normal(size=shape) for shape in shapes)
    return Matches(*(x / np.linalg.norm(x, axis=-1, keepdims=True) for x in cells))


def places(grid):
    """Row order, (down, right), from the middle."""
    return np.array(
        [[(i + 0.5) / grid - 0.5, (j + 0.5) / grid - 0.5] for i in range(grid) for j in range(grid)]
    )


@pytest.mark.parametrize("grid", [1, 2, 5])
def test_places_are_middles_of_cells(grid):
    np.testing.assert_allclose(layout.places(grid), places(grid), atol=1e-7)


@pytest.mark.parametrize(("side", "grid"), [(4, 4), (6, 3), (3, 5)])
def test_layout_is_the_loops(x64, side, grid):
    matches = draw(side, side, grid)
    found = layout_of(matches, window=3, alpha=4.0)
    best, sure = matches_of(matches, window=3, alpha=4.0)
    numbers = {"reaches": layout.REACHES, "stiff": layout.STIFF, "least": layout.LEAST}
    for n in range(2):
        ends = places(grid)[np.asarray(best[n])]
        expected, shared = oracle.layout(places(side), ends, np.asarray(sure[n]), **numbers)
        np.testing.assert_allclose(found.expected[n], expected, atol=1e-10)
        np.testing.assert_allclose(found.shared[n], shared, atol=1e-10)


def test_single_precision_is_near_the_double_one():
    rng = np.random.default_rng(0)
    at, ends, sure = places(16), rng.uniform(-0.5, 0.5, (256, 2)), rng.uniform(size=256)
    numbers = {"reaches": layout.REACHES, "stiff": layout.STIFF, "least": layout.LEAST}
    found = fitted(*(jnp.asarray(x, jnp.float32) for x in (at, ends, sure)))
    for ours, theirs in zip(found, oracle.layout(at, ends, sure, **numbers), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("wrong", [0.0, 0.4, 0.6])
def test_a_map_is_found_among_wrong_matches(wrong):
    """Scaled by 0.8, turned a little and shifted; the others lie anywhere."""
    rng = np.random.default_rng(1)
    at = places(20)
    truth = at @ np.array([[0.8, 0.1], [-0.1, 0.8]]) + [0.05, -0.1]
    bad = rng.uniform(size=len(at)) < wrong
    ends = np.where(bad[:, None], rng.uniform(-0.5, 0.5, at.shape), truth)
    found = fitted(*(jnp.asarray(x) for x in (at, ends, np.ones(len(at)))))
    # being stiff, it gives a little of the change away
    assert np.abs(found.expected - truth).max() < 0.07
    np.testing.assert_allclose(np.mean(found.expected, axis=0), truth.mean(0), atol=0.02)
    np.testing.assert_allclose(found.shared, 1 - wrong, atol=0.15)


def test_matches_that_move_alike_are_followed_exactly():
    at, shift = places(8), np.array([0.2, -0.3])
    found = fitted(*(jnp.asarray(x) for x in (at, at + shift, np.full(64, 1e-6))))
    np.testing.assert_allclose(found.expected, at + shift, atol=1e-5)
    np.testing.assert_allclose(found.shared, 1, atol=1e-5)


@pytest.mark.parametrize("whole", [True, False])
def test_pull_is_the_loops(x64, whole):
    matches, weight, shared = draw(3, 3, 4), 0.7, np.array([0.25, 0.9])
    expected = np.random.default_rng(4).uniform(-1, 1, (2, 9, 2))
    matrix = np.einsum("npc,nqc->npq", *matches[:2])
    pull = layout.pull(layout.Layout(expected, shared), weight, 4, whole=whole)
    found = added(matches._replace(matrix=jnp.asarray(matrix)), pull)
    assert (found.matrix is not None) == whole
    product = np.einsum("npc,nqc->npq", found.source, found.target)
    for n in range(2):
        wanted = oracle.lowered(matrix[n], expected[n], places(4), weight * shared[n])
        np.testing.assert_allclose(product[n], wanted, atol=1e-12)
        if whole:
            np.testing.assert_allclose(found.matrix[n], wanted, atol=1e-12)


def test_gradients_reach_the_correlation_unchanged():
    matches = draw(5, 3, 3, n=1)
    matrix = jnp.einsum("npc,nqc->npq", *matches[:2])
    values = jnp.asarray(np.random.default_rng(6).normal(size=(1, 9, 2)))
    middle = layout.Layout(jnp.zeros((1, 9, 2)), jnp.ones(1))
    pull = layout.pull(middle, 0.5, 3, whole=True)

    def total(matrix, source):
        one = added(Matches(source, matches.target, matrix), pull)
        return jnp.sum(warp(values, one, alpha=3.0) ** 2)

    by_matrix = jax.jit(jax.grad(lambda m: total(m, matches.source)))(matrix)
    through = jnp.einsum("npq,nqc->npc", by_matrix, matches.target)
    by_factors = jax.jit(jax.grad(lambda s: total(None, s)))(jnp.asarray(matches.source))
    np.testing.assert_allclose(by_factors, through, atol=1e-5)
    assert np.abs(by_factors).max() > 1e-3


def test_of_places_that_look_alike_the_one_that_lies_right_is_matched():
    """Two equal textures, one in each half; alone the first of them is taken everywhere."""
    side, rng = 8, np.random.default_rng(7)
    half = rng.normal(size=(side, side // 2, 6))
    cells = np.concatenate([half, half], axis=1).reshape(1, side**2, -1)
    cells /= np.linalg.norm(cells, axis=-1, keepdims=True)
    matches = Matches(*[jnp.asarray(cells, jnp.float32)] * 2)
    at = layout.Layout(jnp.asarray(places(side), jnp.float32)[None], jnp.ones(1))
    alone, _ = matches_of(matches, window=1, alpha=50.0)
    found, _ = matches_of(
        added(matches, layout.pull(at, 0.1, side, whole=False)), window=1, alpha=50.0
    )
    right = np.arange(side**2)
    assert np.mean(np.asarray(alone[0]) == right) <= 0.5
    np.testing.assert_array_equal(found[0], right)
