"""The tuned matches carried coarse to fine: from cells of a square to patches of whole photos.

The picture is at first the vote of the tuned matches, at the size that they were tuned at. At every
size each patch is then given the target's patch that fits best to the picture made so far, to the
drawing of the source and to the patches around it; the vote of the new patches is the next picture.
Candidates are the neighbours' matches moved along (Barnes et al. 2009) and shifts of a pixel or
two, so the cost grows with the pixels alone. Photos are [h, w, 3] float32 in [0, 1], of any
proportions; fields as in `patches.py`.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from oeft_jax.guided import box_mean
from oeft_jax.image import resize
from oeft_jax.patches import CELL, Lookup, centres, continued, inside, square_cells, vote

DRAWING = 0.35  # weight of the drawing beside the colours
COHERENCE = 0.01  # weight of agreement with the neighbours
FAR = 2.0  # cells; a neighbour that is further away disagrees no more
ROUNDS = (3, 2)  # at the smallest size, at the others
SHIFTS = (2, 1)  # px
DETAIL = 12  # px; the drawing is what differs from the mean so far around
AROUND = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x)
SAMPLES = tuple((y, x) for y in (-3, -1, 1, 3) for x in (-3, -1, 1, 3))  # of 2 x 2 pixels each

Cost = Callable[[np.ndarray], np.ndarray]  # field -> [rows, columns]


class Size(NamedTuple):
    """Both photos at one size of the pyramid."""

    source: np.ndarray  # [h, w, 3]
    target: np.ndarray  # [h', w', 3]


def coarse_to_fine(
    source: np.ndarray, target: np.ndarray, best: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(field, the picture that it makes) of two photos at their full size.

    Args:
      source: [h, w, 3], gives the drawing.
      target: [h', w', 3], of a like number of pixels; what is copied.
      best: [grid, grid] int, the target cell in row order of every source cell. Either grid
        covers its whole photo.
    Returns:
      [rows, columns, 2] int32 and [h, w, 3] float32 inside the range of `target`.
    """
    sizes = list(pyramid(source, target, smallest=CELL * len(best)))
    now = sizes[0]
    field = from_matches(best, now.source.shape, now.target.shape)
    picture = vote(now.target, field, now.source.shape)
    for number, size in enumerate(sizes):
        if number:
            field = enlarged(field, now, size)
            picture = resize(picture, size.source.shape[:2])
        for _ in range(ROUNDS[min(number, 1)]):
            field = improved(field, picture, size)
            picture = vote(size.target, field, size.source.shape)
        now = size
    return field, picture


def pyramid(source: np.ndarray, target: np.ndarray, *, smallest: int) -> Iterator[Size]:
    """Both photos, small to large, doubling; the first of about `smallest`^2 pixels."""
    side = float(np.sqrt(source.shape[0] * source.shape[1]))
    for halvings in range(max(0, round(np.log2(side / smallest))), 0, -1):
        yield Size(*(resize(photo, _shrunk(photo, 2**halvings)) for photo in (source, target)))
    yield Size(source, target)


def _shrunk(photo: np.ndarray, factor: int) -> tuple[int, int]:
    h, w = (max(1, round(side / factor)) for side in photo.shape[:2])
    return h, w


