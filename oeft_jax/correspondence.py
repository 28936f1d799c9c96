"""Correspondence fine-tuning (Sec. 3.2): init / step / run over the weights of two networks.

`init` fixes what does not change (the pair, the frozen network's view of the target, the starting
weights), `step` is one Adam step on the original and an augmented pair, `run` loops over it.
"""

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from oeft_jax import dense
from oeft_jax import losses as L
from oeft_jax._types import Features, Params, Taps, Terms
from oeft_jax.augment import Geometric, Photometric, geometric, photometric
from oeft_jax.config import CorrespondenceConfig
from oeft_jax.consensus import consensus_matches
from oeft_jax.correlation import (
    Matches,
    Scales,
    added,
    correlation,
    hypercolumn,
    inverse_norms,
    layer_scales,
    match_features,
    scaled,
    unit,
)
from oeft_jax.layout import layout_of, pull
from oeft_jax.loss_terms import phi_taps, structure_of, structure_taps
from oeft_jax.models.backbone import Backbone, used_params
from oeft_jax.remember import remember
from oeft_jax.schedule import cosine_fall
from oeft_jax.tiled import DENSE, TILE
from oeft_jax.warp import voted_warp, warp_image


class CorrespondenceState(NamedTuple):
    """Carried between steps and saved."""

    step: jax.Array  # [], int32
    params: Params  # {"source", "target"} or {"shared"}
    opt_state: optax.OptState


class CorrespondenceInfo(NamedTuple):
    """Reported, never carried."""

    loss: jax.Array  # []
    terms: Terms  # weighted; they sum to loss
    finite: jax.Array  # [], bool: loss and all gradients
    soft: jax.Array  # [1, s, s, 3], Eq. 6 under the weights that the step began with


class Pair(NamedTuple):
    """What a run looks at and never changes."""

    source: jax.Array  # [1, s, s, 3] in [0, 1]
    target: jax.Array  # [1, s, s, 3]
    scales: Scales  # of the taps
    phi: Params  # frozen weights of the loss network
    target_phi: Features  # its view of the target
    source_structure: L.Structure  # and what it sees in the source
    start: Params  # where the tuned weights began
    known: Matches | None = None  # what untuned networks say, as it is added to M


class Warp(NamedTuple):
    """Stage 1's result."""

    soft: jax.Array  # [1, s, s, 3], Eq. 6
    voted: jax.Array  # [1, s, s, 3], finished
    best: jax.Array  # [1, p] int32, best target cell of each source cell
    confidence: jax.Array  # [1, p] in (0, 1]


class NonFiniteError(ArithmeticError):
    """A run went non-finite; `state` is the last good state."""

    def __init__(self, message: str, state: Any) -> None:
        super().__init__(message)
        self.state = state


OnStep = Callable[[int, CorrespondenceState, CorrespondenceInfo], None]
StepFn = Callable[
    [jax.Array, CorrespondenceState, Pair], tuple[CorrespondenceState, CorrespondenceInfo]
]


@remember
def default_optimizer(config: CorrespondenceConfig) -> optax.GradientTransformation:
    """Adam as the paper says, or plain SGD; at a rate that stays or falls.

    Its state is of all weights as one vector: a few large loops to compile, not hundreds of small ones.
    """
    if config.optimizer == "sgd":
        made = optax.sgd(config.learning_rate)
    else:
        made = optax.adam(config.learning_rate, b1=config.beta1, b2=config.beta2)
    made = optax.flatten(made)
    return made if config.schedule == "constant" else optax.chain(made, cosine_fall(config.steps))


