"""How much memory a device has left, in bytes, and what to do when it runs out."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

try:
    import resource
except ImportError:  # Windows has no limits of this kind
    resource = None  # type: ignore[assignment]

ENDLESS = 2**60  # cgroup v1 writes "no limit" as a number near 2^63


def free_bytes(device: jax.Device | None = None) -> int | None:
    """What is left on the device (this process's first one by default); None where nobody can tell.

    A GPU or TPU says it itself. A CPU has what the host leaves to this process.
    """
    device = device or jax.local_devices()[0]
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    return host_free_bytes() if device.platform == "cpu" else None


def host_free_bytes(
    proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """The least that the machine, the control groups and the address space leave.

    Swap does not count: a run that swaps is as good as stopped.

    Args:
      proc: where Linux describes processes.
      cgroups: where it mounts control groups, of either version.
    Returns:
      Bytes, or None where there is no such file and no such limit.
    """
    found = [_machine(proc), *_groups(proc, cgroups), _address_space(proc)]
    known = [number for number in found if number is not None]
    return max(0, min(known)) if known else None


def _machine(proc: Path) -> int | None:
    """MemAvailable (free, or cache that can be dropped); elsewhere all memory that is built in."""
    try:
        lines = (proc / "meminfo").read_text("ascii").splitlines()
        return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _groups(proc: Path, cgroups: Path) -> Iterator[int | None]:
    """What each control group of this process leaves; a group's parents limit it too."""
    try:
        lines = (proc / "self" / "cgroup").read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            top, names = cgroups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = cgroups / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        here = top / path.strip("/")
        for folder in (here, *here.parents):  # a container sees its own group as the top
            yield _left(folder, *names)
            if folder == top:
                break


def _left(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    """Limit less usage, where usage leaves out file pages that would be dropped first."""
    try:
        most = int((folder / limit).read_text("ascii"))  # "max" is no number: no limit
        used = int((folder / usage).read_text("ascii"))
        stat = dict(x.split() for x in (folder / "memory.stat").read_text("ascii").splitlines())
    except (OSError, ValueError):
        return None
    return most - used + int(stat.get(cache, 0)) if most < ENDLESS else None


def _address_space(proc: Path) -> int | None:
    """What `ulimit -v` leaves."""
    if resource is None:
        return None
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most == resource.RLIM_INFINITY:
        return None
    try:
        pages = int((proc / "self" / "statm").read_text("ascii").split()[0])
    except OSError:
        return None
    return most - pages * resource.getpagesize()


class OutOfMemory(MemoryError):
    """The device had no more memory in the middle of `stage`."""

    def __init__(self, stage: str, message: str = "") -> None:
        super().__init__(message or f"the memory ran out in {stage}.")
        self.stage = stage


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, or XLA in one of its wordings, says that memory ran out."""
    text = str(error)
    words = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")
    said = isinstance(error, jax.errors.JaxRuntimeError) and any(word in text for word in words)
    return said or isinstance(error, MemoryError)


@contextmanager
def guard(stage: str) -> Iterator[None]:
    """Turns running out of memory inside into OutOfMemory, which names the stage."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
            raise
        raise OutOfMemory(stage) from error
