"""Compiled functions made once in a process and used again for equal settings and parts."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

Made = TypeVar("Made")

KEPT = 4  # settings whose programs stay; the least recently used go first


def remember(make: Callable[..., Made]) -> Callable[..., Made]:
    """`make`, returning what it returned before for equal arguments.

    `jax.jit` compiles anew for every new function object, so a function that makes one has to give
    the same object to be compiled once. A part from outside that has no hash cannot be told from
    another, so with it everything is made anew.
    """
    kept = functools.lru_cache(maxsize=KEPT)(make)

    @functools.wraps(make)
    def made(*arguments: Any, **options: Any) -> Made:
        try:
            hash((arguments, tuple(options.values())))
        except TypeError:
            return make(*arguments, **options)
        return kept(*arguments, **options)

    return made
