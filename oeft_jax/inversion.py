"""Multiple GAN inversion (Sec. 3.3): init / step / run over the latent codes of many hypotheses.

All hypotheses are one program (see `composition`), and none knows of the others: each has its own
start values, optimiser state and best codes so far. Leading axis h counts hypotheses, a those that
are still active.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from oeft_jax._checks import InputError, check_range
from oeft_jax._types import Params, Terms
from oeft_jax.composition import Latents, Plan, init_latents, plan_of
from oeft_jax.config import InversionConfig
from oeft_jax.correspondence import NonFiniteError
from oeft_jax.jitted import jit_often, jit_once
from oeft_jax.metrics import likeness
from oeft_jax.models.backbone import Backbone
from oeft_jax.models.generator import Generator
from oeft_jax.objective import Goal, down, make_goal, make_objective
from oeft_jax.remember import remember

Active = tuple[int, ...]  # places in the plan of the hypotheses that are still optimised


class Trial(NamedTuple):
    """One hypothesis as it is optimised."""

    latents: Latents
    opt_state: optax.OptState
    best: Latents  # of the smallest loss so far
    best_loss: jax.Array  # []


class InversionState(NamedTuple):
    """Carried between steps and saved."""

    step: jax.Array  # [], int32
    active: jax.Array  # [h] bool, False once dropped
    trials: tuple[Trial, ...]  # of each hypothesis; a dropped one stays as it was


class InversionInfo(NamedTuple):
    """Reported, never carried; of the active hypotheses."""

    loss: jax.Array  # [a]
    terms: Terms  # name -> [a]
    best_loss: jax.Array  # [a]
    images: jax.Array  # [a, R, R, 3] of the codes that the step began with, nominally in [-1, 1]


class Hypothesis(NamedTuple):
    """One finished inversion."""

    composing_layer: int
    num_codes: int
    image: np.ndarray  # [R, R, 3] in [0, 1]
    loss: float  # the objective of Eq. 12 at the codes kept
    psnr: float  # of down(y) against r, dB
    ssim: float  # of down(y) against r; 0 where r is too small for its window


Step = Callable[[InversionState, Goal, Active], tuple[InversionState, InversionInfo]]


class Programs(NamedTuple):
    """What is compiled: made once, used for any number of pairs."""

    plan: Plan
    make_goal: Callable[..., Goal]  # (warped, params=, phi=)
    init: Callable[[jax.Array, Params], InversionState]  # (key, params of the generator)
    step: Step  # the state passed in is donated
    compare: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]  # `comparison`'s, jitted


def check_layers(generator: Generator, config: InversionConfig) -> None:
    """Raises InputError when a composing layer does not exist in the generator."""
    for layer in config.composing_layers:
        check_range("--inversion-composing-layers", layer, 1, generator.num_layers)


@remember
def default_optimizer(config: InversionConfig) -> optax.GradientTransformation:
    """Adam, or the released plain SGD."""
    if config.optimizer == "sgd":
        return optax.sgd(config.learning_rate)
    return optax.adam(config.learning_rate)


def init(
    key: jax.Array,
    generator: Generator,
    params: Params,
    plan: Plan,
    optimizer: optax.GradientTransformation,
) -> InversionState:
    """Start values of every hypothesis, nothing tried yet."""
    latents = tuple(init_latents(key, generator, params, *one) for one in plan)
    return init_from(latents, optimizer)


def init_from(
    latents: tuple[Latents, ...], optimizer: optax.GradientTransformation
) -> InversionState:
    """The state of a run that begins with these latents."""

    def trial(one: Latents) -> Trial:
        # The state is donated: no buffer may be in it twice, nor stay the caller's.
        now, best = (jax.tree.map(jnp.copy, one) for _ in range(2))
        return Trial(now, optimizer.init(now), best, jnp.full((), jnp.inf, one.codes.dtype))

    active = jnp.ones(len(latents), bool)
    return InversionState(jnp.int32(0), active, tuple(trial(one) for one in latents))


def to_save(state: InversionState) -> list[jax.Array]:
    """What of a state is written: its arrays but for those of no size, which orbax refuses."""
    return [leaf for leaf in jax.tree.leaves(state) if leaf.size]


def from_saved(state: InversionState, saved: list[jax.Array]) -> InversionState:
    """A state like `state` with the values of `saved`, what `to_save` gave."""
    values = iter(saved)
    return jax.tree.map(lambda leaf: next(values) if leaf.size else leaf, state)


def make_step(
    generator: Generator,
    backbone: Backbone,
    config: InversionConfig,
    optimizer: optax.GradientTransformation,
    plan: Plan,
    *,
    mesh: Mesh | None = None,
) -> Step:
    """The jitted step of the active hypotheses; the state passed in is donated."""
    objective = make_objective(generator, backbone, config, mesh=mesh)

    def advance(trial: Trial, loss: jax.Array, grads: Latents) -> Trial:
        better = loss < trial.best_loss  # False for NaN: a lost hypothesis keeps its best
        best, best_loss = jax.tree.map(
            lambda new, old: jnp.where(better, new, old),
            (trial.latents, loss),
            (trial.best, trial.best_loss),
        )
        updates, opt_state = optimizer.update(grads, trial.opt_state, trial.latents)
        latents = optax.apply_updates(trial.latents, updates)
        return Trial(latents, opt_state, best, best_loss)

    def step(
        state: InversionState, goal: Goal, active: Active
    ) -> tuple[InversionState, InversionInfo]:
        def total(latents: tuple[Latents, ...]) -> tuple[jax.Array, Any]:
            found = objective(latents, goal, tuple(plan[i] for i in active))
            return jnp.sum(found[0]), found  # the sum's gradient is each one's own

        now = tuple(state.trials[i].latents for i in active)
        grads, (losses, terms, images) = jax.grad(total, has_aux=True)(now)
        trials = list(state.trials)
        for place, i in enumerate(active):
            trials[i] = advance(trials[i], losses[place], grads[place])
        best = jnp.stack([trials[i].best_loss for i in active])
        state = state._replace(step=state.step + 1, trials=tuple(trials))
        return state, InversionInfo(losses, terms, best, images)

    return jit_often(step, donate_argnums=0, static_argnums=2)


def comparison(images: jax.Array, warped: jax.Array, *, mode: str) -> tuple[jax.Array, jax.Array]:
    """How near down(y) is to r: (PSNR [a] in dB, SSIM [a], 0 where r is too small for its window).

    Args:
      images: [a, R, R, 3], nominally in [-1, 1].
      warped: [s, s, 3] in [-1, 1].
      mode: of `down`.
    """
    size, theirs = warped.shape[0], warped * 0.5 + 0.5

    def one(image: jax.Array) -> tuple[jax.Array, jax.Array]:
        return likeness(jnp.clip(down(image, size, mode=mode) * 0.5 + 0.5, 0, 1), theirs)

    return jax.vmap(one)(images)


@remember
def make_programs(
    generator: Generator,
    backbone: Backbone,
    config: InversionConfig,
    optimizer: optax.GradientTransformation,
    *,
    mesh: Mesh | None = None,
) -> Programs:
    """Everything that is compiled, the same objects for the same settings and parts."""
    plan = plan_of(config)

    def begin(key: jax.Array, params: Params) -> InversionState:
        return init(key, generator, params, plan, optimizer)

    return Programs(
        plan,
        jit_once(partial(make_goal, generator=generator, backbone=backbone, config=config)),
        jit_once(begin),
        make_step(generator, backbone, config, optimizer, plan, mesh=mesh),
        jit_once(partial(comparison, mode=config.down)),
    )


def rungs(num_hypotheses: int, config: InversionConfig) -> dict[int, int]:
    """Step -> how many hypotheses go on after it, for successive halving.

    After 1/2^n, ..., 1/4, 1/2 of the steps the better half of the hypotheses stays, rounded up, for
    n = `config.halving`; so each part costs about as much as the one before.
    """
    kept, found = num_hypotheses, {}
    for power in range(config.halving, 0, -1):
        kept = (kept + 1) // 2
        found[config.steps >> power] = kept
    return found


def only(state: InversionState, active: Active) -> InversionState:
    """A state in which these alone are active; nothing else changes."""
    mask = np.zeros(len(state.trials), bool)
    mask[list(active)] = True
    return state._replace(active=jax.device_put(mask))


def drop(state: InversionState, losses: np.ndarray, keep: int) -> InversionState:
    """Leaves the `keep` active hypotheses of the smallest losses [a] active; ties go to the first.

    Nothing else changes, so what stays goes on as if nothing had been dropped.
    """
    places = active_of(state)
    return only(state, tuple(places[i] for i in np.argsort(losses, kind="stable")[:keep]))


def active_of(state: InversionState) -> Active:
    """Places of the active hypotheses, as the compiled programs take them."""
    return tuple(int(place) for place in np.flatnonzero(np.asarray(state.active)))


def run(
    state: InversionState,
    goal: Goal,
    *,
    step: Step,
    num_steps: int,
    drops: dict[int, int] | None = None,
    on_step: Callable[[int, InversionState, dict[str, Any]], None] | None = None,
) -> InversionState:
    """Steps until `num_steps` have been taken; the best codes of each hypothesis are in its trial.

    Args:
      drops: step -> how many hypotheses go on after it, see `rungs`.
      on_step: told the number, the state and the values [a] of each loss term after every step.
    Raises:
      NonFiniteError: no hypothesis has ever had a finite loss.
    """
    for number in range(int(state.step) + 1, num_steps + 1):
        state, info = step(state, goal, active_of(state))
        best = np.asarray(info.best_loss)
        if not np.isfinite(best).any():
            bad = [n for n, value in info.terms.items() if not np.isfinite(value).all()]
            raise NonFiniteError(
                f"inversion step {number}: term {(bad or ['loss'])[0]!r} is not finite; "
                "try a smaller --inversion-learning-rate.",
                state,
            )
        if drops and number in drops:
            state = drop(state, best, drops[number])
        if on_step is not None:
            row = {name: np.asarray(value) for name, value in info.terms.items()}
            on_step(number, state, {"loss": np.asarray(info.loss), **row})
        del info  # its pictures are not to lie beside the next step's
    return state


def hypotheses_of(state: InversionState, goal: Goal, programs: Programs) -> list[Hypothesis]:
    """The finished pictures of all that are active and have ever had a finite loss.

    A step shows the pictures of the codes that it begins with, so one more from the best codes, whose
    outcome is dropped, shows those: a program of their own would take longer to compile than that.
    """
    active = active_of(state)
    trials = tuple(trial._replace(latents=trial.best) for trial in state.trials)
    shown = state._replace(trials=trials)
    copied = jax.device_put(shown, may_alias=False)  # the step's to overwrite
    images = programs.step(copied, goal, active)[1].images
    psnrs, ssims = (np.asarray(x) for x in programs.compare(images, goal.warped))
    pictures = np.clip(np.asarray(images) * 0.5 + 0.5, 0, 1)
    return [
        Hypothesis(*programs.plan[i], pictures[n], float(loss), float(psnrs[n]), float(ssims[n]))
        for n, i in enumerate(active)
        if np.isfinite(loss := state.trials[i].best_loss)
    ]


def invert(
    key: jax.Array,
    warped: jax.Array | np.ndarray,
    generator: Generator,
    params: Params,
    phi: Params,
    *,
    backbone: Backbone,
    config: InversionConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh | None = None,
    on_step: Callable[[int, InversionState, dict[str, Any]], None] | None = None,
) -> list[Hypothesis]:
    """All hypotheses of the settings, inverted together.

    Args:
      warped: [s, s, 3] in [0, 1], stage 1's r.
      phi: weights of the perceptual network.
      mesh: splits codes and hypotheses over its devices.
    """
    programs = make_programs(generator, backbone, config, optimizer, mesh=mesh)
    goal = programs.make_goal(warped, params=params, phi=phi)
    state = programs.init(key, params)
    drops = rungs(len(programs.plan), config)
    state = run(
        state, goal, step=programs.step, num_steps=config.steps, drops=drops, on_step=on_step
    )
    return hypotheses_of(state, goal, programs)


def require(hypotheses: list[Hypothesis]) -> list[Hypothesis]:
    """Returns them; raises InputError when there is none to choose from."""
    if not hypotheses:
        raise InputError("no hypothesis to choose from; give at least one composing layer.")
    return hypotheses
