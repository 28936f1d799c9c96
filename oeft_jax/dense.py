"""The correlation as a matrix, for grids small enough, without multiplying what was interpolated.

Half and more of a hypercolumn's channels come from maps coarser than the grid, brought to it by
bilinear interpolation, which is linear: the products of interpolated cells are the interpolated
products of the coarse cells, U (a b^T) for (U a) b^T. So a map of half the grid's side takes a
quarter of the multiplications, one of a quarter's side a sixteenth, and the numbers are the same.
Only one side is treated so; the other is needed at every cell anyway.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from oeft_jax._types import Features
from oeft_jax.correlation import resize_features
from oeft_jax.products import gathered, inner, mixed


class Columns(NamedTuple):
    """Hypercolumns of g x g cells whose coarse taps are still on their own grids."""

    fine: jax.Array  # [n, g^2, c]
    coarse: tuple[jax.Array, ...]  # [n, s, s, c'] with s < g

    @property
    def grid(self) -> int:
        """g."""
        return round(self.fine.shape[1] ** 0.5)


def columns(features: Features, scales: Mapping[str, jax.Array], *, grid: int) -> Columns:
    """`correlation.hypercolumn` with the channels of coarse taps last, and not yet interpolated.

    Args:
      features: tap -> [n, s, s, c].
      scales: tap -> what it is divided by, from `correlation.layer_scales`.
      grid: cells on a side.
    """
    scaled = {tap: features[tap] / scales[tap] for tap in sorted(features)}
    n = next(iter(scaled.values())).shape[0]
    coarse = [value for value in scaled.values() if value.shape[1] < grid]
    fine = [resize_features(x, grid) for x in scaled.values() if x.shape[1] >= grid]
    joined = jnp.concatenate(fine, axis=-1) if fine else jnp.zeros((n, grid, grid, 0))
    return Columns(joined.reshape(n, grid * grid, joined.shape[-1]), tuple(coarse))


def joined(cells: Columns) -> jax.Array:
    """Every channel at every cell. -> [n, g^2, sum of channels]."""
    n, count, _ = cells.fine.shape
    each = [resize_features(x, cells.grid).reshape(n, count, x.shape[-1]) for x in cells.coarse]
    return jnp.concatenate([cells.fine, *each], axis=-1)


def centred(cells: Columns) -> Columns:
    """Eq. 4-5 over all positions, as `correlation.centred` of what they join to."""

    def shifted(values: jax.Array) -> jax.Array:
        mean = jnp.mean(resize_features(values, cells.grid), axis=(1, 2), keepdims=True)
        return values - mean

    fine = cells.fine - jnp.mean(cells.fine, axis=1, keepdims=True)
    return Columns(fine, tuple(shifted(values) for values in cells.coarse))


def products(left: Columns, weights: jax.Array, right: jax.Array) -> jax.Array:
    """weights(u) <left(u), right(v)> for all pairs of cells.

    Args:
      left: g x g cells.
      weights: [n, g^2], of the left cells.
      right: [n, q, c] in the channel order of `joined`.
    Returns:
      [n, g^2, q].
    """
    n, count, start = left.fine.shape
    grid, other = left.grid, right.shape[1]
    matrix = inner(left.fine * weights[..., None], right[..., :start])
    rows, across = [], []
    for values in left.coarse:
        side, channels = values.shape[1], values.shape[-1]
        cells = values.reshape(n, side * side, channels)
        small = inner(cells, right[..., start : start + channels])
        interpolation = _interpolation(side, grid)
        each = jnp.broadcast_to(interpolation, (n, grid, side))
        rows.append(mixed(each, small.reshape(n, side, side * other)).reshape(-1, side, other))
        across.append(interpolation)
        start += channels
    if not rows:
        return matrix
    # One product for the columns of all coarse maps, the weights of the left cells in it.
    last = weights.reshape(n * grid, grid, 1) * jnp.concatenate(across, axis=1)[None]
    added = mixed(last, jnp.concatenate(rows, axis=1))
    return matrix + added.reshape(n, count, other)


def _interpolation(side: int, grid: int) -> jax.Array:
    """[grid, side], the bilinear interpolation of `resize_features` along one axis, side <= grid."""
    places = (np.arange(grid) + 0.5) * side / grid - 0.5
    weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(side)))
    return jnp.asarray(weights / weights.sum(1, keepdims=True), jnp.result_type(float))


@jax.custom_vjp
def mix(logits: jax.Array, values: jax.Array) -> jax.Array:
    """Values mixed by the softmax of each row. [n, p, q], [n, q, d] -> [n, p, d].

    Its own gradient keeps one matrix and goes over it once; what autodiff writes for a softmax
    takes several passes over memory, which is what a matrix of this size costs on a CPU.
    """
    return _mix_fwd(logits, values)[0]


_Kept = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def _mix_fwd(logits: jax.Array, values: jax.Array) -> tuple[jax.Array, _Kept]:
    weights = jnp.exp(logits - jnp.max(logits, axis=2, keepdims=True))
    total = jnp.sum(weights, axis=2, keepdims=True)
    result = mixed(weights, values) / total
    return result, (weights, total, values, result)


def _mix_bwd(kept: _Kept, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    weights, total, values, result = kept
    grad = grad / total
    slope = weights * (inner(grad, values) - jnp.sum(grad * result, axis=2, keepdims=True))
    return slope, gathered(weights, grad)


mix.defvjp(_mix_fwd, _mix_bwd)
