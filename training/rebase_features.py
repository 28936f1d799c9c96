"""Teaches the first layers of a feature network anew: `python -m training.rebase_features`.

The first convolution of the bundled network had settled where a small slope does not lead to what the
real VGG-19 says. Here it begins again from random weights. In stages the layers to relu1_1, relu2_1
and relu3_1 learn from the real network alone; whenever one is done the layer after it is turned to
read the old channels out of the new ones. At last those to relu4_1 learn to say what they said
before, too, those to relu3_1 more slowly with `--first-share`; relu4_2 and deeper stay as they are,
and with them what is matched.

A stage of no steps is left out: with the first left out the layers learn on from what they are, and
with `--revive` those of their channels that nothing wakes begin again.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from oeft_jax import checkpoint
from oeft_jax._types import Features, Params, Taps
from oeft_jax.models.backbone import backbone
from training import cli, photos, teachers
from training.dead_channels import revived
from training.distill_features import (
    CONFIG,
    NUM_FITTED,
    State,
    fitted_head,
    fitted_map,
    head_shape,
    relative_error,
    said,
    similarity_error,
    step_ends,
)
from training.states import blank, started

TAUGHT = ("relu1_1", "relu2_1", "relu3_1")  # that the real VGG-19 is read at
AFTER = {"relu1_1": "conv1_2", "relu2_1": "conv2_2", "relu3_1": "conv3_2"}  # what reads them
DEEPEST = "relu4_1"  # of the layers that learn


class Weights(NamedTuple):
    """Of the terms beside the errors at the taught taps."""

    keep: float  # of what later layers said before
    similarity: float  # of the similarities between places; 0 leaves them out


class Stage(NamedTuple):
    """A part of the training, with a schedule of its own."""

    taught: Taps
    keeps: bool  # whether later layers are asked for what they said before
    rate: float
    batch: int
    size: int  # of crops, pixels


STAGES = (
    Stage(TAUGHT[:1], False, 1e-2, 32, 64),
    Stage(TAUGHT[:2], False, 5e-3, 16, 64),
    Stage(TAUGHT, False, 3e-3, 16, 64),
    Stage(TAUGHT, True, 2e-3, 4, 128),
)


def kept_taps() -> Taps:
    """The layers after the taught ones that learn."""
    names = backbone("vgg", CONFIG).tap_names
    return names[names.index(TAUGHT[-1]) + 1 : names.index(DEEPEST) + 1]


def init(params: Params, vgg: teachers.Arrays) -> State:
    """Begins with `params`; heads of nothing, fitted when their stage begins."""
    taught = jax.eval_shape(teachers.vgg_features, vgg, jnp.zeros((1, 16, 16, 3)))
    heads = {}
    for tap in TAUGHT:
        shape = head_shape(tap, taught)
        heads[tap] = {"kernel": jnp.zeros(shape), "bias": jnp.zeros(shape[1:])}
    params = jax.tree.map(jnp.copy, params)  # the state is donated
    return State(jnp.int32(0), jnp.int32(0), params, heads, _no_moments(params, heads))


def _adam(rate: float, steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(rate, steps, 0.02))


def _no_moments(params: Params, heads: Params) -> optax.OptState:
    """Adam's state before any step, which is the same for every schedule."""
    return _adam(1.0, 1).init((params, heads))


def begin(
    state: State,
    before: Params,
    images: jax.Array,
    vgg: teachers.Arrays,
    stage: Stage,
    done: str | None,
) -> State:
    """A stage begins: what it changes is fitted to `images`, and Adam begins again.

    Args:
      done: the deepest tap whose layers have learnt, so that the next layer is to read it anew.
    """
    params, taught = state.params, stage.taught
    if done is not None:
        params = read_anew(params, before, images, done)
        taught = taught[taught.index(done) + 1 :]
    heads = state.heads
    if taught:
        own = backbone("vgg", CONFIG).apply(params, images, taught)
        real = teachers.vgg_features(vgg, images)
        heads = {**heads, **{tap: fitted_head(own[tap], real[tap]) for tap in taught}}
    return state._replace(params=params, heads=heads, opt_state=_no_moments(params, heads))


def read_anew(params: Params, before: Params, images: jax.Array, tap: str) -> Params:
    """`params` whose layer after `tap` reads the old channels of it, as a linear map can."""
    own, was = (backbone("vgg", CONFIG).apply(p, images, (tap,))[tap] for p in (params, before))
    found, layer = fitted_map(own, was), before[AFTER[tap]]
    kernel = jnp.einsum("io,hwoj->hwij", found["kernel"], layer["kernel"])
    bias = layer["bias"] + jnp.einsum("o,hwoj->j", found["bias"], layer["kernel"])
    return {**params, AFTER[tap]: {"kernel": kernel, "bias": bias}}


