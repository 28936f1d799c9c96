"""Peak memory of this process, on Linux, and what a result was measured with.

`getrusage` will not do: a child's figure begins at what its parent held when it was started.
"""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak() -> float:
    """Starts a new measurement; what is held now, in MiB."""
    _CLEAR.write_text("5")
    return _read("VmRSS")


def peak_mib() -> float:
    """The most that was held since `reset_peak`, in MiB."""
    return _read("VmHWM")


def circumstances() -> dict[str, Any]:
    """Commit, versions and cores, to be kept beside numbers."""
    command = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    names = ("jax", "numpy", "safetensors", "torch")
    return {
        "commit": commit,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
        "device": "cpu",
        "cores": len(os.sched_getaffinity(0)),
    }


def _read(field: str) -> float:
    lines = _STATUS.read_text("ascii").splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))
