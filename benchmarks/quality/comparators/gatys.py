"""Neural style transfer (Gatys et al. 2016) in the package's feature network.

Pixels are optimised, from the source on: one deep layer is to stay the source's, the Gram matrices
are to become the target's. Both terms are relative, so that one weight fits every network. The
paper uses L-BFGS; Adam at this rate reached a lower loss in the same time (one pair tried), and a rate
four times larger left noise.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from oeft_jax._types import Params
from oeft_jax.losses import gram, gram_loss
from oeft_jax.models.backbone import Backbone
from oeft_jax.pipeline import Parts
from oeft_jax.remember import remember

CONTENT = "relu4_1"  # conv4_2 in the paper; the nearest that the bundled network was taught
STYLE = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
STYLE_WEIGHT = 10.0
STEPS = 200
LEARNING_RATE = 0.005  # of pixels in [0, 1]

Grams = dict[str, jax.Array]
Objective = Callable[[jax.Array, Params, jax.Array, Grams], jax.Array]


def picture(
    source: np.ndarray, target: np.ndarray, parts: Parts, seed: int, *, steps: int = STEPS
) -> np.ndarray:
    """The source in the target's style. Begins at the source, so nothing is random.

    Args:
      source: [s, s, 3] in [0, 1].
      target: [s, s, 3] in [0, 1].
    Returns:
      [s, s, 3] float32 in [0, 1].
    """
    del seed
    features = parts.backbone.apply
    content = features(parts.params, jnp.asarray(source)[None], (CONTENT,))[CONTENT]
    styles = features(parts.params, jnp.asarray(target)[None], STYLE)
    grams = {tap: gram(value) for tap, value in styles.items()}
    step, optimizer = _program(parts.backbone)
    pixels = jnp.asarray(source, jnp.float32)[None]
    state = optimizer.init(pixels)
    for _ in range(steps):
        pixels, state = step(pixels, state, parts.params, content, grams)
    return np.asarray(pixels[0])


def make_objective(backbone: Backbone) -> Objective:
    """(picture [1, s, s, 3], params, the source's content, the target's Grams) -> [] loss."""

    def objective(
        picture: jax.Array, params: Params, content: jax.Array, grams: Grams
    ) -> jax.Array:
        features = backbone.apply(params, picture, tuple({CONTENT, *STYLE}))
        gap = jnp.mean((features[CONTENT] - content) ** 2) / (jnp.mean(content**2) + 1e-12)
        styles = [gram_loss(features[tap], grams[tap]) for tap in STYLE]
        return gap + STYLE_WEIGHT * jnp.mean(jnp.stack(styles))

    return objective


@remember
def _program(backbone: Backbone) -> tuple[Callable, optax.GradientTransformation]:
    """(the jitted step, its optimiser)."""
    objective, optimizer = make_objective(backbone), optax.adam(LEARNING_RATE)

    def step(
        picture: jax.Array,
        state: optax.OptState,
        params: Params,
        content: jax.Array,
        grams: Grams,
    ) -> tuple[jax.Array, optax.OptState]:
        slope = jax.grad(objective)(picture, params, content, grams)
        updates, state = optimizer.update(slope, state)
        return jnp.clip(picture + updates, 0, 1), state

    return jax.jit(step), optimizer
