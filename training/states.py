"""What every training script does to the state that it carries and saves."""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from oeft_jax._checks import InputError
from oeft_jax._types import Params
from oeft_jax.weights import load_weights

Tree = TypeVar("Tree")


def averaged(average: Params, params: Params, step: jax.Array, *, most: float = 0.999) -> Params:
    """The moving average one step on; its decay grows from 0.1 to `most`."""
    keep = jnp.minimum(most, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, p: keep * a + (1 - keep) * p, average, params)


def add_start_flags(parser: argparse.ArgumentParser, beside: str) -> None:
    """Flags to go on from a weight file where the state that it came from is lost."""
    parser.add_argument("--start", type=Path, help="weight file to begin with")
    parser.add_argument(
        "--frozen-steps",
        type=int,
        default=0,
        help=f"first steps, in which only {beside} are fitted",
    )


def started(file: Path, network: str, *configs: Mapping[str, Any]) -> tuple[Params, int]:
    """The weights of a file, and which of `configs` it has.

    Raises:
      InputError: it cannot be read, or holds another network.
    """
    weights = load_weights(file)
    found, *wanted = (json.dumps(dict(x), sort_keys=True) for x in (weights.config, *configs))
    if weights.network != network or found not in wanted:
        accepted = " or ".join(f"{network} {config}" for config in wanted)
        raise InputError(f"--start {file}: holds {weights.network} {found}; accepted: {accepted}.")
    return jax.tree.map(jnp.asarray, weights.params), wanted.index(found)


def held(updates: Params, step: jax.Array, frozen_steps: int) -> Params:
    """Updates, or zeros in the first `frozen_steps` steps."""
    return jax.tree.map(lambda update: jnp.where(step < frozen_steps, 0.0, update), updates)


def blank(function: Callable[..., Tree], *args: Any) -> Tree:
    """Zeros in the shape of what `function` returns, which is not computed: to restore into."""
    shapes = jax.eval_shape(function, *args)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
