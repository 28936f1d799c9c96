"""The finished picture of a pair: the field's patches, led by the source as far as is asked for.

Photos are [h, w, 3] float32 in [0, 1].
"""

import numpy as np

from oeft_jax.guided import box_mean, guided_filter

SURROUNDINGS = 1 / 8  # radius of a pixel's surroundings, of the picture's mean side
EPS = 1e-3  # of the guided filter
NOISE = 0.01  # contrast of the source that counts as none
GAIN = (1.0, 1.5)  # of the source's detail: never flattened, amplified by a half at most
FINENESS = 6  # least radius in steps of the guided filter


def like_size(shape: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, int]:
    """(height, width) in the proportions of `shape`, with about as many pixels as `other`."""
    scale = np.sqrt(other[0] * other[1] / (shape[0] * shape[1]))
    h, w = (max(1, round(side * scale)) for side in shape[:2])
    return h, w


def led_by(source: np.ndarray, picture: np.ndarray, structure: float) -> np.ndarray:
    """The picture with the source's drawing and shading, as far as `structure` says.

    Its brightness goes to the source's detail at the local mean of the picture and, within GAIN,
    its local contrast; its colours go, more slowly, to those that a local affine function of the
    source can have (`guided.py`). So 0 gives the picture, 1 the source in the picture's local colours.

    Args:
      source: [h, w, 3].
      picture: [h, w, 3].
      structure: in [0, 1].
    Returns:
      [h, w, 3] in [0, 1].
    """
    if structure == 0:
        return picture
    radius = max(1, round(SURROUNDINGS * float(np.sqrt(picture.shape[0] * picture.shape[1]))))
    step = max(1, radius // FINENESS)
    grey = picture.mean(axis=-1, keepdims=True)
    guided = guided_filter(picture, source, radius=radius, eps=EPS, step=step)
    colour = guided - guided.mean(axis=-1, keepdims=True)
    brightness = structure * (_with_detail_of(source, grey, radius) - grey)
    # To the fourth: half-way the edges are mostly the source's and the colours the target's.
    colours = structure**4 * (colour - (picture - grey))
    return np.clip(picture + brightness + colours, 0, 1)


def _with_detail_of(source: np.ndarray, grey: np.ndarray, radius: int) -> np.ndarray:
    """The source's brightness at the local mean of another one, and nearer its local contrast.

    Returns:
      [h, w, 1].
    """
    drawn = source.mean(axis=-1, keepdims=True)
    mean, drawn_mean = box_mean(grey, radius), box_mean(drawn, radius)
    contrast = np.sqrt(box_mean((grey - mean) ** 2, radius))
    drawn_contrast = np.sqrt(box_mean((drawn - drawn_mean) ** 2, radius))
    gain = np.clip(contrast / (drawn_contrast + NOISE), *GAIN)
    return mean + gain * (drawn - drawn_mean)
