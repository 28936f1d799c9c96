"""What every training and evaluation command shares: errors in one line, flags, a limit on time."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from oeft_jax._checks import InputError


def run(command: Callable[[], Any]) -> None:
    """Runs `command`; bad input and missing files end the program with one sentence."""
    try:
        command()
    except (InputError, FileNotFoundError) as error:
        sys.exit(f"training: {error}")


def check_multiple(flag: str, value: int, unit: int, *, given: str = "") -> None:
    """Raises InputError unless `value` is a positive multiple of `unit`; `given` says when it must be."""
    if value < unit or value % unit:
        raise InputError(f"{flag} {value} is not accepted; accepted{given}: multiples of {unit}.")


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """The files that every training of a generator reads and writes."""
    parser.add_argument("--data", type=Path, required=True, help="folder with lfw128/lfw128.zip")
    parser.add_argument("--features", type=Path, required=True, help="weights of the loss network")
    parser.add_argument("--work", type=Path, required=True, help="folder for saved states")
    parser.add_argument("--out", type=Path, required=True, help="weight file to write")


def add_run_flags(parser: argparse.ArgumentParser, *, log_every: int, save_every: int) -> None:
    """How long a training runs, what it draws, and how often it says and saves where it is."""
    parser.add_argument("--minutes", type=float, default=0, help="save and stop after; 0: never")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-every", type=int, default=log_every)
    parser.add_argument("--save-every", type=int, default=save_every)


class Clock:
    """Time since a command began, and whether `minutes` are over (0 for no limit)."""

    def __init__(self, minutes: float = 0.0) -> None:
        self.began = time.monotonic()
        self.minutes = minutes

    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    def is_over(self) -> bool:
        """True once the limit has passed."""
        return bool(self.minutes) and self.seconds() >= 60 * self.minutes
