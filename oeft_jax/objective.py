"""What inverted pictures must reach: D(down(y), r) of Eq. 12, for many hypotheses at once."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from oeft_jax._types import Params, Terms
from oeft_jax.composition import Latents, Plan, generate, spread
from oeft_jax.config import InversionConfig
from oeft_jax.models.backbone import Backbone
from oeft_jax.models.generator import Generator
from oeft_jax.models.layers import average_pool


class Goal(NamedTuple):
    """What the pictures must reach."""

    generator: Params
    phi: Params  # weights of the perceptual network
    warped: jax.Array  # [s, s, 3] in [-1, 1], r at the size it is compared in
    warped_phi: jax.Array  # [1, h, w, c], its features, computed once


# (latents, goal, plan) -> (losses [h], weighted terms [h] each, pictures [h, R, R, 3])
Objective = Callable[[tuple[Latents, ...], Goal, Plan], tuple[jax.Array, Terms, jax.Array]]


def down(image: jax.Array, size: int, *, mode: str = "area") -> jax.Array:
    """down() of Eq. 12: [R, R, 3] -> [size, size, 3]; the image itself if it is no larger.

    "bilinear" is the released operator (no antialiasing: three quarters of the pixels or more get
    no gradient), "area" the block mean.
    """
    side = image.shape[0]
    if side <= size:
        return image
    if mode == "area" and side % size == 0:
        return average_pool(image[None], side // size)[0]
    return jax.image.resize(image, (size, size, 3), "linear", antialias=mode == "area")


def make_goal(
    warped: jax.Array | np.ndarray,
    generator: Generator,
    params: Params,
    phi: Params,
    *,
    backbone: Backbone,
    config: InversionConfig,
) -> Goal:
    """r, [s, s, 3] in [0, 1], at the smaller of its own and the generator's size."""
    size = min(warped.shape[0], generator.resolution)
    small = down(jnp.asarray(warped) * 2 - 1, size, mode="area")
    features = backbone.apply(phi, small[None] * 0.5 + 0.5, (config.perceptual_tap,))
    return Goal(params, phi, small, features[config.perceptual_tap])


def make_objective(
    generator: Generator, backbone: Backbone, config: InversionConfig, *, mesh: Mesh | None = None
) -> Objective:
    """D(down(y), r) of Eq. 12 for every hypothesis, and the pictures y, nominally in [-1, 1]."""

    def mean(x: jax.Array) -> jax.Array:
        return jnp.mean(x, axis=(1, 2, 3))

    def objective(
        latents: tuple[Latents, ...], goal: Goal, plan: Plan
    ) -> tuple[jax.Array, Terms, jax.Array]:
        images = generate(generator, goal.generator, latents, plan, mesh=mesh)
        size = goal.warped.shape[0]
        small = jax.vmap(lambda image: down(image, size, mode=config.down))(images)
        difference = small - goal.warped[None]
        terms = {}
        if config.l1:
            terms["l1"] = config.l1 * mean(jnp.abs(difference))
        if config.l2:
            terms["l2"] = config.l2 * mean(difference**2)
        if config.perceptual:
            tap = config.perceptual_tap
            seen = spread(small * 0.5 + 0.5, mesh)
            ours = backbone.apply(goal.phi, seen, (tap,))[tap][: len(plan)]
            gap = mean(jnp.abs(ours - goal.warped_phi))
            if config.perceptual_relative:
                gap = gap / (jnp.mean(jnp.abs(goal.warped_phi)) + 1e-12)
            terms["perceptual"] = config.perceptual * gap
        return sum(terms.values(), jnp.zeros(len(plan))), terms, images

    return objective
