"""What the benchmarks measure of this package; each function makes one program."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from benchmarks import networks, plain_jax
from benchmarks.harness import Program
from oeft_jax import correspondence, inversion, loss_terms, tuning
from oeft_jax.composition import Latents, Plan
from oeft_jax.devices import pair_mesh, replicate, stack
from oeft_jax.models import backbone as models
from oeft_jax.objective import make_goal


def _program(step: Callable[[], float]) -> Program:
    device = jax.devices()[0]

    def peak() -> float | None:
        stats = device.memory_stats() or {}
        return stats["peak_bytes_in_use"] / 2**20 if "peak_bytes_in_use" in stats else None

    return Program(step, f"{device.platform}: {device.device_kind}", peak)


def _host_devices(number: int) -> None:
    """On a CPU that many devices are forced; elsewhere the real ones are taken."""
    jax.config.update("jax_num_cpu_devices", number)
    if len(jax.devices()) < number:
        raise ValueError(f"{number} devices were asked for; there are {len(jax.devices())}.")


def fine_tuning(size: str, *, plain: bool = False, **changes: Any) -> Program:
    """One step of correspondence fine-tuning, of one pair."""
    if plain:
        plain_jax.use()
    _, one, step = _fine_tuning(size, **changes)
    key, kept = jax.random.key(0), [one[0]]

    def run() -> float:
        kept[0], info = step(key, kept[0], one[1])
        jax.block_until_ready(kept[0])
        return float(info.loss)

    return _program(run)


def fine_tuning_pairs(size: str, devices: int, **changes: Any) -> Program:
    """One step of as many pairs as devices, one on each."""
    _host_devices(devices)
    mesh = pair_mesh(devices)
    _, (state, pair), step = _fine_tuning(size, mesh, **changes)
    shared = {"phi": replicate(pair.phi, mesh), "start": replicate(pair.start, mesh)}
    pairs = stack([pair._replace(phi=(), start=())] * devices, mesh)._replace(**shared)
    key, kept = jax.random.key(0), [stack([state] * devices, mesh)]

    def run() -> float:
        kept[0], info = step(key, kept[0], pairs)
        jax.block_until_ready(kept[0])
        return float(info.loss[0])

    return _program(run)


def _fine_tuning(size: str, mesh: Mesh | None = None, **changes: Any) -> Any:
    config, network = networks.settings(size, **changes), networks.features(size)
    backbone = models.backbone(network.kind, network.config)
    params = jax.tree.map(jnp.asarray, network.params)
    losses = loss_terms.default_losses(config)
    optimizer = correspondence.default_optimizer(config)
    source, target = (jnp.asarray(image) for image in networks.pictures(config.image_size))
    begun = tuning.make_init(backbone, config, optimizer)(params, source, target)
    step = tuning.programs(config, backbone, losses, optimizer, mesh).step
    return config, begun, step


def inversion_step(
    size: str, plan: list[list[int]], *, alone: bool = False, devices: int = 1
) -> Program:
    """One step of every hypothesis of a plan, [layer, number of codes] each.

    Args:
      alone: each hypothesis is a program of its own, one after the other.
      devices: that the hypotheses of one program are split over.
    """
    mesh = None
    if devices > 1:
        _host_devices(devices)
        mesh = Mesh(np.array(jax.devices()[:devices]), ("hypotheses",))
    whole: Plan = tuple((layer, number) for layer, number in plan)
    parts = [(one,) for one in whole] if alone else [whole]
    runs = [_inversion(size, part, mesh) for part in parts]
    return _program(lambda: float(np.mean([run() for run in runs])))


def _inversion(size: str, plan: Plan, mesh: Mesh | None) -> Callable[[], float]:
    """A step that returns the mean loss of its hypotheses."""
    config, network, seen = (
        networks.inversion_settings(size),
        networks.generator(size),
        networks.features(size),
    )
    made = models.generator(network.kind, network.config)
    backbone = models.backbone(seen.kind, seen.config)
    optimizer = inversion.default_optimizer(config)
    params, phi = (jax.tree.map(jnp.asarray, one.params) for one in (network, seen))
    picture = networks.pictures(made.resolution)[0][0]
    goal = make_goal(picture, made, params, phi, backbone=backbone, config=config)
    latents = tuple(_latents(made, params, network, *one) for one in plan)
    step = inversion.make_step(made, backbone, config, optimizer, plan, mesh=mesh)
    active, kept = tuple(range(len(plan))), [inversion.init_from(latents, optimizer)]

    def run() -> float:
        kept[0], info = step(kept[0], goal, active)
        jax.block_until_ready(kept[0])
        return float(jnp.mean(info.loss))

    return run


def _latents(made: Any, params: Any, network: networks.Network, layer: int, num: int) -> Latents:
    codes, importance = networks.start_codes(network, num, layer)
    tail = made.init_tail_codes(params, layer)
    return Latents(jnp.asarray(codes), jnp.asarray(importance), tail)


PROGRAMS: dict[str, Callable[..., Program]] = {
    "fine_tuning": fine_tuning,
    "fine_tuning_plain": partial(fine_tuning, plain=True),
    "fine_tuning_pairs": fine_tuning_pairs,
    "inversion": inversion_step,
    "inversion_alone": partial(inversion_step, alone=True),
}
