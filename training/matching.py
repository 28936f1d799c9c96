"""From features to matched points, and how many of them are right."""

import jax
import jax.numpy as jnp
import numpy as np

from oeft_jax._types import Features, Taps
from oeft_jax.config import CorrespondenceConfig
from oeft_jax.consensus import consensus_matches
from oeft_jax.correlation import (
    Matches,
    added,
    centred,
    hypercolumn,
    layer_scales,
    match_features,
)
from oeft_jax.layout import layout_of, pull
from training.ground_truth import Match

DEFAULT = CorrespondenceConfig()
JOINED = DEFAULT.taps  # the package's hypercolumn


def match_points(
    source: Features,
    target: Features,
    points: jax.Array,
    taps: Taps,
    *,
    size: int,
    grid: int,
) -> jax.Array:
    """Where each point of the source lies in the target: the best cell of the joined taps.

    Scaling, centring and the cosine are the package's (Eq. 3-5); the source's features are read
    between cell centres, bilinearly.

    Args:
      source: tap -> [1, h, w, c]; target the same.
      points: [k, 2] (x, y) pixels of images of `size` pixels.
      grid: cells on a side.
    Returns:
      [k, 2] pixels, centres of cells.
    """
    ours, theirs = (joined({tap: x[tap] for tap in taps}, grid=grid) for x in (source, target))
    return match_cells(centred(ours)[0], match_features(theirs)[0], points, size=size, grid=grid)


def best_cells(source: Features, target: Features, *, grid: int) -> jax.Array:
    """What the untuned stage 1 matches every cell with, by its defaults. -> [grid^2] int.

    Joined taps (Eq. 3-5), the layout that both share, and the neighbours' say.

    Args:
      source: tap -> [1, h, w, c], at least `JOINED`; target the same.
    """
    sides = (joined({tap: x[tap] for tap in JOINED}, grid=grid) for x in (source, target))
    matches = Matches(*(match_features(cells) for cells in sides))
    window, alpha = DEFAULT.consensus, DEFAULT.alpha
    layout = layout_of(matches, window=window, alpha=alpha)
    matches = added(matches, pull(layout, DEFAULT.layout, grid, whole=False))
    return consensus_matches(matches, window=window, alpha=alpha)[0][0]


def carried(best: np.ndarray, points: np.ndarray, *, size: int, grid: int) -> np.ndarray:
    """Where points go that move as their cells do. [k, 2] (x, y) pixels -> the same.

    Args:
      best: [grid^2] int, the target cell of every source cell.
    """
    side = size / grid
    cells = np.clip(np.floor((points + 0.5) / side).astype(int), 0, grid - 1)
    found = best[cells[:, 1] * grid + cells[:, 0]]
    moved = np.stack([found % grid, found // grid], axis=1) - cells
    return np.asarray(points + moved * side)


def joined(features: Features, *, grid: int) -> jax.Array:
    """Taps joined as the default of stage 1 joins them. [n, h, w, c] each -> [n, grid^2, c]."""
    return hypercolumn(features, layer_scales(features, DEFAULT.layer_scale), grid=grid)


def match_cells(
    source: jax.Array, target: jax.Array, points: jax.Array, *, size: int, grid: int
) -> jax.Array:
    """Where each point lies in the target: the cell of the largest product with what is read there.

    Args:
      source: [grid^2, c], read between cell centres, bilinearly.
      target: [grid^2, c].
      points: as of `match_points`, whose result this gives.
    """
    ours, side = source.reshape(grid, grid, -1), size / grid
    near = axis_weights(points, size=size, grid=grid)
    read = jnp.einsum("kr,kq,rqc->kc", near[:, 1], near[:, 0], ours, precision="highest")
    similar = jnp.einsum("kc,qc->kq", read, target, precision="highest")
    rows, columns = jnp.divmod(jnp.argmax(similar, axis=1), grid)
    return jnp.stack([columns, rows], axis=1) * side + (side - 1) / 2


def axis_weights(places: jax.Array, *, size: int, grid: int) -> jax.Array:
    """What each cell weighs along each axis in the bilinear value at places given in pixels.

    [..., 2] -> [..., 2, grid]; beyond the outer cells' centres their own value holds.
    """
    cell = size / grid
    at = jnp.clip((places + 0.5) / cell - 0.5, 0, grid - 1)
    centres = jnp.arange(grid).reshape(*[1] * places.ndim, grid)
    return jnp.maximum(1 - jnp.abs(at[..., None] - centres), 0)


def share_correct(found: np.ndarray, match: Match, threshold: float) -> np.ndarray:
    """PCK of one pair, point by point: error at most `threshold` of the object's size. [k] bool."""
    error = np.linalg.norm(found - match.target_points, axis=1)
    return np.asarray(error <= threshold * match.length)
