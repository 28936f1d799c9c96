"""Other ways to the same picture, on the same pairs and networks.

A comparator is a function (source [s, s, 3], target [s, s, 3], parts, seed) -> [s, s, 3], pictures
in [0, 1]; the source gives structure, the target appearance.
"""

from collections.abc import Callable

import numpy as np

from benchmarks.quality.comparators import colour, gatys, image2stylegan, mganprior, pulse
from oeft_jax.pipeline import Parts

Comparator = Callable[[np.ndarray, np.ndarray, Parts, int], np.ndarray]

COMPARATORS: dict[str, Comparator] = {
    "colour transfer": colour.picture,
    "Gatys": gatys.picture,
    "Image2StyleGAN": image2stylegan.picture,
    "mGANprior": mganprior.picture,
    "PULSE": pulse.picture,
}
