"""Stage 1 of a run as it goes: what is kept, saved and continued, for one pair or a group.

A group is tuned in lockstep, one pair on each device of a mesh. Its pairs share nothing but the
program, so a pair's numbers do not depend on the group that it is in.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from oeft_jax import correspondence
from oeft_jax._types import Params
from oeft_jax.checkpoint import Store
from oeft_jax.config import CorrespondenceConfig
from oeft_jax.correspondence import (
    CorrespondenceInfo,
    CorrespondenceState,
    NonFiniteError,
    Pair,
    Warp,
    row_of,
)
from oeft_jax.devices import PAIRS, replicate, spread, stack
from oeft_jax.jitted import jit_often, jit_once
from oeft_jax.losses import Losses
from oeft_jax.models.backbone import Backbone
from oeft_jax.remember import remember

HISTORY = (0.0, 0.1, 0.4, 1.0)  # parts of the run at which the warp is kept (Fig. 5)
NAME = "correspondence"  # of the saved state
OWN = P(PAIRS)
OnStep = Callable[[int, dict[str, float]], None]


class Programs(NamedTuple):
    """What stage 1 compiles. Made once for a configuration, used by every pair."""

    step: Callable  # correspondence.make_step's
    warp: Callable  # correspondence.make_warp's


class Tuned(NamedTuple):
    """Stage 1's outcome."""

    warp: Warp
    history: tuple[tuple[int, np.ndarray], ...]  # (step, soft warp)
    rows: tuple[dict[str, float], ...]  # loss and terms of each step


def programs(
    config: CorrespondenceConfig,
    backbone: Backbone,
    losses: Losses,
    optimizer: optax.GradientTransformation,
    mesh: Mesh | None = None,
) -> Programs:
    """The compiled functions of these settings and parts: the same objects for the same ones.

    With a mesh each device runs the program of one pair, and every argument and result has a
    leading axis of pairs.
    """
    return _make(config, backbone, tuple(sorted(losses.items())), optimizer, mesh)


@remember
def _make(
    config: CorrespondenceConfig,
    backbone: Backbone,
    losses: tuple[tuple[str, Any], ...],
    optimizer: optax.GradientTransformation,
    mesh: Mesh | None,
) -> Programs:
    step = correspondence.make_step(backbone, config, dict(losses), optimizer)
    warp = correspondence.make_warp(backbone, config)
    if mesh is None:
        return Programs(jit_often(step, donate_argnums=1), jit_once(warp))
    own: Any = [OWN] * len(Pair._fields)
    pair = Pair(*own)._replace(phi=P(), start=P())
    return Programs(
        spread(step, mesh, (P(), OWN, pair), donate=(1,)), spread(warp, mesh, (OWN, pair))
    )


@remember
def make_init(
    backbone: Backbone, config: CorrespondenceConfig, optimizer: optax.GradientTransformation
) -> Callable[[Params, jax.Array, jax.Array], tuple[CorrespondenceState, Pair]]:
    """`correspondence.init` as one program, (params, source, target) -> (state, pair)."""
    begin = correspondence.init
    return jit_once(partial(begin, backbone=backbone, config=config, optimizer=optimizer))


class Tuning:
    """Stage 1 of one pair: its state, its table of losses and the warps kept on the way.

    Continues what `store` holds. `state` is where the pair begins; whoever steps it owns it then.
    """

    def __init__(
        self,
        source: jax.Array,
        target: jax.Array,
        *,
        config: CorrespondenceConfig,
        backbone: Backbone,
        params: Params,
        losses: Losses,
        optimizer: optax.GradientTransformation,
        store: Store,
        save_every: int,
    ) -> None:
        state, self.pair = make_init(backbone, config, optimizer)(params, source, target)
        self.steps, self.save_every, self.store = config.steps, save_every, store
        self.marks = sorted({round(part * config.steps) for part in HISTORY})
        self.names = ["loss", *(name for name, (weight, _) in sorted(losses.items()) if weight)]
        saved: dict[str, Any] = {
            "state": state,
            "rows": np.full((self.steps, len(self.names)), np.nan),
            "history": np.zeros((len(self.marks), *source.shape[1:]), np.float32),
        }
        saved = store.load(NAME, saved)
        self.state: CorrespondenceState = saved["state"]
        self.rows, self.history = np.array(saved["rows"]), np.array(saved["history"])
        self.begins_at = int(self.state.step)

    def wants_save(self, number: int) -> bool:
        """Whether the state after so many steps is saved."""
        return number % self.save_every == 0 or number == self.steps

    def record(self, number: int, info: CorrespondenceInfo) -> dict[str, float]:
        """Enters what step `number` reported, and returns it as numbers.

        Every step computes the warp that it begins with, so those on the way cost nothing.
        """
        row = row_of(info)
        self.rows[number - 1] = [row[name] for name in self.names]
        if number - 1 in self.marks:
            self._keep(number - 1, info.soft)
        return row

    def _keep(self, number: int, soft: jax.Array) -> None:
        self.history[self.marks.index(number)] = np.asarray(soft)[0]

    def save(self, number: int, state: CorrespondenceState) -> None:
        """Saves what a continued run needs."""
        saved = {"state": state, "rows": self.rows, "history": self.history}
        self.store.save(NAME, number, saved)

    def finished(self, warp: Warp) -> Tuned:
        """The outcome, with the warp under the tuned weights."""
        self._keep(self.steps, warp.soft)
        numbers = ((float(value) for value in row) for row in self.rows)
        table = tuple(dict(zip(self.names, row, strict=True)) for row in numbers)
        return Tuned(warp, tuple(zip(self.marks, self.history, strict=True)), table)


