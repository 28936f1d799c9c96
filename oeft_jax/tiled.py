"""Softmax over all pairs of cells without the matrix of all pairs: memory grows with p + q.

The correlation of 256 x 256 cells with as many is 16 GiB; the warp of Eq. 6 and the log-sum of Eq. 7
need it only a tile at a time. The forward pass keeps a running maximum and sum for each source cell
(online softmax, arXiv 1805.02867); the backward pass computes each tile again from the log-sums that
were kept (arXiv 2205.14135). The numbers are those of the dense form.

Cells are [n, p, c] and [n, q, c], any p and q. Logits are their inner products; a temperature is
multiplied into one side by the caller.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

TILE = 1024  # cells on a side of a tile
DENSE = 4096**2  # pairs of cells up to which the whole matrix is faster, and small enough
LOWEST = -1e30  # stands for minus infinity where a tile is padded: its exp is 0, and no NaN comes


def attend(
    source: jax.Array, target: jax.Array, values: jax.Array, *, tile: int = TILE
) -> tuple[jax.Array, jax.Array]:
    """Values mixed by the softmax over target cells, and the softmax's log-sum.

    Args:
      source: [n, p, c], already multiplied by alpha (Eq. 6) or 1 / temperature (Eq. 7).
      target: [n, q, c].
      values: [n, q, d]; d may be 0 where only the log-sum is wanted.
      tile: >= 1, cells on a side of what is in memory at once.
    Returns:
      ([n, p, d], [n, p]): sum_v softmax_v(s(u) . t(v)) x(v), and log sum_v exp(s(u) . t(v)).
    """
    one = partial(_attend, min(tile, max(source.shape[1], target.shape[1])))
    return jax.vmap(one)(source, target, values)


def _tiles(cells: jax.Array, tile: int) -> jax.Array:
    """[p, ...] -> [tiles, tile, ...], zeros after the end."""
    extra = -cells.shape[0] % tile
    padded = jnp.pad(cells, ((0, extra), *[(0, 0)] * (cells.ndim - 1)))
    return padded.reshape(len(padded) // tile, tile, *cells.shape[1:])


def _join(tiles: jax.Array, count: int) -> jax.Array:
    """The inverse of `_tiles`. [tiles, tile, ...] -> [count, ...]."""
    return tiles.reshape(tiles.shape[0] * tiles.shape[1], *tiles.shape[2:])[:count]


def _floor(count: int, tile: int, dtype: Any) -> jax.Array:
    """[tiles, tile]: 0 for cells that are there, LOWEST for padding."""
    place = jnp.arange(-(-count // tile) * tile).reshape(-1, tile)
    return jnp.where(place < count, 0.0, LOWEST).astype(dtype)


def _logits(rows: jax.Array, columns: jax.Array) -> jax.Array:
    # An error here goes through an exp, so no accelerator may round to bfloat16.
    return jnp.einsum("pc,qc->pq", rows, columns, precision="highest")


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    tile: int, source: jax.Array, target: jax.Array, values: jax.Array
) -> tuple[jax.Array, jax.Array]:
    columns = _tiles(target, tile), _tiles(values, tile), _floor(len(target), tile, source.dtype)

    def row(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        def add(carry: Any, column: Any) -> tuple[Any, None]:
            highest, total, mixed = carry
            keys, held, floor = column
            logits = _logits(rows, keys) + floor[None, :]
            new = jnp.maximum(highest, jnp.max(logits, axis=1))
            shrink, weights = jnp.exp(highest - new), jnp.exp(logits - new[:, None])
            mixed = mixed * shrink[:, None] + jnp.matmul(weights, held, precision="highest")
            return (new, total * shrink + jnp.sum(weights, axis=1), mixed), None

        start = (
            jnp.full(tile, LOWEST, rows.dtype),
            jnp.zeros(tile, rows.dtype),
            jnp.zeros((tile, values.shape[1]), rows.dtype),
        )
        (highest, total, mixed), _ = lax.scan(add, start, columns)
        return mixed / total[:, None], highest + jnp.log(total)

    mixed, log_sum = lax.map(row, _tiles(source, tile))
    return _join(mixed, len(source)), _join(log_sum, len(source))


def _attend_fwd(tile: int, source: jax.Array, target: jax.Array, values: jax.Array) -> Any:
    mixed, log_sum = _attend(tile, source, target, values)
    return (mixed, log_sum), (source, target, values, mixed, log_sum)


def _attend_bwd(tile: int, kept: Any, grads: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    source, target, values, mixed, log_sum = kept
    grad_mixed, grad_sum = grads
    # d softmax: P (dP - sum P dP); the sum over a row is <grad, mixed>, known without the row
    offset = grad_sum - jnp.sum(grad_mixed * mixed, axis=1)
    rows = [_tiles(x, tile) for x in (source, grad_mixed, log_sum, offset)]
    columns = _tiles(target, tile), _tiles(values, tile), _floor(len(target), tile, source.dtype)

    def column(grad_source: jax.Array, column: Any) -> tuple[jax.Array, Any]:
        keys, held, floor = column

        def row(carry: Any, row: Any) -> tuple[Any, jax.Array]:
            queries, grad, total, shift = row
            weights = jnp.exp(_logits(queries, keys) + floor[None, :] - total[:, None])
            inner = jnp.einsum("pd,qd->pq", grad, held, precision="highest")
            slope = weights * (inner + shift[:, None])
            product = partial(jnp.einsum, precision="highest")
            carry = (
                carry[0] + product("pc,pq->cq", queries, slope).T,
                carry[1] + product("pd,pq->dq", grad, weights).T,
            )
            return carry, product("pq,qc->pc", slope, keys)

        start = (jnp.zeros_like(keys), jnp.zeros_like(held))
        ends, parts = lax.scan(row, start, tuple(rows))
        return grad_source + parts, ends

    grad_source, (grad_target, grad_values) = lax.scan(column, jnp.zeros_like(rows[0]), columns)
    return (
        _join(grad_source, len(source)),
        _join(grad_target, len(target)),
        _join(grad_values, len(values)),
    )


_attend.defvjp(_attend_fwd, _attend_bwd)