def loss_fn(
    trained: tuple[Params, Params],
    images: jax.Array,
    taught: Features,
    kept: Features,
    weights: Weights,
    key: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Relative errors of what heads say of the taught taps, and `weights.keep` times those of the kept.

    With `weights.similarity` the cosine similarities between places at the taught taps must agree too:
    heads can say what no cosine of the channels as they are can.

    Args:
      kept: what the layers to keep said before; empty for none.
      key: draws the places.
    """
    params, heads = trained
    features = backbone("vgg", CONFIG).apply(params, images, (*taught, *kept))
    terms = {
        tap: relative_error(said(heads[tap], features[tap]), target)
        for tap, target in taught.items()
    }
    for tap, was in kept.items():
        terms[tap] = weights.keep * relative_error(features[tap], was)
    if weights.similarity:
        for index, (tap, target) in enumerate(taught.items()):
            tap_key = jax.random.fold_in(key, index)
            error = similarity_error(tap_key, features[tap], target)
            terms[f"{tap} similarity"] = weights.similarity * error
    return sum(terms.values(), jnp.float32(0)), terms


def first_layers() -> tuple[str, ...]:
    """The layers up to the deepest taught tap."""
    names = backbone("vgg", CONFIG).tap_names
    return tuple("conv" + n.removeprefix("relu") for n in names[: names.index(TAUGHT[-1]) + 1])


def make_step(stage: Stage, steps: int, weights: Weights, first_share: float = 1.0) -> Any:
    """The jitted training step of a stage of `steps` steps.

    Args:
      first_share: of the rate, for the first layers where later ones are asked for what they said.
    """
    optimizer = _adam(stage.rate, steps)
    shares = dict.fromkeys(first_layers(), first_share) if stage.keeps else {}

    def step(
        key: jax.Array, state: State, images: jax.Array, before: Params, vgg: teachers.Arrays
    ) -> tuple[State, dict[str, jax.Array]]:
        real = teachers.vgg_features(vgg, images)
        taught = {tap: real[tap] for tap in stage.taught}
        kept: Features = {}
        if stage.keeps:
            kept = backbone("vgg", CONFIG).apply(before, images, kept_taps())
        trained = (state.params, state.heads)
        key = jax.random.fold_in(key, state.step)
        grads, terms = jax.grad(loss_fn, has_aux=True)(trained, images, taught, kept, weights, key)
        # A layer that no term reaches has no slope, so Adam leaves it as it is.
        (layers, fits), opt_state = optimizer.update(grads, state.opt_state, trained)
        layers = {
            name: optax.tree.scale(shares.get(name, 1.0), layer) for name, layer in layers.items()
        }
        params, heads = optax.apply_updates(trained, (layers, fits))
        return State(state.step + 1, state.images + len(images), params, heads, opt_state), terms

    return jax.jit(step, donate_argnums=1)


def first_params(args: argparse.Namespace, before: Params, images: jax.Array) -> Params:
    """`before` with a random first layer if the first stage has steps, and with channels begun again."""
    key, network, params = jax.random.key(args.seed), backbone("vgg", CONFIG), before
    if args.revive:
        params, counts = revived(key, network, params, images, deepest=TAUGHT[-1])
        print("begun again:", *(f"{n} of {tap}" for tap, n in counts.items() if n), flush=True)
    if args.steps[0]:
        params = {**params, **network.init(key, TAUGHT[:1])}
    return params


def train(args: argparse.Namespace) -> State:
    """Trains, saving every `--save-every` steps; continues what `--work` holds."""
    vgg = teachers.read_real(args.data)
    before = started(args.start, "vgg", CONFIG)[0]
    pictures = photos.training_pictures(args.data, args.faces)
    crops = photos.crop_batch(args.seed, 0, pictures, batch=NUM_FITTED, size=128)
    fitted_to = jnp.asarray(crops)
    if checkpoint.latest(args.work) is not None:
        state = checkpoint.restore(args.work, blank(init, before, vgg))
    else:
        state = init(first_params(args, before, fitted_to), vgg)
    ends, weights = np.cumsum(args.steps), Weights(args.keep, args.similarity)
    clock, is_late, key = cli.Clock(args.minutes), False, jax.random.key(args.seed)
    done: str | None = None
    for number, (stage, steps) in enumerate(zip(STAGES, args.steps, strict=True)):
        if not steps:
            continue
        step = make_step(stage, steps, weights, args.first_share)
        while int(state.step) < ends[number] and not is_late:
            if int(state.step) == ends[number] - steps:
                state = begin(state, before, fitted_to, vgg, stage, done)
            images = photos.crop_batch(
                args.seed,
                int(state.step),
                pictures,
                batch=stage.batch,
                size=stage.size,
                mixed=args.mixed,
            )
            state, terms = step(key, state, jnp.asarray(images), before, vgg)
            is_late = step_ends(args, state, terms, clock, last=ends[-1])
        done = stage.taught[-1]
    return state


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with photos and teachers")
    parser.add_argument("--start", type=Path, required=True, help="weight file to teach anew")
    parser.add_argument("--work", type=Path, required=True, help="folder for saved states")
    parser.add_argument("--out", type=Path, required=True, help="weight file to write")
    parser.add_argument(
        "--steps", type=int, nargs=len(STAGES), default=[600, 600, 600, 1200], help="of each stage"
    )
    parser.add_argument(
        "--revive", action="store_true", help="begin channels again that nothing wakes"
    )
    parser.add_argument(
        "--keep", type=float, default=2.0, help="weight of saying what was said before"
    )
    parser.add_argument(
        "--similarity",
        type=float,
        default=0.0,
        help="weight of the cosine similarities between places at the taught taps; 0 for none",
    )
    parser.add_argument(
        "--first-share",
        type=float,
        default=1.0,
        help="of the last stage's rate for the layers to relu3_1",
    )
    parser.add_argument("--faces", type=int, default=10, help="also every N-th face; 0 for none")
    parser.add_argument(
        "--mixed", type=float, default=0.1, help="share of pictures that are mixed from two photos"
    )
    cli.add_run_flags(parser, log_every=50, save_every=500)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    cli.run(lambda: train(parse()))