def tune(key: jax.Array, one: Tuning, made: Programs, on_step: OnStep) -> Tuned:
    """Tunes one pair.

    Raises:
      NonFiniteError: the run went non-finite; its last good state is saved.
    """

    def after(number: int, state: CorrespondenceState, info: CorrespondenceInfo) -> None:
        row = one.record(number, info)
        if one.wants_save(number):
            one.save(number, state)
        on_step(number, row)

    try:
        state = correspondence.run(
            key, one.state, one.pair, step=made.step, num_steps=one.steps, on_step=after
        )
    except NonFiniteError as error:
        one.save(int(error.state.step), error.state)
        raise
    return one.finished(made.warp(state.params, one.pair))


def tune_group(
    key: jax.Array, group: Sequence[Tuning], made: Programs, mesh: Mesh, on_step: OnStep
) -> list[Tuned | NonFiniteError]:
    """Tunes as many pairs as the mesh has devices, or fewer, in lockstep.

    A group smaller than the mesh is filled with its last pair, whose further copies are ignored: a
    smaller mesh would be another program to compile. A pair that is done, or that went
    non-finite, is ignored from then on; a non-finite step has changed nothing.

    Args:
      made: the programs of `programs` for this mesh.
      on_step: told of the pair that has most steps to go.
    Returns:
      For each pair its outcome, or the error that ended it.
    """
    first = group[0].pair
    shared = {"phi": replicate(first.phi, mesh), "start": replicate(first.start, mesh)}
    pairs = stack([one.pair._replace(phi=(), start=()) for one in group], mesh)._replace(**shared)
    state = stack([one.state for one in group], mesh)
    numbers = [one.begins_at for one in group]
    outcomes: list[Tuned | NonFiniteError | None] = [None] * len(group)

    def end(places: Sequence[int]) -> None:
        """Ends the pairs at these places that are done."""
        done = [i for i in places if numbers[i] == group[i].steps]
        warps = jax.device_get(made.warp(state.params, pairs)) if done else None
        for i in done:
            outcomes[i] = group[i].finished(_at(warps, i))

    end(range(len(group)))
    while running := [i for i, outcome in enumerate(outcomes) if outcome is None]:
        state, info = made.step(key, state, pairs)
        info = jax.device_get(info)
        good = [i for i in running if info.finite[i]]
        rows = {}
        for i in good:
            numbers[i] += 1
            rows[i] = group[i].record(numbers[i], _at(info, i))
        end(good)
        lost = [i for i in running if not info.finite[i]]
        if due := lost + [i for i in good if group[i].wants_save(numbers[i])]:
            saved = jax.device_get(state)
            for i in due:
                group[i].save(numbers[i], _at(saved, i))
        for i in lost:
            outcomes[i] = correspondence.non_finite(numbers[i] + 1, _at(info, i), _at(saved, i))
        if good:
            last = min(good, key=lambda i: numbers[i])
            on_step(numbers[last], rows[last])
    return [outcome for outcome in outcomes if outcome is not None]


def _at(tree: Any, place: int) -> Any:
    """One pair's part of a stacked tree on the host."""
    return jax.tree.map(lambda leaf: leaf[place], tree)
