"""What every training script does to the state that it carries and saves."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from oeft_jax._types import Params

Tree = TypeVar("Tree")


def averaged(average: Params, params: Params, step: jax.Array, *, most: float = 0.999) -> Params:
    """The moving average one step on; its decay grows from 0.1 to `most`."""
    keep = jnp.minimum(most, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, p: keep * a + (1 - keep) * p, average, params)


def blank(function: Callable[..., Tree], *args: Any) -> Tree:
    """Zeros in the shape of what `function` returns, which is not computed: to restore into."""
    shapes = jax.eval_shape(function, *args)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
