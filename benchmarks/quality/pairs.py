"""The pairs of photos of a data folder, in two halves: one to choose settings on, one to report."""

import json
from importlib.resources import files
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from oeft_jax._checks import InputError, check_choice
from oeft_jax.image import fit_square, read_image

HALVES = ("choose", "report")
MASKED = ("face-photo", "scene")  # kinds whose masks are label maps, not strokes for a user
LABELLED_FACES = "celebamaskhq"
EXAMPLES = Path(str(files("oeft_jax") / "assets" / "examples"))  # the folder of EXAMPLE's photos
EXAMPLE = {"id": "example", "kind": "example", "content": "source.png", "exemplar": "target.png"}


class PhotoPair(NamedTuple):
    """Two photos as squares, with label maps where there are any."""

    id: str
    kind: str
    source: np.ndarray  # [s, s, 3] in [0, 1]
    target: np.ndarray  # [s, s, 3]
    source_labels: np.ndarray | None = None  # [s, s] int
    target_labels: np.ndarray | None = None


def listed(data: Path) -> list[dict[str, Any]]:
    """DATA/pairs.json. Raises InputError where there is none."""
    path = data / "pairs.json"
    if not path.is_file():
        raise InputError(f"--data {data}: holds no pairs.json; accepted: a folder of such pairs.")
    entries: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))
    return entries


def half(entries: list[dict[str, Any]], which: str) -> list[dict[str, Any]]:
    """Every second pair of each kind, so that both halves hold all kinds that come twice.

    A kind of a single pair goes to the half that is behind.
    """
    check_choice("half", which, HALVES)
    sides: tuple[list, list] = ([], [])
    for kind in sorted({entry["kind"] for entry in entries}):
        for entry in sorted((e for e in entries if e["kind"] == kind), key=lambda e: e["id"]):
            sides[len(sides[0]) > len(sides[1])].append(entry)
    return sorted(sides[HALVES.index(which)], key=lambda entry: entry["id"])


def spread(entries: list[dict[str, Any]], num: int) -> list[dict[str, Any]]:
    """`num` of them, kinds in turn, so that few pairs are still of many kinds."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        kinds.setdefault(entry["kind"], []).append(entry)
    rows = list(kinds.values())
    turns = max((len(row) for row in rows), default=0)
    ordered = [row[turn] for turn in range(turns) for row in rows if turn < len(row)]
    return sorted(ordered[:num], key=lambda entry: entry["id"])


def read_pair(data: Path, entry: dict[str, Any], *, size: int, fit: str) -> PhotoPair:
    """The photos of one entry as squares, and their label maps cut alike."""
    photos = [
        fit_square(read_image(data / entry[role], at_least=size), size, fit)
        for role in ("content", "exemplar")
    ]
    labels: list[np.ndarray | None] = [None, None]
    if entry["kind"] in MASKED and "content_mask" in entry:
        names = (entry["content_mask"], entry["exemplar_mask"])
        labels = [read_labels(data / name, size=size, fit=fit) for name in names]
    return PhotoPair(entry["id"], entry["kind"], photos[0], photos[1], *labels)


def read_labels(path: Path, *, size: int, fit: str) -> np.ndarray:
    """A map of whole numbers as a square, nearest label taken. [size, size] int."""
    labels = np.asarray(Image.open(path)).astype(int)
    height, width = labels.shape[:2]
    tall, wide = (min(labels.shape),) * 2 if fit == "crop" else (height, width)
    top, left = (height - tall) // 2, (width - wide) // 2
    place = (np.arange(size) + 0.5) / size
    rows, columns = top + (place * tall).astype(int), left + (place * wide).astype(int)
    return labels[np.ix_(rows, columns)]


def labelled_faces(data: Path, *, size: int) -> list[PhotoPair]:
    """Every ordered pair of the faces that come with a map of parts."""
    folder = data / LABELLED_FACES
    photos = sorted(folder.glob("*.jpg"))
    read = [
        (
            path.stem,
            fit_square(read_image(path, at_least=size), size),
            read_labels(path.with_suffix(".png"), size=size, fit="crop"),
        )
        for path in photos
    ]
    return [
        PhotoPair(f"{LABELLED_FACES}-{a[0]}-{b[0]}", "face parts", a[1], b[1], a[2], b[2])
        for a, b in permutations(read, 2)
    ]
