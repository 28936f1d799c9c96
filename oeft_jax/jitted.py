"""`jax.jit`, with how hard a CPU's compiler tries chosen by how often the program runs.

Products and convolutions come from libraries and are as fast as ever; this is about the loops between them.
"""

from collections.abc import Callable
from typing import Any

import jax

ONCE = {"xla_backend_optimization_level": 0}  # half the time to compile, slower code
OFTEN = {"xla_backend_optimization_level": 1}  # three quarters of it, code as fast as the default's


def quick() -> dict[str, Any] | None:
    """Options of a program that a CPU compiles for longer than it runs; None elsewhere."""
    return _on_cpu(ONCE)


def _on_cpu(options: dict[str, Any]) -> dict[str, Any] | None:
    return options if jax.default_backend() == "cpu" else None


def jit_once(function: Callable, **options: Any) -> Callable:
    """`jax.jit` of a function that is called a few times. Takes its options."""
    return jax.jit(function, compiler_options=quick(), **options)


def jit_often(function: Callable, **options: Any) -> Callable:
    """`jax.jit` of a step. Takes its options; like `jit_once`, not for use inside another program."""
    least = jax.config.values["jax_disable_most_optimizations"]  # the user's own wish
    return jax.jit(function, compiler_options=None if least else _on_cpu(OFTEN), **options)
