"""Whether a run fits into the memory that is there, and which smaller settings would."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from oeft_jax import correspondence, loss_terms, memory
from oeft_jax._checks import InputError
from oeft_jax.config import WORKING, Config
from oeft_jax.flags import flags_between
from oeft_jax.memory_plan import MIB, STAGES, Need, needed, needs, picture, stage_1, stage_2
from oeft_jax.pipeline import Parts
from oeft_jax.tiled import TILE

CELLS = 64  # of the method's correlation, on a side: a larger grid is given up first
CELL = 4  # px, side of a cell that a smaller image keeps
LEAST = 64  # px, smallest image that is proposed


def check(
    config: Config, parts: Parts, *, free: Callable[[], int | None] | None = None
) -> tuple[Need, ...]:
    """What each stage needs, if it is there.

    Args:
      free: says what the device has left, in bytes, or None where that is not known;
        `memory.free_bytes` by default.
    Raises:
      InputError: more than there is; it names the flags that would fit.
    """
    found, there = needs(config, parts), (free or memory.free_bytes)()
    if _short(found, there):  # of what may be needed; now what will be
        found = needs(config, parts, exact=True)
    refuse(found, config, parts, there=there)
    return found


def refuse(found: Sequence[Need], config: Config, parts: Parts, *, there: int | None) -> None:
    """Raises InputError when a stage needs more than `there`; None is enough for any."""
    short = _short(found, there)
    if short and there is not None:
        raise InputError(f"{wanting(short, there)}; {_accepted(config, parts, there)}")


def _short(found: Sequence[Need], there: int | None) -> list[Need]:
    """What is more than is there."""
    return [need for need in found if there is not None and need.bytes > there]


def wanting(needs: Sequence[Need], there: int) -> str:
    """What is missing, without the end of the sentence."""
    each = " and ".join(f"the {need.stage} needs {need.bytes / MIB:.0f} MiB" for need in needs)
    return f"{each} of memory, {there / MIB:.0f} MiB are free"


def _accepted(config: Config, parts: Parts, there: int) -> str:
    fitting = smaller(config, parts, there)
    if fitting is None:
        return "accepted: more memory; none of the smaller settings that were tried fits."
    return f"accepted: {flags_between(config, fitting)} (compiled, it fits), or more memory."


def ran_out(
    stage: str, config: Config, parts: Parts, *, free: Callable[[], int | None] | None = None
) -> str:
    """The sentence for a run that ran out of memory in the middle of a stage.

    Args:
      stage: of `STAGES`.
      free: as in `check`, now.
    """
    largest = max(map(needed, STAGES[stage](config, parts)), key=lambda need: need.bytes)
    there = (free or memory.free_bytes)()
    there = largest.bytes if there is None else there
    # Should the plan say that there is enough, less than it says is needed.
    fitting = smaller(config, parts, min(there, largest.bytes - 1))
    text = f"the memory ran out in {stage}: {wanting([largest], there)} now; "
    text += "continue with --resume when more is free"
    if fitting is None:
        return f"{text}; none of the smaller settings that were tried fits."
    new = flags_between(config, fitting)
    return f"{text}, or start anew with --overwrite {new} (compiled, it fits)."


def smaller(config: Config, parts: Parts, there: int) -> Config | None:
    """The settings nearest to these that fit into so many bytes, or None.

    Every proposal is compiled, about four of them for a stage: what costs the least quality comes
    first, and halving the list finds the first that fits.
    """
    found: Config | None = config
    for stage, proposals in (
        (stage_1, _smaller_1),
        (picture, _smaller_picture),
        (stage_2, _smaller_2),
    ):

        def fits(trial: Config, stage: Any = stage) -> bool:
            own = _parts_for(trial, config, parts)
            each = (needed(call, trial=trial != config) for call in stage(trial, own))
            return all(need.bytes <= there for need in each)

        if found is not None and not fits(found):
            found = _first(proposals(found), fits)
    return found


def _parts_for(trial: Config, config: Config, parts: Parts) -> Parts:
    """The losses hold the tile, so another one needs losses of its own."""
    if trial.correspondence.tile == config.correspondence.tile:
        return parts
    return parts._replace(losses=loss_terms.default_losses(trial.correspondence))


def _first(trials: Sequence[Config], fits: Callable[[Config], bool]) -> Config | None:
    """The first that fits, of settings that need less and less."""
    low, high = 0, len(trials)
    found: Config | None = None
    while low < high:
        middle = (low + high) // 2
        if fits(trials[middle]):
            found, high = trials[middle], middle
        else:
            low = middle + 1
    return found


def _smaller_1(config: Config) -> list[Config]:
    """Smaller tiles, fewer cells, no augmented pair, then smaller images."""
    trials, stage = [], config.correspondence

    def add(**changes: Any) -> Any:
        changed = dataclasses.replace(stage, **changes)
        trials.append(dataclasses.replace(config, correspondence=changed))
        return changed

    if (correspondence.is_whole(stage) or stage.tile > TILE) and stage.grid**2 > TILE:
        stage = add(tile=TILE)  # the same result
    while stage.grid > CELLS and stage.grid % 2 == 0:
        stage = add(grid=stage.grid // 2)
    if stage.augment:
        add(augment=False)
    while stage.image_size % 2 == 0 and stage.image_size // 2 >= LEAST:
        side, grid = stage.image_size // 2, stage.grid
        if side % grid or side // grid < CELL:
            if grid % 2 or side % (grid // 2):
                break
            grid //= 2
        stage = add(image_size=side, grid=grid)
    return trials


def _smaller_picture(config: Config) -> list[Config]:
    """Half the longer side, as often as it is larger than what is tuned on; then that."""
    sizes, longer = [], config.output.longer_side() or 0
    while (longer := longer // 2) > config.correspondence.image_size:
        sizes.append(str(longer))
    outputs = [dataclasses.replace(config.output, size=size) for size in (*sizes, WORKING)]
    return [dataclasses.replace(config, output=output) for output in outputs]


def _smaller_2(config: Config) -> list[Config]:
    """Fewer numbers of codes, smaller ones, fewer layers, then no generator at all."""
    trials, stage = [], config.inversion

    def add(**changes: Any) -> None:
        nonlocal stage
        stage = dataclasses.replace(stage, **changes)
        trials.append(dataclasses.replace(config, inversion=stage))

    counts = tuple(sorted(set(stage.num_codes)))
    for number in range(len(counts) - 1, 0, -1):
        add(num_codes=counts[:number])
    layers = tuple(sorted(set(stage.composing_layers)))
    for number in range(len(layers) - 1, 0, -1):
        add(composing_layers=layers[:number])
    while stage.num_codes[0] > 1:
        add(num_codes=(stage.num_codes[0] // 2,))
    refine = dataclasses.replace(config.refine, mode="never")
    return [*trials, dataclasses.replace(config, refine=refine)]
