"""How near a generator comes to faces it was not trained on: PSNR and SSIM of inversions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from oeft_jax import inversion
from oeft_jax.config import InversionConfig
from oeft_jax.metrics import SSIM_WINDOW, psnr, ssim
from oeft_jax.models.backbone import Backbone
from oeft_jax.models.generator import Generator
from oeft_jax.weights import Weights


class Inverted(NamedTuple):
    """Inversions of n faces."""

    images: np.ndarray  # [n, R, R, 3] in [0, 1]
    psnr: np.ndarray  # [n] dB
    ssim: np.ndarray  # [n]; 0 where the generator is too small for SSIM's window


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
    step = inversion.make_step(generator, network, config, optimizer, layer)  # compiled once
    key = jax.random.key(seed)

    @jax.jit
    def finished(latents: inversion.Latents, goal: inversion.Goal) -> jax.Array:
        one = jax.tree.map(lambda leaf: leaf[0], latents)
        image = inversion.generate(generator, goal.generator, one, goal.mask[0], layer)
        return jnp.clip(image * 0.5 + 0.5, 0, 1)

    images = []
    for number, face in enumerate(faces):
        goal = inversion.make_goal(
            face.astype(np.float32) / 255,
            generator,
            weights.params,
            phi.params,
            (num_codes,),
            backbone=network,
            config=config,
        )
        latents = inversion.init_latents(
            jax.random.fold_in(key, number), generator, weights.params, layer, (num_codes,)
        )
        state = inversion.init(latents, optimizer)
        state = inversion.run(state, goal, step=step, num_steps=steps)
        images.append(np.asarray(finished(state.best, goal)))
    made, theirs = jnp.asarray(np.stack(images)), jnp.asarray(faces, jnp.float32) / 255
    likeness = ssim(made, theirs) if faces.shape[1] >= SSIM_WINDOW else jnp.zeros(len(faces))
    return Inverted(np.stack(images), np.asarray(psnr(made, theirs)), np.asarray(likeness))
