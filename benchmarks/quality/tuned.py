"""A pair tuned under given settings, after several numbers of steps."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from oeft_jax import correspondence, loss_terms, pipeline, tuning
from oeft_jax._types import Params
from oeft_jax.config import Config, CorrespondenceConfig
from oeft_jax.consensus import consensus_matches
from oeft_jax.correspondence import Pair, Warp
from oeft_jax.models.backbone import Backbone
from oeft_jax.pipeline import Parts
from oeft_jax.products import precision
from oeft_jax.remember import remember


class Look(NamedTuple):
    """Stage 1 after so many steps."""

    step: int
    params: Params
    pair: Pair
    warp: Warp


def looks(
    source: np.ndarray, target: np.ndarray, config: Config, parts: Parts, at: Sequence[int]
) -> Iterator[Look]:
    """Stage 1 after each number of steps of `at`: what a run of so many steps gives.

    One run that is looked at on its way does for a rate that stays. Under one that falls to 0 at
    the last step, every number of steps is a run of its own.

    Args:
      source: [s, s, 3] in [0, 1].
      target: [s, s, 3].
      parts: their losses and optimiser must be those of the settings.
    """
    squares = [jnp.asarray(image)[None] for image in (source, target)]
    stays = config.correspondence.schedule == "constant"
    for run in [sorted(at)] if stays else [[number] for number in sorted(at)]:
        yield from _run(squares, config, parts, run)


def _run(
    squares: Sequence[jax.Array], config: Config, parts: Parts, at: Sequence[int]
) -> Iterator[Look]:
    """One run to the last number of steps of `at`, rising, looked at on its way."""
    stage = dataclasses.replace(config.correspondence, steps=at[-1])
    made = pipeline.programs_of(config, parts)  # serve any number of steps: it is in the state
    optimizer = correspondence.default_optimizer(stage)
    begin = tuning.make_init(parts.backbone, stage, optimizer)
    with precision(config.precision):
        state, pair = begin(parts.params, *squares)
    key = pipeline.tuning_key(config)
    for number in at:
        with precision(config.precision):
            state = correspondence.run(key, state, pair, step=made.step, num_steps=number)
            warp = made.warp(state.params, pair)
        yield Look(number, state.params, pair, warp)


def under(config: Config, parts: Parts) -> Parts:
    """The parts with the losses and the optimiser of other settings of stage 1."""
    stage = config.correspondence
    return parts._replace(
        losses=loss_terms.default_losses(stage),
        optimizer=correspondence.default_optimizer(stage),
    )


def backward(look: Look, config: Config, parts: Parts) -> np.ndarray:
    """The best source cell of every target cell. [p] int."""
    turned = _turned(parts.backbone, config.correspondence)
    return np.asarray(turned(look.params, look.pair)[0])


@remember
def _turned(backbone: Backbone, stage: CorrespondenceConfig) -> Callable[[Params, Pair], jax.Array]:
    def best(params: Params, pair: Pair) -> jax.Array:
        matches = correspondence.matches_of(params, pair, backbone=backbone, config=stage)
        return consensus_matches(matches.turned(), window=stage.consensus, alpha=stage.alpha)[0]

    return jax.jit(best)
