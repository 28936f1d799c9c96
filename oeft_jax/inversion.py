"""Multiple GAN inversion (Sec. 3.3): init / step / run over latent codes of many hypotheses.

A hypothesis is a composing layer and a number of codes. Hypotheses of one layer are one program:
`vmap` over their latents, code counts padded to the largest and masked. The generator is frozen and
shared, so the `vmap` is a plain batch. Leading axis h counts hypotheses, k codes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from oeft_jax._checks import InputError, check_range
from oeft_jax._types import Params, Terms
from oeft_jax.config import InversionConfig
from oeft_jax.correspondence import NonFiniteError
from oeft_jax.metrics import SSIM_WINDOW, psnr, ssim
from oeft_jax.models.backbone import Backbone
from oeft_jax.models.generator import Generator
from oeft_jax.models.layers import average_pool


class Latents(NamedTuple):
    """What is optimised for one hypothesis, or with a leading axis for h of them."""

    codes: jax.Array  # [k, d]
    importance: jax.Array  # [k, c], weight of each channel of each code's features
    tail: jax.Array  # [t, d], codes of the layers after the composition (none for PGGAN)


class InversionState(NamedTuple):
    """Carried between steps and saved."""

    step: jax.Array  # [], int32
    latents: Latents  # [h, ...]
    opt_state: optax.OptState
    best: Latents  # [h, ...], of the smallest loss so far
    best_loss: jax.Array  # [h]


class InversionInfo(NamedTuple):
    """Reported, never carried."""

    loss: jax.Array  # [h]
    terms: Terms  # name -> [h]


class Goal(NamedTuple):
    """What the pictures must reach."""

    generator: Params
    phi: Params  # weights of the perceptual network
    warped: jax.Array  # [s, s, 3] in [-1, 1], r at the size it is compared in
    warped_phi: jax.Array  # [1, h, w, c], its features
    mask: jax.Array  # [h, k], 1 for codes in use


class Hypothesis(NamedTuple):
    """One finished inversion."""

    composing_layer: int
    num_codes: int
    image: np.ndarray  # [R, R, 3] in [0, 1]
    loss: float  # the objective of Eq. 12 at the codes kept
    psnr: float  # of down(y) against r, dB
    ssim: float  # of down(y) against r; 0 where r is too small for its window


def check_layers(generator: Generator, config: InversionConfig) -> None:
    """Raises InputError when a composing layer does not exist in the generator."""
    for layer in config.composing_layers:
        check_range("--inversion-composing-layers", layer, 1, generator.num_layers)


def make_mask(num_codes: tuple[int, ...]) -> jax.Array:
    """[h, max(num_codes)]: 1 for each code in use."""
    return (jnp.arange(max(num_codes))[None, :] < jnp.array(num_codes)[:, None]).astype(jnp.float32)


def init_latents(
    key: jax.Array, generator: Generator, params: Params, layer: int, num_codes: tuple[int, ...]
) -> Latents:
    """Start values: the generator's own codes, every importance 1 / number of codes. [h, ...]."""
    h, k, c = len(num_codes), max(num_codes), generator.channels(layer)
    codes = generator.init_codes(key, params, h * k).reshape(h, k, generator.code_dim)
    share = 1.0 / jnp.array(num_codes, jnp.float32)
    importance = jnp.broadcast_to(share[:, None, None], (h, k, c))
    tail = generator.init_tail_codes(params, layer)
    return Latents(codes, importance, jnp.broadcast_to(tail[None], (h, *tail.shape)))


def generate(
    generator: Generator, params: Params, latents: Latents, mask: jax.Array, layer: int
) -> jax.Array:
    """y = tail(sum_k importance_k * head(code_k)) for one hypothesis. -> [R, R, 3] in [-1, 1].

    mGANprior's code also divides by the number of codes, which a PixelNorm undoes; we do not.
    """
    features = generator.head(params, latents.codes, layer)
    weight = (latents.importance * mask[:, None])[:, None, None, :]
    composed = jnp.sum(features * weight, axis=0, keepdims=True)
    return generator.tail(params, composed, latents.tail[None], layer)[0]


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
    num_codes: tuple[int, ...],
    *,
    backbone: Backbone,
    config: InversionConfig,
) -> Goal:
    """r, [s, s, 3] in [0, 1], at the smaller of its own and the generator's size."""
    size = min(warped.shape[0], generator.resolution)
    small = down(jnp.asarray(warped) * 2 - 1, size, mode="area")
    features = backbone.apply(phi, small[None] * 0.5 + 0.5, (config.perceptual_tap,))
    return Goal(params, phi, small, features[config.perceptual_tap], make_mask(num_codes))


def default_optimizer(config: InversionConfig) -> optax.GradientTransformation:
    """Adam, or the released plain SGD."""
    if config.optimizer == "sgd":
        return optax.sgd(config.learning_rate)
    return optax.adam(config.learning_rate)


def make_objective(
    generator: Generator, backbone: Backbone, config: InversionConfig, layer: int
) -> Callable[[Latents, jax.Array, Goal], tuple[jax.Array, Terms]]:
    """D(down(y), r) of Eq. 12 for one hypothesis: (latents, mask, goal) -> (loss, terms)."""

    def objective(latents: Latents, mask: jax.Array, goal: Goal) -> tuple[jax.Array, Terms]:
        image = generate(generator, goal.generator, latents, mask, layer)
        image = down(image, goal.warped.shape[0], mode=config.down)
        difference = image - goal.warped
        terms = {}
        if config.l1:
            terms["l1"] = config.l1 * jnp.mean(jnp.abs(difference))
        if config.l2:
            terms["l2"] = config.l2 * jnp.mean(difference**2)
        if config.perceptual:
            tap = config.perceptual_tap
            ours = backbone.apply(goal.phi, image[None] * 0.5 + 0.5, (tap,))[tap]
            gap = jnp.mean(jnp.abs(ours - goal.warped_phi))
            if config.perceptual_relative:
                gap = gap / (jnp.mean(jnp.abs(goal.warped_phi)) + 1e-12)
            terms["perceptual"] = config.perceptual * gap
        return sum(terms.values(), jnp.float32(0)), terms

    return objective


