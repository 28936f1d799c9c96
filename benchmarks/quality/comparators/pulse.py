"""PULSE (Menon et al. 2020): a z on the sphere whose picture, made small, is a small picture.

Given here is the untuned warp at 16 pixels, the smallest that PULSE takes. As in its code, every
step of Adam is followed by a return to the sphere of radius sqrt(d), where nearly all of a normal
distribution lies; the distance is that of pixels alone.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.quality.comparators import spaces
from benchmarks.quality.comparators.untuned import untuned_warp
from oeft_jax.composition import Latents
from oeft_jax.config import InversionConfig
from oeft_jax.image import resize
from oeft_jax.models.generator import Generator
from oeft_jax.objective import down
from oeft_jax.pipeline import Parts
from oeft_jax.remember import remember
from training.invertibility import Setup, reach

SIDE = 16  # pixels of the small picture; half of a generator that gives no more
LEARNING_RATE = 0.4
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
      config: number of steps and, for what is reported, a layer of the feature network.
    Returns:
      [s, s, 3] float32 in [0, 1].
    Raises:
      InputError: the parts hold no generator.
    """
    generator = spaces.require_generator(parts)
    small = made_small(untuned_warp(source, target, parts), generator)
    latents = first_latents(jax.random.key(seed), parts)
    (reached,) = reach(small, latents, setup(parts, config), (config.steps,))
    return resize(reached.hypotheses[0].image, source.shape[:2])


def made_small(picture: np.ndarray, generator: Generator) -> np.ndarray:
    """What is to be matched: block means of a picture [s, s, 3]."""
    side = min(SIDE, generator.resolution // 2)
    return np.asarray(down(jnp.asarray(picture), side))


def setup(parts: Parts, config: InversionConfig) -> Setup:
    """What PULSE inverts with."""
    space = spaces.spaces(spaces.require_generator(parts))[0]
    pixels = replace(config, l1=0.0, l2=1.0, perceptual=0.0)
    return spaces.setup(space, parts, pixels, spherical(LEARNING_RATE))


def first_latents(key: jax.Array, parts: Parts) -> tuple[Latents, ...]:
    """A random place on the sphere."""
    space = spaces.spaces(spaces.require_generator(parts))[0]
    (latents,) = spaces.start(key, space, parts.generator_params)
    return (latents._replace(codes=on_sphere(latents.codes)),)


def on_sphere(codes: jax.Array) -> jax.Array:
    """Codes [n, d] at length sqrt(d)."""
    length = jnp.linalg.norm(codes, axis=-1, keepdims=True)
    return codes * (codes.shape[-1] ** 0.5 / length)


@remember
def spherical(learning_rate: float) -> optax.GradientTransformation:
    """Adam whose every step ends on the sphere."""
    adam = optax.adam(learning_rate)

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = adam.update(grads, state, params)
        there = jax.tree.map(lambda x, u: on_sphere(x + u) - x if x.size else u, params, updates)
        return there, state

    return optax.GradientTransformation(adam.init, update)