def init(
    params: Params,
    source: jax.Array,
    target: jax.Array,
    *,
    backbone: Backbone,
    config: CorrespondenceConfig,
    optimizer: optax.GradientTransformation,
) -> tuple[CorrespondenceState, Pair]:
    """Both networks at their pre-trained weights.

    Args:
      params: of the frozen loss network; those of them that `config.taps` needs are tuned.
      source: [1, s, s, 3] float32 in [0, 1].
      target: [1, s, s, 3].
    """
    taps, of_phi = tuple(config.taps), phi_taps(config)
    whole, local = structure_taps(config)
    seen = tuple(sorted({*taps, *of_phi, *whole, *local}))
    of_source, of_target = _untuned(backbone, params, source, target, seen)
    queries, keys = ({tap: x[tap] for tap in taps} for x in (of_source, of_target))
    scales = Scales(*(layer_scales(x, config.layer_scale) for x in (queries, keys)))
    names = ("shared",) if config.shared_weights else ("source", "target")
    start = dict.fromkeys(names, used_params(backbone, params, taps))
    pair = Pair(
        source=source,
        target=target,
        scales=scales,
        phi=params,
        target_phi={tap: of_target[tap] for tap in of_phi},
        source_structure=structure_of(of_source, whole, local),
        start=start,
        known=_known(of_source, of_target, scales, config),
    )
    tuned = jax.tree.map(jnp.copy, start)  # the state is donated, `start` must outlive it
    return CorrespondenceState(jnp.int32(0), tuned, optimizer.init(tuned)), pair


def source_params(params: Params) -> Params:
    """W_S."""
    return params["shared"] if "shared" in params else params["source"]


def target_params(params: Params) -> Params:
    """W_T."""
    return params["shared"] if "shared" in params else params["target"]


def correlate(
    params: Params,
    source: jax.Array,
    target: jax.Array,
    scales: Scales,
    *,
    backbone: Backbone,
    config: CorrespondenceConfig,
) -> tuple[Matches, jax.Array]:
    """(M of Eq. 3, hypercolumns of the source [n, p, c]) of images [n, s, s, 3]."""
    taps = tuple(config.taps)
    of_source = backbone.apply(source_params(params), source, taps)  # Eq. 1
    of_target = backbone.apply(target_params(params), target, taps)  # Eq. 2
    return _matched(of_source, of_target, scales, config)


def _matched(
    of_source: Features,
    of_target: Features,
    scales: Scales,
    config: CorrespondenceConfig,
) -> tuple[Matches, jax.Array]:
    """`correlate`, from the features of `config.taps`."""
    sides = zip((of_source, of_target), scales, strict=True)
    if _keeps_columns(config):
        columns = [dense.columns(f, s, grid=config.grid) for f, s in sides]
        moved = [dense.centred(c) if config.centre == "positions" else c for c in columns]
        matched = [dense.joined(c) for c in moved]
        weights = inverse_norms(matched[0])
        units = [unit(cells) for cells in matched]
        matrix = dense.products(moved[0], weights, units[1])
        return Matches(units[0], units[1], matrix), dense.joined(columns[0])
    cells = [_cells(features, own, config) for features, own in sides]
    units = [
        match_features(c, centre=config.centre, neighbourhood=config.neighbourhood) for c in cells
    ]
    whole = correlation(*units) if is_whole(config) else None
    return Matches(units[0], units[1], whole), cells[0]


def matches_of(
    params: Params, pair: Pair, *, backbone: Backbone, config: CorrespondenceConfig
) -> Matches:
    """What the pair, as it is, is matched by under given weights: M and what is known before."""
    found, _ = correlate(
        params, pair.source, pair.target, pair.scales, backbone=backbone, config=config
    )
    return _guided(found, pair.known, config)


def _untuned(
    backbone: Backbone, phi: Params, source: jax.Array, target: jax.Array, taps: Taps
) -> tuple[Features, Features]:
    """What the network that nothing has tuned, one for both pictures, sees in them, in one pass."""
    both = backbone.apply(phi, jnp.concatenate([source, target]), taps)
    of_source, of_target = ({tap: x[i : i + 1] for tap, x in both.items()} for i in (0, 1))
    return of_source, of_target


def _counts(config: CorrespondenceConfig) -> bool:
    """Whether anything that is known before any tuning has a weight."""
    return bool(config.prior or config.layout)


