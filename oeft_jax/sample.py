"""Pictures of a generator: `sample(...)`, or `python -m oeft_jax.sample --weights W --out P.png`."""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from oeft_jax import process
from oeft_jax._checks import InputError, check_range
from oeft_jax.image import write_png
from oeft_jax.loading import load_generator
from oeft_jax.models.generator import Generator
from oeft_jax.models.styled import NOISE_MODES

BATCH = 4  # pictures made at once


def sample(weights: str, num: int, *, seed: int = 0, **options: Any) -> np.ndarray:
    """Pictures of standard normal latents.

    Args:
      weights: "bundled", a .safetensors file, or a fetched network's name.
      num: >= 1, pictures.
      seed: of the latents.
      options: of the generator, where it has them: truncation_psi in [0, 1], truncation_layers,
        noise_mode "stored", "none" or "random" (fresh for each picture).
    Returns:
      [num, R, R, 3] float32, clipped to [0, 1].
    Raises:
      InputError: no such weights, or options that the generator does not have.
    """
    check_range("number of pictures", num, 1)
    found, generator = load_generator(weights, **options)
    return _pictures(generator, found.params, num, seed)


def _pictures(generator: Generator, params: Any, num: int, seed: int) -> np.ndarray:
    draw: Callable[..., jax.Array] = jax.jit(generator.sample)
    key = jax.random.key(seed)
    batches = []
    for place in range(math.ceil(num / BATCH)):
        for_codes, for_noise = jax.random.split(jax.random.fold_in(key, place))
        z = jax.random.normal(for_codes, (BATCH, generator.z_dim))
        batches.append(np.asarray(draw(params, z, noise_key=for_noise)))
    return np.clip(np.concatenate(batches)[:num] * 0.5 + 0.5, 0, 1)


def contact_sheet(images: np.ndarray) -> np.ndarray:
    """[n, s, s, 3] -> one picture, nearly square, white where pictures are missing."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    full = np.ones((rows * columns, *images.shape[1:]), np.float32)
    full[: len(images)] = images
    size = images.shape[1]
    grid = full.reshape(rows, columns, size, size, 3).swapaxes(1, 2)
    return grid.reshape(rows * size, columns * size, 3)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code (0 done, 2 bad input)."""
    flags = parser().parse_args(arguments)
    try:
        out = Path(flags.out)
        if out.suffix != ".png" or not out.parent.is_dir():
            raise InputError(f"--out {out}: accepted: a .png file in a folder that is there.")
        if out.exists() and not flags.overwrite:
            raise InputError(f"--out {out}: exists; accepted: a new name, or --overwrite.")
        options = {
            name: getattr(flags, name)
            for name in ("truncation_psi", "noise_mode")
            if getattr(flags, name) is not None
        }
        process.prepare()
        images = sample(flags.weights, flags.num, seed=flags.seed, **options)
        write_png(out, contact_sheet(images))
    except InputError as error:
        print(f"oeft_jax.sample: {error}", file=sys.stderr)
        return 2
    print(f"wrote {out}: {len(images)} pictures of {images.shape[1]} px from {flags.weights}")
    return 0


def parser() -> argparse.ArgumentParser:
    """Command line."""
    made = argparse.ArgumentParser(prog="python -m oeft_jax.sample", description=__doc__)
    made.add_argument("--weights", default="bundled", help="'bundled', a name or a file")
    made.add_argument("--out", required=True, help="the .png file to write")
    made.add_argument("--num", type=int, default=16, help="pictures")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--truncation-psi", type=float, help="in [0, 1], for style-based generators")
    made.add_argument("--noise-mode", choices=NOISE_MODES, help="for style-based generators")
    made.add_argument("--overwrite", action="store_true", help="replace an existing file")
    return made


if __name__ == "__main__":
    sys.exit(main())
