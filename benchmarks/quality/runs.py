"""Every number of the benchmark as a row; rows are kept as they come, so a run can go on."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.quality import judge, truth, tuned
from benchmarks.quality.judge import Judge
from benchmarks.quality.pairs import PhotoPair
from oeft_jax.config import Config, OutputConfig
from oeft_jax.image import to_uint8
from oeft_jax.picture import make_picture
from oeft_jax.pipeline import Parts
from training.ground_truth import Match

Row = dict[str, Any]
Do = Callable[[dict[str, Any], Callable[[], Iterable[Row]]], bool]  # a job, unless it is done
Keep = Callable[[str, np.ndarray], None]  # name, [s, s, 3] uint8
PICTURES = ("soft", "voted", "finished")  # Eq. 6, its best patches, and what a run writes


class Kept:
    """A file of rows, one a line. A job whose rows are there is not done again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_text("utf-8") if path.exists() else ""
        self.rows: list[Row] = [json.loads(line) for line in text.splitlines()]
        self.jobs = {json.dumps(row["job"]) for row in self.rows}

    def do(self, job: dict[str, Any], make: Callable[[], Iterable[Row]]) -> bool:
        """Adds the rows of a job, all of them or none; whether it had to be done."""
        if json.dumps(job) in self.jobs:
            return False
        made = [{"job": job, **row} for row in make()]
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in made))
        self.rows += made
        self.jobs.add(json.dumps(job))
        return True


class Setting(NamedTuple):
    """What a pair is tuned under."""

    config: Config
    parts: Parts  # with the losses of the config


def picture_rows(
    pair: PhotoPair,
    setting: Setting,
    judges: Sequence[Judge],
    at: Sequence[int],
    keep: Keep,
) -> Iterator[Row]:
    """The finished warp of a pair after each number of steps, judged; its labels and way back."""
    prepared = [(one, judge.prepare(one, pair)) for one in judges]
    grid, began = setting.config.correspondence.grid, time.perf_counter()
    for look in tuned.looks(pair.source, pair.target, *setting, at):
        best = np.asarray(look.warp.best[0])
        seconds = time.perf_counter() - began
        back = tuned.backward(look, *setting)
        found = {
            **truth.labels(best, pair, grid=grid),
            **truth.consistency(best, back, np.asarray(look.warp.confidence[0]), grid=grid),
        }
        for name in PICTURES:
            picture = _picture(name, pair, look, setting.config)
            keep(f"{name}-{look.step}", to_uint8(picture))
            for one, ready in prepared:
                numbers = judge.measures(one, ready, picture)
                place = {"step": look.step, "picture": name, "judge": one.name}
                yield {**place, "seconds": seconds, **found, **numbers}


def _picture(name: str, pair: PhotoPair, look: tuned.Look, config: Config) -> np.ndarray:
    if name != "finished":
        return np.asarray(getattr(look.warp, name)[0])
    size = OutputConfig(str(len(pair.source)), config.output.structure)
    return make_picture(
        (pair.source, pair.target), look.pair, look.warp, replace(config, output=size)
    ).warped


def point_rows(match: Match, setting: Setting, at: Sequence[int]) -> Iterator[Row]:
    """PCK of a pair with known points after each number of steps."""
    stage = setting.config.correspondence
    for look in tuned.looks(match.source, match.target, *setting, at):
        best = np.asarray(look.warp.best[0])
        yield {
            "step": look.step,
            **truth.points(best, match, size=stage.image_size, grid=stage.grid),
        }
