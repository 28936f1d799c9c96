"""The main command: `python -m oeft_jax.translate --source A --target B --out DIR`, or a list."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

from oeft_jax import (
    devices,
    memory,
    memory_fit,
    memory_plan,
    out_folder,
    pipeline,
    process,
    report,
)
from oeft_jax._checks import InputError
from oeft_jax.config import Config
from oeft_jax.correspondence import NonFiniteError
from oeft_jax.flags import check_processes, config_from, parser
from oeft_jax.pair_list import PairPaths, match_folders, read_list
from oeft_jax.pairs import FAILED, Asked, merge_summaries, run_pairs, summary_of
from oeft_jax.progress import show_progress


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code (0 done, 1 stopped, 2 bad input)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except InputError as error:
        print(f"oeft_jax: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"oeft_jax: a file could not be read or written: {error}. Continue with --resume.",
            file=sys.stderr,
        )
        return 1
    except NonFiniteError as error:  # --resume would repeat it, and takes no other settings
        print(f"oeft_jax: {error} Start anew with --overwrite.", file=sys.stderr)
        return 1
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not memory.is_out_of_memory(error):
            raise
        print(f"oeft_jax: {_first_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("oeft_jax: interrupted. Continue with --resume.", file=sys.stderr)
        return 1


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or ["the memory ran out."])[0]


def _run(words: list[str]) -> int:
    flags = parser().parse_args(words)
    config = config_from(flags)
    process.prepare()
    if flags.plan:
        return _plan(config)
    command = shlex.join(["python", "-m", "oeft_jax.translate", *words])
    pairs = _pairs_of(flags)
    check_processes(flags, of_list=pairs is not None)
    if pairs is None:
        return _run_one(flags, config, command)
    return _run_list(pairs, flags, config, command)


def _pairs_of(flags: argparse.Namespace) -> list[PairPaths] | None:
    """The list that the flags name, or None for a single pair."""
    if not flags.out or not (flags.pairs or (flags.source and flags.target)):
        raise InputError("needed: --out, and --source with --target or --pairs; see --help.")
    if flags.pairs:
        if flags.source or flags.target:
            raise InputError("--pairs excludes --source and --target; give one or the others.")
        return read_list(Path(flags.pairs))
    source, target = Path(flags.source), Path(flags.target)
    if source.is_dir() and target.is_dir():
        return match_folders(source, target)
    if source.is_dir() or target.is_dir():
        name = "--source" if source.is_dir() else "--target"
        raise InputError(f"{name}: is a folder; accepted: two photos, or a folder for both.")
    return None


def _run_one(flags: argparse.Namespace, config: Config, command: str) -> int:
    out, modes = Path(flags.out), {"resume": flags.resume, "overwrite": flags.overwrite}
    out_folder.check_out(out, **modes)
    photos = out_folder.read_photos(Path(flags.source), Path(flags.target), config)
    extra = {"raw": flags.raw_warp, "field": flags.save_field}
    parts = _load(config, f"writing {', '.join(report.file_names(**extra))} to {out}")
    needs = memory_fit.check(config, parts)
    unfinished = out_folder.unfinished_of(out)
    out_folder.open_unfinished(unfinished, out_folder.request_of(photos, config, parts), **modes)
    try:
        with show_progress() as on_progress:
            result = pipeline.translate(
                *photos.images,
                config,
                parts=parts,
                on_progress=on_progress,
                state_folder=unfinished / out_folder.STATE,
            )
        result = result._replace(memory=needs)
        out_folder.write_run(out, result, config, parts, photos.inputs, **extra, command=command)
    except InputError:
        if not flags.resume:  # nothing of worth is there; after any other stop the state stays
            out_folder.discard(out)
        raise
    except memory.OutOfMemory as error:
        stage = error.stage
    else:
        print(result.verdict)
        print(f"wrote {out / 'translation.png'} in {sum(result.seconds.values()):.0f} s")
        return 0
    # The error is gone here, and with it what the stage held.
    raise memory.OutOfMemory(stage, memory_fit.ran_out(stage, config, parts))


def _run_list(
    pairs: list[PairPaths], flags: argparse.Namespace, config: Config, command: str
) -> int:
    out = Path(flags.out)
    out_folder.check_list_out(out, resume=flags.resume, overwrite=flags.overwrite)
    if flags.distributed:
        devices.join(flags.coordinator, flags.num_processes, flags.process_id)
    process, num_processes = jax.process_index(), jax.process_count()
    try:
        parts = _load(config, f"{len(pairs)} pairs to {out}")
        needs = memory_fit.check(config, parts)
        modes = {"resume": flags.resume, "overwrite": flags.overwrite}
        extra = {"raw": flags.raw_warp, "field": flags.save_field}
        asked = Asked(out, config, parts, **modes, **extra, command=command, memory=needs)
        outcomes = run_pairs(devices.share(pairs), asked, summary_of(out, process, num_processes))
    finally:
        devices.leave()
    if num_processes > 1 and process == 0:
        outcomes = merge_summaries(out, pairs, num_processes)
    failed = sum(one.status == FAILED for one in outcomes)
    print(f"{len(outcomes) - failed} of {len(outcomes)} pairs are in {out}, {failed} failed")
    return 1 if failed else 0


def _load(config: Config, task: str) -> pipeline.Parts:
    """Everything that a run is made of; says what it is made of and what for."""
    parts = pipeline.load_parts(config)
    origins = ", ".join(weights.origin for weights in parts.weights)
    print(f"device {report.device_name()}; weights {origins}; {task}", flush=True)
    return parts


def _plan(config: Config) -> int:
    """Prints what each stage needs. Raises InputError when it is more than there is."""
    parts = _load(config, "nothing is run")
    needs, there = memory_plan.needs(config, parts, exact=True), memory.free_bytes()
    print(memory_plan.table(needs, there))
    memory_fit.refuse(needs, config, parts, there=there)
    return 0


class _CallableModule(ModuleType):
    """`oeft_jax.translate(...)` is the function even after this module has been imported.

    Importing a submodule binds it over the package's name for the function, and the command
    and the function are both to be called translate.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> pipeline.Translation:
        return pipeline.translate(*args, **kwargs)


if __name__ == "__main__":
    sys.exit(main())
else:
    sys.modules[__name__].__class__ = _CallableModule