def _known(
    of_source: Features, of_target: Features, scales: Scales, config: CorrespondenceConfig
) -> Matches | None:
    """What is added to M: what the untuned network matches and the layout that it tells, weighed.

    Args:
      of_source: what it sees, at `config.taps` among others; `of_target` the same.
    """
    if not _counts(config):
        return None
    queries, keys = ({tap: x[tap] for tap in config.taps} for x in (of_source, of_target))
    found = _matched(queries, keys, scales, config)[0]
    parts = []
    if config.prior:
        parts.append(scaled(found, config.prior / (1 + config.prior)))
    if config.layout:
        layout = layout_of(found, window=config.consensus, alpha=config.alpha)
        parts.append(pull(layout, config.layout, config.grid, whole=is_whole(config)))
    return reduce(added, parts)


def _guided(matches: Matches, known: Matches | None, config: CorrespondenceConfig) -> Matches:
    """(M + prior M_0) / (1 + prior) less the layout's pull, of what is known before any step."""
    if known is None:
        return matches
    return added(scaled(matches, 1 / (1 + config.prior)), known)


def is_whole(config: CorrespondenceConfig) -> bool:
    """Whether the correlation is kept as one matrix."""
    return not config.tile and config.grid**4 <= DENSE


def _keeps_columns(config: CorrespondenceConfig) -> bool:
    """Whether the correlation is one small matrix of cells that interpolation commutes with."""
    linear = config.centre != "channels" and config.layer_scale != "unit"
    return is_whole(config) and linear and config.neighbourhood == 1


def _cells(
    features: Features, scales: Mapping[str, jax.Array], config: CorrespondenceConfig
) -> jax.Array:
    return hypercolumn(features, scales, grid=config.grid, layer_scale=config.layer_scale)


def _keys(
    params: Params,
    images: jax.Array,
    scales: Mapping[str, jax.Array],
    backbone: Backbone,
    config: CorrespondenceConfig,
) -> jax.Array | dense.Columns:
    """Hypercolumns of the warp under W_T, the keys of InfoNCE."""
    features = backbone.apply(target_params(params), images, tuple(config.taps))
    if _keeps_columns(config):
        return dense.columns(features, scales, grid=config.grid)
    return _cells(features, scales, config)


def _of_drawn(
    pair: Pair,
    source: jax.Array,
    target: jax.Array,
    backbone: Backbone,
    config: CorrespondenceConfig,
) -> tuple[Features, Matches | None]:
    """(`target_phi`, `known`) of a pair drawn from another."""
    taps = phi_taps(config)
    if not _counts(config):  # the source need not be seen
        return backbone.apply(pair.phi, target, taps), None
    seen = tuple(sorted({*config.taps, *taps}))
    of_source, of_target = _untuned(backbone, pair.phi, source, target, seen)
    known = _known(of_source, of_target, pair.scales, config)
    return {tap: of_target[tap] for tap in taps}, known


def make_loss(
    backbone: Backbone, config: CorrespondenceConfig, losses: L.Losses
) -> Callable[[Params, Pair, jax.Array], tuple[jax.Array, tuple[Terms, jax.Array]]]:
    """Eq. 11 as a function of (params, pair, key), beside its terms and the pair's own soft warp."""

    def loss_fn(
        params: Params, pair: Pair, key: jax.Array
    ) -> tuple[jax.Array, tuple[Terms, jax.Array]]:
        source, target, target_phi = pair.source, pair.target, pair.target_phi
        known = pair.known
        if config.augment:  # both pairs pass in every step, as one batch of two
            keys = jax.random.split(key, 3)
            key = keys[2]
            drawn = (
                photometric(keys[0], source, Photometric()),
                geometric(keys[1], target, Geometric()),
            )
            drawn_phi, drawn_known = _of_drawn(pair, *drawn, backbone, config)
            source, target, target_phi, known = jax.tree.map(
                lambda own, new: jnp.concatenate([own, new]),
                (source, target, target_phi, known),
                (*drawn, drawn_phi, drawn_known),
            )
        matches, source_cells = correlate(
            params, source, target, pair.scales, backbone=backbone, config=config
        )
        matches = _guided(matches, known, config)
        tile = config.tile or TILE
        warped = warp_image(target, matches, alpha=config.alpha, mode=config.warp, tile=tile)
        inputs = L.LossInputs(
            key=key,
            source=source,
            target=target,
            warped=warped,
            matches=matches,
            source_cells=source_cells,
            warped_cells=_keys(params, warped, pair.scales.target, backbone, config),
            target_phi=target_phi,
            warped_phi=backbone.apply(pair.phi, warped, phi_taps(config)),
            source_structure=pair.source_structure,
            params=params,
            start_params=pair.start,
        )
        loss, terms = L.total(losses, inputs)
        return loss, (terms, warped[:1])

    return loss_fn


