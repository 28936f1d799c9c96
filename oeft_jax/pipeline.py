"""translate(): the one place that wires the two stages; arrays in, arrays out."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from oeft_jax import correspondence, inversion, selection
from oeft_jax._checks import InputError
from oeft_jax._types import Params
from oeft_jax.checkpoint import Store
from oeft_jax.config import SAME, Config, check
from oeft_jax.image import fit_square
from oeft_jax.inversion import Hypothesis
from oeft_jax.loading import load_features, load_generator
from oeft_jax.losses import Losses
from oeft_jax.models import backbone as models
from oeft_jax.models.backbone import Backbone
from oeft_jax.models.generator import Generator
from oeft_jax.refine import two_bands, use_generator
from oeft_jax.selection import Choice, Scorer
from oeft_jax.weights import Weights, require

SAVE_EVERY = 20  # steps between saved states
HISTORY = (0.0, 0.1, 0.4, 1.0)  # parts of the run at which the warp is kept (Fig. 5)


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
    """What a run returns. Pictures are [s, s, 3] float32 in [0, 1]."""

    image: np.ndarray  # the result
    warped: np.ndarray  # stage 1's, finished as the settings say
    soft_warped: np.ndarray  # Eq. 6 as it is
    source: np.ndarray  # as it was used: square, at working size
    target: np.ndarray
    history: tuple[tuple[int, np.ndarray], ...]  # (step, soft warp) as tuning goes (Fig. 5)
    confidence: np.ndarray  # [grid, grid] in (0, 1], largest softmax weight of each cell
    losses: tuple[dict[str, float], ...]  # weighted terms of Eq. 11, one row a step
    hypotheses: tuple[Hypothesis, ...]
    choice: Choice | None
    uses_generator: bool
    verdict: str  # a sentence: what the result is made of, and why
    seconds: dict[str, float]  # stage -> wall time, compilation included


def load_parts(config: Config) -> Parts:
    """Networks, losses, optimisers and scorer that the settings name.

    Raises:
      InputError: weights missing, damaged or of the wrong kind, or settings that do not fit them.
    """
    check(config)
    require(_names(config))
    stage = config.correspondence
    taps = {*stage.taps, *correspondence.phi_taps(stage), config.inversion.perceptual_tap}
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
        losses=correspondence.default_losses(stage),
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
    """
    config = check(config or Config())
    parts = parts or load_parts(config)
    if parts.generator is not None:
        inversion.check_layers(parts.generator, config.inversion)
    tell = on_progress or (lambda _: None)
    store = Store(state_folder)
    stage = config.correspondence
    squares = [
        jnp.asarray(fit_square(_checked(name, image), stage.image_size, stage.fit))[None]
        for name, image in (("source", source), ("target", target))
    ]
    began = time.monotonic()
    tuned = _tune(squares[0], squares[1], config, parts, tell, store)
    seconds = {"correspondence": time.monotonic() - began}
    warped = np.asarray(tuned.warp.voted if stage.finish == "voted" else tuned.warp.soft)[0]
    began = time.monotonic()
    hypotheses = _invert(warped, config, parts, tell, store)
    choice, uses, verdict, image = None, False, "", warped
    if hypotheses:
        scores = parts.scorer([h.image for h in hypotheses], np.asarray(squares[1][0]))
        losses = np.array([h.loss for h in hypotheses])
        choice = selection.choose(scores, losses, tolerance=config.selection.tolerance)
        chosen = hypotheses[choice.chosen]
        uses, verdict = use_generator(chosen, config.refine)
        image = two_bands(chosen.image, warped) if uses else warped
    seconds["inversion"] = time.monotonic() - began
    grid = stage.grid
    return Translation(
        image=image,
        warped=warped,
        soft_warped=np.asarray(tuned.warp.soft)[0],
        source=np.asarray(squares[0][0]),
        target=np.asarray(squares[1][0]),
        history=tuned.history,
        confidence=np.asarray(tuned.warp.confidence).reshape(grid, grid),
        losses=tuned.rows,
        hypotheses=tuple(hypotheses),
        choice=choice,
        uses_generator=uses,
        verdict=verdict or "No generator was asked for; the result is the warp.",
        seconds=seconds,
    )


class _Tuned(NamedTuple):
    warp: correspondence.Warp
    history: tuple[tuple[int, np.ndarray], ...]
    rows: tuple[dict[str, float], ...]


