"""Best matches that the cells around them agree with.

A cell alone is matched by what it looks like, and many places look alike. Where the cells around two
places match each other in the same arrangement too, the places are more likely the same: the sum of
Eq. 3 over a square of neighbours, M(u + d, v + d), is what a match is chosen by. Deep image analogies
and CoCosNet's unfolded features rest on the same.
"""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax

from oeft_jax.correlation import Matches
from oeft_jax.products import inner

HELD = 2**25  # entries of the correlation that are in memory at once, if a row of cells has fewer


def consensus_matches(
    matches: Matches, *, window: int, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """The target cell v of the largest mean of M(u + d, v + d) for every source cell u.

    Both grids are square; beyond their borders their outer cells go on.

    Args:
      matches: of p and q cells.
      window: odd, cells on a side that d goes over; 1 for each cell alone.
      alpha: sharpness of the softmax over v (Eq. 6) that says how sure it is.
    Returns:
      ([n, p] int32, the first of equals; [n, p] in (0, 1], its weight in the softmax of the means).
    """
    one = partial(_in_bands if matches.matrix is None else _whole, window, alpha)
    return jax.vmap(one)(matches)


def _whole(window: int, alpha: float, matches: Matches) -> tuple[jax.Array, jax.Array]:
    """Of one pair whose correlation [p, q] is there."""
    side, grid = _sides(matches)
    assert matches.matrix is not None
    cells = matches.matrix.reshape(side, side, grid, grid)
    return _chosen(jnp.pad(cells, window // 2, mode="edge"), window, alpha)


def _in_bands(window: int, alpha: float, matches: Matches) -> tuple[jax.Array, jax.Array]:
    """Of one pair, rows of source cells after rows; [p, c] and [q, c]."""
    reach, (side, grid) = window // 2, _sides(matches)
    across, wide = side + 2 * reach, grid + 2 * reach
    rows = min(side, max(1, HELD // (across * wide * wide) - 2 * reach))  # of a band
    extra = -side % rows

    def padded(cells: jax.Array, size: int, below: int) -> jax.Array:
        around = ((reach, reach + below), (reach, reach), (0, 0))
        return jnp.pad(cells.reshape(size, size, -1), around, mode="edge")

    ours, theirs = padded(matches.source, side, extra), padded(matches.target, grid, 0)

    def band(first: jax.Array) -> tuple[jax.Array, jax.Array]:
        cells = lax.dynamic_slice_in_dim(ours, first, rows + 2 * reach)
        flat = [x.reshape(1, -1, x.shape[-1]) for x in (cells, theirs)]
        found = inner(*flat).reshape(-1, across, wide, wide)  # Eq. 3
        return _chosen(found, window, alpha)

    best, weight = lax.map(band, jnp.arange(0, side + extra, rows))
    return best.reshape(-1)[: side * side], weight.reshape(-1)[: side * side]


def _sides(matches: Matches) -> tuple[int, int]:
    side, grid = (round(len(cells) ** 0.5) for cells in (matches.source, matches.target))
    return side, grid


def _chosen(found: jax.Array, window: int, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Best cells and weights from a part of M that reaches window // 2 further on every side."""
    rows, columns, grid, _ = (size - window + 1 for size in found.shape)
    found = reduce(jnp.add, (found[d : d + rows, :, d : d + grid] for d in range(window)))
    found = reduce(jnp.add, (found[:, d : d + columns, :, d : d + grid] for d in range(window)))
    mean = found.reshape(rows * columns, grid * grid) / window**2
    top = jnp.max(mean, axis=1, keepdims=True)
    weight = 1 / jnp.sum(jnp.exp(alpha * (mean - top)), axis=1)
    return jnp.argmax(mean, axis=1).astype(jnp.int32), weight
