"""Pairs of photos with points that are known to match, for measuring correspondence.

Points are [k, 2] as (x, y) in pixels, whole numbers at pixel centres; images [s, s, 3] in [0, 1].
"""

import json
from itertools import combinations
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from oeft_jax.augment import Geometric, Photometric, affine, affine_matrix, photometric
from oeft_jax.image import fit_square, read_image, resize
from training import photos

WARP = Geometric(scale=1.5, rotation=30.0, shear=5.0, translation=0.1)
SMALL_WARP = Geometric(scale=1.2, rotation=10.0, shear=3.0, translation=0.05)
FACE_SHARE = (0.35, 0.6)  # of the crop's side that a face box takes
FACE_SHIFT = 0.15  # of the crop's side, largest offset of the face from the middle
FACE_TURN = 20.0  # degrees, largest rotation of a face


class Match(NamedTuple):
    """Two pictures, the same points in both, and the length that an error is judged by."""

    source: np.ndarray  # [s, s, 3]
    target: np.ndarray  # [s, s, 3]
    source_points: np.ndarray  # [k, 2]
    target_points: np.ndarray  # [k, 2]
    length: float  # pixels: the longer side of the object's box in the target, or s


def evaluation_photos(data: Path, num: int, size: int) -> list[np.ndarray]:
    """`num` photos, evenly over the pairs, from folders that nothing was trained on."""
    pairs = json.loads((data / "pairs.json").read_text("utf-8"))
    listed: dict[str, None] = dict.fromkeys(
        pair[role] for pair in pairs for role in ("content", "exemplar")
    )
    names = [name for name in listed if name.split("/")[0] not in photos.TRAINING_FOLDERS]
    chosen = np.linspace(0, len(names) - 1, min(num, len(names))).round().astype(int)
    paths = [data / names[index] for index in chosen]
    return [fit_square(read_image(path, at_least=size), size) for path in paths]


def known_warps(data: Path, num: int, size: int, seed: int) -> list[Match]:
    """Photos against themselves: zoomed, turned, sheared, shifted and with other colours."""
    place = np.linspace(0, size - 1, 18)[1:-1]
    points = np.stack(np.meshgrid(place, place), axis=-1).reshape(-1, 2)
    return [
        known_warp(jax.random.fold_in(jax.random.key(seed), number), photo, points)
        for number, photo in enumerate(evaluation_photos(data, num, size))
    ]


def known_warp(key: jax.Array, photo: np.ndarray, points: np.ndarray) -> Match:
    """One photo against its warp, with those of `points` that stay inside."""
    size = photo.shape[0]
    keys = jax.random.split(key)
    matrix = affine_matrix(keys[0], size, WARP)  # target to source pixels, (row, column, 1)
    warped = jax.jit(_recoloured_warp)(keys[1], jnp.asarray(photo), matrix)
    found = _into_view(points, np.asarray(matrix))
    inside = _inside(found, size)
    return Match(photo, np.asarray(warped), points[inside], found[inside], float(size))


def _recoloured_warp(key: jax.Array, photo: jax.Array, matrix: jax.Array) -> jax.Array:
    return photometric(key, affine(photo, matrix)[None], Photometric())[0]


def face_crop(
    image: Image.Image, box: np.ndarray, points: np.ndarray, *, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float]:
    """A face in its surroundings at a random place, size and angle.

    On tight crops the same position is a good guess already; here it is not. What lies outside
    the photo is its mirror image.

    Args:
      box: (left, top, width, height).
      points: [k, 2].
    Returns:
      ([size, size, 3], points in it, the box's longer side in it).
    """
    side = max(box[2:])
    zoom = size * rng.uniform(*FACE_SHARE) / side
    angle = np.deg2rad(rng.uniform(-FACE_TURN, FACE_TURN))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = box[:2] + (box[2:] - 1) / 2
    place = (size - 1) / 2 + rng.uniform(-FACE_SHIFT, FACE_SHIFT, 2) * size
    forward = zoom * turn  # photo to crop: place + forward (x - middle)
    back = np.linalg.inv(forward)
    margin = int(np.ceil(2 * size / zoom))
    padded = np.pad(np.asarray(image), ((margin, margin), (margin, margin), (0, 0)), "symmetric")
    shift = middle + margin - back @ place
    shift = shift + 0.5 - back @ np.array([0.5, 0.5])  # Pillow counts from a pixel's corner
    rows = np.concatenate([back, shift[:, None]], axis=1)
    crop = Image.fromarray(padded).transform(
        (size, size), Image.Transform.AFFINE, tuple(rows.ravel()), Image.Resampling.BICUBIC
    )
    moved = (points - middle) @ forward.T + place
    return np.asarray(crop, np.float32) / 255, moved, zoom * side


