"""mGANprior (Gu et al. 2020): multi-code inversion of the untuned warp, with one fixed setting."""

import jax
import numpy as np

from benchmarks.quality.comparators import spaces
from benchmarks.quality.comparators.untuned import untuned_warp
from oeft_jax.config import InversionConfig
from oeft_jax.image import resize
from oeft_jax.models.generator import Generator
from oeft_jax.pipeline import Parts
from training.invertibility import first_latents, make_setup, reach

LAYER, NUM_CODES = 6, 20  # of its example for faces (face editing takes 30 codes)
DEFAULT = InversionConfig()


def picture(
    source: np.ndarray,
    target: np.ndarray,
    parts: Parts,
    seed: int,
    *,
    config: InversionConfig = DEFAULT,
) -> np.ndarray:
    """The generator's picture of the untuned warp.

    Args:
      source: [s, s, 3] in [0, 1].
      target: [s, s, 3] in [0, 1].
      config: steps and distance of the inversion; its plan is not used.
    Returns:
      [s, s, 3] float32 in [0, 1].
    Raises:
      InputError: the parts hold no generator.
    """
    generator = spaces.require_generator(parts)
    made = make_setup(
        generator,
        parts.generator_params,
        parts.backbone,
        parts.params,
        spaces.single(config, *setting(generator)),
        parts.inversion_optimizer,
    )
    latents = first_latents(jax.random.key(seed), made)
    (reached,) = reach(untuned_warp(source, target, parts), latents, made, (config.steps,))
    return resize(reached.hypotheses[0].image, source.shape[:2])


def setting(generator: Generator) -> tuple[int, int]:
    """(composing layer, number of codes); the deepest layer of a generator that has fewer."""
    return min(LAYER, generator.num_layers), NUM_CODES