def _checked(name: str, image: Any) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < 2:
        raise InputError(f"{name} has shape {image.shape}; accepted: [h, w, 3].")
    if not np.issubdtype(image.dtype, np.floating):
        raise InputError(f"{name} has dtype {image.dtype}; accepted: floating point in [0, 1].")
    if not np.all((image >= 0) & (image <= 1)):
        raise InputError(f"{name} has values outside [0, 1] or not finite; accepted: [0, 1].")
    return image.astype(np.float32)


def _tune(
    source: jax.Array,
    target: jax.Array,
    config: Config,
    parts: Parts,
    tell: Callable[[Progress], None],
    store: Store,
) -> _Tuned:
    stage, backbone = config.correspondence, parts.backbone
    params = models.used_params(backbone, parts.params, stage.taps)
    state, pair = correspondence.init(
        params,
        parts.params,
        source,
        target,
        backbone=backbone,
        config=stage,
        optimizer=parts.optimizer,
    )
    make = correspondence.make_warp(backbone, stage)
    marks = sorted({round(part * stage.steps) for part in HISTORY})
    names = ["loss", *(name for name, (weight, _) in sorted(parts.losses.items()) if weight)]
    saved: dict[str, Any] = {
        "state": state,
        "rows": np.full((stage.steps, len(names)), np.nan),
        "history": np.zeros((len(marks), *source.shape[1:]), np.float32),
    }
    saved = store.load("correspondence", saved)
    state, rows, history = saved["state"], np.array(saved["rows"]), np.array(saved["history"])
    if int(state.step) == 0 and stage.steps:  # the last mark is the final warp, made below
        history[0] = np.asarray(make(state.params, pair).soft)[0]

    def on_step(number: int, state: correspondence.CorrespondenceState, row: dict) -> None:
        rows[number - 1] = [row[name] for name in names]
        if number in marks[:-1]:
            history[marks.index(number)] = np.asarray(make(state.params, pair).soft)[0]
        if number % SAVE_EVERY == 0 or number == stage.steps:
            store.save("correspondence", number, {"state": state, "rows": rows, "history": history})
        tell(Progress("correspondence", number, stage.steps, row))

    step = correspondence.make_step(backbone, stage, parts.losses, parts.optimizer)
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    try:
        state = correspondence.run(
            key, state, pair, step=step, num_steps=stage.steps, on_step=on_step
        )
    except correspondence.NonFiniteError as error:
        saved = {"state": error.state, "rows": rows, "history": history}
        store.save("correspondence", int(error.state.step), saved)
        raise
    table = [dict(zip(names, (float(v) for v in row), strict=True)) for row in rows]
    warp = make(state.params, pair)
    history[-1] = np.asarray(warp.soft)[0]
    return _Tuned(warp, tuple(zip(marks, history, strict=True)), tuple(table))


def _invert(
    warped: np.ndarray,
    config: Config,
    parts: Parts,
    tell: Callable[[Progress], None],
    store: Store,
) -> list[Hypothesis]:
    generator, stage = parts.generator, config.inversion
    if generator is None or config.refine.mode == "never":
        return []
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    layers = tuple(dict.fromkeys(stage.composing_layers))
    found: list[Hypothesis] = []
    for place, layer in enumerate(layers):
        size = generator.resolution
        empty = [
            Hypothesis(layer, count, np.zeros((size, size, 3), np.float32), np.inf, 0.0, 0.0)
            for count in stage.num_codes
        ]
        kept = [one._asdict() for one in empty]
        done = store.load(f"inversion-{layer}", kept)
        if done is not kept:
            found += [_hypothesis(one) for one in done]
            continue

        def on_step(number: int, values: dict[str, Any], place: int = place) -> None:
            best = {name: float(np.min(value)) for name, value in values.items()}
            total = stage.steps * len(layers)
            tell(Progress("inversion", place * stage.steps + number, total, best))

        these = inversion.invert_layer(
            key,
            warped,
            generator,
            parts.generator_params,
            parts.params,
            layer,
            backbone=parts.backbone,
            config=stage,
            optimizer=parts.inversion_optimizer,
            on_step=on_step,
        )
        if len(these) == len(empty):
            store.save(f"inversion-{layer}", 0, [one._asdict() for one in these])
        found += these
    return inversion.require(found)


def _hypothesis(saved: dict[str, Any]) -> Hypothesis:
    return Hypothesis(
        int(saved["composing_layer"]),
        int(saved["num_codes"]),
        np.asarray(saved["image"]),
        float(saved["loss"]),
        float(saved["psnr"]),
        float(saved["ssim"]),
    )
