"""How often a linear classifier tells made pictures from real ones by what a network sees in them.

Half of the answers would be right by chance. A generator that was trained against a network may
deceive that one and no other, so it is asked of several.
"""

import jax
import jax.numpy as jnp
import numpy as np

from oeft_jax._types import Features, Params
from oeft_jax.models.backbone import backbone
from oeft_jax.weights import Weights
from training.projected import taps_of

RIDGE = 30.0  # of inputs with unit deviation
LEARNT = 2 / 3  # of the pictures; the rest are told apart
BATCH = 50


def moments(eye: Weights, images: np.ndarray) -> dict[str, np.ndarray]:
    """Mean and deviation of every channel over each picture, at the taps of a critic.

    Args:
      images: [n, s, s, 3] float32 in [0, 1].
    Returns:
      tap -> [n, 2 c].
    """
    network = backbone(eye.network, eye.config)
    taps = taps_of(network, images.shape[1])

    @jax.jit
    def see(params: Params, images: jax.Array) -> Features:
        features = network.apply(params, images, taps).items()
        return {
            tap: jnp.concatenate([x.mean((1, 2)), x.std((1, 2))], axis=1) for tap, x in features
        }

    parts = [see(eye.params, images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
    return {tap: np.concatenate([np.asarray(part[tap]) for part in parts]) for tap in taps}


def told_apart(real: np.ndarray, made: np.ndarray) -> float:
    """Share of right answers about pictures that the classifier has not seen, both kinds equally.

    Args:
      real, made: [n, d], a row for each picture; a ridge regression learns from the first
        `LEARNT` of both.
    """
    cut = round(len(real) * LEARNT)
    known = np.concatenate([real[:cut], made[:cut]]).astype(np.float64)
    mean, deviation = known.mean(0), known.std(0) + 1e-9
    x, y = (known - mean) / deviation, np.repeat([1.0, -1.0], cut)
    weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ y)
    scores = [(pictures[cut:] - mean) / deviation @ weights for pictures in (real, made)]
    return float((np.mean(scores[0] > 0) + np.mean(scores[1] < 0)) / 2)
