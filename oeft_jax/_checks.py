"""Checks that word the errors: what was wrong, where, and what is accepted."""

from collections.abc import Iterable, Sequence
from typing import Any


class InputError(ValueError):
    """Bad input from a person: its message is one sentence, shown without a traceback."""


def check_choice(name: str, value: Any, accepted: Iterable[Any]) -> None:
    """Raises InputError unless `value` is one of `accepted`, which it lists."""
    accepted = list(accepted)
    if value not in accepted:
        names = ", ".join(sorted(str(item) for item in accepted))
        raise InputError(f"{name}={value!r} is not known; accepted: {names}.")


def deepest(taps: Sequence[str], names: Sequence[str]) -> int:
    """Place in `names` of the deepest tap; raises InputError for one not there, or for none."""
    if not taps or any(tap not in names for tap in taps):
        raise InputError(f"taps={tuple(taps)!r}: accepted are one or more of {', '.join(names)}.")
    return max(names.index(tap) for tap in taps)


def check_range(
    name: str, value: float, low: float, high: float = float("inf"), *, open_low: bool = False
) -> None:
    """Raises InputError unless low <= value <= high (low < value with `open_low`)."""
    inside = (low < value if open_low else low <= value) and value <= high
    if not inside:  # NaN fails both comparisons and lands here too
        bracket = "(" if open_low else "["
        raise InputError(f"{name}={value!r} is out of range; accepted: {bracket}{low}, {high}].")
