"""Pictures side by side, for people to look at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.quality.pairs import PhotoPair
from oeft_jax.image import resize, to_uint8

SIDE, GAP, CAPTION = 224, 8, 24
ROWS = 8  # of a sheet


def sheets(
    rows: Sequence[tuple[PhotoPair, Sequence[tuple[str, np.ndarray]]]], folder: Path, name: str
) -> list[Path]:
    """One row a pair: source, target, then pictures with their titles; several files if need be.

    Args:
      rows: (pair, (title, [s, s, 3] in [0, 1]) ...), as many pictures in each.
    Returns:
      folder/NAME-1.png, ...
    """
    files = []
    for first in range(0, len(rows), ROWS):
        part = rows[first : first + ROWS]
        path = folder / f"{name}-{first // ROWS + 1}.png"
        _sheet(part).save(path)
        files.append(path)
    return files


def _sheet(rows: Sequence[tuple[PhotoPair, Sequence[tuple[str, np.ndarray]]]]) -> Image.Image:
    columns = 2 + len(rows[0][1])
    size = (GAP + columns * (SIDE + GAP), GAP + len(rows) * (SIDE + CAPTION + GAP))
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for number, (pair, pictures) in enumerate(rows):
        top = GAP + number * (SIDE + CAPTION + GAP)
        cells = [(pair.id, pair.source), ("target", pair.target), *pictures]
        for column, (title, image) in enumerate(cells):
            left = GAP + column * (SIDE + GAP)
            small = Image.fromarray(to_uint8(resize(image, (SIDE, SIDE))))
            sheet.paste(small, (left, top))
            draw.text((left, top + SIDE + 2), title, "black", font)
    return sheet
