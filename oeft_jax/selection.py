"""Choice of one hypothesis by a Frechet score, without supervision (Sec. 3.3).

A scorer is any function (images, h of [R, R, 3], target [s, s, 3], all in [0, 1]) -> h numbers,
smaller is better. The paper calls the score "FID", which one image does not have; three readings
are here.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np

from oeft_jax._checks import InputError
from oeft_jax._types import Params
from oeft_jax.config import SelectionConfig
from oeft_jax.image import resize
from oeft_jax.jitted import jit_once
from oeft_jax.metrics import frechet_distance, frechet_to_statistics
from oeft_jax.models.backbone import Backbone
from oeft_jax.remember import remember

Scorer = Callable[[Sequence[np.ndarray], np.ndarray], np.ndarray]


class Choice(NamedTuple):
    """Which hypothesis, and why."""

    chosen: int  # place of the winner
    scores: tuple[float, ...]  # of every hypothesis, smaller is better
    eligible: tuple[bool, ...]  # whose reconstruction is near the best one


def position_features(backbone: Backbone, params: Params, tap: str) -> Callable:
    """(image [s, s, 3], size) -> every position of a tap as a sample, [p, c] float64."""
    apply = _values_at(backbone, tap)

    def features(image: np.ndarray, size: int) -> np.ndarray:
        if image.shape[0] != size:
            image = resize(image, (size, size))
        values = np.asarray(apply(params, image[None]), np.float64)
        return values.reshape(-1, values.shape[-1])

    return features


@remember
def _values_at(backbone: Backbone, tap: str) -> Callable:
    return jit_once(lambda params, images: backbone.apply(params, images, (tap,))[tap])


def single_image(backbone: Backbone, params: Params, tap: str) -> Scorer:
    """Frechet distance between positions of the picture and of the target (as SinGAN's SIFID).

    Needs no data beyond the pair: it asks whether the picture has the target's statistics.
    """
    features = position_features(backbone, params, tap)

    def score(images: Sequence[np.ndarray], target: np.ndarray) -> np.ndarray:
        theirs = features(target, target.shape[0])
        return np.array([frechet_distance(features(i, target.shape[0]), theirs) for i in images])

    return score


def against_reference(
    backbone: Backbone, params: Params, tap: str, mean: np.ndarray, covariance: np.ndarray
) -> Scorer:
    """Frechet distance between positions of the picture and a reference set's statistics."""
    features = position_features(backbone, params, tap)

    def score(images: Sequence[np.ndarray], target: np.ndarray) -> np.ndarray:
        size = target.shape[0]
        return np.array(
            [frechet_to_statistics(features(i, size), mean, covariance) for i in images]
        )

    return score


def against_point(
    backbone: Backbone, params: Params, tap: str, mean: np.ndarray, covariance: np.ndarray
) -> Scorer:
    """The paper's text taken literally: one image as a set of one, its covariance zero."""
    features = position_features(backbone, params, tap)

    def score(images: Sequence[np.ndarray], target: np.ndarray) -> np.ndarray:
        size = target.shape[0]
        means = [features(i, size).mean(0, keepdims=True) for i in images]
        return np.array([frechet_to_statistics(row, mean, covariance) for row in means])

    return score


def read_statistics(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """`mu` [d] and `sigma` [d, d] of an .npz file, without running anything from it.

    Raises:
      InputError: not there, not an .npz file, or not a mean and a covariance of one width.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such statistics file; accepted: an .npz with mu and sigma.")
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, covariance = np.float64(file["mu"]), np.float64(file["sigma"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise InputError(
            f"{path}: not a statistics file; accepted: an .npz with mu and sigma."
        ) from error
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise InputError(
            f"{path}: mu is {mean.shape} and sigma {covariance.shape}; accepted: (d,) and (d, d)."
        )
    return mean, covariance


def make_scorer(backbone: Backbone, params: Params, config: SelectionConfig) -> Scorer:
    """The scorer that the settings name."""
    if config.scorer == "single-image":
        return single_image(backbone, params, config.tap)
    mean, covariance = read_statistics(Path(config.reference))
    like = jax.eval_shape(
        lambda p: backbone.apply(p, jnp.zeros((1, 64, 64, 3)), (config.tap,)), params
    )
    width = like[config.tap].shape[-1]
    if len(mean) != width:
        raise InputError(
            f"{config.reference}: statistics of width {len(mean)}; "
            f"accepted: {width}, the width of {config.tap}."
        )
    kind = against_reference if config.scorer == "reference" else against_point
    return kind(backbone, params, config.tap, mean, covariance)


def choose(scores: np.ndarray, losses: np.ndarray, *, tolerance: float) -> Choice:
    """n* = argmin of the scores among hypotheses within `tolerance` of the best reconstruction.

    The score alone can prefer a fine picture that ignores r. (The paper writes n* = min k_n and
    means argmin.) Ties go to the first; a NaN score never wins.

    Args:
      scores: [h], smaller is better.
      losses: [h], reconstruction errors.
      tolerance: >= 0; infinity is the paper's rule.
    """
    losses = np.asarray(losses, np.float64)
    limit = np.inf if np.isinf(tolerance) else losses.min() * (1 + tolerance)
    eligible = losses <= limit
    ranked = np.where(eligible & ~np.isnan(scores), scores, np.inf)
    index = int(np.argmin(ranked)) if np.isfinite(ranked).any() else int(np.argmin(losses))
    return Choice(index, tuple(float(s) for s in scores), tuple(bool(e) for e in eligible))
