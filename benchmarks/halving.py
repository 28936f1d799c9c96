"""Does successive halving find the winner that the whole inversion finds, and what does it save?

`python -m benchmarks.halving --out halving.json [--data DATA --num 8]` inverts the warp of the bundled
example pair, or of the first pairs of DATA/pairs.json (a list of id, content and exemplar), once whole
and once with each number of halvings, from the same start values, and compares what is chosen. The
warp is the untuned one: what is measured is the second stage. Seconds are the median step of each part
of a run times its steps, so that compilation is left out.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np

import oeft_jax
from benchmarks.harness import circumstances
from benchmarks.quality.pairs import EXAMPLE, EXAMPLES
from oeft_jax import inversion, pipeline, selection
from oeft_jax.config import WORKING, OutputConfig, RefineConfig
from oeft_jax.image import read_image


def pairs(data: Path | None, num: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(id, source, target)."""
    if data is None:
        folder, listed = EXAMPLES, [EXAMPLE]
    else:
        folder, listed = data, json.loads((data / "pairs.json").read_text())[:num]
    for pair in listed:
        source, target = (read_image(folder / pair[key]) for key in ("content", "exemplar"))
        yield pair["id"], source, target


class Inverter:
    """Inverts warps with one number of halvings; what is compiled is kept."""

    def __init__(self, config: oeft_jax.Config, parts: oeft_jax.Parts, halving: int) -> None:
        self.config = dataclasses.replace(config.inversion, halving=halving)
        self.selection, self.parts = config.selection, parts
        self.programs = inversion.make_programs(
            parts.generator, parts.backbone, self.config, parts.inversion_optimizer
        )

    def __call__(self, warped: np.ndarray, target: np.ndarray) -> dict[str, Any]:
        """The chosen hypothesis, its loss and the seconds."""
        found, seconds = self._invert(warped)
        scores = self.parts.scorer([one.image for one in found], target)
        losses = np.array([one.loss for one in found])
        choice = selection.choose(scores, losses, tolerance=self.selection.tolerance)
        chosen = found[choice.chosen]
        return {
            "winner": [chosen.composing_layer, chosen.num_codes],
            "loss": chosen.loss,
            "ssim": chosen.ssim,
            "least_loss": float(losses.min()),
            "seconds": seconds,
        }

    def _invert(self, warped: np.ndarray) -> tuple[list[inversion.Hypothesis], float]:
        parts, plan = self.parts, self.programs.plan
        generator, params = parts.generator, parts.generator_params
        assert generator is not None
        goal = self.programs.make_goal(warped, params=params, phi=parts.params)
        state = inversion.init(
            jax.random.key(0), generator, params, plan, parts.inversion_optimizer
        )
        ends = [time.monotonic()]
        state = inversion.run(
            state,
            goal,
            step=self.programs.step,
            num_steps=self.config.steps,
            drops=(drops := inversion.rungs(len(plan), self.config)),
            on_step=lambda *_: ends.append(time.monotonic()),
        )
        marks = [0, *drops, self.config.steps]
        parts_of_run = [np.diff(ends)[a:b] for a, b in pairwise(marks)]
        seconds = sum(len(times) * float(np.median(times)) for times in parts_of_run)
        return inversion.hypotheses_of(state, goal, self.programs), seconds


def compared(found: list[dict[int, Any]], halving: int) -> dict[str, Any]:
    """How often the winner is the same, and what the runs of a halving are to the whole ones."""
    couples = [(one[halving], one[0]) for one in found]

    def ratios(name: str) -> list[float]:
        return [ours[name] / whole[name] for ours, whole in couples]

    return {
        "pairs": len(couples),
        "same_winner": sum(ours["winner"] == whole["winner"] for ours, whole in couples),
        "loss_ratio_median": float(np.median(ratios("loss"))),
        "loss_ratio_worst": max(ratios("loss")),
        "time_ratio_median": float(np.median(ratios("seconds"))),
    }


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers from "4,5,6"."""
    return tuple(int(part) for part in text.split(","))


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--num", type=int, default=8, help="pairs of the data folder")
    parser.add_argument("--layers", type=numbers, default=(4, 5, 6, 7), help="composing layers")
    parser.add_argument("--codes", type=numbers, default=(5, 10), help="codes of a hypothesis")
    parser.add_argument("--halvings", type=numbers, default=(1, 2))
    parser.add_argument("--steps", type=int, default=oeft_jax.preset("bundled").inversion.steps)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    config = oeft_jax.preset("bundled")
    stage = dataclasses.replace(
        config.inversion, composing_layers=args.layers, num_codes=args.codes, steps=args.steps
    )
    config = dataclasses.replace(
        config,
        correspondence=dataclasses.replace(config.correspondence, steps=0),
        inversion=stage,
        output=OutputConfig(size=WORKING),  # the square that a run inverts
    )
    parts = oeft_jax.load_parts(config)
    only_warp = dataclasses.replace(config, refine=RefineConfig("never"))
    inverters = {halving: Inverter(config, parts, halving) for halving in (0, *args.halvings)}
    rows: list[dict[str, Any]] = []
    for name, source, target in pairs(args.data, args.num):
        made = pipeline.translate(source, target, only_warp, parts=parts)
        found = {n: invert(made.warped, made.target) for n, invert in inverters.items()}
        rows.append({"id": name, "halvings": found})
        print(name, *(f"{n}: {one}" for n, one in found.items()), sep="\n  ", flush=True)
        halvings = [row["halvings"] for row in rows]
        summary = {str(n): compared(halvings, n) for n in args.halvings}
        settings = dataclasses.asdict(stage)
        result = {**circumstances(), "config": settings, "summary": summary, "pairs": rows}
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
