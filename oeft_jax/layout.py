"""The layout that two photos share: where each place of the source is expected in the target.

By looks alone a strand of hair is easily taken for a sleeve; where it lies tells them apart. An affine
map is fitted to the untuned matches, and M (Eq. 3) is lowered by the squared distance from where the
map sends a cell, so that of places that look alike the one that lies right is matched. The fewer
matches agree with the map, the less it counts beside looks. Not in the paper; docs/choices.md says what
it gains.

Places are (down, right) in sides of the picture, from its middle.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from oeft_jax.consensus import consensus_matches
from oeft_jax.correlation import Matches

REACHES = tuple(max(0.1, 0.4 * 0.85**k) for k in range(15))  # sides; that far off counts 1/4
STIFF = 0.02  # weight of the map's linear part, beside the matches', for being that of no change
LEAST = 1e-3  # confidence that any match counts with
_product = partial(jnp.matmul, precision="highest")


class Layout(NamedTuple):
    """Where source cells are expected, and how far that can be trusted."""

    expected: jax.Array  # [n, p, 2], places in the target
    shared: jax.Array  # [n] in (0, 1], the part of the matches that lie there


def places(grid: int) -> jax.Array:
    """Middles of the cells of a square grid in row order. [grid^2, 2]."""
    one = (jnp.arange(grid) + 0.5) / grid - 0.5
    return jnp.stack(jnp.meshgrid(one, one, indexing="ij"), axis=-1).reshape(-1, 2)


def layout_of(matches: Matches, *, window: int, alpha: float) -> Layout:
    """The layout that both photos of a pair have, as their matches tell it.

    Args:
      matches: of p and q cells of square grids.
      window: cells on a side that have a say in a match, as of `consensus_matches`.
      alpha: of the softmax that says how sure a match is.
    """
    sides = [round(x.shape[1] ** 0.5) for x in (matches.source, matches.target)]
    at, ends = (places(side).astype(matches.source.dtype) for side in sides)
    best, sure = consensus_matches(matches, window=window, alpha=alpha)
    return jax.vmap(lambda best, sure: _fitted(at, ends[best], sure))(best, sure)


def pull(layout: Layout, weight: float, grid: int, *, whole: bool) -> Matches:
    """- weight shared |expected(u) - v|^2, which is to be added to M.

    Args:
      weight: > 0.
      grid: target cells on a side.
      whole: keep the matrix beside the factors.
    """
    expected, strength = layout.expected, weight * layout.shared[:, None, None]
    ends = places(grid).astype(expected.dtype)
    ends = jnp.broadcast_to(ends, (len(expected), *ends.shape))
    long, short = (jnp.sum(x * x, axis=-1, keepdims=True) for x in (expected, ends))
    # - |a - b|^2 = 2 a b - |a|^2 - |b|^2
    ours = [2 * strength * expected, -strength * long, -strength * jnp.ones_like(long)]
    theirs = [ends, jnp.ones_like(short), short]
    source, target = (jnp.concatenate(side, axis=-1) for side in (ours, theirs))
    if not whole:
        return Matches(source, target)
    apart = sum((expected[:, :, None, i] - ends[:, None, :, i]) ** 2 for i in (0, 1))
    return Matches(source, target, -strength * apart)


def _fitted(at: jax.Array, found: jax.Array, sure: jax.Array) -> Layout:
    """The layout of one pair: an affine map fitted to matches of which many may be wrong.

    Least squares again and again, each match weighed by Geman and McClure's weight of how far off it
    was, at first leniently (graduated non-convexity, arXiv 1909.08605).

    Args:
      at: [p, 2].
      found: [p, 2], what `at` is matched with.
      sure: [p] in (0, 1].
    """
    terms = jnp.concatenate([at, jnp.ones_like(at[:, :1])], axis=1)
    moved, sure = found - at, jnp.maximum(sure, LEAST)
    sure = sure / jnp.sum(sure)
    stiff = jnp.diag(jnp.array([STIFF, STIFF, 0], at.dtype))

    def weighed(change: jax.Array, reach: jax.Array | float) -> jax.Array:
        off = jnp.sum((_product(terms, change) - moved) ** 2, axis=1)
        return sure / (1 + off / reach**2) ** 2

    def again(change: jax.Array, reach: jax.Array) -> tuple[jax.Array, None]:
        weights = weighed(change, reach)
        scaled = (weights / jnp.sum(weights))[:, None] * terms
        normal = _product(scaled.T, terms) + stiff
        return _product(_inverse(normal), _product(scaled.T, moved)), None

    begin = jnp.zeros((3, 2), at.dtype).at[2].set(jnp.sum(sure[:, None] * moved, axis=0))
    change, _ = lax.scan(again, begin, jnp.array(REACHES, at.dtype))
    return Layout(at + _product(terms, change), jnp.sum(weighed(change, REACHES[-1])))


def _inverse(matrix: jax.Array) -> jax.Array:
    """Of a symmetric [3, 3] matrix, by cross products: no library call that a device may lack."""
    a, b, c = matrix
    columns = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], axis=1)
    return columns / jnp.dot(a, columns[:, 0], precision="highest")