def init(latents: Latents, optimizer: optax.GradientTransformation) -> InversionState:
    """Nothing tried yet."""
    worst = jnp.full((latents.codes.shape[0],), jnp.inf, latents.codes.dtype)
    best = jax.tree.map(jnp.copy, latents)
    latents = jax.tree.map(jnp.copy, latents)  # the state is donated: no buffer twice in it
    return InversionState(jnp.int32(0), latents, optimizer.init(latents), best, worst)


def make_step(
    generator: Generator,
    backbone: Backbone,
    config: InversionConfig,
    optimizer: optax.GradientTransformation,
    layer: int,
) -> Callable[[InversionState, Goal], tuple[InversionState, InversionInfo]]:
    """The jitted step of all hypotheses of one layer; the state passed in is donated."""
    objective = make_objective(generator, backbone, config, layer)

    def all_losses(latents: Latents, goal: Goal) -> tuple[jax.Array, tuple[jax.Array, Terms]]:
        each = jax.vmap(lambda one, mask: objective(one, mask, goal))
        losses, terms = each(latents, goal.mask)
        return jnp.sum(losses), (losses, terms)  # independent, so the sum's gradient is each one's

    def step(state: InversionState, goal: Goal) -> tuple[InversionState, InversionInfo]:
        grads, (losses, terms) = jax.grad(all_losses, has_aux=True)(state.latents, goal)
        better = losses < state.best_loss  # False for NaN: a lost hypothesis keeps its best
        best = jax.tree.map(
            lambda new, old: jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old),
            state.latents,
            state.best,
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.latents)
        latents = optax.apply_updates(state.latents, updates)
        best_loss = jnp.where(better, losses, state.best_loss)
        state = InversionState(state.step + 1, latents, opt_state, best, best_loss)
        return state, InversionInfo(losses, terms)

    return jax.jit(step, donate_argnums=0)


def run(
    state: InversionState,
    goal: Goal,
    *,
    step: Callable[[InversionState, Goal], tuple[InversionState, InversionInfo]],
    num_steps: int,
    on_step: Callable[[int, dict[str, Any]], None] | None = None,
) -> InversionState:
    """Steps until `num_steps` have been taken; the best codes of each hypothesis are in `best`.

    Raises:
      NonFiniteError: no hypothesis has ever had a finite loss.
    """
    for number in range(int(state.step), num_steps):
        state, info = step(state, goal)
        if not np.isfinite(np.asarray(state.best_loss)).any():
            bad = [n for n, value in info.terms.items() if not np.isfinite(value).all()]
            raise NonFiniteError(
                f"inversion step {number + 1}: term {(bad or ['loss'])[0]!r} is not finite; "
                "try a smaller --inversion-learning-rate.",
                state,
            )
        if on_step is not None:
            row = {name: np.asarray(value) for name, value in info.terms.items()}
            on_step(number + 1, {"loss": np.asarray(info.loss), **row})
    return state


def invert_layer(
    key: jax.Array,
    warped: jax.Array | np.ndarray,
    generator: Generator,
    params: Params,
    phi: Params,
    layer: int,
    *,
    backbone: Backbone,
    config: InversionConfig,
    optimizer: optax.GradientTransformation,
    on_step: Callable[[int, dict[str, Any]], None] | None = None,
) -> list[Hypothesis]:
    """All hypotheses of one composing layer, inverted together.

    Args:
      warped: [s, s, 3] in [0, 1], stage 1's r.
      phi: weights of the perceptual network.
    """
    counts = config.num_codes
    goal = make_goal(warped, generator, params, phi, counts, backbone=backbone, config=config)
    latents = init_latents(jax.random.fold_in(key, layer), generator, params, layer, counts)
    step = make_step(generator, backbone, config, optimizer, layer)
    state = run(init(latents, optimizer), goal, step=step, num_steps=config.steps, on_step=on_step)

    def finished(
        one: Latents, mask: jax.Array, goal: Goal
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        image = generate(generator, goal.generator, one, mask, layer)
        small = down(image, goal.warped.shape[0], mode=config.down)
        ours, theirs = jnp.clip(small * 0.5 + 0.5, 0, 1), goal.warped * 0.5 + 0.5
        likeness = ssim(ours, theirs) if ours.shape[0] >= SSIM_WINDOW else jnp.zeros(())
        return jnp.clip(image * 0.5 + 0.5, 0, 1), psnr(ours, theirs), likeness

    all_finished = jax.jit(jax.vmap(finished, in_axes=(0, 0, None)))
    images, psnrs, ssims = all_finished(state.best, goal.mask, goal)
    best = np.asarray(state.best_loss)
    return [
        Hypothesis(
            layer, count, np.asarray(images[i]), float(best[i]), float(psnrs[i]), float(ssims[i])
        )
        for i, count in enumerate(counts)
        if np.isfinite(best[i])
    ]


def require(hypotheses: list[Hypothesis]) -> list[Hypothesis]:
    """Returns them; raises InputError when there is none to choose from."""
    if not hypotheses:
        raise InputError("no hypothesis to choose from; give at least one composing layer.")
    return hypotheses
