"""How often a rule for choosing a hypothesis is right, by measures that no rule used.

For every pair all hypotheses are inverted on the tuned warp. Each rule chooses one; so does every
fixed setting; the oracle takes the best by the measure at hand, and chance is the mean over all.
What is judged is what a user would get (coarse content from the generator, detail from the warp,
finished), in SqueezeNet, which no rule looks through.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.quality import judge, pairs, rules, tuned
from benchmarks.quality.comparators import spaces
from benchmarks.quality.comparators.inverters import name_of
from benchmarks.quality.judge import Judge
from benchmarks.quality.pairs import PhotoPair
from benchmarks.quality.rules import Rule
from benchmarks.quality.runs import Do, Row
from oeft_jax import inversion
from oeft_jax.config import Config
from oeft_jax.finish import led_by
from oeft_jax.image import resize
from oeft_jax.inversion import Hypothesis
from oeft_jax.pipeline import Parts
from oeft_jax.refine import over_warp, refined, use_generator
from oeft_jax.selection import Scorer
from training import intervals
from training.intervals import Estimate

LARGER = ("edge agreement", "style relevance")  # measures that are better when larger
TO_WARP = "distance to the warp"
ALL = "all measures"  # mean of the regrets by each of structure and appearance
ORACLE, CHANCE = "oracle", "chance"
WARP, SAFE = (
    "the warp",
    f"{rules.DEFAULT}, safe",
)  # not hypotheses: what is left without a generator


def run(
    do: Do,
    data: Path,
    parts: Parts,
    config: Config,
    *,
    seeds: Sequence[int],
    num: int,
    half: str,
) -> None:
    """Every rule on `num` pairs of one half, kinds in turn.

    Args:
      do: does a job unless its rows are there; one job is a pair, see `pair_rows`.
      data: holds pairs.json, the photos, the faces (lfw128) and SqueezeNet's weights.
      config: what stage 1 and the inversion do; the pair is tuned once, with the config's seed.
      seeds: of the inversions.
    Raises:
      InputError: the parts hold no generator.
    """
    spaces.require_generator(parts)
    stage, eye = config.correspondence, judge.squeezenet(data)
    choosing = cache(lambda: rules.rules(data, parts, config))

    def made(entry: dict[str, Any]) -> Iterator[Row]:
        pair = pairs.read_pair(data, entry, size=stage.image_size, fit=stage.fit)
        (look,) = tuned.looks(pair.source, pair.target, config, parts, (stage.steps,))
        warped = np.asarray(look.warp.voted[0]).clip(0, 1)
        for seed in seeds:
            hypotheses = invert(warped, parts, replace(config, seed=seed))
            of_pair = (pair, warped, hypotheses)
            for row in pair_rows(*of_pair, parts.scorer, choosing(), eye, config):
                yield {"seed": seed, **row}

    for entry in pairs.spread(pairs.half(pairs.listed(data), half), num):
        steps, inverting = stage.steps, config.inversion.steps
        job = {"id": entry["id"], "steps": steps, "inversion": inverting, "seeds": len(seeds)}
        do(job, partial(made, entry))


def invert(warped: np.ndarray, parts: Parts, config: Config) -> list[Hypothesis]:
    """All hypotheses of a warp [s, s, 3]; none is dropped on the way."""
    return inversion.invert(
        jax.random.key(config.seed),
        warped,
        spaces.require_generator(parts),
        parts.generator_params,
        parts.params,
        backbone=parts.backbone,
        config=replace(config.inversion, halving=0),
        optimizer=parts.inversion_optimizer,
    )


# Judgement


class Costs(NamedTuple):
    """One measure of every hypothesis; smaller is better."""

    each: np.ndarray  # [h]
    warp: float  # of the warp itself


def pair_rows(
    pair: PhotoPair,
    warped: np.ndarray,
    hypotheses: Sequence[Hypothesis],
    scorer: Scorer,
    choosing: Mapping[str, Rule],
    eye: Judge,
    config: Config,
) -> Iterator[Row]:
    """One row for each measure and rule: the cost of what it chose, and its regret.

    The regret is 0 for the best of the hypotheses and 1 for the worst. The warp may do better than
    the best; the safe rule is the default one with the generator refused as the settings say.
    """
    picks = {name: rule(hypotheses, pair.target) for name, rule in choosing.items()}
    settings = {name_of(h.composing_layer, h.num_codes): n for n, h in enumerate(hypotheses)}
    safe = picks[rules.DEFAULT]
    structure, compared = config.output.led(), (warped, pair.source, pair.target)
    rate = partial(over_warp, [hypotheses[safe]], *compared, scorer=scorer, structure=structure)
    auto = replace(config.refine, mode="auto")
    uses, _ = use_generator(hypotheses[safe], lambda: rate()[0], auto)
    costly = costs_of(pair, warped, hypotheses, eye, structure=structure)
    for measure, costs in costly.items():
        best = int(np.argmin(costs.each))
        for rule, place in {ORACLE: best, **picks, **settings}.items():
            yield _row(pair, measure, rule, costs.each[place], costs, float(place == best))
        yield _row(pair, measure, CHANCE, float(np.mean(costs.each)), costs, 1 / len(hypotheses))
        refused = costs.each[safe] if uses else costs.warp
        right = uses == bool(costs.each[safe] <= costs.warp)
        yield _row(pair, measure, SAFE, refused, costs, float(right))
        yield _row(pair, measure, WARP, costs.warp, costs, float(costs.warp <= costs.each[best]))


def _row(pair: PhotoPair, measure: str, rule: str, cost: float, costs: Costs, right: float) -> Row:
    return {
        "id": pair.id,
        "kind": pair.kind,
        "measure": measure,
        "rule": rule,
        "cost": float(cost),
        "regret": regret(cost, costs.each),
        "right": right,
    }


def regret(cost: float, each: np.ndarray) -> float:
    """Where a cost lies between the best of [h] costs, 0, and the worst, 1; 0 if all are equal."""
    span = float(np.max(each) - np.min(each))
    return float((cost - np.min(each)) / span) if span > 0 else 0.0


def costs_of(
    pair: PhotoPair,
    warped: np.ndarray,
    hypotheses: Sequence[Hypothesis],
    eye: Judge,
    *,
    structure: float,
) -> dict[str, Costs]:
    """Every measure of the pictures made of the hypotheses, the mean of their regrets last.

    Pictures and the warp are finished, `structure` as `finish.led_by` takes it.
    """
    ready, size = judge.prepare(eye, pair), pair.source.shape[:2]
    finished = led_by(pair.source, warped, structure)
    pictures = [resize(refined(h.image, warped, pair.source, structure), size) for h in hypotheses]
    found = [judge.measures(eye, ready, picture) for picture in [*pictures, finished]]
    table = {
        name: np.array([-row[name] if name in LARGER else row[name] for row in found])
        for name in found[0]
    }
    costs = {name: Costs(values[:-1], float(values[-1])) for name, values in table.items()}
    mean = Costs(
        np.mean([[regret(v, c.each) for v in c.each] for c in costs.values()], axis=0),
        float(np.mean([regret(c.warp, c.each) for c in costs.values()])),
    )
    to_warp = Costs(np.array([distance_to_warp(h, warped, eye) for h in hypotheses]), 0.0)
    return {TO_WARP: to_warp, **costs, ALL: mean}


def distance_to_warp(hypothesis: Hypothesis, warped: np.ndarray, eye: Judge) -> float:
    """Relative squared distance of y and r in the judge's layers, r at the generator's sharpness."""
    small, size = hypothesis.image.shape[:2], warped.shape[:2]
    held = resize(resize(warped, small), size) if small < size else warped
    ours, theirs = (
        eye.features(jnp.asarray(image)[None]) for image in (resize(hypothesis.image, size), held)
    )
    gaps = [
        jnp.sum((ours[tap] - theirs[tap]) ** 2) / (jnp.sum(theirs[tap] ** 2) + 1e-12)
        for tap in eye.style
    ]
    return float(np.mean(gaps))


# Table


class Standing(NamedTuple):
    """A rule by one measure, over pairs."""

    right: Estimate  # share of pairs where it took the oracle's choice
    regret: Estimate


def standings(found: Sequence[Row], measure: str, *, seed: int = 0) -> dict[str, Standing]:
    """Rule -> how it did; seeds of a pair are averaged, pairs are what is drawn again.

    For the safe rule and the warp "right" means: not worse than what else there was.
    """
    cells: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in found:
        if row["measure"] == measure:
            by_pair = cells.setdefault(row["rule"], {})
            by_pair.setdefault(row["id"], []).append((row["right"], row["regret"]))
    result = {}
    for rule, by_pair in cells.items():
        means = np.array([np.mean(values, axis=0) for values in by_pair.values()])
        result[rule] = Standing(*(intervals.mean(column, seed=seed) for column in means.T))
    return result
