"""Trains the bundled face generator: `python -m training.train_generator`.

Generative latent optimisation: every training face, and its mirror image, owns a latent code; codes
and a PGGAN are fitted together by reconstruction (pyramid L1 and features). The codes
start as whitened principal components of the faces, so they are close to N(0, I) from the
beginning and standard normal codes give faces. It costs a quarter of adversarial training and fits
what the generator is for here, inversion; the pictures are softer than adversarial ones.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from oeft_jax import checkpoint
from oeft_jax._types import Params
from oeft_jax.models.backbone import Backbone, backbone
from oeft_jax.models.generator import Generator
from oeft_jax.models.layers import average_pool
from oeft_jax.models.pggan import pggan
from oeft_jax.weights import load_weights, save_weights
from training import cli, photos, sheets
from training.states import add_start_flags, averaged, blank, held, started

TAPS = ("relu1_1", "relu2_1", "relu3_1")


class State(NamedTuple):
    """Carried between steps and saved."""

    step: jax.Array
    params: Params
    average: Params  # exponential moving average of params: what is exported
    opt_state: optax.OptState
    codes: jax.Array  # [m, d], one per face and per mirrored face
    moments: tuple[jax.Array, jax.Array]  # Adam's, of codes


def principal_codes(faces: np.ndarray, dims: int) -> np.ndarray:
    """Whitened principal components of faces pooled to at most 32 px, each row of norm sqrt(dims).

    Args:
      faces: [m, s, s, 3] uint8.
    Returns:
      [m, dims] float32.
    """
    factor = max(faces.shape[1] // 32, 1)
    rows = [
        np.asarray(average_pool(jnp.asarray(part, jnp.float32) / 255, factor)).reshape(
            len(part), -1
        )
        for part in np.array_split(faces, 16)
    ]
    flat = np.concatenate(rows)
    flat -= flat.mean(0)
    values, vectors = np.linalg.eigh(flat.T @ flat / len(flat))
    codes = flat @ vectors[:, -dims:] / np.sqrt(values[-dims:])
    return codes * np.sqrt(dims) / np.linalg.norm(codes, axis=1, keepdims=True)


def pyramid_l1(a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean absolute difference at full, half, quarter and eighth size, summed."""
    errors = [jnp.mean(jnp.abs(average_pool(a - b, 2**level))) for level in range(4)]
    return sum(errors, jnp.float32(0))


