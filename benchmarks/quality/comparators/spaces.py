"""The spaces of a single code, each as something that the package's inversion takes.

z drives the whole generator; W is the output of a styled generator's mapping, one code for all
layers; W+ has a code of its own for each layer. With the importances of channels held at 1 each is
one hypothesis of one code, so losses, loop and optimiser are those of multi-code inversion.
"""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from oeft_jax._checks import InputError
from oeft_jax._types import Params
from oeft_jax.composition import Latents
from oeft_jax.config import InversionConfig
from oeft_jax.models.generator import Generator
from oeft_jax.pipeline import Parts
from oeft_jax.remember import remember
from training.invertibility import Setup, make_setup


class Space(NamedTuple):
    """Where a single code lives."""

    name: str  # "z", "W" or "W+"
    generator: Generator  # as it is inverted
    layer: int  # composing layer: codes after it are a layer's own


def spaces(generator: Generator) -> tuple[Space, ...]:
    """The spaces that a generator has, poorest first."""
    latent = Space("z", by_latent(generator), 1)
    if generator.num_tail_codes(1) == 0:
        return (latent,)
    return (
        latent,
        Space("W", generator, generator.num_layers),
        Space("W+", generator, 1),
    )


@remember
def by_latent(generator: Generator) -> Generator:
    """The generator as a single layer: its code is z, what it gives is the picture."""

    def segment(
        params: Params, features: jax.Array | None, codes: jax.Array, start: int, stop: int
    ) -> jax.Array:
        del start, stop
        return generator.sample(params, codes[:, 0]) if features is None else features

    return generator._replace(
        code_dim=generator.z_dim,
        num_layers=1,
        channels=lambda layer: 3,
        num_codes=lambda start, stop: int(start == 0 < stop),
        segment=segment,
        to_image=lambda params, picture: picture,
        init_codes=lambda key, params, num: jax.random.normal(key, (num, generator.z_dim)),
        init_tail_codes=lambda params, layer: jnp.zeros((0, generator.z_dim)),
    )


def start(key: jax.Array, space: Space, params: Params) -> tuple[Latents, ...]:
    """Where an inversion begins: a random z, or the mean of W as in Image2StyleGAN."""
    generator, layer = space.generator, space.layer
    if space.name == "z":
        codes = generator.init_codes(key, params, 1)
    else:
        codes = generator.init_tail_codes(params, 1)[:1]
    importance = jnp.ones((1, generator.channels(layer)))
    return (Latents(codes, importance, generator.init_tail_codes(params, layer)),)


def setup(
    space: Space,
    parts: Parts,
    config: InversionConfig,
    optimizer: optax.GradientTransformation | None = None,
) -> Setup:
    """What a space is inverted with; the parts' optimiser by default."""
    return make_setup(
        space.generator,
        parts.generator_params,
        parts.backbone,
        parts.params,
        single(config, space.layer, 1),
        codes_alone(optimizer or parts.inversion_optimizer),
    )


def single(config: InversionConfig, layer: int, num_codes: int) -> InversionConfig:
    """The settings with one hypothesis."""
    return replace(config, composing_layers=(layer,), num_codes=(num_codes,), halving=0)


@remember
def codes_alone(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimiser for codes; importances stay where they are."""
    labels = Latents(codes="moved", importance="held", tail="moved")  # type: ignore[arg-type]
    return optax.partition({"moved": optimizer, "held": optax.set_to_zero()}, labels)


def require_generator(parts: Parts) -> Generator:
    """The generator; raises InputError where the settings asked for none."""
    if parts.generator is None:
        raise InputError("--refine never leaves no generator to compare; accepted: auto, always.")
    return parts.generator
