"""The layout that two photos share: where each place of the source is expected in the target.

By looks alone a strand of hair is easily taken for a sleeve; where it lies tells them apart. An affine
map is fitted to the untuned matches, and M (Eq. 3) is lowered by the squared distance from where the
map sends a cell, so that of places that look alike the one that lies right is matched. Looks outweigh
it where the photos share no layout. Not in the paper; docs/quality.md says what it gains.

Places are (down, right) in sides of the picture, from its middle.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from oeft_jax.consensus import consensus_matches
from oeft_jax.correlation import Matches

REACHES = tuple(
    max(0.1, 0.4 * 0.85**k) for k in range(15)
)  # sides; a match this far off counts 1/4
STIFF = 0.02  # weight of the map's linear part, beside the matches', for being that of no change
LEAST = 1e-3  # confidence that any match counts with
_product = partial(jnp.matmul, precision="highest")


def places(grid: int) -> jax.Array:
    """Middles of the cells of a square grid in row order. [grid^2, 2]."""
    one = (jnp.arange(grid) + 0.5) / grid - 0.5
    return jnp.stack(jnp.meshgrid(one, one, indexing="ij"), axis=-1).reshape(-1, 2)


def expected_places(matches: Matches, *, window: int, alpha: float) -> jax.Array:
    """Where each source cell lies in the target, if both photos have one layout. [n, p, 2].

    Args:
      matches: of p and q cells of square grids.
      window: cells on a side that have a say in a match, as of `consensus_matches`.
      alpha: of the softmax that says how sure a match is.
    """
    sides = [round(x.shape[1] ** 0.5) for x in (matches.source, matches.target)]
    at, ends = (places(side).astype(matches.source.dtype) for side in sides)
    best, sure = consensus_matches(matches, window=window, alpha=alpha)
    return jax.vmap(lambda best, sure: _fitted(at, ends[best], sure))(best, sure)


def pulled(matches: Matches, expected: jax.Array, weight: float) -> Matches:
    """M(u, v) - weight |expected(u) - v|^2, as factors and, where it is kept, as the matrix.

    Args:
      matches: of p and q cells.
      expected: [n, p, 2], from `expected_places`.
      weight: > 0.
    """
    ends = places(round(matches.target.shape[1] ** 0.5)).astype(expected.dtype)
    ends = jnp.broadcast_to(ends, (len(expected), *ends.shape))
    long, short = (jnp.sum(x * x, axis=-1, keepdims=True) for x in (expected, ends))
    root = (2 * weight) ** 0.5  # - |a - b|^2 = 2 a b - |a|^2 - |b|^2
    ours = [matches.source, root * expected, -weight * long, jnp.ones_like(long)]
    theirs = [matches.target, root * ends, jnp.ones_like(short), -weight * short]
    source, target = (jnp.concatenate(side, axis=-1) for side in (ours, theirs))
    if matches.matrix is None:
        return Matches(source, target)
    apart = sum((expected[:, :, None, i] - ends[:, None, :, i]) ** 2 for i in (0, 1))
    return Matches(source, target, matches.matrix - weight * apart)


def _fitted(at: jax.Array, found: jax.Array, sure: jax.Array) -> jax.Array:
    """Where an affine map sends `at`, fitted to matches of which many may be wrong.

    Least squares again and again, each match weighed by Geman and McClure's weight of how far off it
    was, at first leniently (graduated non-convexity, arXiv 1909.08605).

    Args:
      at: [p, 2].
      found: [p, 2], what `at` is matched with.
      sure: [p] in (0, 1].
    """
    terms = jnp.concatenate([at, jnp.ones_like(at[:, :1])], axis=1)
    moved, sure = found - at, jnp.maximum(sure, LEAST)
    stiff = jnp.diag(jnp.array([STIFF, STIFF, 0], at.dtype))

    def again(change: jax.Array, reach: jax.Array) -> tuple[jax.Array, None]:
        off = jnp.sum((_product(terms, change) - moved) ** 2, axis=1)
        weights = sure / (1 + off / reach**2) ** 2
        weighed = (weights / jnp.sum(weights))[:, None] * terms
        normal = _product(weighed.T, terms) + stiff
        return _product(_inverse(normal), _product(weighed.T, moved)), None

    mean = jnp.sum(sure[:, None] * moved, axis=0) / jnp.sum(sure)
    begin = jnp.zeros((3, 2), at.dtype).at[2].set(mean)
    change, _ = lax.scan(again, begin, jnp.array(REACHES, at.dtype))
    return at + _product(terms, change)


def _inverse(matrix: jax.Array) -> jax.Array:
    """Of a symmetric [3, 3] matrix, by cross products: no library call that a device may lack."""
    a, b, c = matrix
    columns = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], axis=1)
    return columns / jnp.dot(a, columns[:, 0], precision="highest")