def loss_fn(
    trained: tuple[Params, jax.Array],
    images: jax.Array,
    features: Params,
    key: jax.Array,
    *,
    generator: Generator,
    network: Backbone,
    noise: float,
    perceptual: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Reconstruction of `images` [n, s, s, 3] in [0, 1] from noisy codes [n, d]."""
    params, codes = trained
    codes = codes + noise * jax.random.normal(key, codes.shape)
    made = generator.sample(params, codes) * 0.5 + 0.5
    terms = {"pixels": pyramid_l1(made, images)}
    if not perceptual:
        return terms["pixels"], terms
    theirs = network.apply(features, images, TAPS)
    ours = network.apply(features, made, TAPS)
    for tap in TAPS:
        size = jnp.mean(jnp.abs(theirs[tap])) + 1e-6
        terms[tap] = perceptual * jnp.mean(jnp.abs(ours[tap] - theirs[tap])) / size
    return sum(terms.values(), jnp.float32(0)), terms


def make_step(
    generator: Generator, network: Backbone, optimizer: optax.GradientTransformation, args: Any
) -> Any:
    """The jitted training step; codes of the batch get their own Adam rows."""

    def step(
        key: jax.Array, state: State, faces: jax.Array, rows: jax.Array, features: Params
    ) -> tuple[State, dict[str, jax.Array]]:
        key = jax.random.fold_in(key, state.step)
        images = faces.astype(jnp.float32) / 255
        codes = state.codes[rows]
        grads, terms = jax.grad(loss_fn, has_aux=True)(
            (state.params, codes),
            images,
            features,
            key,
            generator=generator,
            network=network,
            noise=args.noise,
            perceptual=args.perceptual,
        )
        updates, opt_state = optimizer.update(grads[0], state.opt_state, state.params)
        updates = held(updates, state.step, args.frozen_steps)
        params = optax.apply_updates(state.params, updates)
        average = averaged(state.average, params, state.step)
        first = 0.5 * state.moments[0][rows] + 0.5 * grads[1]
        second = 0.9 * state.moments[1][rows] + 0.1 * grads[1] ** 2
        codes = codes - args.code_rate * first / (jnp.sqrt(second) + 1e-8)
        norm = jnp.linalg.norm(codes, axis=1, keepdims=True)
        codes = codes * codes.shape[1] ** 0.5 / norm
        moments = (
            state.moments[0].at[rows].set(first),
            state.moments[1].at[rows].set(second),
        )
        all_codes = state.codes.at[rows].set(codes)
        return State(state.step + 1, params, average, opt_state, all_codes, moments), terms

    return jax.jit(step, donate_argnums=1)


def init(
    key: jax.Array,
    generator: Generator,
    optimizer: optax.GradientTransformation,
    codes: np.ndarray,
) -> State:
    """Random generator, given codes."""
    params = generator.init(key)
    zeros = jnp.zeros(codes.shape)
    return State(
        jnp.int32(0),
        params,
        jax.tree.map(jnp.copy, params),
        optimizer.init(params),
        jnp.asarray(codes),
        (zeros, jnp.copy(zeros)),
    )


def grown(fresh: Params, small: Params) -> Params:
    """`fresh` with every layer that a generator of half the resolution has too."""
    return {**fresh, **{name: leaf for name, leaf in small.items() if name != "output"}}


def grow(state: State, small: State) -> State:
    """Takes the common layers of a run at half the resolution."""
    params = grown(state.params, small.params)
    return state._replace(params=params, average=jax.tree.map(jnp.copy, params))


def restored(folder: Path, config: dict[str, int], num_codes: int) -> State:
    """The state of a run of this script under `folder`, whose generator has this `config`.

    Raises:
      InputError: none there, or of another generator or number of codes.
    """
    codes = np.zeros((num_codes, config["z_dim"]), np.float32)
    start = partial(init, generator=pggan(**config), optimizer=make_optimizer(1e-3, 1), codes=codes)
    return checkpoint.restore(folder, blank(start, jax.random.key(0)))


def export(state: State, out: Path, config: dict[str, int], metadata: dict[str, str]) -> None:
    """Writes the averaged generator."""
    save_weights(out, state.average, network="pggan", config=config, metadata=metadata)


def make_optimizer(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """Adam whose rate falls along a cosine to 3 % at the last step."""
    schedule = optax.cosine_decay_schedule(learning_rate, steps, 0.03)
    return optax.adam(schedule, b1=0.5, b2=0.99)


def generator_config(args: argparse.Namespace) -> dict[str, int]:
    """What the flags of `add_generator_flags` build."""
    return {
        "resolution": args.resolution,
        "z_dim": args.code_dim,
        "fmap_base": args.fmap_base,
        "fmap_max": args.fmap_max,
    }


def begin(
    args: argparse.Namespace,
    generator: Generator,
    optimizer: optax.GradientTransformation,
    faces: np.ndarray,
) -> State:
    """The state to go on from: of `--work`, a weight file, half the resolution, or a new one."""
    config = generator_config(args)
    if checkpoint.latest(args.work) is not None:
        return restored(args.work, config, len(faces))
    start = partial(init, jax.random.key(args.seed), generator, optimizer)
    if args.start is not None:
        params, _ = started(args.start, "pggan", config)
        state = start(principal_codes(faces, args.code_dim))
        return state._replace(params=params, average=jax.tree.map(jnp.copy, params))
    if args.grow_from is None:
        return start(principal_codes(faces, args.code_dim))
    small = restored(args.grow_from, {**config, "resolution": args.resolution // 2}, len(faces))
    return grow(start(np.asarray(small.codes)), small)


def train(args: argparse.Namespace) -> State:
    """Trains, saving every `--save-every` steps; continues what `--work` holds."""
    clock, config = cli.Clock(args.minutes), generator_config(args)
    generator = pggan(**config)
    weights = load_weights(args.features)
    network = backbone(weights.network, weights.config)
    faces = photos.load_faces(args.data, args.resolution)[: -photos.HELD_OUT]
    faces = np.concatenate([faces, faces[:, :, ::-1]])
    optimizer = make_optimizer(args.learning_rate, args.steps)
    state = begin(args, generator, optimizer, faces)
    step, key = make_step(generator, network, optimizer, args), jax.random.key(1)
    while (done := int(state.step)) < args.steps:
        per_epoch = len(faces) // args.batch
        order = np.random.default_rng((args.seed, done // per_epoch)).permutation(len(faces))
        place = done % per_epoch * args.batch
        rows = order[place : place + args.batch]
        state, terms = step(key, state, faces[rows], rows, weights.params)
        done += 1
        if done % args.log_every == 0:
            text = " ".join(f"{name}={float(value):.3f}" for name, value in terms.items())
            print(f"step {done} {clock.seconds():.0f}s {text}", flush=True)
        is_late = clock.is_over()
        if done % args.save_every == 0 or done == args.steps or is_late:
            checkpoint.save(args.work, done, state)
            card = {"steps": str(done), "images": str(done * args.batch), "seed": str(args.seed)}
            export(state, args.out, config, card)
            sheets.save_samples(args.work / "samples.png", generator, state.average, seed=7)
        if is_late:
            break
    return state


def add_generator_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say which generator is trained."""
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--code-dim", type=int, default=192)
    parser.add_argument("--fmap-base", type=int, default=2048)
    parser.add_argument("--fmap-max", type=int, default=192)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_training_flags(parser)
    parser.add_argument("--grow-from", type=Path, help="--work of a run at half the resolution")
    add_generator_flags(parser)
    add_start_flags(parser, "codes")
    parser.add_argument("--steps", type=int, default=15000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--code-rate", type=float, default=0.03, help="step of a code's entries")
    parser.add_argument("--noise", type=float, default=0.15, help="deviation added to codes")
    parser.add_argument("--perceptual", type=float, default=0.3, help="weight of each tap's error")
    cli.add_run_flags(parser, log_every=100, save_every=1000)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    cli.run(lambda: train(parse()))