def faces(data: Path, num: int, size: int, seed: int) -> list[Match]:
    """Pairs of different faces with 68 landmarks each (dlib)."""
    folder, rng = data / "gt_dlib_faces", np.random.default_rng(seed)
    found = []
    for entry in ElementTree.parse(folder / "training_with_face_landmarks.xml").iter("image"):
        image = Image.open(folder / entry.attrib["file"]).convert("RGB")
        for item in entry.iter("box"):
            box = np.array([float(item.attrib[k]) for k in ("left", "top", "width", "height")])
            parts = sorted(item.iter("part"), key=lambda part: part.attrib["name"])
            marks = np.array([[float(p.attrib["x"]), float(p.attrib["y"])] for p in parts])
            found.append((image, box, marks))
    pairs = list(combinations(range(len(found)), 2))
    chosen = rng.choice(len(pairs), size=min(num, len(pairs)), replace=False)
    matches = []
    for first, second in (pairs[index] for index in chosen):
        source, source_points, _ = face_crop(*found[first], size=size, rng=rng)
        target, target_points, length = face_crop(*found[second], size=size, rng=rng)
        matches.append(Match(source, target, source_points, target_points, length))
    return matches


def _squeezed(path: Path, points: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A photo as a square, both sides resized, and its points there."""
    image = read_image(path)
    scale = size / np.array(image.shape[1::-1])
    return resize(image, (size, size)), (points + 0.5) * scale - 0.5


def spair(data: Path, size: int, *, both_ways: bool = False) -> list[Match]:
    """SPair-71k test pairs, both photos squeezed to a square; with `both_ways` each turned round too."""
    folder, matches = data / "gt_spair", []
    for entry in json.loads((folder / "pairs.json").read_text("utf-8")):
        sides = []
        for role in ("source", "target"):
            box = np.array(entry[f"{role}_bounding_box"], float).reshape(2, 2)
            points = np.concatenate([np.array(entry[f"{role}_points"], float), box])
            image, points = _squeezed(folder / "images" / entry[f"{role}_path"], points, size)
            sides.append((image, points[:-2], float(np.max(points[-1] - points[-2]))))
        for (source, source_points, _), (target, target_points, length) in (
            (sides, sides[::-1]) if both_ways else (sides,)
        ):
            matches.append(Match(source, target, source_points, target_points, length))
    return matches


def willow(data: Path, size: int) -> list[Match]:
    """Two WILLOW ducks, both ways; the box is that of the ten points."""
    from scipy.io import loadmat  # only this file needs it

    folder, sides = data / "gt_willow_ducks", []
    for number in (1, 2):
        path = folder / f"willow_duck_{number:04d}.png"
        points = loadmat(str(path.with_suffix(".mat")))["pts_coord"].T
        sides.append(_squeezed(path, points, size))
    matches = []
    for (source, source_points), (target, target_points) in (sides, sides[::-1]):
        length = float(np.max(np.ptp(target_points, axis=0)))
        matches.append(Match(source, target, source_points, target_points, length))
    return matches


def drawn_again(matches: list[Match], draws: int, seed: int) -> list[Match]:
    """Each match, then `draws` more of it with a small random warp of either side.

    A few dozen points of a few pairs say little of two networks: whether the best of thousands of
    cells is the right one turns on details, which other draws have otherwise.
    """
    result = []
    for number, match in enumerate(matches):
        result.append(match)
        for draw in range(draws):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), draw)
            result.append(_warped_match(key, match))
    return result


def _warped_match(key: jax.Array, match: Match) -> Match:
    size = match.source.shape[0]
    matrices = [affine_matrix(k, size, SMALL_WARP) for k in jax.random.split(key)]  # view to photo
    source, target = (
        np.asarray(jax.jit(affine)(jnp.asarray(image), matrix))
        for image, matrix in zip((match.source, match.target), matrices, strict=True)
    )
    of_source, of_target = (np.asarray(matrix) for matrix in matrices)
    source_points = _into_view(match.source_points, of_source)
    target_points = _into_view(match.target_points, of_target)
    kept = _inside(source_points, size) & _inside(target_points, size)
    if not kept.any():
        return match
    length = float(match.length * np.linalg.det(of_target[:2, :2]) ** -0.5)
    return Match(source, target, source_points[kept], target_points[kept], length)


def _inside(points: np.ndarray, size: int) -> np.ndarray:
    return np.all((points >= 0) & (points <= size - 1), axis=1)


def _into_view(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Where the photo's points [k, 2] (x, y) lie in a view, whose map to the photo is `matrix`."""
    return np.linalg.solve(matrix[:2, :2], (points[:, ::-1] - matrix[:2, 2]).T).T[:, ::-1]
