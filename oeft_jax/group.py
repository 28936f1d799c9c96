"""translate() for as many pairs as there are devices.

Stage 1 gives each device a pair, in lockstep; stage 2 takes one pair after another, its hypotheses
split over the devices.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from jax.sharding import Mesh

from oeft_jax import pipeline, tuning
from oeft_jax._checks import InputError
from oeft_jax.checkpoint import Store
from oeft_jax.config import Config
from oeft_jax.correspondence import NonFiniteError
from oeft_jax.memory import OutOfMemory, guard
from oeft_jax.pipeline import Parts, Progress, Translation
from oeft_jax.products import precision

Made = TypeVar("Made")

FAILURES = (InputError, NonFiniteError, OSError, OutOfMemory)  # of one pair; the others go on


def attempt(make: Callable[[], Made]) -> Made | Exception:
    """What `make` returns, or the error that ended this pair."""
    try:
        return make()
    except FAILURES as error:
        return error


def translate_group(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    config: Config,
    *,
    parts: Parts,
    mesh: Mesh,
    on_progress: Callable[[Progress], None] | None = None,
    state_folders: Sequence[Path | None] | None = None,
) -> list[Translation | Exception]:
    """What `translate` makes of each pair, or the error that it raises for it.

    Stage 1 takes a device for each pair. The devices step together, so its seconds are the
    group's for each of its pairs.

    Args:
      pairs: (source, target) as `translate` takes them; 1 to as many as the mesh has devices.
      mesh: of `devices.pair_mesh`; the same mesh, the same compiled programs.
      on_progress: told of the pair that has most steps to go.
      state_folders: of each pair.
    """
    tell = on_progress or (lambda _: None)
    stores = [Store(folder) for folder in state_folders or [None] * len(pairs)]
    with precision(config.precision):
        began = time.monotonic()
        group = [
            attempt(partial(pipeline.begin, source, target, config, parts, store))
            for (source, target), store in zip(pairs, stores, strict=True)
        ]
        ready = [one for one in group if isinstance(one, tuning.Tuning)]
        tuned = iter(_tuned(ready, config, parts, mesh, tell))
        seconds = time.monotonic() - began
        results: list[Translation | Exception] = []
        for photos, one, store in zip(pairs, group, stores, strict=True):
            outcome = one if isinstance(one, Exception) else next(tuned)
            if isinstance(outcome, Exception):
                results.append(outcome)
            elif isinstance(one, tuning.Tuning):
                ready_one = (photos, one, outcome, config, parts)
                end = partial(pipeline.finish, *ready_one, tell=tell, store=store)
                results.append(attempt(partial(end, seconds=seconds, mesh=mesh)))
    return results


def _tuned(
    group: Sequence[tuning.Tuning],
    config: Config,
    parts: Parts,
    mesh: Mesh,
    tell: Callable[[Progress], None],
) -> Sequence[tuning.Tuned | Exception]:
    """Stage 1 of the group; memory that runs out ends each of its pairs."""
    if not group:
        return []
    made = pipeline.programs_of(config, parts, mesh)
    on_step = pipeline.stage_1(config, tell)
    try:
        with guard(pipeline.STAGES[0]):
            return tuning.tune_group(pipeline.tuning_key(config), group, made, mesh, on_step)
    except OutOfMemory as error:
        return [error] * len(group)
