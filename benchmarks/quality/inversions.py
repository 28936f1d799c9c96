"""How well pictures are inverted: single codes, PULSE, every multi-code setting, and all of them.

Pictures are samples of the generator, whose answer is known to exist, and real faces that it was
not trained on; what is compared is in `contest`.

LPIPS is left out: its heads are in the data folder, the networks that they belong to (VGG-16,
AlexNet, SqueezeNet 1.1) are not, and with another trunk the number would not be LPIPS.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.quality import contest
from benchmarks.quality.comparators import spaces
from benchmarks.quality.contest import BUDGETS, Trial
from oeft_jax.config import Config
from oeft_jax.metrics import SSIM_WINDOW, frechet_distance
from oeft_jax.pipeline import Parts
from training import photos, squeezenet
from training.invertibility import likeness

Row = dict[str, Any]

REAL = "the faces themselves"  # the method of the Frechet row that nothing is to fall below
FRECHET_AT_LEAST = 50  # pictures; of fewer the distance says more about their number


class Picture(NamedTuple):
    """Something to invert."""

    origin: str  # "sampled" or "held out"
    number: int
    image: np.ndarray  # [R, R, 3] in [0, 1], of the generator's size


def rows(data: Path, parts: Parts, config: Config, *, seeds: Sequence[int], num: int) -> list[Row]:
    """Every picture inverted by every method, and Frechet distances where there are enough.

    Args:
      data: holds the faces (lfw128) and SqueezeNet's weights.
      config: steps, distance, composing layers and numbers of codes.
      seeds: of start values; each is a run of its own.
      num: pictures of each origin, at most half of the held-out faces.
    Returns:
      A row for each picture, method, budget and seed: steps, operations, seconds, PSNR and SSIM;
      then a row with the Frechet distance for each method, budget and seed.
    Raises:
      InputError: the parts hold no generator.
    """
    faces = held_out_faces(data, parts)
    even, _ = disjoint(len(faces), num)
    pictures = [
        *(Picture("sampled", n, image) for n, image in enumerate(sampled(parts, num))),
        *(Picture("held out", n, image) for n, image in enumerate(faces[even])),
    ]
    ready = contest.prepare(parts, config, pictures[0].image)
    found: list[Row] = []
    for seed in seeds:
        made: dict[tuple[str, str], list[np.ndarray]] = {}
        for picture in pictures:
            key = jax.random.fold_in(jax.random.key(seed), picture.number)
            for trial in contest.trials(key, picture.image, ready):
                found.append(_row(picture, trial, seed))
                if picture.origin == "held out":
                    images = made.setdefault((trial.method, trial.budget), [])
                    images.append(trial.hypothesis.image)
        if num >= FRECHET_AT_LEAST:
            found += [{"seed": seed, **row} for row in frechet_rows(data, faces, made)]
    return found


def sampled(parts: Parts, num: int) -> np.ndarray:
    """Uncurated pictures of the generator: a right inversion has no error. [num, R, R, 3]."""
    generator = spaces.require_generator(parts)
    codes = jax.random.normal(jax.random.key(0), (num, generator.z_dim))
    images = jax.jit(generator.sample)(parts.generator_params, codes)
    return (np.asarray(images) * 0.5 + 0.5).clip(0, 1)


def held_out_faces(data: Path, parts: Parts) -> np.ndarray:
    """Faces that the bundled generator was not trained on. [n, R, R, 3] in [0, 1]."""
    side = spaces.require_generator(parts).resolution
    return photos.load_faces(data, side)[-photos.HELD_OUT :].astype(np.float32) / 255


def disjoint(total: int, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of `num` places below `total`, evenly spread: even ones and those after them."""
    places = 2 * np.linspace(0, total // 2 - 1, num).round().astype(int)
    return places, places + 1


def _row(picture: Picture, trial: Trial, seed: int) -> Row:
    """How near a reconstruction comes, at the generator's size."""
    image = trial.hypothesis.image
    near, alike = (float(x[0]) for x in likeness(image[None], picture.image[None]))
    return {
        "seed": seed,
        "origin": picture.origin,
        "picture": picture.number,
        **{name: value for name, value in trial._asdict().items() if name != "hypothesis"},
        "PSNR": near,
        **({"SSIM": alike} if len(image) >= SSIM_WINDOW else {}),
    }


def frechet_rows(
    data: Path, faces: np.ndarray, made: Mapping[tuple[str, str], list[np.ndarray]]
) -> Iterator[Row]:
    """Frechet distance in SqueezeNet's features of reconstructions to as many other real faces.

    The faces that were inverted come first, as a method of their own.

    Args:
      made: (method, budget) -> reconstructions of the even faces, see `disjoint`.
    """
    arrays, num = squeezenet.read(data), len(next(iter(made.values())))
    even, odd = disjoint(len(faces), num)
    others = squeezenet.pooled_features(arrays, faces[odd])
    sets = {**{(REAL, budget): list(faces[even]) for budget in BUDGETS}, **made}
    for (method, budget), images in sets.items():
        distance = frechet_distance(squeezenet.pooled_features(arrays, np.stack(images)), others)
        yield {"method": method, "budget": budget, "faces": num, "Frechet distance": distance}
