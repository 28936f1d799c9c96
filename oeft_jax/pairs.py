"""A list of pairs, one after another or a group at a time; no pair ends the others.

Every pair gets a folder of its own under OUT, with what a run of that pair alone writes, and a line
in OUT/pairs.json. The networks are loaded and the programs compiled once for the whole list.
"""

import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from oeft_jax import out_folder, pipeline
from oeft_jax._checks import InputError
from oeft_jax.config import Config
from oeft_jax.devices import pair_mesh
from oeft_jax.group import FAILURES, attempt, translate_group
from oeft_jax.memory_plan import Need
from oeft_jax.out_folder import Photos
from oeft_jax.pair_list import SUMMARY, PairPaths
from oeft_jax.pipeline import Parts, Translation
from oeft_jax.progress import show_progress

DONE, FAILED, SKIPPED = "done", "failed", "skipped"


class Asked(NamedTuple):
    """What is the same for every pair of a list."""

    out: Path
    config: Config
    parts: Parts
    resume: bool
    overwrite: bool
    raw: bool  # also write the soft warp
    field: bool  # also write what comes from where
    command: str  # for the manifests
    memory: tuple[Need, ...]  # what the plan says, for the manifests


class Outcome(NamedTuple):
    """What became of a pair."""

    name: str
    status: str  # done, failed, or skipped because it was done before
    reason: str  # of a failure, one line
    seconds: float  # in a group: of the group


class _Job(NamedTuple):
    """A pair whose photos are read and whose folder is open."""

    pair: PairPaths
    photos: Photos
    continued: bool  # an earlier run's state is kept


def run_pairs(pairs: Sequence[PairPaths], asked: Asked, summary: Path) -> list[Outcome]:
    """Runs the pairs on this process's devices, as many at once as there are devices.

    Args:
      summary: file that is written anew whenever pairs are finished.
    Returns:
      An outcome for each pair, in the order of the list.
    Raises:
      InputError: OUT cannot be written.
    """
    size = min(jax.local_device_count(), len(pairs))
    mesh = pair_mesh(size) if size > 1 else None
    known = _Known(pairs, summary)
    waiting: list[_Job] = []
    for pair in pairs:
        job = _open(pair, asked)
        if isinstance(job, Outcome):
            known.add([job], ran=0)
        else:
            waiting.append(job)
        if len(waiting) == size:
            known.add(_run(waiting, asked, mesh, known), ran=size)
            waiting = []
    if waiting:
        known.add(_run(waiting, asked, mesh, known), ran=len(waiting))
    return known.in_order()


class _Known:
    """The outcomes so far: written to the summary, told on stderr with the time that is left."""

    def __init__(self, pairs: Sequence[PairPaths], summary: Path) -> None:
        self.pairs, self.summary = pairs, summary
        self.outcomes: dict[str, Outcome] = {}
        self.ran, self.seconds = 0, 0.0  # of pairs that were not skipped nor refused
        self.last = time.monotonic()
        write_summary(summary, [])

    def in_order(self) -> list[Outcome]:
        return [self.outcomes[p.name] for p in self.pairs if p.name in self.outcomes]

    def begin(self, names: Sequence[str]) -> None:
        """Says which pairs come now."""
        first = len(self.outcomes) + 1
        places = f"pair {first}" if len(names) == 1 else f"pairs {first}-{first + len(names) - 1}"
        _say(f"{places} of {len(self.pairs)}: {', '.join(names)}{self._left()}")
        self.last = time.monotonic()

    def add(self, outcomes: Sequence[Outcome], *, ran: int) -> None:
        """Takes in what became of some pairs, of which `ran` took their time."""
        if ran:
            self.ran, self.seconds = self.ran + ran, self.seconds + time.monotonic() - self.last
        for one in outcomes:
            self.outcomes[one.name] = one
            why = f": {one.reason}" if one.reason else f" in {one.seconds:.0f} s"
            _say(f"{one.name} {one.status}{'' if one.status == SKIPPED else why}")
        write_summary(self.summary, self.in_order())

    def _left(self) -> str:
        if not self.ran:
            return ""
        left = self.seconds / self.ran * (len(self.pairs) - len(self.outcomes))
        return f"; about {left:.0f} s left for the list"


def _say(line: str) -> None:
    if jax.process_count() > 1:
        line = f"process {jax.process_index()}: {line}"
    print(line, file=sys.stderr, flush=True)


