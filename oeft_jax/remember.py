"""Networks and compiled functions made once in a process and used again for equal settings and parts."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

Made = TypeVar("Made")

KEPT = 4  # settings whose programs stay; the least recently used go first
KEPT_NETWORKS = 16  # descriptions of networks, which take little room


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


@dataclass(frozen=True)
class _Config:
    """A network's description, equal to others of the same JSON."""

    text: str
    values: dict[str, Any] = field(compare=False)


def remember_described(
    make: Callable[..., Made], *, most: int = KEPT_NETWORKS
) -> Callable[..., Made]:
    """As `remember`, of a `make(network, config, ...)` whose config is a dict, as weight files hold it."""
    kept = functools.lru_cache(maxsize=most)(
        lambda network, config, *more: make(network, config.values, *more)
    )

    @functools.wraps(make)
    def made(network: str, config: dict[str, Any], *more: Any) -> Made:
        try:
            text = json.dumps(config, sort_keys=True)
        except (TypeError, ValueError):  # JSON does not tell it from others
            return make(network, config, *more)
        return kept(network, _Config(text, dict(config)), *more)

    return made
