"""The sections of the benchmark: each does its jobs and leaves their rows."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.quality import inversions, judge, pairs, runs, selections, truth, tuned, variants
from benchmarks.quality.comparators import COMPARATORS
from benchmarks.quality.judge import Judge
from benchmarks.quality.pairs import PhotoPair
from benchmarks.quality.perceptual import Distance
from benchmarks.quality.runs import Kept, Row, Setting
from oeft_jax._checks import InputError
from oeft_jax.config import Config
from oeft_jax.image import read_image, resize, write_png
from oeft_jax.pipeline import Parts

TUNED = 20  # steps of stage 1 before hypotheses are chosen among
Making = Callable[[], Iterable[Row]]


class Amount(NamedTuple):
    """How much is measured."""

    size: int = 256  # working size in pixels
    pairs: int = 16  # pairs of photos
    labelled: int = 6  # pairs of faces with maps of parts
    points: int = 8  # pairs of each family with known points
    inverted: int = 50  # pictures of each origin
    seeds: int = 1


class Bench(NamedTuple):
    """What all sections share."""

    data: Path
    out: Path
    kept: Kept
    parts: Parts  # of the default settings
    judges: list[Judge]
    amount: Amount
    lpips: Distance | None = None


def tuning(
    bench: Bench, variant: str, *, half: str, at: Sequence[int], truths: Sequence[str]
) -> None:
    """A variant on the pairs of a half and on what has ground truth, after each number of steps.

    Args:
      truths: families of `truth.families`, and "labels" for faces with maps of parts.
    """
    amount = bench.amount
    config = variants.settings(variant, size=amount.size, steps=max(at))
    setting = Setting(config, tuned.under(config, bench.parts))
    base: Row = {"section": "tuning", "variant": variant, "half": half, "at": list(at)}
    for pair in chosen_pairs(bench, config, half=half, labelled="labels" in truths):
        folder = bench.out / "pictures" / pair.id
        folder.mkdir(parents=True, exist_ok=True)

        def keep(name: str, picture: np.ndarray, folder: Path = folder) -> None:
            Image.fromarray(picture).save(folder / f"{variant}-{name}.png")

        def made(pair: PhotoPair = pair, keep: runs.Keep = keep) -> Iterator[Row]:
            return runs.picture_rows(pair, setting, bench.judges, at, keep)

        _do(bench, {**base, "family": "pictures", "id": pair.id, "kind": pair.kind}, made)
    if not set(truths) - {"labels"}:
        return
    # Another seed draws other faces and warps; what has its points from people is in both halves.
    seed = pairs.HALVES.index(half)
    found = truth.families(
        bench.data, size=amount.size, faces=amount.points, warps=amount.points, seed=seed
    )
    for family in (name for name in found if name in truths):
        for number, match in enumerate(found[family]):
            _do(
                bench,
                {**base, "family": family, "id": str(number)},
                partial(runs.point_rows, match, setting, at),
            )


def chosen_pairs(bench: Bench, config: Config, *, half: str, labelled: bool) -> Iterator[PhotoPair]:
    """The pairs of a half, read as they come, then the faces with maps of parts."""
    amount, fit = bench.amount, config.correspondence.fit
    entries = pairs.half(pairs.listed(bench.data), half)
    for entry in pairs.spread(entries, amount.pairs):
        yield pairs.read_pair(bench.data, entry, size=amount.size, fit=fit)
    if labelled:
        yield from pairs.labelled_faces(bench.data, size=amount.size)[: amount.labelled]


def comparators(bench: Bench, names: Sequence[str], num: int) -> None:
    """Other methods on `num` pairs of the reporting half."""
    fewer = bench._replace(amount=bench.amount._replace(pairs=num))
    config = variants.settings(variants.DEFAULT, size=bench.amount.size, steps=0)
    for pair in chosen_pairs(fewer, config, half="report", labelled=False):
        for name in names:

            def made(pair: PhotoPair = pair, name: str = name) -> Iterator[Row]:
                began = time.perf_counter()
                picture = COMPARATORS[name](pair.source, pair.target, bench.parts, 0)
                seconds = time.perf_counter() - began
                size = pair.source.shape[:2]
                return judged(bench, pair, resize(picture, size), name, seconds)

            _do(bench, {"section": "comparators", "method": name, "id": pair.id}, made)


def external(bench: Bench, name: str, folder: Path) -> None:
    """Pictures that another program made of pairs of the data folder: FOLDER/ID.png.

    Raises:
      InputError: the folder holds no picture of a pair.
    """
    known = {entry["id"]: entry for entry in pairs.listed(bench.data)}
    files = [path for path in sorted(folder.glob("*.png")) if path.stem in known]
    if not files:
        raise InputError(f"--external {name}={folder}: holds no ID.png of a pair in pairs.json.")
    fit = variants.settings(variants.DEFAULT, size=bench.amount.size, steps=0).correspondence.fit
    for path in files:
        pair = pairs.read_pair(bench.data, known[path.stem], size=bench.amount.size, fit=fit)
        picture = resize(read_image(path), pair.source.shape[:2])
        job = {"section": "comparators", "method": name, "id": pair.id}
        _do(bench, job, partial(judged, bench, pair, picture, name, None))


def judged(
    bench: Bench, pair: PhotoPair, picture: np.ndarray, name: str, seconds: float | None
) -> Iterator[Row]:
    """A finished picture as every judge sees it, and the seconds that it took if they are known."""
    folder = bench.out / "pictures" / pair.id
    folder.mkdir(parents=True, exist_ok=True)
    write_png(folder / f"{name}.png", picture)
    for one in bench.judges:
        numbers = judge.measures(one, judge.prepare(one, pair), picture)
        yield {"judge": one.name, **({} if seconds is None else {"seconds": seconds}), **numbers}


def inversion(bench: Bench, steps: int) -> None:
    """Sampled pictures and held-out faces inverted by every method, `steps` each."""
    amount = bench.amount
    config = _inverting(bench, steps, tuning=0)

    def do(job: Row, make: Making) -> bool:
        return _do(bench, {"section": "inversion", **job}, make)

    folder, seeds = bench.out / "inverted", range(amount.seeds)
    inversions.run(
        do,
        folder,
        bench.data,
        bench.parts,
        config,
        seeds=seeds,
        num=amount.inverted,
        lpips=bench.lpips,
    )


def selection(bench: Bench, steps: int, num: int, half: str) -> None:
    """Every rule of choice on the hypotheses of `num` pairs of a half, inverted for `steps`."""
    config = _inverting(bench, steps, tuning=TUNED)

    def do(job: Row, make: Making) -> bool:
        return _do(bench, {"section": "selection", **job}, make)

    seeds = range(bench.amount.seeds)
    selections.run(do, bench.data, bench.parts, config, seeds=seeds, num=num, half=half)


def _inverting(bench: Bench, steps: int, *, tuning: int) -> Config:
    config = variants.settings(variants.DEFAULT, size=bench.amount.size, steps=tuning)
    return replace(config, inversion=replace(config.inversion, steps=steps))


def _do(bench: Bench, job: Row, make: Making) -> bool:
    began = time.perf_counter()
    done = bench.kept.do({**job, "size": bench.amount.size}, make)
    if done:
        words = [str(job[k]) for k in ("section", "variant", "method", "family", "id") if k in job]
        print(f"{' / '.join(words)}: {time.perf_counter() - began:.0f} s", flush=True)
    return done
