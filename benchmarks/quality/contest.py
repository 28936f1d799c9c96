"""All ways to invert a picture, within equal steps and within equal compute.

Every method is run once and looked at twice: after as many steps as the settings say, and after as
many as cost what multiple GAN inversion costs with all its hypotheses, counted in floating-point
operations. Start values do not depend on what is inverted beside it, so multiple GAN inversion is
the choice among the multi-code settings after the same steps, and successive halving can be read
off the same runs: it drops the worse half of the settings early and spends the rest on the others.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.quality.comparators import inverters
from benchmarks.quality.comparators.inverters import Budget, Method
from oeft_jax import inversion, selection
from oeft_jax.composition import plan_of
from oeft_jax.config import Config, InversionConfig
from oeft_jax.inversion import Hypothesis
from oeft_jax.pipeline import Parts
from training.invertibility import reach

CHOSEN = "MGI"  # all multi-code settings, one of them chosen
HALVED = "MGI with halving"  # the worse half of them dropped on the way, HALVINGS times
HALVINGS = 2
BUDGETS = ("equal steps", "equal compute")


class Contest(NamedTuple):
    """What is made once for all pictures and seeds."""

    parts: Parts
    config: Config
    methods: list[Method]
    budgets: dict[str, Budget]
    schedule: dict[int, int]  # step -> hypotheses left after it, of HALVED

    def plan(self) -> list[str]:
        """Names of the multi-code settings that multiple GAN inversion chooses from."""
        return [inverters.name_of(*one) for one in plan_of(self.config.inversion)]


class Look(NamedTuple):
    """A run after so many steps."""

    steps: int
    seconds: float  # since it began
    hypothesis: Hypothesis


class Trial(NamedTuple):
    """What one method reached within one budget."""

    method: str
    budget: str
    steps: int
    operations: float
    seconds: float
    hypothesis: Hypothesis


def prepare(parts: Parts, config: Config, picture: np.ndarray) -> Contest:
    """The methods of the settings, compiled, so that no time that is reported holds that."""
    stage = replace(config.inversion, halving=0)
    methods = inverters.methods(parts, stage)
    budgets = inverters.budgets(methods, picture, plan_of(stage), stage.steps)
    for method in methods:
        latents = method.start(jax.random.key(0))
        list(reach(method.given(picture), latents, method.setup, (1,)))
    return Contest(parts, config, methods, budgets, schedule(stage))


def schedule(stage: InversionConfig) -> dict[int, int]:
    """Step -> hypotheses left after it, for successive halving at the cost of no halving.

    Costs are counted as if every hypothesis cost the same; the last step leaves what it finds.
    """
    plan = plan_of(stage)

    def rungs(steps: int) -> dict[int, int]:
        return inversion.rungs(len(plan), replace(stage, steps=steps, halving=HALVINGS))

    def cost(steps: int) -> int:
        marks = {0: len(plan), **rungs(steps), steps: 0}
        return sum((b - a) * marks[a] for a, b in pairwise(sorted(marks)))

    steps = stage.steps
    while cost(steps + 1) <= stage.steps * len(plan):
        steps += 1
    found = rungs(steps)
    return {**{step: left for step, left in found.items() if step}, steps: min(found.values())}


def trials(key: jax.Array, picture: np.ndarray, contest: Contest) -> list[Trial]:
    """What every method reaches of a picture [R, R, 3], multiple GAN inversion last."""
    plan = contest.plan()
    seen, found = {}, []
    for method in contest.methods:
        until = contest.budgets[method.name]
        at = {*until[:2], *(contest.schedule if method.name in plan else ())}
        looks = seen[method.name] = _looks(method, picture, key, sorted(at))
        for budget, steps in zip(BUDGETS, until[:2], strict=True):
            found.append(_trial(method.name, budget, looks[steps], contest))
    whole = [_trial(name, "", seen[name][contest.budgets[name][0]], contest) for name in plan]
    chosen = [_chosen(whole, whole, picture, contest)._replace(budget=b) for b in BUDGETS]
    return [*found, *chosen, _halved({name: seen[name] for name in plan}, picture, contest)]


def _looks(
    method: Method, picture: np.ndarray, key: jax.Array, at: Sequence[int]
) -> dict[int, Look]:
    """One run, looked at after each number of steps."""
    latents, began = method.start(key), time.perf_counter()
    runs = reach(method.given(picture), latents, method.setup, at)
    return {
        run.steps: Look(run.steps, time.perf_counter() - began, run.hypotheses[0]) for run in runs
    }


def _trial(method: str, budget: str, look: Look, contest: Contest) -> Trial:
    work = look.steps * contest.budgets[method].operations
    return Trial(method, budget, look.steps, work, look.seconds, look.hypothesis)


def _chosen(
    candidates: Sequence[Trial], done: Sequence[Trial], picture: np.ndarray, contest: Contest
) -> Trial:
    """Multiple GAN inversion: what is selected of the candidates, at the cost of all that was done."""
    scores = contest.parts.scorer([one.hypothesis.image for one in candidates], picture)
    losses = np.array([one.hypothesis.loss for one in candidates])
    tolerance = contest.config.selection.tolerance
    best = candidates[selection.choose(scores, losses, tolerance=tolerance).chosen]
    work, seconds = sum(one.operations for one in done), sum(one.seconds for one in done)
    return best._replace(method=CHOSEN, operations=work, seconds=seconds)


def _halved(seen: Mapping[str, Mapping[int, Look]], picture: np.ndarray, contest: Contest) -> Trial:
    """The same with the worse half dropped on the way, read off the runs of each by itself."""
    left, done = list(seen), []
    for step, kept in sorted(contest.schedule.items()):
        ranked = sorted(left, key=lambda name: seen[name][step].hypothesis.loss)
        here = {name: _trial(name, BUDGETS[1], seen[name][step], contest) for name in left}
        left = [name for name in left if name in ranked[:kept]]
        done += [trial for name, trial in here.items() if name not in left]
    finalists = [here[name] for name in left]
    best = _chosen(finalists, [*done, *finalists], picture, contest)
    return best._replace(method=HALVED)
