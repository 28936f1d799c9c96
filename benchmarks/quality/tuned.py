"""A pair tuned under given settings, looked at on the way."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from oeft_jax import correspondence, pipeline
from oeft_jax._types import Params
from oeft_jax.config import Config, CorrespondenceConfig
from oeft_jax.correspondence import Pair, Warp
from oeft_jax.models.backbone import Backbone, used_params
from oeft_jax.pipeline import Parts
from oeft_jax.remember import remember
from oeft_jax.warp import best_matches


class Look(NamedTuple):
    """Stage 1 after so many steps."""

    step: int
    params: Params
    pair: Pair
    warp: Warp
    row: dict[str, float]  # loss and terms of the last step


def looks(
    source: np.ndarray, target: np.ndarray, config: Config, parts: Parts, at: Sequence[int]
) -> Iterator[Look]:
    """Stage 1 as it goes: after each number of steps of `at`, rising.

    Args:
      source: [s, s, 3] in [0, 1].
      target: [s, s, 3].
      parts: their losses must be those of the settings.
    """
    stage = config.correspondence
    made = pipeline.programs_of(config, parts)
    state, pair = correspondence.init(
        used_params(parts.backbone, parts.params, stage.taps),
        parts.params,
        *(jnp.asarray(image)[None] for image in (source, target)),
        backbone=parts.backbone,
        config=stage,
        optimizer=parts.optimizer,
    )
    key, row = pipeline.tuning_key(config), {"loss": float("nan")}
    for number in range(max(at) + 1):
        if number in at:
            yield Look(number, state.params, pair, made.warp(state.params, pair), row)
        if number < max(at):
            state, info = made.step(key, state, pair)
            if not bool(info.finite):
                raise correspondence.non_finite(number + 1, info, state)
            row = correspondence.row_of(info)


def under(config: Config, parts: Parts) -> Parts:
    """The parts with the losses and the optimiser of other settings of stage 1."""
    stage = config.correspondence
    return parts._replace(
        losses=correspondence.default_losses(stage),
        optimizer=correspondence.default_optimizer(stage),
    )


def backward(look: Look, config: Config, parts: Parts) -> np.ndarray:
    """The best source cell of every target cell. [p] int."""
    turned = _turned(parts.backbone, config.correspondence)
    return np.asarray(turned(look.params, look.pair)[0])


@remember
def _turned(backbone: Backbone, stage: CorrespondenceConfig) -> Callable[[Params, Pair], jax.Array]:
    def best(params: Params, pair: Pair) -> jax.Array:
        matches, _ = correspondence.correlate(
            params, pair.source, pair.target, pair.scales, backbone=backbone, config=stage
        )
        return best_matches(matches.turned())

    return jax.jit(best)
