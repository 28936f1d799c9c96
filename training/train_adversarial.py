"""Trains the face generator against a discriminator: `python -m training.train_adversarial`.

Non-saturating logistic loss (Goodfellow et al. 2014), R1 penalty at every 16th step (Mescheder et
al. 2018; Karras et al. 2020), differentiable augmentation, minibatch deviation, Adam with b1 = 0,
averaged weights. It begins with a generator of `train_generator`, at the same or at half the
resolution, and keeps that run's reconstruction of real faces from their codes as a second term, so
that what inversion relies on is not lost. The adversarial term comes in over `--ramp` steps: the
discriminator, and the layers that growth added, start from nothing.

The faces lie on the device as bytes; a step draws its own rows, so the same seed and step give the
same batch, also after a stop.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from oeft_jax import checkpoint
from oeft_jax._checks import InputError, check_range
from oeft_jax._types import Features, Params, Terms
from oeft_jax.models.backbone import Backbone, backbone
from oeft_jax.models.generator import Generator
from oeft_jax.models.pggan import pggan
from oeft_jax.weights import load_weights, save_weights
from training import cli, moment_matching, photos, sheets, train_generator
from training.diff_augment import KINDS, augment
from training.discriminator import GROUP, Discriminator, discriminator
from training.projected import projected
from training.states import averaged, blank, held, started

R1_EVERY = 16  # steps; the penalty is multiplied by it
OWN, PROJECTED = "own", "projected"  # of --critic
CODE_STEPS, CODE_RATE, CODE_BATCH = 20, 0.1, 64  # of faces whose codes are lost
HEAD_WIDTH = 64


class State(NamedTuple):
    """Carried between steps and saved."""

    step: jax.Array
    params: Params
    average: Params  # exponential moving average of params: what is exported
    critic: Params
    opt_state: optax.OptState
    critic_opt_state: optax.OptState
    codes: jax.Array  # [k, d], of the faces and then of their mirror images, or of some; constant
    shift: Features  # as `moment_matching.tracked`; nothing without --matching


class Frozen(NamedTuple):
    """What is not trained."""

    features: Params  # of the network of the reconstruction
    seen_by: tuple[Params, ...]  # of those that the discriminator sees with
    real: moment_matching.Known | None = None  # with --matching


class Networks(NamedTuple):
    """What is trained and what judges, without weights."""

    generator: Generator
    discriminator: Discriminator
    features: Backbone
    optimizer: optax.GradientTransformation
    critic_optimizer: optax.GradientTransformation


def adam_without_momentum(learning_rate: float) -> optax.GradientTransformation:
    """Adam with b1 = 0, b2 = 0.99; no first moment is kept, which saves a fifth of the state."""
    return optax.rmsprop(learning_rate, decay=0.99, eps_in_sqrt=False, bias_correction=True)


def pictures(faces: jax.Array, rows: jax.Array) -> jax.Array:
    """Faces and, for rows beyond them, their mirror images. -> [n, s, s, 3] in [0, 1]."""
    images = faces[rows % len(faces)].astype(jnp.float32) / 255
    mirrored = (rows >= len(faces)).reshape(-1, 1, 1, 1)
    return jnp.where(mirrored, images[:, :, ::-1], images)


def real_batch(
    row_key: jax.Array, augment_key: jax.Array, faces: jax.Array, args: argparse.Namespace
) -> jax.Array:
    """Faces as the discriminator is shown them. -> [batch, s, s, 3], in [-1, 1] before augmentation."""
    rows = jax.random.randint(row_key, (args.batch,), 0, 2 * len(faces))
    return augment(augment_key, pictures(faces, rows) * 2 - 1, args.augment)


def critic_loss(
    critic: Params, real: Any, made: Any, *, discriminator: Discriminator
) -> tuple[jax.Array, Terms]:
    """Logistic loss of what the discriminator sees in real and in made pictures."""
    real_score, made_score = discriminator.judge(critic, real), discriminator.judge(critic, made)
    loss = jnp.mean(jax.nn.softplus(-real_score)) + jnp.mean(jax.nn.softplus(made_score))
    return loss, {"D": loss, "real": jnp.mean(real_score), "made": jnp.mean(made_score)}


def r1_penalty(
    critic: Params, images: jax.Array, frozen: Sequence[Params], *, discriminator: Discriminator
) -> jax.Array:
    """Mean |dD / dx|^2 of pictures x [n, s, s, 3] in [-1, 1]."""

    def score(images: jax.Array) -> jax.Array:
        return jnp.sum(discriminator.judge(critic, discriminator.see(frozen, images)))

    return jnp.mean(jnp.sum(jax.grad(score)(images) ** 2, axis=(1, 2, 3)))


def generator_loss(seen: Any, critic: Params, *, discriminator: Discriminator) -> jax.Array:
    """Non-saturating loss of what the discriminator sees in made pictures."""
    return jnp.mean(jax.nn.softplus(-discriminator.judge(critic, seen)))


def largest_layers(params: Params) -> set[str]:
    """Names of what a generator of half the resolution lacks."""
    last = max(int(name.removeprefix("layer")) for name in params if name != "output")
    return {f"layer{last - 1}", f"layer{last}", "output"}


def make_step(networks: Networks, args: argparse.Namespace) -> Any:
    """The jitted step: (key, state, faces, frozen weights, with_r1=...) -> (state, terms)."""
    reconstruction = partial(
        train_generator.loss_fn,
        generator=networks.generator,
        network=networks.features,
        noise=args.noise,
        perceptual=args.perceptual,
    )

    def rebuilt(
        params: Params, faces: jax.Array, codes: jax.Array, features: Params, key: jax.Array
    ) -> jax.Array:
        rows = jax.random.randint(key, (args.reconstructed,), 0, len(codes))
        images = pictures(faces, rows)
        noise_key = jax.random.fold_in(key, 1)
        return reconstruction((params, codes[rows]), images, features, noise_key)[0]

    def step(
        key: jax.Array, state: State, faces: jax.Array, frozen: Frozen, *, with_r1: bool
    ) -> tuple[State, Terms]:
        keys = jax.random.split(jax.random.fold_in(key, state.step), 5)
        images = real_batch(keys[0], keys[2], faces, args)
        real = networks.discriminator.see(frozen.seen_by, images)
        latents = jax.random.normal(keys[1], (args.batch, networks.generator.code_dim))

        # made and looked at once: judged for the discriminator, then by what that has become
        def make(params: Params) -> Any:
            made = augment(keys[3], networks.generator.sample(params, latents), args.augment)
            return networks.discriminator.see(frozen.seen_by, made)

        made, to_params = jax.vjp(make, state.params)

        def judge(critic: Params) -> tuple[jax.Array, Terms]:
            loss, terms = critic_loss(critic, real, made, discriminator=networks.discriminator)
            if with_r1:
                terms["R1"] = r1_penalty(
                    critic, images, frozen.seen_by, discriminator=networks.discriminator
                )
                loss = loss + args.r1 * R1_EVERY / 2 * terms["R1"]
            return loss, terms

        grads, terms = jax.grad(judge, has_aux=True)(state.critic)
        updates, critic_opt_state = networks.critic_optimizer.update(grads, state.critic_opt_state)
        state = state._replace(
            critic=optax.apply_updates(state.critic, updates), critic_opt_state=critic_opt_state
        )
        fool = partial(generator_loss, discriminator=networks.discriminator)
        terms["G"], slope = jax.value_and_grad(fool)(made, state.critic)
        share = jnp.minimum(1.0, (state.step + 1) / max(args.ramp, 1))
        slope = jax.tree.map(lambda x: share * x, slope)
        shift = state.shift
        if frozen.real is not None:
            shift = moment_matching.tracked(shift, made, frozen.real)
            terms["matching"] = moment_matching.distance(shift)
            more = jax.grad(moment_matching.pull)(made, shift, frozen.real)
            slope = jax.tree.map(lambda a, b: a + args.matching * b, slope, more)
        (grads,) = to_params(slope)
        if args.reconstruction:
            terms["reconstruction"], more = jax.value_and_grad(rebuilt)(
                state.params, faces, state.codes, frozen.features, keys[4]
            )
            grads = jax.tree.map(lambda a, b: a + args.reconstruction * b, grads, more)
        updates, opt_state = networks.optimizer.update(grads, state.opt_state)
        if args.frozen_steps:
            older = {name: updates[name] for name in updates.keys() - largest_layers(updates)}
            updates = {**updates, **held(older, state.step, args.frozen_steps)}
        params = optax.apply_updates(state.params, updates)
        average = averaged(state.average, params, state.step, most=args.average)
        state = state._replace(
            step=state.step + 1, params=params, average=average, opt_state=opt_state, shift=shift
        )
        return state, terms

    return jax.jit(step, donate_argnums=1, static_argnames="with_r1")


def real_moments(
    args: argparse.Namespace, networks: Networks, frozen: Frozen, faces: jax.Array
) -> moment_matching.Known | None:
    """What the discriminator sees in real pictures taken together, or None without --matching."""
    if not args.matching:
        return None

    @jax.jit
    def see(key: jax.Array, faces: jax.Array, seen_by: Any) -> Features:
        keys = jax.random.split(key)
        images = real_batch(keys[0], keys[1], faces, args)
        seen = networks.discriminator.see(seen_by, images)
        return {tap: moment_matching.channel_moments(x) for tap, x in seen.items()}

    keys = jax.random.split(jax.random.key(args.seed + 2), -(-args.matched_faces // args.batch))
    return moment_matching.known(see(key, faces, frozen.seen_by) for key in keys)


def init(
    key: jax.Array,
    networks: Networks,
    params: Params,
    codes: Any,
    real: moment_matching.Known | None = None,
) -> State:
    """A random discriminator against the generator `params`."""
    critic = networks.discriminator.init(key)
    return State(
        jnp.int32(0),
        params,
        jax.tree.map(jnp.copy, params),
        critic,
        networks.optimizer.init(params),
        networks.critic_optimizer.init(critic),
        jnp.asarray(codes),
        {} if real is None else moment_matching.nothing(real),
    )


def fitted_codes(
    generator: Generator, params: Params, faces: np.ndarray, codes: np.ndarray
) -> np.ndarray:
    """Codes with which the generator comes near to faces, from a first guess.

    Args:
      params: of the generator, which stays as it is.
      faces: [m, s, s, 3] uint8.
      codes: [m, d], where to begin.
    Returns:
      [m, d], each row of norm sqrt(d).
    """
    optimizer = optax.adam(CODE_RATE)

    def distance(codes: jax.Array, params: Params, images: jax.Array) -> jax.Array:
        made = generator.sample(params, codes) * 0.5 + 0.5
        return len(images) * train_generator.pyramid_l1(made, images)  # each row as if alone

    @jax.jit
    def fit(params: Params, images: jax.Array, codes: jax.Array) -> jax.Array:
        def step(_: int, carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
            codes, opt_state = carry
            updates, opt_state = optimizer.update(
                jax.grad(distance)(codes, params, images), opt_state
            )
            codes = codes + updates
            norm = jnp.linalg.norm(codes, axis=1, keepdims=True)
            return codes * codes.shape[1] ** 0.5 / norm, opt_state

        return jax.lax.fori_loop(0, CODE_STEPS, step, (codes, optimizer.init(codes)))[0]

    found = []
    for first in range(0, len(faces), CODE_BATCH):
        part = slice(first, first + CODE_BATCH)
        images = jnp.asarray(faces[part], jnp.float32) / 255
        found.append(np.asarray(fit(params, images, jnp.asarray(codes[part]))))
    return np.concatenate(found)


def begin(
    args: argparse.Namespace,
    networks: Networks,
    faces: np.ndarray,
    real: moment_matching.Known | None = None,
) -> State:
    """The state to go on from: of `--work`, of another run, or a random generator."""
    key, config = jax.random.key(args.seed), train_generator.generator_config(args)
    lower = {**config, "resolution": args.resolution // 2}
    fresh = partial(networks.generator.init, jax.random.fold_in(key, 1))
    begun = partial(init, key, networks, real=real)
    num_codes = 2 * len(faces) if args.start is None else min(args.fitted_faces, len(faces))
    if checkpoint.latest(args.work) is not None:
        codes = np.zeros((num_codes, args.code_dim), np.float32)
        like = blank(lambda: begun(fresh(), codes))
        return checkpoint.restore(args.work, like)
    if args.start is not None:
        params, is_half = started(args.start, "pggan", config, lower)
        own = photos.load_faces(args.data, lower["resolution"]) if is_half else faces
        start = train_generator.principal_codes(faces, args.code_dim)[:num_codes]
        generator = pggan(**(lower if is_half else config))
        codes = fitted_codes(generator, params, own[:num_codes], start)
        return begun(train_generator.grown(fresh(), params) if is_half else params, codes)
    if args.from_work is not None:
        run = train_generator.restored(args.from_work, config, num_codes)
        return begun(run.average, run.codes)
    if args.grow_from is not None:
        run = train_generator.restored(args.grow_from, lower, num_codes)
        return begun(train_generator.grown(fresh(), run.average), run.codes)
    both_ways = np.concatenate([faces, faces[:, :, ::-1]])
    return begun(fresh(), train_generator.principal_codes(both_ways, args.code_dim))


def make_networks(
    args: argparse.Namespace, features: Backbone, seen_by: Sequence[Backbone] = ()
) -> Networks:
    """Both networks and their optimisers, as the flags say; `seen_by` is what a critic sees with."""
    if args.critic == PROJECTED:
        critic = projected(seen_by, args.resolution, width=args.critic_max or HEAD_WIDTH)
    else:
        critic = discriminator(
            args.resolution,
            fmap_base=args.critic_base or args.fmap_base,
            fmap_max=args.critic_max or args.fmap_max,
        )
    return Networks(
        pggan(**train_generator.generator_config(args)),
        critic,
        features,
        adam_without_momentum(args.learning_rate),
        adam_without_momentum(args.critic_rate),
    )


def save(state: State, done: int, args: argparse.Namespace, generator: Generator) -> None:
    """State, weight file, sample sheet, in the order of what would be missed most."""
    checkpoint.save(args.work, done, state)
    card = {
        "steps": str(done),
        "images": str(done * args.batch),
        "seed": str(args.seed),
        "objective": "adversarial",
    }
    config = train_generator.generator_config(args)
    save_weights(args.out, state.average, network="pggan", config=config, metadata=card)
    path = args.work / f"samples-{done:06d}.png"
    sheets.save_samples(path, generator, state.average, seed=7)


def check_finite(terms: Terms, state: State, done: int) -> None:
    """Raises InputError, before anything is saved, where training has broken down."""
    sums = {
        name: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tree))
        for name, tree in (("generator", state.params), ("discriminator", state.critic))
    }
    for name, value in {**terms, **sums}.items():
        if not np.isfinite(value):
            raise InputError(
                f"step {done}: {name} is not finite; the last saved state is intact, continue "
                "from it with a smaller --critic-rate or a larger --r1."
            )


def train(args: argparse.Namespace) -> State:
    """Trains, saving every `--save-every` steps; continues what `--work` holds."""
    check_range("--batch", args.batch, GROUP)
    cli.check_multiple("--batch", args.batch, GROUP)
    if args.critic != PROJECTED and (args.matching or args.critic_features):
        raise InputError(
            f"--matching and --critic-features are not accepted with --critic {args.critic}; "
            f"accepted: --critic {PROJECTED}."
        )
    clock = cli.Clock(args.minutes)
    loaded = [load_weights(file) for file in (args.features, *args.critic_features)]
    eyes = [backbone(weights.network, weights.config) for weights in loaded]
    networks = make_networks(args, eyes[0], eyes)
    params = tuple(weights.params for weights in loaded)
    frozen = Frozen(params[0], params if args.critic == PROJECTED else ())
    faces = photos.load_faces(args.data, args.resolution)[: -photos.HELD_OUT]
    on_device = jax.device_put(faces)
    frozen = frozen._replace(real=real_moments(args, networks, frozen, on_device))
    state = begin(args, networks, faces, frozen.real)
    step, key = make_step(networks, args), jax.random.key(args.seed + 1)
    done = int(state.step)
    logged, logged_at = done, clock.seconds()
    is_last = done >= args.steps
    while not is_last:
        with_r1 = args.r1 > 0 and done % R1_EVERY == 0
        state, terms = step(key, state, on_device, frozen, with_r1=with_r1)
        done += 1
        is_last = done >= args.steps or clock.is_over()
        is_saving = done % args.save_every == 0 or is_last
        if done % args.log_every == 0 or is_saving:
            check_finite(terms, state, done)
            now, text = clock.seconds(), " ".join(f"{k}={float(v):.3f}" for k, v in terms.items())
            speed = (done - logged) * args.batch / (now - logged_at)
            print(f"step {done} {now:.0f}s {speed:.1f} images/s {text}", flush=True)
            logged, logged_at = done, now
        if is_saving:
            save(state, done, args, networks.generator)
    return state


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_training_flags(parser)
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--from-work", type=Path, help="--work of train_generator, same size")
    start.add_argument("--grow-from", type=Path, help="--work of train_generator, half the size")
    start.add_argument(
        "--start", type=Path, help="weight file to begin with, of this or half the resolution"
    )
    parser.add_argument(
        "--fitted-faces",
        type=int,
        default=2048,
        help="with --start: faces that codes are fitted of",
    )
    parser.add_argument(
        "--frozen-steps",
        type=int,
        default=0,
        help="first steps, in which only the layers of the largest resolution learn",
    )
    train_generator.add_generator_flags(parser)
    parser.add_argument("--critic", choices=(OWN, PROJECTED), default=OWN, help="discriminator")
    parser.add_argument(
        "--critic-features",
        type=Path,
        nargs="+",
        default=[],
        help="with --critic projected: weight files of VGGs that it sees with beside --features",
    )
    parser.add_argument(
        "--augment",
        nargs="*",
        choices=tuple(KINDS),
        default=list(KINDS),
        help="of what the discriminator sees",
    )
    parser.add_argument(
        "--matching",
        type=float,
        default=0,
        help="with --critic projected: weight of matching what it sees in real pictures taken together",
    )
    parser.add_argument(
        "--matched-faces", type=int, default=2048, help="that are taken together for it"
    )
    parser.add_argument("--critic-base", type=int, default=0, help="0: as --fmap-base")
    parser.add_argument("--critic-max", type=int, default=0, help="0: as --fmap-max or 64")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of the generator")
    parser.add_argument("--critic-rate", type=float, default=2e-3, help="of the discriminator")
    parser.add_argument("--r1", type=float, default=1.0, help="weight of the R1 penalty")
    parser.add_argument("--ramp", type=int, default=1000, help="steps to the full adversarial loss")
    parser.add_argument("--reconstruction", type=float, default=1.0, help="weight; 0 for none")
    parser.add_argument("--reconstructed", type=int, default=8, help="faces a step for it")
    parser.add_argument("--noise", type=float, default=0.15, help="deviation added to their codes")
    parser.add_argument("--perceptual", type=float, default=0.3, help="of each tap's error in it")
    parser.add_argument("--average", type=float, default=0.999, help="decay of the average")
    cli.add_run_flags(parser, log_every=50, save_every=500)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    cli.run(lambda: train(parse()))
