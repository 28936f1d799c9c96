"""Stage 1's picture at the size that the settings ask for."""

from typing import NamedTuple

import numpy as np

from oeft_jax.config import SOURCE, Config, CorrespondenceConfig
from oeft_jax.correspondence import Pair, Warp
from oeft_jax.field import coarse_to_fine, from_matches
from oeft_jax.finish import led_by, like_size
from oeft_jax.image import framed, resize, with_longer_side


class Picture(NamedTuple):
    """The finished warp with both photos at its size."""

    source: np.ndarray  # [h, w, 3]
    target: np.ndarray  # [h', w', 3], of a like number of pixels
    unfinished: np.ndarray  # [h, w, 3], the warp as it is
    warped: np.ndarray  # [h, w, 3], the same, finished
    field: np.ndarray  # [rows, columns, 2] int32, as in `patches.py`


def square_of(warp: Warp, stage: CorrespondenceConfig) -> np.ndarray:
    """The warp at working size, [s, s, 3], which stage 2 inverts."""
    return np.asarray(warp.voted if stage.finish == "voted" else warp.soft)[0]


def make_picture(
    photos: tuple[np.ndarray, np.ndarray], pair: Pair, warp: Warp, config: Config
) -> Picture:
    """The finished warp, or the square one where the working size is asked for.

    Args:
      photos: source and target, [h, w, 3] in [0, 1], of any size.
      pair: their squares.
      warp: what was tuned on those.
    """
    grid, longer = config.correspondence.grid, config.output.longer_side()
    best = np.asarray(warp.best).reshape(grid, grid)
    if longer is None:
        source, target = (np.asarray(photo)[0] for photo in (pair.source, pair.target))
        field = from_matches(best, source.shape, target.shape)
        square = square_of(warp, config.correspondence)
        return Picture(source, target, square, square, field)
    source, target = (framed(np.asarray(photo), config.correspondence.fit) for photo in photos)
    if config.output.size == SOURCE:
        longer = min(longer, max(source.shape[:2]))
    source = with_longer_side(source, longer)
    target = resize(target, like_size(target.shape, source.shape))
    field, voted = coarse_to_fine(source, target, best)
    finished = led_by(source, voted, config.output.structure)
    return Picture(source, target, voted, finished, field)
