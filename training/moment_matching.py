"""What feature networks see in made pictures, taken together, drawn to what they see in real ones.

Generative feature matching (dos Santos et al. 2019, 1904.02762): over pictures, each channel's mean and
deviation have a mean and a spread, which are compared between made and real pictures; they are tracked
over steps, since a batch alone says little. Both are along the axes of the covariance over real
pictures, each over its own deviation, so means differ by as much as the best linear critic could
make of them (Mahalanobis). In closed form: nothing to train, and nothing to run ahead of.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from oeft_jax._types import Features

TRACKED = 0.95  # of the differences stays from step to step
RIDGE = 0.05  # of a tap's mean variance, added to the variance along every axis


class Known(NamedTuple):
    """Of real pictures, d being twice the channels of a tap."""

    mean: dict[str, jax.Array]  # tap -> [d]
    axes: dict[str, jax.Array]  # tap -> [d, d], which moments less their mean are multiplied by
    spread: dict[str, jax.Array]  # tap -> [d], mean size of the products


def channel_moments(x: jax.Array) -> jax.Array:
    """Mean and deviation of each channel over each picture. [n, h, w, c] -> [n, 2 c]."""
    deviation = jnp.sqrt(jnp.var(x, axis=(1, 2)) + 1e-4)  # its gradient is finite at 0
    return jnp.concatenate([jnp.mean(x, axis=(1, 2)), deviation], axis=1)


def known(batches: Iterable[Features]) -> Known:
    """From the `channel_moments` of real pictures, tap -> [n, d] each; at least two in all."""
    parts: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        for tap, rows in batch.items():
            parts.setdefault(tap, []).append(np.asarray(rows, np.float64))
    found = Known({}, {}, {})
    for tap, each in parts.items():
        every = np.concatenate(each)
        mean, covariance = every.mean(axis=0), np.cov(every.T)
        variances, directions = np.linalg.eigh(covariance)
        ridge = RIDGE * variances.mean() + 1e-12
        axes = directions / np.sqrt(np.maximum(variances, 0) + ridge)
        found.mean[tap] = jnp.asarray(mean, jnp.float32)
        found.axes[tap] = jnp.asarray(axes, jnp.float32)
        found.spread[tap] = jnp.asarray(np.abs((every - mean) @ axes).mean(axis=0), jnp.float32)
    return found


def nothing(real: Known) -> Features:
    """No differences: what `tracked` begins with."""
    return {tap: jnp.zeros(2 * len(mean)) for tap, mean in real.mean.items()}


def differences(seen: Features, real: Known) -> Features:
    """Of the means and of the spreads along every axis, made less real. tap -> [2 d].

    Args:
      seen: tap -> [n, h, w, c] of made pictures.
    """
    result = {}
    for tap, x in seen.items():
        along = (channel_moments(x) - real.mean[tap][None]) @ real.axes[tap]
        spread = jnp.mean(jnp.abs(along), axis=0) - real.spread[tap]
        result[tap] = jnp.concatenate([jnp.mean(along, axis=0), spread])
    return result


def tracked(shift: Features, seen: Features, real: Known) -> Features:
    """The differences as tracked, one step on."""
    return jax.tree.map(
        lambda a, b: TRACKED * a + (1 - TRACKED) * b, shift, differences(seen, real)
    )


def distance(shift: Features) -> jax.Array:
    """Sum of squared differences, mean over taps."""
    return jnp.mean(jnp.stack([jnp.sum(each**2) for each in shift.values()]))


def pull(seen: Features, shift: Features, real: Known) -> jax.Array:
    """A function of what is seen whose slope is that of `distance`, were `shift` its differences."""
    slopes, found = jax.grad(distance)(shift), differences(seen, real)
    return jnp.sum(jnp.stack([slopes[tap] @ each for tap, each in found.items()]))