def make_step(
    backbone: Backbone,
    config: CorrespondenceConfig,
    losses: L.Losses,
    optimizer: optax.GradientTransformation,
) -> StepFn:
    """The jitted step (key, state, pair) -> (state, info); the state passed in is donated.

    A step whose loss or gradient is not finite changes nothing, nor does it count, so the state
    that comes back is always the last good one. One step is one program and the loop is Python's: a
    convolution's weight gradient inside a compiled loop is slow on CPUs.
    """
    loss_fn = make_loss(backbone, config, losses)

    def step(
        key: jax.Array, state: CorrespondenceState, pair: Pair
    ) -> tuple[CorrespondenceState, CorrespondenceInfo]:
        key = jax.random.fold_in(key, state.step)  # a resumed run repeats its numbers
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (terms, soft)), grads = grad_fn(state.params, pair, key)
        finite = jnp.isfinite(loss) & jnp.all(jnp.isfinite(ravel_pytree(grads)[0]))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        updated = (optax.apply_updates(state.params, updates), opt_state)
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), updated, (state.params, state.opt_state)
        )
        state = CorrespondenceState(state.step + finite.astype(jnp.int32), params, opt_state)
        return state, CorrespondenceInfo(loss, terms, finite, soft)

    return jax.jit(step, donate_argnums=1)


def run(
    key: jax.Array,
    state: CorrespondenceState,
    pair: Pair,
    *,
    step: StepFn,
    num_steps: int,
    on_step: OnStep | None = None,
) -> CorrespondenceState:
    """Steps until `num_steps` have been taken in all (a restored state continues).

    Raises:
      NonFiniteError: names the step and the term; its `state` is the last good one.
    """
    for number in range(int(state.step), num_steps):
        state, info = step(key, state, pair)
        if not bool(info.finite):
            raise non_finite(number + 1, info, state)
        if on_step is not None:
            on_step(number + 1, state, info)
    return state


def non_finite(number: int, info: CorrespondenceInfo, state: CorrespondenceState) -> NonFiniteError:
    """The error of step `number`, which names the first term that is to blame."""
    bad = [name for name, value in info.terms.items() if not np.isfinite(value)]
    term = f"loss term {bad[0]!r}" if bad else "a gradient"
    return NonFiniteError(
        f"step {number}: {term} is not finite; try a smaller --learning-rate or --alpha.", state
    )


def row_of(info: CorrespondenceInfo) -> dict[str, float]:
    """What a step reports as Python numbers: the loss and its weighted terms."""
    return {"loss": float(info.loss), **{k: float(v) for k, v in info.terms.items()}}


def make_warp(backbone: Backbone, config: CorrespondenceConfig) -> Callable[[Params, Pair], Warp]:
    """The jitted warp of the un-augmented pair under given weights."""

    def warped(params: Params, pair: Pair) -> Warp:
        matches = matches_of(params, pair, backbone=backbone, config=config)
        alpha, tile = config.alpha, config.tile or TILE
        best, confidence = consensus_matches(matches, window=config.consensus, alpha=alpha)
        return Warp(
            soft=warp_image(pair.target, matches, alpha=alpha, mode=config.warp, tile=tile),
            voted=voted_warp(pair.target, best, grid=config.grid),
            best=best,
            confidence=confidence,
        )

    return jax.jit(warped)
