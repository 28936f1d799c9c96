"""Distils the bundled feature network from VGG-19: `python -m training.distill_features`.

The student has VGG-19's shape and tap names up to relu5_1 at a quarter of its width. After every
layer a linear head maps it to the teacher's channels (relative squared error). Layers between the
taps in use are taught too: four of them lie below relu5_1, and taught by its error alone they
learn the photos at hand and not the teacher. At the taps that correspondence is mostly computed
from, the cosine similarities between positions, within and across pictures, must agree with the
teacher's: activations alone do not keep them. With `--matching`
places of random warps of the same pictures must be found again too (`warped.py`), and with
`--aligned` parts of one face in another (`aligned.py`).
"""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from oeft_jax import checkpoint
from oeft_jax._checks import InputError, check_range
from oeft_jax._types import Features, Params, Taps
from oeft_jax.models.backbone import backbone
from oeft_jax.models.vgg import VGG19_DEPTHS
from oeft_jax.weights import save_weights
from training import aligned, cli, photos, teachers, warped
from training.agreement import fit_ridge, fit_through_relu
from training.dead_channels import revived
from training.states import add_start_flags, blank, held, started

WIDTHS = (16, 32, 64, 128, 128)
CONFIG = {"depths": (*VGG19_DEPTHS[:4], 1), "widths": WIDTHS}
# Errors weigh 1 but for these: the deeper layers' together pull ten times as hard at the first one.
ERROR_WEIGHTS = {"relu1_1": 4.0, "relu2_1": 2.0}
NUM_POSITIONS = 512  # sampled per tap for the similarity term
NUM_FITTED, NUM_ROWS = 32, 16384  # crops and rows of each layer that heads are fitted to
COARSEST = 2 ** (len(WIDTHS) - 1)  # pixels on a side of a cell of the deepest tap
ALIGNED_EVERY = 4  # of thousands of aligned people and cats every fourth, to spare memory

Fit = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]  # -> kernel, bias


class State(NamedTuple):
    """Carried between steps and saved."""

    step: jax.Array
    images: jax.Array  # seen so far; the batch may change between calls
    params: Params
    heads: Params
    opt_state: optax.OptState


def taught_taps() -> Taps:
    """Every layer of the student, shallow to deep."""
    return backbone("vgg", CONFIG).tap_names


def init(
    key: jax.Array,
    optimizer: optax.GradientTransformation,
    arrays: tuple[Any, Any],
    hold: tuple[str, ...] = (),
) -> State:
    """Random student, random heads to the channels of the teachers `arrays`; `hold` as in `make_step`."""
    taps = taught_taps()
    params = backbone("vgg", CONFIG).init(key, taps)
    taught = jax.eval_shape(teach, arrays, jnp.zeros((1, COARSEST, COARSEST, 3)))
    heads = {}
    for index, tap in enumerate(taps):
        shape = head_shape(tap, taught)
        kernel = jax.random.normal(jax.random.fold_in(key, index), shape) / shape[0] ** 0.5
        heads[tap] = {"kernel": kernel, "bias": jnp.zeros(shape[1:])}
    opt_state = optimizer.init((parted(params, hold)[0], heads))
    return State(jnp.int32(0), jnp.int32(0), params, heads, opt_state)


def parted(params: Params, hold: tuple[str, ...]) -> tuple[Params, Params]:
    """What learns, and the layers of these names, which stay."""
    learns = {name: layer for name, layer in params.items() if name not in hold}
    return learns, {name: params[name] for name in hold}


def head_shape(tap: str, taught: Mapping[str, Any]) -> tuple[int, int]:
    """Channels of the student and of its teacher at a tap."""
    return CONFIG["widths"][int(tap[4]) - 1], taught[tap].shape[-1]