def from_matches(
    best: np.ndarray, shape: tuple[int, ...], target_shape: tuple[int, ...]
) -> np.ndarray:
    """The field that a match of square grids means for photos of these shapes.

    A match ties the middles of two cells; around them the field moves along in pixels.
    """
    grid = len(best)
    ys, xs = centres(shape[0]), centres(shape[1])
    i, j = (square_cells(side, grid) for side in shape[:2])
    found = best[np.ix_(i, j)]
    y = (found // grid + 0.5) * target_shape[0] / grid
    x = (found % grid + 0.5) * target_shape[1] / grid
    y += (ys - (i + 0.5) * shape[0] / grid)[:, None]
    x += (xs - (j + 0.5) * shape[1] / grid)[None, :]
    return inside(np.rint(np.stack([y, x], axis=-1)), target_shape)


def enlarged(field: np.ndarray, old: Size, new: Size) -> np.ndarray:
    """The field of a size for the next one: the nearest cell's match, moved along."""
    at, before, nearest = [], [], []
    for axis in (0, 1):
        own = centres(old.source.shape[axis])
        scale = old.source.shape[axis] / new.source.shape[axis]
        at.append(centres(new.source.shape[axis]) * scale)
        nearest.append(np.minimum((at[axis] / CELL).astype(np.int64), len(own) - 1))
        before.append(own[nearest[axis]])
    found = field[np.ix_(*nearest)].astype(np.float64)
    found[..., 0] += (at[0] - before[0])[:, None]
    found[..., 1] += (at[1] - before[1])[None, :]
    found *= np.divide(new.target.shape[:2], old.target.shape[:2])
    return inside(np.rint(found), new.target.shape)


def improved(field: np.ndarray, picture: np.ndarray, size: Size) -> np.ndarray:
    """The field after every cell has looked at its candidates once.

    Args:
      picture: [h, w, 3], what the patches are to look like.
    """
    ys, xs = (centres(side) for side in size.source.shape[:2])
    misfit = _misfit(picture, size, ys, xs)

    def cost(candidate: np.ndarray) -> np.ndarray:
        return misfit(candidate) + COHERENCE * _disagreement(candidate, field, ys, xs)

    chosen, least = field, cost(field)
    for step in (0, *SHIFTS):
        start = chosen
        for y, x in AROUND:
            moved = np.array([y * step, x * step])
            candidate = start + moved if step else _moved_along(start, ys, xs, y, x)
            candidate = inside(candidate, size.target.shape)
            found = cost(candidate)
            better = found < least
            chosen = np.where(better[..., None], candidate, chosen)
            least = np.where(better, found, least)
    return chosen


def _moved_along(field: np.ndarray, ys: np.ndarray, xs: np.ndarray, y: int, x: int) -> np.ndarray:
    """Where every cell would match if it lay beside its neighbour's match as beside itself."""
    i = np.clip(np.arange(len(ys)) + y, 0, len(ys) - 1)
    j = np.clip(np.arange(len(xs)) + x, 0, len(xs) - 1)
    moved = field[np.ix_(i, j)]
    moved[..., 0] += (ys - ys[i]).astype(np.int32)[:, None]
    moved[..., 1] += (xs - xs[j]).astype(np.int32)[None, :]
    return moved


def _disagreement(
    candidate: np.ndarray, field: np.ndarray, ys: np.ndarray, xs: np.ndarray
) -> np.ndarray:
    """Mean distance in cells from what each neighbour would have, at most FAR. [rows, columns]."""
    total = np.zeros(field.shape[:2], np.float32)
    for y, x in AROUND:
        gap = np.abs(candidate - _moved_along(field, ys, xs, y, x)).sum(axis=-1)
        total += np.minimum(gap.astype(np.float32) / CELL, FAR)
    return total / len(AROUND)


def _misfit(picture: np.ndarray, size: Size, ys: np.ndarray, xs: np.ndarray) -> Cost:
    """Mean squared difference of a patch from the picture's colours and the source's drawing."""
    there = Lookup(_described(size.target, drawing(size.target)), is_continued=True)
    here = Lookup(_described(picture, drawing(size.source)), is_continued=True)
    places = here.places(np.stack(np.meshgrid(ys, xs, indexing="ij"), axis=-1))
    wanted = [here.at(places, y, x) for y, x in SAMPLES]

    def misfit(candidate: np.ndarray) -> np.ndarray:
        places = there.places(candidate)
        total = np.zeros(candidate.shape[:2], np.float32)
        for (y, x), values in zip(SAMPLES, wanted, strict=True):
            gap = there.at(places, y, x) - values
            total += np.einsum("ijc,ijc->ij", gap, gap)
        return total / len(SAMPLES)

    return misfit


def _described(picture: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """Continued; each pixel is the mean of it and those before it. [h + 2 m, w + 2 m, 4]."""
    pixels = continued(np.concatenate([picture, DRAWING * lines], axis=-1))
    means = pixels.copy()
    means[1:, 1:] = (pixels[1:, 1:] + pixels[:-1, 1:] + pixels[1:, :-1] + pixels[:-1, :-1]) / 4
    return means


def drawing(image: np.ndarray) -> np.ndarray:
    """Brightness against its surroundings, over how much it varies there. [h, w, 1]."""
    grey = image.mean(axis=-1, keepdims=True)
    detail = grey - box_mean(grey, DETAIL)
    local = np.sqrt(box_mean(detail**2, DETAIL))
    overall = np.sqrt(np.mean(detail**2))
    return detail / (local + 0.5 * overall + 1e-3)  # noise of flat parts is not drawing
