"""Can a third of the inversion steps tell that the generator will not be used?

`python -m benchmarks.giving_up --data DATA --out giving_up.json` inverts untuned warps of pairs of
DATA/pairs.json, and faces that the bundled generator was not trained on, with the bundled settings,
and keeps the best SSIM of all hypotheses after a third of the steps and after all of them: whether the
run would have been given up, and whether its picture would have been used in the end.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import oeft_jax
from benchmarks.harness import circumstances
from benchmarks.quality import pairs
from benchmarks.quality.inversions import held_out_faces
from oeft_jax import inversion, pipeline
from oeft_jax.config import WORKING, OutputConfig, RefineConfig
from oeft_jax.image import read_image
from oeft_jax.refine import give_up_step, hopeless


def goals(
    data: Path, parts: oeft_jax.Parts, config: oeft_jax.Config, num: int
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, [s, s, 3]) of `num` warps and as many faces."""
    stage = dataclasses.replace(config.correspondence, steps=0)
    only_warp = dataclasses.replace(
        config,
        correspondence=stage,
        refine=RefineConfig("never"),
        output=OutputConfig(size=WORKING),
    )
    for entry in pairs.spread(pairs.listed(data), num):
        photos = [read_image(data / entry[role]) for role in ("content", "exemplar")]
        result = pipeline.translate(photos[0], photos[1], only_warp, parts=parts)
        yield entry["id"], result.warped
    faces = held_out_faces(data, parts)
    for place in np.linspace(0, len(faces) - 1, num).round().astype(int):
        yield f"held-out face {place}", faces[place]


def looked_at(goal: np.ndarray, parts: oeft_jax.Parts, config: oeft_jax.Config) -> dict[str, Any]:
    """Best SSIM after a third of the steps and after all, and what follows from each."""
    generator, params = parts.generator, parts.generator_params
    assert generator is not None
    made = pipeline.inversion_programs(config, parts)
    wanted = made.make_goal(goal, params=params, phi=parts.params)
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    state = inversion.init(key, generator, params, made.plan, parts.inversion_optimizer)
    early = give_up_step(config.refine, config.inversion.steps)
    assert early is not None
    found = []
    for steps in (early, config.inversion.steps):
        state = inversion.run(state, wanted, step=made.step, num_steps=steps)
        found.append(inversion.hypotheses_of(state, wanted, made))
    best = [max(one.ssim for one in each) for each in found]
    return {
        "ssim_early": best[0],
        "ssim_in_the_end": best[1],
        "given_up": hopeless(found[0], config.refine),
        "reaches_the_limit": best[1] >= config.refine.limit,
    }


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--num", type=int, default=8, help="warps, and as many faces")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    config = oeft_jax.preset("bundled")
    parts = oeft_jax.load_parts(config)
    rows = []
    for name, goal in goals(args.data, parts, config, args.num):
        rows.append({"goal": name, **looked_at(goal, parts, config)})
        print(rows[-1], flush=True)
        wrong = sum(row["given_up"] and row["reaches_the_limit"] for row in rows)
        summary = {
            "given_up": sum(row["given_up"] for row in rows),
            "given_up_wrongly": wrong,
            "largest_rise": max(row["ssim_in_the_end"] - row["ssim_early"] for row in rows),
        }
        result = {**circumstances(), "summary": summary, "goals": rows}
        args.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
