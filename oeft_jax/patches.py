"""Pictures as overlapping patches: where they sit, where they are copied from, and their mean.

A photo is [h, w, c] float32. It has a cell for every CELL pixels; a cell's patch is two cells wide
and named by its centre, a corner between pixels. A field [rows, columns, 2] int32 gives every cell
of the source the centre (y, x), in pixels, of the target's patch that is copied there. Offsets
inside a patch are in pixels of both photos, so texture keeps its proportions.
"""

import numpy as np

CELL = 4  # px between patches
MARGIN = 2 * CELL  # px that a photo is continued by at its edges
SIGMA = CELL / 2  # px, of the Gaussian window over a patch
REACH = range(-CELL, CELL)  # offsets of a patch's pixels from its centre
WINDOW = tuple(
    (y, x, float(np.exp(-0.5 * ((y + 0.5) ** 2 + (x + 0.5) ** 2) / SIGMA**2)))
    for y in REACH
    for x in REACH
)


def centres(length: int) -> np.ndarray:
    """Centres of the cells along an edge of so many pixels, ascending. [ceil(length / CELL)]."""
    regular = CELL * np.arange(-(-length // CELL)) + CELL // 2
    return np.minimum(regular, max(length - CELL // 2, length // 2))  # the last stays inside


def square_cells(length: int, grid: int) -> np.ndarray:
    """Which of `grid` equal parts of an edge each of its `centres` lies in."""
    return np.minimum(centres(length) * grid // max(length, 1), grid - 1)


def inside(field: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The field with every centre at least half a cell inside a target [h', w', ...]."""
    half = [min(CELL // 2, side // 2) for side in shape[:2]]
    return np.clip(field, half, np.subtract(shape[:2], half)).astype(np.int32)


def continued(image: np.ndarray) -> np.ndarray:
    """The photo with MARGIN mirrored pixels on each side."""
    return np.pad(image, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), mode="symmetric")


class Lookup:
    """The pixels of a photo at the same offset from every centre of a field."""

    def __init__(self, image: np.ndarray, *, is_continued: bool = False) -> None:
        padded = image if is_continued else continued(image)
        self.width, self.flat = padded.shape[1], padded.reshape(-1, padded.shape[2])

    def places(self, field: np.ndarray) -> np.ndarray:
        """Where the centres are, for `at`. [rows, columns]."""
        return (field[..., 0].astype(np.int64) + MARGIN) * self.width + field[..., 1] + MARGIN

    def at(self, places: np.ndarray, y: int, x: int) -> np.ndarray:
        """[rows, columns, c]; offset 0 is the pixel below and right of the centre."""
        return self.flat.take(places + (y * self.width + x), axis=0)


def vote(target: np.ndarray, field: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The picture that a field makes: its patches, averaged under a Gaussian window.

    Args:
      target: [h', w', c].
      field: [rows, columns, 2] int32, centres inside the target.
      shape: (h, w, ...) of the picture, whose cells the field has.
    Returns:
      [h, w, c] inside the range of `target`.
    """
    lookup, extent = Lookup(target), [side + 2 * MARGIN for side in shape[:2]]
    total = np.zeros((*extent, target.shape[2]), np.float32)
    mass = np.zeros((*extent, 1), np.float32)
    rows, columns = (centres(side) + MARGIN for side in shape[:2])
    places = lookup.places(field)
    for y, x, weight in WINDOW:
        here = np.ix_(rows + y, columns + x)  # each pixel at most once
        total[here] += np.float32(weight) * lookup.at(places, y, x)
        mass[here] += np.float32(weight)
    kept = slice(MARGIN, MARGIN + shape[0]), slice(MARGIN, MARGIN + shape[1])
    return total[kept] / mass[kept]
