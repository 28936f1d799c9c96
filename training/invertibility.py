"""How near a generator comes to pictures: inversions of the package's own kind, and PSNR and SSIM."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax

from oeft_jax import inversion
from oeft_jax._types import Params
from oeft_jax.composition import Latents, init_latents
from oeft_jax.config import InversionConfig
from oeft_jax.inversion import Hypothesis, Programs
from oeft_jax.metrics import likeness
from oeft_jax.models.backbone import Backbone
from oeft_jax.models.generator import Generator
from oeft_jax.weights import Weights


class Setup(NamedTuple):
    """What pictures are inverted with; one serves any number of them."""

    generator: Generator
    params: Params
    phi: Params  # weights of the perceptual network
    programs: Programs
    optimizer: optax.GradientTransformation


class Reached(NamedTuple):
    """An inversion after so many steps."""

    steps: int
    hypotheses: list[Hypothesis]
    latents: tuple[Latents, ...]  # the best of each hypothesis so far


class Inverted(NamedTuple):
    """Inversions of n faces."""

    images: np.ndarray  # [n, R, R, 3] in [0, 1]
    psnr: np.ndarray  # [n] dB
    ssim: np.ndarray  # [n]; 0 where the generator is too small for SSIM's window


def make_setup(
    generator: Generator,
    params: Params,
    backbone: Backbone,
    phi: Params,
    config: InversionConfig,
    optimizer: optax.GradientTransformation,
) -> Setup:
    """The setup of these settings; equal ones share their compiled programs."""
    programs = inversion.make_programs(generator, backbone, config, optimizer)
    return Setup(generator, params, phi, programs, optimizer)


def first_latents(key: jax.Array, setup: Setup) -> tuple[Latents, ...]:
    """Where the hypotheses of a setup begin."""
    plan = setup.programs.plan
    return tuple(init_latents(key, setup.generator, setup.params, *one) for one in plan)


def reach(
    picture: np.ndarray, latents: tuple[Latents, ...], setup: Setup, at: Sequence[int]
) -> Iterator[Reached]:
    """Inverts a picture [s, s, 3] in [0, 1]; what is reached after each number of steps of `at`.

    Args:
      latents: of each hypothesis of the setup's plan.
      at: rising.
    """
    programs = setup.programs
    goal = programs.make_goal(picture, params=setup.params, phi=setup.phi)
    state = inversion.init_from(latents, setup.optimizer)
    for number in at:
        state = inversion.run(state, goal, step=programs.step, num_steps=number)
        best = tuple(trial.best for trial in state.trials)
        best = jax.device_put(best, may_alias=False)  # the state's are donated later
        yield Reached(number, inversion.hypotheses_of(state, goal, programs), best)


def invert(
    faces: np.ndarray,
    generator: Generator,
    weights: Weights,
    phi: Weights,
    network: Backbone,
    *,
    num_codes: int,
    layer: int,
    steps: int,
    seed: int,
) -> Inverted:
    """Inverts faces one after the other with the package's method and its default objective.

    With one code its channel importances are still optimised, as for several.

    Args:
      faces: [n, R, R, 3] uint8 at the generator's resolution.
      layer: composing layer.
    """
    config = InversionConfig(num_codes=(num_codes,), composing_layers=(layer,), steps=steps)
    optimizer = inversion.default_optimizer(config)
    setup = make_setup(generator, weights.params, network, phi.params, config, optimizer)
    key, theirs = jax.random.key(seed), faces.astype(np.float32) / 255
    images = []
    for number, face in enumerate(theirs):
        latents = first_latents(jax.random.fold_in(key, number), setup)
        (reached,) = reach(face, latents, setup, (steps,))
        images.append(reached.hypotheses[0].image)
    made = np.stack(images)
    return Inverted(made, *map(np.asarray, likeness(*jax.device_put((made, theirs)))))
