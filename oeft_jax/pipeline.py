"""translate(): the one place that wires the two stages; arrays in, arrays out."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from oeft_jax import correspondence, inversion, loss_terms, selection, tuning
from oeft_jax._checks import InputError
from oeft_jax._types import Params
from oeft_jax.checkpoint import Store
from oeft_jax.composition import plan_of
from oeft_jax.config import SAME, WORKING, Config, check
from oeft_jax.devices import replicate
from oeft_jax.finish import led_by
from oeft_jax.image import fit_square
from oeft_jax.inversion import Hypothesis
from oeft_jax.loading import load_features, load_generator
from oeft_jax.losses import Losses
from oeft_jax.memory import guard
from oeft_jax.models.backbone import Backbone
from oeft_jax.models.generator import Generator
from oeft_jax.picture import make_picture, square_of
from oeft_jax.products import precision
from oeft_jax.refine import give_up_step, hopeless, over_warp, refined, tried_first, use_generator
from oeft_jax.remember import remember
from oeft_jax.selection import Choice, Scorer
from oeft_jax.tuning import Tuned, Tuning
from oeft_jax.weights import Weights, require

SAVE_EVERY = 20  # steps between saved states
STAGES = ("correspondence fine-tuning", "finished picture", "multiple GAN inversion")
INVERSION, TRIAL = "inversion", "trial inversion"  # of all hypotheses, and of the one tried first


class Parts(NamedTuple):
    """Everything a run is made of; `_replace` any of it before calling `translate`."""

    backbone: Backbone
    params: Params  # of the backbone, pre-trained
    losses: Losses
    optimizer: optax.GradientTransformation
    generator: Generator | None  # None when the result is the warp in any case
    generator_params: Params
    inversion_optimizer: optax.GradientTransformation
    scorer: Scorer
    weights: tuple[Weights, ...] = ()  # where the parameters came from, for the manifest


class Progress(NamedTuple):
    """Told to `on_progress`: step `step` of `total` of a stage, with its numbers."""

    stage: str
    step: int
    total: int
    values: dict[str, float]


class Translation(NamedTuple):
    """What a run returns. Pictures are float32 in [0, 1].

    They have the photo's proportions, [h, w, 3], unless the size asked for is the working square
    [s, s, 3]. A field says for every cell of the source where in `target` its middle comes from.
    """

    image: np.ndarray  # the result
    unfinished: np.ndarray  # stage 1's, as large as `warped`
    warped: np.ndarray  # the same, finished as the settings say
    soft_warped: np.ndarray  # Eq. 6 as it is, [s, s, 3]
    source: np.ndarray  # as it was used: as large as `warped`
    target: np.ndarray  # of a like number of pixels
    field: np.ndarray  # [rows, columns, 2] int32, (y, x) in pixels of `target`
    history: tuple[tuple[int, np.ndarray], ...]  # (step, soft warp) as tuning goes (Fig. 5)
    confidence: np.ndarray  # [grid, grid] in (0, 1], largest softmax weight of each cell
    losses: tuple[dict[str, float], ...]  # weighted terms of Eq. 11, one row a step
    hypotheses: tuple[Hypothesis, ...]
    choice: Choice | None
    uses_generator: bool
    verdict: str  # a sentence: what the result is made of, and why
    seconds: dict[str, float]  # stage -> wall time, compilation included
    memory: tuple[tuple[str, int], ...] = ()  # (stage, bytes it was to need) of the plan, if any


def load_parts(config: Config) -> Parts:
    """Networks, losses, optimisers and scorer that the settings name.

    Raises:
      InputError: weights missing, damaged or of the wrong kind, or settings that do not fit them.
    """
    check(config)
    require(_names(config))
    stage = config.correspondence
    taps = {*stage.taps, *loss_terms.phi_taps(stage), config.inversion.perceptual_tap}
    own = config.selection.features != SAME  # a network of its own for the score
    taps |= set() if own else {config.selection.tap}
    features, backbone = load_features(stage.features, taps)
    used = [features]
    judge, judge_params = backbone, features.params
    if own:
        judged_by, judge = load_features(config.selection.features, {config.selection.tap})
        judge_params = judged_by.params
        used.append(judged_by)
    generator, generator_params = None, None
    if config.refine.mode != "never":
        weights, generator = load_generator(config.inversion.generator)
        inversion.check_layers(generator, config.inversion)
        generator_params = weights.params
        used.append(weights)
    return Parts(
        backbone=backbone,
        params=features.params,
        losses=loss_terms.default_losses(stage),
        optimizer=correspondence.default_optimizer(stage),
        generator=generator,
        generator_params=generator_params,
        inversion_optimizer=inversion.default_optimizer(config.inversion),
        scorer=selection.make_scorer(judge, judge_params, config.selection),
        weights=tuple(used),
    )


def _names(config: Config) -> list[str]:
    """The weights that the settings name."""
    names = [config.correspondence.features]
    if config.selection.features != SAME:
        names.append(config.selection.features)
    if config.refine.mode != "never":
        names.append(config.inversion.generator)
    return names


def translate(
    source: np.ndarray,
    target: np.ndarray,
    config: Config | None = None,
    *,
    parts: Parts | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    state_folder: Path | None = None,
) -> Translation:
    """The source wearing the target's appearance: tune, warp, invert, choose (Sec. 3).

    Args:
      source: [h, w, 3] float in [0, 1]; gives structure.
      target: [h, w, 3] float in [0, 1], any size; gives appearance.
      config: settings; the bundled preset by default.
      parts: replaces what the settings name; from `load_parts` by default.
      on_progress: called after every step.
      state_folder: saves the state of the run there, and continues what it finds.
    Raises:
      InputError: arrays or settings that cannot be used.
      NonFiniteError: the run went non-finite; it carries the last good state.
      OutOfMemory: the device had no more, see `memory_fit.check`.
    """
    config = check(config or Config())
    parts = parts or load_parts(config)
    if parts.generator is not None:
        inversion.check_layers(parts.generator, config.inversion)
    tell = on_progress or (lambda _: None)
    store = Store(state_folder)
    began = time.monotonic()
    with precision(config.precision):
        with guard(STAGES[0]):
            one = begin(source, target, config, parts, store)
            made = programs_of(config, parts)
            tuned = tuning.tune(tuning_key(config), one, made, stage_1(config, tell))
        seconds = time.monotonic() - began
        photos = (source, target)
        return finish(photos, one, tuned, config, parts, tell=tell, store=store, seconds=seconds)


def begin(
    source: np.ndarray, target: np.ndarray, config: Config, parts: Parts, store: Store
) -> Tuning:
    """Stage 1 of a pair at its beginning, or where `store` holds it. Raises as `translate`."""
    stage = config.correspondence
    squares = [
        jax.device_put(fit_square(_checked(name, image), stage.image_size, stage.fit)[None])
        for name, image in (("source", source), ("target", target))
    ]
    return Tuning(
        *squares,
        config=stage,
        backbone=parts.backbone,
        params=parts.params,
        losses=parts.losses,
        optimizer=parts.optimizer,
        store=store,
        save_every=SAVE_EVERY,
    )


def programs_of(config: Config, parts: Parts, mesh: Mesh | None = None) -> tuning.Programs:
    """Stage 1's compiled functions, made once for these settings and parts."""
    return tuning.programs(
        config.correspondence, parts.backbone, parts.losses, parts.optimizer, mesh
    )


