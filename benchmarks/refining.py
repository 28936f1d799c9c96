"""When is the generator's picture better than the warp, and can a third of the steps tell?

`python -m benchmarks.refining --data DATA --out refining.json` makes the bundled example, pairs of
DATA/pairs.json, and pairs of faces that the bundled generator was not trained on. Each finished
warp and each hypothesis after a third of the inversion steps, all of them and three times as many
are judged in SqueezeNet, which nothing is tuned on. A row gives the SSIM that the run's rule
looks at beside how the generator's picture compares with the warp in each measure: what
`--refine-limit` is chosen from. What `--refine-give-up` would have done is in the summary, which
`--rows` makes again, by the rule of now, of what was measured before.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

import oeft_jax
from benchmarks.harness import circumstances
from benchmarks.quality import judge, pairs
from benchmarks.quality.inversions import held_out_faces
from benchmarks.quality.judge import Judge
from benchmarks.quality.pairs import PhotoPair
from benchmarks.quality.selections import LARGER
from oeft_jax import inversion, pipeline, tuning
from oeft_jax.checkpoint import Store
from oeft_jax.composition import plan_of
from oeft_jax.config import OutputConfig
from oeft_jax.image import resize
from oeft_jax.picture import make_picture, square_of
from oeft_jax.refine import give_up_step, hopeless, over_warp, refined, tried_first

LIMITS = (0.75, 0.8, 0.85, 0.9, 0.95, 1.0)  # of the bins in the summary


def photo_pairs(
    data: Path, parts: oeft_jax.Parts, config: oeft_jax.Config, num: int
) -> Iterator[PhotoPair]:
    """The example, `num` pairs of photos and as many of faces, as squares of the working size."""
    size, fit = config.correspondence.image_size, config.correspondence.fit
    yield pairs.read_pair(pairs.EXAMPLES, pairs.EXAMPLE, size=size, fit=fit)
    for entry in pairs.spread(pairs.listed(data), num):
        yield pairs.read_pair(data, entry, size=size, fit=fit)
    faces = held_out_faces(data, parts)
    places = np.linspace(0, len(faces) - 2, num).round().astype(int)
    for place in places:
        source, target = (resize(faces[n], (size, size)) for n in (place, place + 1))
        yield PhotoPair(f"held-out faces {place}, {place + 1}", "faces", source, target)


def rows_of(
    pair: PhotoPair, parts: oeft_jax.Parts, config: oeft_jax.Config, eye: Judge
) -> Iterator[dict[str, Any]]:
    """A row for each hypothesis after each number of steps."""
    photos = (pair.source, pair.target)
    one = pipeline.begin(*photos, config, parts, Store(None))
    programs = pipeline.programs_of(config, parts)
    tuned = tuning.tune(pipeline.tuning_key(config), one, programs, lambda *_: None)
    picture, structure = make_picture(photos, one.pair, tuned.warp, config), config.output.led()
    ready = judge.prepare(eye, pair)
    of_warp = judge.measures(eye, ready, picture.warped)
    made = pipeline.inversion_programs(config, parts)
    warped = square_of(tuned.warp, config.correspondence)
    goal = made.make_goal(warped, params=parts.generator_params, phi=parts.params)
    state = made.init(jax.random.fold_in(jax.random.key(config.seed), 2), parts.generator_params)
    steps = config.inversion.steps
    early = give_up_step(config.refine, steps)
    assert early is not None
    for taken in (early, steps, 3 * steps):
        state = inversion.run(state, goal, step=made.step, num_steps=taken)
        found = inversion.hypotheses_of(state, goal, made)
        scores = over_warp(found, warped, *photos, scorer=parts.scorer, structure=structure)
        for hypothesis, score in zip(found, scores, strict=True):
            made_of = refined(hypothesis.image, picture.unfinished, picture.source, structure)
            ours = judge.measures(eye, ready, made_of)
            yield {
                "pair": pair.id,
                "kind": pair.kind,
                "steps": taken,
                "layer": hypothesis.composing_layer,
                "codes": hypothesis.num_codes,
                "SSIM": hypothesis.ssim,
                "score over the warp": float(score),
                "over the warp": {name: over(name, ours[name], of_warp[name]) for name in ours},
            }


def over(measure: str, ours: float, warp: float) -> float:
    """How much worse than the warp's: a ratio above 1, however the measure counts."""
    return warp / ours if measure in LARGER else ours / warp


