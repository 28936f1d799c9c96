"""Progress of a run: bars with time left on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from oeft_jax.pipeline import Progress

LINES = 10  # plain lines a stage


@contextmanager
def show_progress() -> Iterator[Callable[[Progress], None]]:
    """Yields the function to hand to `translate` as `on_progress`; writes to stderr."""
    if not sys.stderr.isatty():
        yield _plain()
        return
    columns = (
        TextColumn("{task.description:<15}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, int] = {}

        def update(progress: Progress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bars.add_task(
                    progress.stage, total=progress.total, numbers=""
                )
            bars.update(
                tasks[progress.stage],  # type: ignore[arg-type]
                completed=progress.step,
                numbers=f"loss {progress.values['loss']:.3f}",
            )

        yield update


def _plain() -> Callable[[Progress], None]:
    began: dict[str, tuple[float, int]] = {}

    def update(progress: Progress) -> None:
        now = time.monotonic()
        start, first = began.setdefault(progress.stage, (now, progress.step))
        every = max(1, progress.total // LINES)
        if progress.step % every and progress.step != progress.total:
            return
        taken = progress.step - first
        left = (now - start) / taken * (progress.total - progress.step) if taken else float("nan")
        eta = f"{left:.0f} s left" if left == left else "compiled"
        print(
            f"{progress.stage} {progress.step}/{progress.total} "
            f"loss {progress.values['loss']:.3f} {eta}",
            file=sys.stderr,
            flush=True,
        )

    return update