def inversion_programs(
    config: Config, parts: Parts, mesh: Mesh | None = None
) -> inversion.Programs:
    """Stage 2's compiled functions, made once for these settings and parts."""
    made = (parts.generator, parts.backbone, config.inversion, parts.inversion_optimizer)
    return _inversion_programs(*made, mesh=mesh)


_inversion_programs = remember(inversion.make_programs)


def tuning_key(config: Config) -> jax.Array:
    """The random key of stage 1, the same for every pair."""
    return jax.random.fold_in(jax.random.key(config.seed), 1)


def stage_1(config: Config, tell: Callable[[Progress], None]) -> tuning.OnStep:
    """`tell` as what stage 1 calls after a step."""
    total = config.correspondence.steps
    return lambda number, row: tell(Progress("correspondence", number, total, row))


def finish(
    photos: tuple[np.ndarray, np.ndarray],
    one: Tuning,
    tuned: Tuned,
    config: Config,
    parts: Parts,
    *,
    tell: Callable[[Progress], None],
    store: Store,
    seconds: float,
    mesh: Mesh | None = None,
) -> Translation:
    """The finished picture, stage 2 on every device of a mesh, and the result.

    Args:
      photos: the source and the target as `translate` takes them.
      tuned: what `seconds` of stage 1 made of them.
    Raises:
      As `translate`.
    """
    stage = config.correspondence
    square, structure = square_of(tuned.warp, stage), config.output.led()
    source, target = (np.asarray(photo)[0] for photo in (one.pair.source, one.pair.target))
    began = time.monotonic()
    with guard(STAGES[1]):
        made = make_picture(photos, one.pair, tuned.warp, config)
    took = {"correspondence": seconds, "finish": time.monotonic() - began}
    began = time.monotonic()
    with guard(STAGES[2]):
        hypotheses, steps = _invert(square, config, parts, tell, store, mesh)
    choice, uses, verdict, image = None, False, "", made.warped
    if hypotheses:
        scores = parts.scorer([h.image for h in hypotheses], target)
        losses = np.array([h.loss for h in hypotheses])
        choice = selection.choose(scores, losses, tolerance=config.selection.tolerance)
        chosen = hypotheses[choice.chosen]
        compared = ([chosen], square, source, target)
        rate = partial(over_warp, *compared, scorer=parts.scorer, structure=structure)
        uses, verdict = use_generator(chosen, lambda: rate()[0], config.refine)
        if steps < config.inversion.steps:
            others = len(plan_of(config.inversion)) - len(hypotheses)
            verdict += f" It was given up after {steps} of {config.inversion.steps} steps"
            name = "hypothesis" if others == 1 else "hypotheses"
            verdict += f", and {others} other {name} with it." if others else "."
        if uses:
            image = refined(chosen.image, made.unfinished, made.source, structure)
    return Translation(
        **made._asdict(),
        image=image,
        soft_warped=np.asarray(tuned.warp.soft)[0],
        history=tuned.history,
        confidence=np.asarray(tuned.warp.confidence).reshape(stage.grid, stage.grid),
        losses=tuned.rows,
        hypotheses=tuple(hypotheses),
        choice=choice,
        uses_generator=uses,
        verdict=verdict or "No generator was asked for; the result is the warp.",
        seconds={**took, "inversion": time.monotonic() - began},
    )


