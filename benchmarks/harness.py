"""What every benchmark shares: peak memory of a process, and what a result was measured with."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


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


def circumstances() -> dict[str, Any]:
    """Commit, versions and cores, to be kept beside numbers."""
    names = ("jax", "numpy", "safetensors", "torch")
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
        "device": "cpu",
        "cores": len(os.sched_getaffinity(0)),
    }


def _read(field: str) -> float:
    lines = _STATUS.read_text("ascii").splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))
