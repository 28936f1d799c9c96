"""Has a generator learnt faces by heart? The training faces nearest to a picture."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from oeft_jax.models.layers import average_pool

SIDE = 32  # pixels: fine enough for a face, coarse enough that noise does not decide
Embed = Callable[[np.ndarray], np.ndarray]  # [n, s, s, 3] -> [n, d]


class Nearest(NamedTuple):
    """For each query, the nearest of the training faces and their mirror images."""

    rows: np.ndarray  # [q], of the training faces
    mirrored: np.ndarray  # [q] bool, whether its mirror image is meant
    distance: np.ndarray  # [q]


def small_pixels(images: np.ndarray) -> np.ndarray:
    """Pictures [n, s, s, 3], uint8 or in [0, 1], at 32 px at most, as rows in [0, 1]."""
    factor, scale = max(images.shape[1] // SIDE, 1), 255 if images.dtype == np.uint8 else 1
    parts = [
        np.asarray(average_pool(jnp.asarray(images[i : i + 1024], jnp.float32) / scale, factor))
        for i in range(0, len(images), 1024)
    ]
    return np.concatenate(parts).reshape(len(images), -1)


def rms_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Root mean square difference of every row of a [q, d] with every row of b [m, d]. [q, m]."""
    squares = np.sum(a**2, 1)[:, None] + np.sum(b**2, 1)[None, :] - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0) / a.shape[1])


def nearest(queries: np.ndarray, training: np.ndarray, embed: Embed) -> Nearest:
    """The nearest training face of each query.

    A query is compared with a mirrored face by mirroring the query, which is the same distance in
    pixels and nearly so in features.

    Args:
      queries: [q, s, s, 3].
      training: [m, d], the training faces under `embed`.
    """
    both = [rms_distances(embed(q), training) for q in (queries, queries[:, :, ::-1])]
    distances = np.concatenate(both, axis=1)
    best = distances.argmin(axis=1)
    distance = distances[np.arange(len(best)), best]
    return Nearest(best % len(training), best >= len(training), distance)


def pictures(found: Nearest, faces: np.ndarray) -> np.ndarray:
    """The faces that were found, mirrored where that is meant. [q, s, s, 3]."""
    chosen = faces[found.rows]
    return np.where(found.mirrored[:, None, None, None], chosen[:, :, ::-1], chosen)