def teach(arrays: tuple[Any, Any], images: jax.Array) -> Features:
    """What the layers shall say: the real network at its taps, the distilled one at all others.

    The distilled one's first layer of a block is asked for in VGG-19's channels, the rest in its own.
    The real one is most of a step's time, so it sees the first half of the pictures only.
    """
    vgg, distilled = arrays
    half = images[: -(-len(images) // 2)]
    layers = teachers.distilled_layers(distilled, images)
    wide = teachers.widened(distilled, layers)
    return {**layers, **wide, **teachers.vgg_features(vgg, half)}


def fitted_heads(params: Params, images: jax.Array, arrays: tuple[Any, Any]) -> Params:
    """Heads for a student that is there already: of least squared error over `images`."""
    taps = taught_taps()
    features = jax.jit(lambda p, x: backbone("vgg", CONFIG).apply(p, x, taps))(params, images)
    taught = jax.jit(teach)(arrays, images)
    return {tap: fitted_head(features[tap][: len(taught[tap])], taught[tap]) for tap in taps}


def fitted_head(x: jax.Array, y: jax.Array) -> Params:
    """The head that says y [n, h, w, d] of features x [n, h, w, c] with the least squared error."""
    return _fitted(fit_through_relu, x, y)


def fitted_map(x: jax.Array, y: jax.Array) -> Params:
    """The linear map from features x [n, h, w, c] to y [n, h, w, d] of least squared error."""
    return _fitted(fit_ridge, x, y)


def _fitted(fit: Fit, x: jax.Array, y: jax.Array) -> Params:
    """By up to NUM_ROWS places of both."""
    rows = [np.asarray(part).reshape(-1, part.shape[-1]) for part in (x, y)]
    kept = slice(None, None, -(-len(rows[0]) // NUM_ROWS))
    kernel, bias = fit(rows[0][kept], rows[1][kept])
    return {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}


def said(head: Params, features: jax.Array) -> jax.Array:
    """What a head makes of features: [..., c] -> [..., d], not negative, as the teacher's."""
    return jax.nn.relu(features @ head["kernel"] + head["bias"].reshape(1, 1, 1, -1))


def relative_error(predicted: jax.Array, target: jax.Array) -> jax.Array:
    """Mean squared error in units of the channels' mean variance. [n, h, w, d] both."""
    variance = jnp.var(target, axis=(0, 1, 2)).mean() + 1e-6
    return jnp.mean((predicted - target) ** 2) / variance


def similarities(key: jax.Array, features: jax.Array) -> jax.Array:
    """Centred cosine similarities between sampled positions of all pictures. [m, m]."""
    flat = features.reshape(-1, features.shape[-1])
    flat = flat - flat.mean(axis=0, keepdims=True)
    flat = flat / (jnp.linalg.norm(flat, axis=-1, keepdims=True) + 1e-6)
    chosen = jax.random.randint(key, (NUM_POSITIONS,), 0, flat.shape[0])
    return flat[chosen] @ flat[chosen].T


def similarity_error(key: jax.Array, own: jax.Array, target: jax.Array) -> jax.Array:
    """Mean squared difference of their similarities, at the same places. [n, h, w, c], [n, h, w, d]."""
    return jnp.mean((similarities(key, own) - similarities(key, target)) ** 2)


def loss_fn(
    trained: tuple[Params, Params],
    images: jax.Array,
    taught: Features,
    faces: jax.Array | None,
    key: jax.Array,
    matching: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sum over layers of relative error and similarity error, and `matching` times the cross-entropies.

    Args:
      faces: of `aligned.matching_terms`; None for none.
    """
    params, heads = trained
    network, taps = backbone("vgg", CONFIG), taught_taps()
    features = network.apply(params, images, taps)
    terms: dict[str, jax.Array] = {}
    if matching:
        found = warped.matching_terms(
            jax.random.fold_in(key, len(taps)), network.apply, params, images, features
        )
        if faces is not None:
            found |= aligned.matching_terms(
                jax.random.fold_in(key, len(taps) + 1), network.apply, params, faces
            )
        terms |= {name: matching * value for name, value in found.items()}
    for index, tap in enumerate(taps):
        target = taught[tap]
        own = features[tap][: len(target)]
        error = relative_error(said(heads[tap], own), target)
        terms[f"{tap} error"] = ERROR_WEIGHTS.get(tap, 1.0) * error
        if tap in warped.ALONE:
            tap_key = jax.random.fold_in(key, index)
            terms[f"{tap} similarity"] = 10 * similarity_error(tap_key, own, target)
    return sum(terms.values(), jnp.float32(0)), terms


def make_step(
    optimizer: optax.GradientTransformation,
    frozen_steps: int,
    matching: float,
    hold: tuple[str, ...] = (),
) -> Any:
    """The jitted training step.

    Args:
      frozen_steps: first steps, in which only the heads are fitted.
      hold: layers that stay as they are; of the first ones no slope is computed.
    """

    def step(
        key: jax.Array,
        state: State,
        images: jax.Array,
        faces: jax.Array | None,
        arrays: tuple[Any, Any],
    ) -> tuple[State, dict[str, jax.Array]]:
        key = jax.random.fold_in(key, state.step)
        taught = jax.lax.stop_gradient(teach(arrays, images))
        learns, stays = parted(state.params, hold)

        def loss(trained: tuple[Params, Params]) -> tuple[jax.Array, dict[str, jax.Array]]:
            params = {**trained[0], **stays}
            return loss_fn((params, trained[1]), images, taught, faces, key, matching)

        trained = (learns, state.heads)
        grads, terms = jax.grad(loss, has_aux=True)(trained)
        updates, opt_state = optimizer.update(grads, state.opt_state, trained)
        updates = (held(updates[0], state.step, frozen_steps), updates[1])
        learns, heads = optax.apply_updates(trained, updates)
        seen = state.images + len(images)
        return State(state.step + 1, seen, {**learns, **stays}, heads, opt_state), terms

    return jax.jit(step, donate_argnums=1)


def export(state: State, out: Path, metadata: dict[str, str]) -> None:
    """Writes the student without its heads."""
    save_weights(out, state.params, network="vgg", config=CONFIG, metadata=metadata)


def train(args: argparse.Namespace) -> State:
    """Trains, saving every `--save-every` steps; continues what `--work` holds.

    Raises:
      InputError: places to be found in pictures that cells do not fill, or in more faces than there are;
        channels to begin again, but nothing that has any.
    """
    if args.revive and args.start is None:
        raise InputError("--revive: accepted: with --start FILE, whose channels it looks through.")
    if args.matching:
        cli.check_multiple("--size", args.size, COARSEST, given=" with --matching")
        cli.check_multiple("--aligned-size", args.aligned_size, COARSEST, given=" with --matching")
    schedule = optax.cosine_decay_schedule(args.learning_rate, args.steps, 0.02)
    optimizer = optax.chain(optax.clip_by_global_norm(5.0), optax.adam(schedule))
    arrays = teachers.read_real(args.data), teachers.read_distilled(args.data)
    hold = tuple(args.hold)
    start = jax.jit(partial(init, optimizer=optimizer, arrays=arrays, hold=hold))
    key = jax.random.key(args.seed)
    pictures = photos.training_pictures(args.data, args.faces)
    sets: list[np.ndarray] = []
    if args.matching and args.aligned:
        sets = photos.load_aligned(args.data, args.aligned_size, every=ALIGNED_EVERY)
        check_range("--aligned", args.aligned, 0, min(len(faces) for faces in sets) // 2)
    if checkpoint.latest(args.work) is not None:
        state = checkpoint.restore(args.work, blank(start, key))
    elif args.start is not None:
        params = started(args.start, "vgg", CONFIG)[0]
        crops = photos.crop_batch(args.seed, 0, pictures, batch=NUM_FITTED, size=128)
        fitted_to = jnp.asarray(crops)
        if args.revive:
            params, counts = revived(key, backbone("vgg", CONFIG), params, fitted_to)
            print("begun again:", *(f"{n} of {tap}" for tap, n in counts.items() if n), flush=True)
        heads = fitted_heads(params, fitted_to, arrays)
        state = start(key)._replace(params=params, heads=heads)
    else:
        state = start(key)
    step = make_step(optimizer, args.frozen_steps, args.matching, hold)
    clock = cli.Clock(args.minutes)
    while int(state.step) < args.steps:
        images = photos.crop_batch(
            args.seed,
            int(state.step),
            pictures,
            batch=args.batch,
            size=args.size,
            mixed=args.mixed,
        )
        pair = None
        if sets:
            pair = photos.face_batch(args.seed, int(state.step), sets, batch=2 * args.aligned)
        state, terms = step(key, state, images, pair, arrays)
        if step_ends(args, state, terms, clock, last=args.steps):
            break
    return state


def step_ends(
    args: argparse.Namespace,
    state: State,
    terms: Mapping[str, jax.Array],
    clock: cli.Clock,
    *,
    last: int,
) -> bool:
    """Logs and saves after a step as `args` say; whether the time is over."""
    done = int(state.step)
    if done % args.log_every == 0:
        text = " ".join(f"{name}={float(value):.3f}" for name, value in terms.items())
        print(f"step {done} {clock.seconds():.0f}s {text}", flush=True)
    is_late = clock.is_over()
    if done % args.save_every == 0 or done == last or is_late:
        checkpoint.save(args.work, done, state)
        card = {"steps": str(done), "images": str(int(state.images)), "seed": str(args.seed)}
        export(state, args.out, card)
    return is_late


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with photos and teachers")
    parser.add_argument("--work", type=Path, required=True, help="folder for saved states")
    parser.add_argument("--out", type=Path, required=True, help="weight file to write")
    add_start_flags(parser, "the heads")
    parser.add_argument(
        "--revive", action="store_true", help="begin channels of --start again that nothing wakes"
    )
    layers = [tap.replace("relu", "conv") for tap in taught_taps()]
    parser.add_argument(
        "--hold", nargs="+", default=[], choices=layers, help="layers that stay as they are"
    )
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=128, help="crop side in pixels")
    parser.add_argument("--faces", type=int, default=40, help="also every N-th face; 0 for none")
    parser.add_argument(
        "--mixed", type=float, default=0.5, help="share of pictures that are mixed from two photos"
    )
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument(
        "--matching", type=float, default=0.1, help="weight of matching random warps; 0 for none"
    )
    parser.add_argument(
        "--aligned",
        type=int,
        default=1,
        help="pairs of aligned faces a step, to match with that weight too; 0 for none",
    )
    parser.add_argument("--aligned-size", type=int, default=192, help="their side in pixels")
    cli.add_run_flags(parser, log_every=50, save_every=500)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    cli.run(lambda: train(parse()))
