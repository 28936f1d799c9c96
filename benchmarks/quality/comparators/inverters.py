"""Every way to invert a picture, with one hypothesis each, and what a step of it costs."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.quality.comparators import mganprior, pulse, spaces
from benchmarks.quality.comparators.spaces import Space
from oeft_jax import inversion
from oeft_jax.composition import Latents, Plan, plan_of
from oeft_jax.config import InversionConfig
from oeft_jax.pipeline import Parts
from training.invertibility import Setup, first_latents, make_setup


class Method(NamedTuple):
    """One way to invert."""

    name: str
    setup: Setup
    start: Callable[[jax.Array], tuple[Latents, ...]]  # of a random key
    given: Callable[[np.ndarray], np.ndarray]  # picture -> what is to be matched


class Budget(NamedTuple):
    """How far a method goes."""

    equal_steps: int
    equal_compute: int  # also steps
    operations: float  # of one step


def methods(parts: Parts, config: InversionConfig) -> list[Method]:
    """Single codes, PULSE, the multi-code settings in the order of the plan, and mGANprior's."""
    generator = spaces.require_generator(parts)
    return [
        *(_single_code(space, parts, config) for space in spaces.spaces(generator)),
        _pulse(parts, config),
        *(multi_code(name_of(*one), one, parts, config) for one in plan_of(config)),
        multi_code("mGANprior", mganprior.setting(generator), parts, config),
    ]


def name_of(layer: int, num_codes: int) -> str:
    """What a multi-code setting is called."""
    return f"layer {layer}, {num_codes} codes"


def multi_code(
    name: str, setting: tuple[int, int], parts: Parts, config: InversionConfig
) -> Method:
    """Multi-code inversion with one (composing layer, number of codes)."""
    setup = make_setup(
        spaces.require_generator(parts),
        parts.generator_params,
        parts.backbone,
        parts.params,
        spaces.single(config, *setting),
        parts.inversion_optimizer,
    )
    return Method(name, setup, lambda key: first_latents(key, setup), _itself)


def _single_code(space: Space, parts: Parts, config: InversionConfig) -> Method:
    def start(key: jax.Array) -> tuple[Latents, ...]:
        return spaces.start(key, space, parts.generator_params)

    setup = spaces.setup(space, parts, config)
    return Method(f"single code, {space.name}", setup, start, _itself)


def _pulse(parts: Parts, config: InversionConfig) -> Method:
    def start(key: jax.Array) -> tuple[Latents, ...]:
        return pulse.first_latents(key, parts)

    def given(picture: np.ndarray) -> np.ndarray:
        return pulse.made_small(picture, spaces.require_generator(parts))

    return Method("PULSE", pulse.setup(parts, config), start, given)


def _itself(picture: np.ndarray) -> np.ndarray:
    return picture


def budgets(
    found: Sequence[Method], picture: np.ndarray, plan: Plan, steps: int
) -> dict[str, Budget]:
    """How far every method goes: `steps`, and as far as costs what `steps` of the plan cost."""
    costs = {method.name: operations(method, picture) for method in found}
    whole = steps * sum(costs[name_of(*one)] for one in plan)
    return {name: Budget(steps, max(1, round(whole / cost)), cost) for name, cost in costs.items()}


def operations(method: Method, picture: np.ndarray) -> float:
    """Floating-point operations of one step, as its program counts them before it is compiled."""
    setup = method.setup
    goal = setup.programs.make_goal(method.given(picture), params=setup.params, phi=setup.phi)
    state = inversion.init_from(method.start(jax.random.key(0)), setup.optimizer)
    step: Any = setup.programs.step  # jitted
    return float(step.lower(state, goal, (0,)).cost_analysis()["flops"])
