"""Box means and the guided filter: a picture as a local affine function of another one.

Pictures are [h, w, c] float32. He, Sun and Tang, "Guided Image Filtering", TPAMI 2013.
"""

import numpy as np

from oeft_jax.image import resize


def box_mean(image: np.ndarray, radius: int) -> np.ndarray:
    """The mean over a square of 2 radius + 1 pixels, of as much of it as is inside the picture.

    Sums are running ones in float64, so the cost does not depend on the radius.
    """
    mean = np.asarray(image, np.float64)
    for axis in (0, 1):
        mean = _running_mean(mean, radius, axis)
    return mean.astype(np.float32)


def _running_mean(image: np.ndarray, radius: int, axis: int) -> np.ndarray:
    length = image.shape[axis]
    place = np.arange(length)
    first, behind = np.maximum(place - radius, 0), np.minimum(place + radius + 1, length)
    start = np.zeros_like(image.take([0], axis))
    sums = np.concatenate([start, np.cumsum(image, axis=axis)], axis=axis)
    number = np.expand_dims(behind - first, [other for other in range(image.ndim) if other != axis])
    return (sums.take(behind, axis) - sums.take(first, axis)) / number


def guided_filter(
    image: np.ndarray, guide: np.ndarray, *, radius: int, eps: float, step: int = 1
) -> np.ndarray:
    """What a local affine colour model of `image` makes of `guide` (Eq. 14-19).

    In every square q = A guide + b is the ridge regression of the picture's channels on the
    guide's; a pixel gets the mean of A and b over the squares that hold it. So edges are the
    guide's, colours the picture's. A and b are smooth: they may be found on fewer pixels (He and
    Sun, "Fast Guided Filter", 2015).

    Args:
      image: [h, w, 3] float32 in [0, 1].
      guide: [h, w, 3].
      radius: px, of the square.
      eps: > 0; variance of the guide that counts as none.
      step: px between the places where A and b are found.
    Returns:
      [h, w, 3] float32; may leave the range of `image`.
    """
    h, w = guide.shape[:2]
    small = (-(-h // step), -(-w // step))
    fewer = (
        [image, guide]
        if step == 1
        else [resize(p, small, method="bilinear") for p in (image, guide)]
    )
    slope, offset = affine_model(*fewer, radius=max(1, round(radius / step)), eps=eps)
    slope, offset = (enlarged(coarse, (h, w)) for coarse in (slope, offset))
    return np.einsum("hwg,hwgi->hwi", guide, slope.reshape(h, w, 3, 3)) + offset  # Eq. 16


def affine_model(
    image: np.ndarray, guide: np.ndarray, *, radius: int, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    """(A [h, w, 9], guide's channels first, and b [h, w, 3]) of every pixel."""
    mean_guide, mean_image = box_mean(guide, radius), box_mean(image, radius)
    cov = box_mean(_outer(guide, image), radius) - _outer(mean_guide, mean_image)
    var = box_mean(_outer(guide, guide), radius) - _outer(mean_guide, mean_guide)
    sides = (*guide.shape[:2], 3, 3)
    ridge = var.reshape(sides) + eps * np.eye(3, dtype=np.float32)
    slope = np.linalg.solve(ridge, cov.reshape(sides))  # Eq. 14
    offset = mean_image - np.einsum("hwg,hwgi->hwi", mean_guide, slope)  # Eq. 15
    return box_mean(slope.reshape(cov.shape), radius), box_mean(offset, radius)


def enlarged(coarse: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bilinear, half-pixel centres, edges repeated. [h, w, c] -> [*shape, c]; nothing is clipped."""
    for axis, length in enumerate(shape):
        have = coarse.shape[axis]
        if have == length:
            continue
        at = np.clip((np.arange(length) + 0.5) * (have / length) - 0.5, 0, have - 1)
        below = np.minimum(at.astype(np.int64), max(have - 2, 0))
        share = np.expand_dims((at - below).astype(np.float32), [a for a in range(3) if a != axis])
        above = np.minimum(below + 1, have - 1)
        coarse = coarse.take(below, axis) * (1 - share) + coarse.take(above, axis) * share
    return coarse


def _outer(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[h, w, 3] and [h, w, 3] -> [h, w, 9], every product of channels."""
    return (a[..., :, None] * b[..., None, :]).reshape(*a.shape[:2], 9)
