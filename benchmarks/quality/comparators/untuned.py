"""What the generators are given to invert: the warp of networks as they were pre-trained."""

import numpy as np

from benchmarks.quality import tuned, variants
from oeft_jax.pipeline import Parts


def untuned_warp(source: np.ndarray, target: np.ndarray, parts: Parts) -> np.ndarray:
    """The finished warp after no step. [s, s, 3] in [0, 1], twice -> [s, s, 3]."""
    config = variants.settings(variants.DEFAULT, size=len(source), steps=0)
    (look,) = tuned.looks(source, target, config, tuned.under(config, parts), (0,))
    return np.asarray(look.warp.voted[0]).clip(0, 1)
