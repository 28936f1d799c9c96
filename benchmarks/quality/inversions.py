"""How well pictures are inverted: single codes, PULSE, every multi-code setting, and all of them.

Pictures are samples of the generator, whose answer is known to exist, and real faces that it was
not trained on; what is compared is in `contest`.

LPIPS is measured where it is given: its heads are in the data folder, the networks that they belong
to (VGG-16, AlexNet, SqueezeNet 1.1) are not, and with another trunk the number would not be LPIPS.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from benchmarks.quality import contest
from benchmarks.quality.comparators import spaces
from benchmarks.quality.contest import BUDGETS, Contest, Trial
from benchmarks.quality.perceptual import Distance
from benchmarks.quality.runs import Do, Row
from oeft_jax.config import Config
from oeft_jax.image import write_png
from oeft_jax.metrics import SSIM_WINDOW, frechet_distance, likeness
from oeft_jax.pipeline import Parts
from training import photos, squeezenet

REAL = "the faces themselves"  # the method of the Frechet row that nothing is to fall below
SAMPLED = 16  # at most, of the pictures whose answer is known
FRECHET_AT_LEAST = 50  # pictures; of fewer the distance says more about their number


class Picture(NamedTuple):
    """Something to invert."""

    origin: str  # "sampled" or "held out"
    number: int
    image: np.ndarray  # [R, R, 3] in [0, 1], of the generator's size


def run(
    do: Do,
    kept: Path,
    data: Path,
    parts: Parts,
    config: Config,
    *,
    seeds: Sequence[int],
    num: int,
    lpips: Distance | None = None,
) -> None:
    """Every picture inverted by every method, and Frechet distances where there are enough.

    Args:
      do: does a job unless its rows are there. One job is a picture and a seed: a row for each
        method and budget (steps, operations, seconds, PSNR, SSIM, LPIPS); another the Frechet
        distance of each method and budget.
      kept: a folder for reconstructions of the held-out faces.
      data: holds the faces (lfw128) and SqueezeNet's weights.
      config: steps, distance, composing layers and numbers of codes.
      seeds: of start values; each is a run of its own.
      num: held-out faces, at most half of them; and as many samples, up to SAMPLED.
      lpips: of `perceptual.load`; without one it is not measured.
    Raises:
      InputError: the parts hold no generator.
    """
    faces = held_out_faces(data, parts)
    even, _ = disjoint(len(faces), num)
    pictures = [
        *(Picture("held out", n, image) for n, image in enumerate(faces[even])),
        *(
            Picture("sampled", n, image)
            for n, image in enumerate(sampled(parts, min(num, SAMPLED)))
        ),
    ]
    ready = cache(partial(contest.prepare, parts, config, pictures[0].image))
    steps = config.inversion.steps
    for seed in seeds:
        for picture in pictures:
            job = {"origin": picture.origin, "id": picture.number, "seed": seed, "steps": steps}
            do(
                job,
                partial(_picture_rows, picture, seed, ready, _folder(kept, picture, seed), lpips),
            )
        if num >= FRECHET_AT_LEAST:
            job = {"origin": "held out", "faces": num, "seed": seed, "steps": steps}
            folders = [_folder(kept, picture, seed) for picture in pictures[:num]]
            do(job, partial(frechet_rows, data, faces, folders))


def _folder(kept: Path, picture: Picture, seed: int) -> Path:
    return kept / str(seed) / picture.origin / str(picture.number)


def _picture_rows(
    picture: Picture, seed: int, ready: Callable[[], Contest], folder: Path, lpips: Distance | None
) -> Iterator[Row]:
    key = jax.random.fold_in(jax.random.key(seed), picture.number)
    folder.mkdir(parents=True, exist_ok=True)
    for trial in contest.trials(key, picture.image, ready()):
        write_png(folder / f"{trial.method} - {trial.budget}.png", trial.hypothesis.image)
        yield _row(picture, trial, lpips)


def reconstructions(folders: Sequence[Path]) -> dict[tuple[str, str], list[np.ndarray]]:
    """(method, budget) -> what it made of each picture."""
    made: dict[tuple[str, str], list[np.ndarray]] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.png")):
            method, budget = path.stem.split(" - ")
            made.setdefault((method, budget), []).append(
                np.asarray(Image.open(path), np.float32) / 255
            )
    return made


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


def _row(picture: Picture, trial: Trial, lpips: Distance | None) -> Row:
    """How near a reconstruction comes, at the generator's size."""
    image = trial.hypothesis.image
    near, alike = map(float, likeness(*jax.device_put((image, picture.image))))
    return {
        "origin": picture.origin,
        **{name: value for name, value in trial._asdict().items() if name != "hypothesis"},
        "PSNR": near,
        **({"SSIM": alike} if len(image) >= SSIM_WINDOW else {}),
        **({"LPIPS": lpips(image, picture.image)} if lpips else {}),
    }


def frechet_rows(data: Path, faces: np.ndarray, folders: Sequence[Path]) -> Iterator[Row]:
    """Frechet distance in SqueezeNet's features of reconstructions to as many other real faces.

    The faces that were inverted come first, as a method of their own.

    Args:
      folders: of the reconstructions of the even faces, see `disjoint`.
    """
    eye, made, num = squeezenet.read(data), reconstructions(folders), len(folders)
    even, odd = disjoint(len(faces), num)
    others = squeezenet.pooled_features(eye, faces[odd])
    sets = {**{(REAL, budget): list(faces[even]) for budget in BUDGETS}, **made}
    for (method, budget), images in sets.items():
        distance = frechet_distance(squeezenet.pooled_features(eye, np.stack(images)), others)
        yield {"method": method, "budget": budget, "faces": num, "Frechet distance": distance}