def with_structure(result: Translation, config: Config) -> Translation:
    """The result under another `config.output.structure`; takes a second, not a run.

    Args:
      result: of the same settings but for the structure.
    Raises:
      InputError: settings out of range, or the working size, which knows no structure.
    """
    check(config)
    if config.output.size == WORKING:
        raise InputError(f"--structure: accepted: with a --size other than {WORKING!r}.")
    structure = config.output.structure
    warped = image = led_by(result.source, result.unfinished, structure)
    if result.uses_generator and result.choice is not None:
        chosen = result.hypotheses[result.choice.chosen]
        image = refined(chosen.image, result.unfinished, result.source, structure)
    return result._replace(image=image, warped=warped)


def _checked(name: str, image: Any) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < 2:
        raise InputError(f"{name} has shape {image.shape}; accepted: [h, w, 3].")
    if not np.issubdtype(image.dtype, np.floating):
        raise InputError(f"{name} has dtype {image.dtype}; accepted: floating point in [0, 1].")
    if not np.all((image >= 0) & (image <= 1)):
        raise InputError(f"{name} has values outside [0, 1] or not finite; accepted: [0, 1].")
    return image.astype(np.float32)


def _invert(
    warped: np.ndarray,
    config: Config,
    parts: Parts,
    tell: Callable[[Progress], None],
    store: Store,
    mesh: Mesh | None,
) -> tuple[list[Hypothesis], int]:
    """The hypotheses and the steps that were taken."""
    generator, stage = parts.generator, config.inversion
    if generator is None or config.refine.mode == "never":
        return [], 0
    programs = inversion_programs(config, parts, mesh)
    goal = programs.make_goal(warped, params=parts.generator_params, phi=parts.params)
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    if mesh is not None:  # once, not in every step
        goal = replicate(goal, mesh)

    def begun(name: str, active: inversion.Active) -> inversion.InversionState:
        """These hypotheses at their beginning, or where the store holds them under that name."""
        state = inversion.only(programs.init(key, parts.generator_params), active)
        state = inversion.from_saved(state, store.load(name, inversion.to_save(state)))
        return state if mesh is None else replicate(state, mesh)

    def run(
        name: str, state: inversion.InversionState, num_steps: int, total: int
    ) -> tuple[inversion.InversionState, list[Hypothesis]]:
        def on_step(
            number: int, state: inversion.InversionState, values: dict[str, np.ndarray]
        ) -> None:
            if number % SAVE_EVERY == 0 or number == num_steps:
                store.save(name, number, inversion.to_save(state))
            best = {term: float(np.min(value)) for term, value in values.items()}
            tell(Progress(name, number, total, best))

        drops = inversion.rungs(len(programs.plan), stage)
        state = inversion.run(
            state, goal, step=programs.step, num_steps=num_steps, drops=drops, on_step=on_step
        )
        return state, inversion.require(inversion.hypotheses_of(state, goal, programs))

    everything, first = tuple(range(len(programs.plan))), tried_first(programs.plan)
    state = begun(INVERSION, everything)
    early, is_alone = give_up_step(config.refine, stage.steps), first == everything
    if early is not None and int(state.step) <= (early if is_alone else 0):
        if is_alone:
            state, found = run(INVERSION, state, early, stage.steps)
        else:  # every hypothesis begins by itself, so all that goes on begins again
            _, found = run(TRIAL, begun(TRIAL, first), early, early)
        if hopeless([one.ssim for one in found], config.refine):
            return found, early
    return run(INVERSION, state, stage.steps, stage.steps)[1], stage.steps
