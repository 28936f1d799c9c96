"""Peak memory of this process, on Linux.

`getrusage` will not do: a child's figure begins at what its parent held when it was started.
"""

from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak() -> float:
    """Starts a new measurement; what is held now, in MiB."""
    _CLEAR.write_text("5")
    return _read("VmRSS")


def peak_mib() -> float:
    """The most that was held since `reset_peak`, in MiB."""
    return _read("VmHWM")


def _read(field: str) -> float:
    lines = _STATUS.read_text("ascii").splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))
