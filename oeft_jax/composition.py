"""Pictures of many hypotheses from one run of the generator (Sec. 3.3).

A hypothesis is a composing layer and a number of latent codes: up to that layer each of its codes
has feature maps of its own, there they are weighted and summed, and one map goes on. All share the
frozen generator, so all are one batch: it begins with the codes of every hypothesis, and at each
composing layer the codes composed there leave it and their sums take their place. Every layer runs
once, and no hypothesis is padded to the size of another.
"""

from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from oeft_jax._types import Params
from oeft_jax.config import InversionConfig
from oeft_jax.models.generator import Generator

Plan = tuple[tuple[int, int], ...]  # (composing layer, number of codes) of each hypothesis, sorted


class Latents(NamedTuple):
    """What is optimised for one hypothesis."""

    codes: jax.Array  # [k, d]
    importance: jax.Array  # [k, c], weight of each channel of each code's features
    tail: jax.Array  # [t, d], codes of the layers after the composition (none for PGGAN)


def plan_of(config: InversionConfig) -> Plan:
    """Every composing layer with every number of codes, each once, in ascending order."""
    layers, counts = set(config.composing_layers), set(config.num_codes)
    return tuple(sorted((layer, count) for layer in layers for count in counts))


def init_latents(
    key: jax.Array, generator: Generator, params: Params, layer: int, num_codes: int
) -> Latents:
    """Start values of one hypothesis: the generator's own codes, every importance 1 / num_codes.

    They depend on the key, the layer and the number alone, not on what is inverted beside it.
    """
    key = jax.random.fold_in(jax.random.fold_in(key, layer), num_codes)
    codes = generator.init_codes(key, params, num_codes)
    importance = jnp.full((num_codes, generator.channels(layer)), 1 / num_codes, codes.dtype)
    return Latents(codes, importance, generator.init_tail_codes(params, layer))


def compose(features: jax.Array, importance: jax.Array) -> jax.Array:
    """sum_k importance_k F_k. [k, h, w, c], [k, c] -> [h, w, c].

    mGANprior's code also divides by the number of codes, which a PixelNorm undoes; we do not.
    """
    return jnp.sum(features * importance[:, None, None, :], axis=0)


def spread(batch: jax.Array, mesh: Mesh | None) -> jax.Array:
    """Splits a batch over all devices of a mesh, filled up with zeros to a multiple of them."""
    if mesh is None:
        return batch
    batch = jnp.pad(batch, [(0, -batch.shape[0] % mesh.size), *[(0, 0)] * (batch.ndim - 1)])
    split = PartitionSpec(mesh.axis_names, *[None] * (batch.ndim - 1))
    return lax.with_sharding_constraint(batch, NamedSharding(mesh, split))


def generate(
    generator: Generator,
    params: Params,
    latents: tuple[Latents, ...],
    plan: Plan,
    *,
    mesh: Mesh | None = None,
) -> jax.Array:
    """y = tail(sum_k importance_k * head(code_k)) of every hypothesis.

    Args:
      latents: of each hypothesis of the plan.
      plan: sorted by layer.
      mesh: splits the batch over its devices.
    Returns:
      [h, R, R, 3], nominally in [-1, 1], not clipped.
    Raises:
      ValueError: the plan is not sorted, or not as long as the latents.
    """
    layers = [layer for layer, _ in plan]
    if layers != sorted(layers) or len(plan) != len(latents):
        raise ValueError(f"plan {plan} does not fit {len(latents)} latents or is not sorted.")
    batch = None  # before the first layer there is nothing but codes
    for start, stop in pairwise(sorted({0, *layers, generator.num_layers})):
        codes = _codes(generator, latents, layers, start, stop)
        features = generator.segment(params, batch, spread(codes, mesh), start, stop)
        composed = _composed(features[: codes.shape[0]], latents, layers, stop)
        batch = spread(composed, mesh)
    return generator.to_image(params, batch)[: len(plan)]


def _codes(
    generator: Generator, latents: tuple[Latents, ...], layers: list[int], start: int, stop: int
) -> jax.Array:
    """Codes of a segment: of what is composed by then, then of what is not. [n, s, d]."""
    parts = []
    for one, layer in zip(latents, layers, strict=True):
        if layer <= start:
            first, last = generator.num_codes(layer, start), generator.num_codes(layer, stop)
            parts.append(one.tail[None, first:last])
        else:
            parts.append(generator.repeated(one.codes, start, stop))
    return jnp.concatenate(parts)


def _composed(
    features: jax.Array, latents: tuple[Latents, ...], layers: list[int], stop: int
) -> jax.Array:
    """The batch of a segment's end with the hypotheses of that layer composed."""
    place = layers.index(stop) if stop in layers else None
    if place is None:
        return features
    parts = [features[:place]]  # one map each of those composed before
    for one, layer in zip(latents[place:], layers[place:], strict=True):
        if layer > stop:
            break
        num = one.codes.shape[0]
        parts.append(compose(features[place : place + num], one.importance)[None])
        place += num
    return jnp.concatenate([*parts, features[place:]])