def _open(pair: PairPaths, asked: Asked) -> _Job | Outcome:
    """The pair ready to run, or why there is nothing to run."""
    began, out = time.monotonic(), asked.out / pair.name
    try:
        photos = out_folder.read_photos(pair.source, pair.target, asked.config)
        request = out_folder.request_of(photos, asked.config, asked.parts)
        if asked.resume and out_folder.is_finished(out, request):
            return Outcome(pair.name, SKIPPED, "", 0.0)
        out_folder.check_out(out, resume=asked.resume, overwrite=asked.overwrite)
        unfinished = out_folder.unfinished_of(out)
        continued = asked.resume and unfinished.exists()
        out_folder.open_unfinished(unfinished, request, resume=continued, overwrite=asked.overwrite)
    except FAILURES as error:
        return _failed(pair, error, time.monotonic() - began)
    return _Job(pair, photos, continued)


def _run(jobs: Sequence[_Job], asked: Asked, mesh: Mesh | None, known: _Known) -> list[Outcome]:
    """Runs the pairs of one group and writes their folders."""
    began = time.monotonic()
    known.begin([job.pair.name for job in jobs])
    images = [job.photos.images for job in jobs]
    # Orbax writes arrays from process 0 alone: one of several keeps no state within a pair.
    kept = jax.process_count() == 1
    folders = [_state_folder(job, asked) if kept else None for job in jobs]
    with show_progress() as tell:
        if mesh is None:
            alone = partial(pipeline.translate, *images[0], asked.config, parts=asked.parts)
            results = [attempt(partial(alone, on_progress=tell, state_folder=folders[0]))]
        else:
            results = translate_group(
                images,
                asked.config,
                parts=asked.parts,
                mesh=mesh,
                on_progress=tell,
                state_folders=folders,
            )
    return [
        _written(job, result, asked, time.monotonic() - began)
        for job, result in zip(jobs, results, strict=True)
    ]


def _state_folder(job: _Job, asked: Asked) -> Path:
    return out_folder.unfinished_of(asked.out / job.pair.name) / out_folder.STATE


def _written(job: _Job, result: Translation | Exception, asked: Asked, seconds: float) -> Outcome:
    """Writes the folder of a pair that is done, or tidies up after one that is not."""
    out = asked.out / job.pair.name
    try:
        if not isinstance(result, Translation):
            raise result
        out_folder.write_run(
            out,
            result._replace(memory=asked.memory),
            asked.config,
            asked.parts,
            job.photos.inputs,
            raw=asked.raw,
            field=asked.field,
            command=asked.command,
        )
    except FAILURES as error:
        if isinstance(error, InputError) and not job.continued:
            out_folder.discard(out)
        return _failed(job.pair, error, seconds)
    return Outcome(job.pair.name, DONE, "", sum(result.seconds.values()))


def _failed(pair: PairPaths, error: Exception, seconds: float) -> Outcome:
    return Outcome(pair.name, FAILED, " ".join(str(error).split()), seconds)


def write_summary(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Writes what became of every pair, whole or not at all."""
    counts = {s: sum(one.status == s for one in outcomes) for s in (DONE, SKIPPED, FAILED)}
    rows = [one._replace(seconds=round(one.seconds, 3))._asdict() for one in outcomes]
    aside = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps({**counts, "pairs": rows}, indent=2) + "\n", "utf-8")
        aside.replace(path)
    except OSError as error:
        raise InputError(
            f"--out {path.parent}: cannot be written ({error.strerror}); "
            "accepted: a folder whose parent you may write."
        ) from error


def summary_of(out: Path, process: int, num_processes: int) -> Path:
    """The summary that a process writes: OUT/pairs.json, or a part of it for one of several."""
    return out / (SUMMARY if num_processes == 1 else f"{SUMMARY}.process-{process}")


def merge_summaries(out: Path, pairs: Sequence[PairPaths], num_processes: int) -> list[Outcome]:
    """Makes OUT/pairs.json of the parts that every process wrote, and removes those.

    A pair that no process tells of is a failed one: its process ended before it came to it.
    """
    parts = [summary_of(out, process, num_processes) for process in range(num_processes)]
    found = {}
    for part in parts:
        if part.is_file():
            rows = json.loads(part.read_text("utf-8"))["pairs"]
            found.update({row["name"]: Outcome(**row) for row in rows})
    lost = "its process ended before it was done; continue with --resume."
    outcomes = [found.get(p.name, Outcome(p.name, FAILED, lost, 0.0)) for p in pairs]
    write_summary(out / SUMMARY, outcomes)
    for part in parts:
        part.unlink(missing_ok=True)
    return outcomes
