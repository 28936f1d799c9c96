"""From features to matched points, and how many of them are right."""

import jax
import jax.numpy as jnp
import numpy as np

from oeft_jax._types import Features, Taps
from oeft_jax.config import CorrespondenceConfig
from oeft_jax.correlation import centred, hypercolumn, layer_scales, match_features
from training.ground_truth import Match

JOINED = CorrespondenceConfig().taps  # the package's hypercolumn
LAYER_SCALE = CorrespondenceConfig().layer_scale


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


def joined(features: Features, *, grid: int) -> jax.Array:
    """Taps joined as the default of stage 1 joins them. [n, h, w, c] each -> [n, grid^2, c]."""
    return hypercolumn(features, layer_scales(features, LAYER_SCALE), grid=grid)


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
