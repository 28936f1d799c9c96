"""A picture with coarse shapes and no detail, for tests that need one."""

import numpy as np
from PIL import Image


def picture(rng: np.random.Generator, size: int) -> Image.Image:
    """A smooth random picture, size x size, 8-bit RGB."""
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return coarse.resize((size, size), Image.Resampling.BICUBIC)
