"""The learning rate over the steps, as a part of an optax chain."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class CosineState(NamedTuple):
    """Carried between steps and saved."""

    taken: jax.Array  # [], int32: steps taken
    steps: jax.Array  # [], int32: steps in all


def cosine_fall(steps: int) -> optax.GradientTransformation:
    """Updates times half a cosine, from 1 at the first step to nearly 0 at the last (then 0).

    The same numbers as `optax.cosine_decay_schedule`, but the number of steps is in the state and
    not in the program, so that another number of steps compiles nothing.
    """

    def init(params: optax.Params) -> CosineState:
        del params
        return CosineState(jnp.int32(0), jnp.int32(max(steps, 1)))

    def update(
        updates: optax.Updates, state: CosineState, params: Any = None
    ) -> tuple[optax.Updates, CosineState]:
        del params
        part = jnp.minimum(state.taken / state.steps, 1)
        factor = (1 + jnp.cos(jnp.pi * part)) / 2
        return jax.tree.map(lambda u: factor * u, updates), state._replace(taken=state.taken + 1)

    return optax.GradientTransformation(init, update)
