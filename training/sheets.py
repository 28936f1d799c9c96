"""Pictures of many pictures, for looking at."""

from pathlib import Path

import jax
import numpy as np
from PIL import Image

from oeft_jax._types import Params
from oeft_jax.models.generator import Generator


def save(path: Path, images: np.ndarray, *, columns: int) -> None:
    """Writes [n, h, w, 3] float in [0, 1], or uint8, as rows of `columns`; n fills the rows."""
    if images.dtype != np.uint8:
        images = np.round(images.clip(0, 1) * 255).astype(np.uint8)
    n, h, w, _ = images.shape
    rows = images.reshape(n // columns, columns, h, w, 3).transpose(0, 2, 1, 3, 4)
    Image.fromarray(rows.reshape(n // columns * h, columns * w, 3)).save(path)


def samples(
    generator: Generator, params: Params, *, seed: int, num: int, batch: int = 20
) -> np.ndarray:
    """Uncurated images of standard normal codes. [num, R, R, 3] float32 in [0, 1]."""
    draw = jax.jit(generator.sample)  # the same function each time, so compiled once
    codes = jax.random.normal(jax.random.key(seed), (num, generator.code_dim))
    parts = [draw(params, codes[i : i + batch]) for i in range(0, num, batch)]
    return np.concatenate([np.asarray(part) * 0.5 + 0.5 for part in parts]).clip(0, 1)


def save_samples(path: Path, generator: Generator, params: Params, *, seed: int) -> None:
    """A sheet of 40 uncurated samples, eight to a row."""
    save(path, samples(generator, params, seed=seed, num=40), columns=8)
