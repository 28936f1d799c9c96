"""What every benchmark shares: programs in processes of their own, side by side, and their peaks.

A measured program is a function that makes a step. It runs in a child process (`serve`), which
answers each line that its parent (`Child`) sends with one timed step. `side_by_side` keeps several
children and lets them step in turn, so that whatever slows the machine slows all of them.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from oeft_jax import process

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CPU = Path("/proc/cpuinfo")
WIDE = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")  # they decide how products compare
NAMES = ("jax", "numpy", "safetensors", "torch")
SIGN = "measured: "  # what a child's answers begin with; libraries print too


class Program(NamedTuple):
    """A program to measure."""

    step: Callable[[], float]  # runs once, to the end; returns the loss
    device: str
    device_peak_mib: Callable[[], float | None]  # None where the device's memory is the host's


def reset_peak() -> float:
    """Starts a new measurement (Linux only); what is held now, in MiB.

    `getrusage` will not do: a child's figure begins at what its parent held when it was started.
    """
    _CLEAR.write_text("5")
    return _read("VmRSS")


def peak_mib() -> float:
    """The most that was held since `reset_peak`, in MiB."""
    return _read("VmHWM")


def commit() -> str:
    """The checkout's commit, or "unknown" outside one."""
    words = ["git", "rev-parse", "HEAD"]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def circumstances(device: str = "cpu") -> dict[str, Any]:
    """Commit, versions, processor and cores, to be kept beside numbers."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in NAMES},
        "device": device,
        "processor": processor(_CPU.read_text("utf-8") if _CPU.is_file() else ""),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
    }


def processor(described: str) -> str:
    """The first processor's name and wide instructions, from the text of /proc/cpuinfo.

    How PyTorch, plain JAX and ours compare depends on these instructions. Where the text names no
    model (other systems, ARM) it is the architecture alone.
    """
    lines = (line.partition(":") for line in described.partition("\n\n")[0].splitlines())
    fields = {name.strip(): value.strip() for name, _, value in lines}
    has = fields.get("flags", "").split()
    name = fields.get("model name", platform.machine())
    return ", ".join([name, *(word for word in WIDE if word in has)])


def serve(make: Callable[[], Program]) -> None:
    """A child's life: makes its program, steps once, then once for each line that comes.

    Memory is handled as the command handles it (`oeft_jax/process.py`), whatever the library.
    """
    process.keep_memory()
    try:
        before: float | None = reset_peak()
    except OSError:  # no Linux: the host's peak stays unknown
        before = None
    began = time.perf_counter()
    program = make()
    made = time.perf_counter() - began
    answer = _timed(program)
    _say({"made_s": made, "device": program.device, **answer})
    for _ in sys.stdin:
        _say(_timed(program))
    peak = program.device_peak_mib()
    if peak is None and before is not None:
        peak = peak_mib() - before
    _say({"peak_mib": peak})


class Subject(NamedTuple):
    """What is compared with others: a name and the command of its child."""

    name: str
    command: Sequence[str]
    environment: dict[str, str] | None = None


class Child:
    """The parent's side of `serve`: keeps what it answers, or the error that ended it, in `row`."""

    def __init__(self, subject: Subject) -> None:
        self.row: dict[str, Any] = {"name": subject.name, "seconds": [], "losses": []}
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed in `close`
        self.process = subprocess.Popen(
            [sys.executable, *subject.command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, **(subject.environment or {})},
        )
        answer = self._answer()  # of the first step, which compiles
        self.row["first_s"] = answer.pop("seconds", None)
        self._keep(answer)

    def step(self, *, is_counted: bool) -> None:
        """One more step."""
        if "error" in self.row:
            return
        with suppress(BrokenPipeError):
            print("step", file=self.process.stdin, flush=True)
        answer = self._answer()
        seconds = answer.pop("seconds", None)
        if is_counted and seconds is not None:
            self.row["seconds"].append(seconds)
        self._keep(answer)

    def close(self) -> None:
        """Lets it end by itself, and keeps its last answer."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        if "error" not in self.row:
            self._keep(self._answer())
        self.process.wait()
        self.errors.close()

    def _keep(self, answer: dict[str, Any]) -> None:
        if "loss" in answer:
            self.row["losses"].append(answer.pop("loss"))
        self.row.update(answer)

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(SIGN):
                answer: dict[str, Any] = json.loads(line.removeprefix(SIGN))
                return answer
        self.errors.seek(0)
        said = [line for line in self.errors.read().splitlines() if line.strip()]
        return {"error": said[-1] if said else f"ended with {self.process.wait()}"}


def side_by_side(
    subjects: Sequence[Subject], rounds: int, *, together: bool = True
) -> list[dict[str, Any]]:
    """Measures each subject in a process of its own; one row each.

    Args:
      rounds: counted steps of each; a first one, which compiles, and a second one are not counted.
      together: the processes live at the same time and step in turn. A device that only one
        process can hold (a TPU) needs False: one after the other.
    """
    if not together:
        return [side_by_side([subject], rounds)[0] for subject in subjects]
    children = [Child(subject) for subject in subjects]  # one compiles at a time
    for turn in range(rounds + 1):
        for child in children:
            child.step(is_counted=turn > 0)
    for child in children:
        child.close()
    return [_summary(child.row) for child in children]


def _summary(row: dict[str, Any]) -> dict[str, Any]:
    """Median and spread; compile time is what the first step took longer than the others."""
    row["losses"] = [round(loss, 6) for loss in row["losses"]]
    if row["seconds"]:
        row["median_s"] = statistics.median(row["seconds"])
        row["spread_s"] = [min(row["seconds"]), max(row["seconds"])]
        row["compile_s"] = max(0.0, row["first_s"] - row["median_s"])
        row["first_loss"], row["last_loss"] = row["losses"][0], row["losses"][-1]
    return row


def _timed(program: Program) -> dict[str, float]:
    began = time.perf_counter()
    loss = program.step()
    return {"seconds": time.perf_counter() - began, "loss": loss}


def _say(answer: dict[str, Any]) -> None:
    print(SIGN + json.dumps(answer), flush=True)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _read(field: str) -> float:
    lines = _STATUS.read_text("ascii").splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))
