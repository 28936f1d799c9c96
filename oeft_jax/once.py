"""Programs that run a few times in a run, which are compiled for longer than they run."""

from collections.abc import Callable
from typing import Any

import jax

# Products and convolutions come from libraries and are as fast as ever; the loops between them are not.
FAST = {"xla_backend_optimization_level": 0}


def quick() -> dict[str, Any] | None:
    """Options with which a CPU compiles in half the time, to slower code; None elsewhere."""
    return FAST if jax.default_backend() == "cpu" else None


def jit_once(function: Callable, **options: Any) -> Callable:
    """`jax.jit` of a function that is called a few times. Takes its options."""
    return jax.jit(function, compiler_options=quick(), **options)
