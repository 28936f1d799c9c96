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
    programs = inversion.make_programs(generator, network, config, optimizer)  # compiled once
    key = jax.random.key(seed)
    images = []
    for number, face in enumerate(faces):
        warped = face.astype(np.float32) / 255
        goal = programs.make_goal(warped, params=weights.params, phi=phi.params)
        state = inversion.init(
            jax.random.fold_in(key, number), generator, weights.params, programs.plan, optimizer
        )
        state = inversion.run(state, goal, step=programs.step, num_steps=steps)
        images.append(np.asarray(programs.finish(state, goal, (0,))[0][0]))
    made, theirs = jnp.asarray(np.stack(images)), jnp.asarray(faces, jnp.float32) / 255
    likeness = ssim(made, theirs) if faces.shape[1] >= SSIM_WINDOW else jnp.zeros(len(faces))
    return Inverted(np.stack(images), np.asarray(psnr(made, theirs)), np.asarray(likeness))