def summary_of(rows: Sequence[dict[str, Any]], config: oeft_jax.Config) -> dict[str, Any]:
    """By SSIM, the geometric means over hypotheses of what all have of the measures; giving up.

    Pairs count as used in the end where any hypothesis could be; the run's choice is one of them.
    """
    early, steps = give_up_step(config.refine, config.inversion.steps), config.inversion.steps
    bins, low = [], -1.0
    for high in LIMITS:
        inside = [row["over the warp"] for row in rows if low <= row["SSIM"] < high]
        if inside:
            shared = set.intersection(*map(set, inside))  # labelled pairs have a measure more
            means = {
                name: float(np.exp(np.mean([np.log(row[name]) for row in inside])))
                for name in inside[0]
                if name in shared
            }
            better = np.mean([np.mean(np.log(list(row.values()))) <= 0 for row in inside])
            part = {"SSIM from": low, "to": high, "hypotheses": len(inside)}
            bins.append({**part, "as good as the warp": float(better), **means})
        low = high
    rise, fall = 0.0, 1.0
    usable, given_up = set(), set()
    plan = plan_of(config.inversion)
    tried = [plan[place] for place in tried_first(plan)]
    for pair in {row["pair"] for row in rows}:
        of_pair = [row for row in rows if row["pair"] == pair]
        first, then = ([row for row in of_pair if row["steps"] == n] for n in (early, steps))
        rise = max(rise, _best_ssim(then) - _best_ssim(first))
        fall = min(fall, _best_score(then) / _best_score(first))
        limit = config.refine.limit
        if any(row["SSIM"] >= limit and row["score over the warp"] <= 1 for row in then):
            usable.add(pair)
        asked = [row["SSIM"] for row in first if (row["layer"], row["codes"]) in tried]
        if hopeless(asked, config.refine):
            given_up.add(pair)
    return {
        "by SSIM": bins,
        "largest rise of the best SSIM after a third": rise,
        "largest fall of the best score after a third, as a factor": fall,
        "used in the end": sorted(usable),
        "given up": sorted(given_up),
        "given up wrongly": sorted(given_up & usable),
    }


def _best_ssim(rows: Sequence[dict[str, Any]]) -> float:
    return max(row["SSIM"] for row in rows)


def _best_score(rows: Sequence[dict[str, Any]]) -> float:
    return min(row["score over the warp"] for row in rows)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rows", type=Path, help="file to summarise again, in place of measuring")
    parser.add_argument("--num", type=int, default=6, help="pairs of photos, and as many of faces")
    parser.add_argument("--steps", type=int, default=20, help="of tuning")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    config = oeft_jax.preset("bundled")
    stage = replace(config.correspondence, steps=args.steps)
    output = OutputConfig(size=str(stage.image_size))
    config = replace(config, correspondence=stage, output=output)
    if args.rows:
        kept = json.loads(args.rows.read_text("utf-8"))
        kept["summary"] = summary_of(kept["hypotheses"], config)
        args.out.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
        return
    if args.data is None:
        parser.error("--data: accepted: a folder, or --rows FILE in its place")
    parts, eye = oeft_jax.load_parts(config), judge.squeezenet(args.data)
    rows: list[dict[str, Any]] = []
    for pair in photo_pairs(args.data, parts, config, args.num):
        rows += rows_of(pair, parts, config, eye)
        print(pair.id, max(row["SSIM"] for row in rows if row["pair"] == pair.id), flush=True)
        weights = {w.origin: w.sha256 for w in parts.weights}
        result = {
            **circumstances(),
            "weights": weights,
        }
        result["summary"] = summary_of(rows, config)
        result["hypotheses"] = rows
        args.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
