"""Features to hypercolumns to centred cosine correlation (Eq. 3-5, Fig. 3).

Feature maps are [n, h, w, c], cells [n, p, c], correlation [n, p, q] in [-1, 1]; p counts source
cells, q target cells. All float32.
"""

from collections.abc import Mapping
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from oeft_jax._checks import check_choice
from oeft_jax._types import Features
from oeft_jax.models.layers import average_pool
from oeft_jax.products import inner

CENTRES = ("positions", "channels", "none")
LAYER_SCALES = ("channels", "rms", "unit", "none")
STEADY = 0.1  # of a tap's root mean square, added to every channel's deviation


class Scales(NamedTuple):
    """What the taps of either side are divided by before they are joined: tap -> [] or [n, 1, 1, c]."""

    source: Mapping[str, jax.Array]
    target: Mapping[str, jax.Array]


class Matches(NamedTuple):
    """The correlation M of Eq. 3 kept as its two factors, M(u, v) = source(u) . target(v).

    The matrix itself has p q entries, 16 GiB for 256 x 256 cells, and nothing needs all of them at
    once (`tiled.py`). Where it is small it is kept beside the factors, since nothing is then
    computed twice (`dense.py`).
    """

    source: jax.Array  # [n, p, c], unit vectors; longer with a layout (`layout.py`)
    target: jax.Array  # [n, q, c]
    matrix: jax.Array | None = None  # [n, p, q]; None where it would be too large

    def turned(self) -> "Matches":
        """The same correlation from the target's side."""
        matrix = None if self.matrix is None else self.matrix.swapaxes(1, 2)
        return Matches(self.target, self.source, matrix)


def scaled(matches: Matches, weight: float) -> Matches:
    """weight M, as factors and, where it is kept, as the matrix; weight >= 0."""
    matrix = None if matches.matrix is None else weight * matches.matrix
    return Matches(weight * matches.source, matches.target, matrix)


def added(matches: Matches, others: Matches) -> Matches:
    """M + M' of the same cells, as factors and, where both are kept, as the matrix."""
    source, target = (
        jnp.concatenate(sides, axis=-1) for sides in zip(matches[:2], others[:2], strict=True)
    )
    if matches.matrix is None or others.matrix is None:
        return Matches(source, target)
    return Matches(source, target, matches.matrix + others.matrix)


def resize_features(features: jax.Array, grid: int) -> jax.Array:
    """Brings a map to grid x grid: block means where it is larger, bilinear where smaller.

    Half-pixel centres, as PyTorch's `align_corners=False`. [n, h, w, c] -> [n, grid, grid, c].
    """
    n, h, w, c = features.shape
    if h == w and h > grid and h % grid == 0:
        return average_pool(features, h // grid)
    if (h, w) == (grid, grid):
        return features
    return jax.image.resize(features, (n, grid, grid, c), "linear")


def layer_scales(features: Features, mode: str) -> dict[str, jax.Array]:
    """Constants that the taps of an image are divided by before they are joined.

    The paper joins taps as they are, which lets the layer with the largest activations decide the
    cosine alone. "rms" divides each by its root mean square. "channels" divides each channel by its
    deviation over the image's positions: with the mean that Eq. 4-5 take off, two photos whose
    channels differ in level and in contrast, as a drawing's and a photo's do, are compared by where a
    channel is high. Both are of the image at the start and then kept, so that training cannot hide
    behind them.

    Args:
      features: tap -> [n, h, w, c].
    Returns:
      tap -> [n, 1, 1, c] for "channels", else [].
    """
    check_choice("layer_scale", mode, LAYER_SCALES)
    if mode not in ("channels", "rms"):
        return {tap: jnp.ones(()) for tap in features}
    sizes = {tap: _root(jnp.mean(value**2)) for tap, value in features.items()}
    if mode == "rms":
        return sizes

    def deviations(value: jax.Array) -> jax.Array:
        return _root(jnp.var(value, axis=(1, 2), keepdims=True))

    return {tap: deviations(value) + STEADY * sizes[tap] for tap, value in features.items()}


def _root(squared: jax.Array) -> jax.Array:
    return jnp.sqrt(squared + 1e-12)  # its gradient is finite at 0


def hypercolumn(
    features: Features, scales: Mapping[str, jax.Array], *, grid: int, layer_scale: str = "rms"
) -> jax.Array:
    """Joins taps on a common grid (Fig. 3). -> [n, grid * grid, sum of channels].

    The paper "upsamples lower-level features to the highest-level feature", which cannot be meant
    literally since the low-level maps are the large ones; every tap goes to one chosen grid.

    Args:
      features: tap -> [n, h, w, c].
      scales: tap -> what it is divided by, from `layer_scales`.
      grid: cells on a side.
      layer_scale: "unit" scales each position of each tap to unit length instead.
    """
    columns = []
    for tap in sorted(features):
        column = resize_features(features[tap], grid) / scales[tap]
        columns.append(unit(column) if layer_scale == "unit" else column)
    joined = jnp.concatenate(columns, axis=-1)
    return joined.reshape(joined.shape[0], grid * grid, joined.shape[-1])


def unit(features: jax.Array, *, eps: float = 1e-6) -> jax.Array:
    """Scales the last axis to unit length; eps inside the root keeps zeros' gradient finite."""
    return features * inverse_norms(features, eps=eps)[..., None]


def inverse_norms(features: jax.Array, *, eps: float = 1e-6) -> jax.Array:
    """What `unit` multiplies each vector by. [..., c] -> [...]."""
    return jax.lax.rsqrt(jnp.sum(features * features, axis=-1) + eps)


def centred(cells: jax.Array, *, centre: str = "positions") -> jax.Array:
    """Eq. 4-5: minus the mean over all positions ("positions", the paper's text).

    CoCosNet as it is run takes the mean over the channels of each position instead ("channels").
    """
    check_choice("centre", centre, CENTRES)
    if centre == "none":
        return cells
    axis = 1 if centre == "positions" else 2
    return cells - jnp.mean(cells, axis=axis, keepdims=True)  # Eq. 4, 5


def unfold3x3(cells: jax.Array, grid: int) -> jax.Array:
    """Joins each cell with its eight neighbours (zeros outside), as CoCosNet and DTP match.

    [n, grid * grid, c] -> [n, grid * grid, 9 c].
    """
    n, _, c = cells.shape
    padded = jnp.pad(cells.reshape(n, grid, grid, c), ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [padded[:, i : i + grid, j : j + grid] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifts, axis=-1).reshape(n, grid * grid, 9 * c)


def match_features(
    cells: jax.Array, *, centre: str = "positions", neighbourhood: int = 1
) -> jax.Array:
    """What the correlation multiplies: centred, optionally unfolded, unit length. [n, p, c']."""
    check_choice("neighbourhood", neighbourhood, (1, 3))
    cells = centred(cells, centre=centre)
    if neighbourhood == 3:
        cells = unfold3x3(cells, round(cells.shape[1] ** 0.5))
    return unit(cells)


def correlation(source: jax.Array, target: jax.Array) -> jax.Array:
    """Eq. 3 on match features: cosine of every source cell with every target cell.

    Args:
      source: [n, p, c] unit vectors.
      target: [n, q, c] unit vectors.
    Returns:
      [n, p, q] in [-1, 1].
    """
    chex.assert_rank([source, target], 3)
    chex.assert_equal(source.shape[-1], target.shape[-1])
    return inner(source, target)
