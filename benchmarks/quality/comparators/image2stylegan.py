"""Image2StyleGAN (Abdal et al. 2019): pictures embedded by one code, the layers' codes mixed.

The paper whose method this package is compares with it twice without saying how: as a translator
(its Figure 10) and as an inverter of warps (Table 2). Where every layer has a code of its own (W+)
this is the translator, by Abdal's recipe for style: both photos are embedded, the first half of the
codes is the source's and the rest the target's. PGGAN has one code and nothing to mix; there it
is the inverter, of the untuned warp.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.quality.comparators import spaces
from benchmarks.quality.comparators.spaces import Space
from benchmarks.quality.comparators.untuned import untuned_warp
from oeft_jax.config import InversionConfig
from oeft_jax.image import resize
from oeft_jax.pipeline import Parts
from training.invertibility import Reached, reach

DEFAULT = InversionConfig()


def picture(
    source: np.ndarray,
    target: np.ndarray,
    parts: Parts,
    seed: int,
    *,
    config: InversionConfig = DEFAULT,
) -> np.ndarray:
    """The generator's picture of the source in the target's style.

    Args:
      source: [s, s, 3] in [0, 1].
      target: [s, s, 3] in [0, 1].
      config: steps and distance of the inversion; its plan is not used.
    Returns:
      [s, s, 3] float32 in [0, 1].
    Raises:
      InputError: the parts hold no generator.
    """
    space = spaces.spaces(spaces.require_generator(parts))[-1]
    if space.name == "z":
        reached = embed(untuned_warp(source, target, parts), space, parts, seed, config)
        image = reached.hypotheses[0].image
    else:
        both = [embed(picture, space, parts, seed, config) for picture in (source, target)]
        image = mixed(space, parts, *(codes_of(space, reached) for reached in both))
    return resize(image, source.shape[:2])


def embed(
    picture: np.ndarray, space: Space, parts: Parts, seed: int, config: InversionConfig
) -> Reached:
    """The picture [s, s, 3] inverted by one code."""
    latents = spaces.start(jax.random.key(seed), space, parts.generator_params)
    made = spaces.setup(space, parts, config)
    (reached,) = reach(picture, latents, made, (config.steps,))
    return reached


def codes_of(space: Space, reached: Reached) -> jax.Array:
    """The code of each layer. [s, d]."""
    (latents,) = reached.latents
    first = space.generator.repeated(latents.codes, 0, space.layer)[0]
    return jnp.concatenate([first, latents.tail])


def mixed(space: Space, parts: Parts, source: jax.Array, target: jax.Array) -> np.ndarray:
    """The picture of the source's codes [s, d] up to half of the layers, then the target's."""
    generator, params = space.generator, parts.generator_params
    half = len(source) // 2
    codes = jnp.concatenate([source[:half], target[half:]])[None]
    features = generator.segment(params, None, codes, 0, generator.num_layers)
    image = generator.to_image(params, features)[0]
    return np.asarray(jnp.clip(image * 0.5 + 0.5, 0, 1))
