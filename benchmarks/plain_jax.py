"""The package in plain JAX: XLA's own convolution and pooling rules, and all pairs of cells at once.

What a first version in JAX would be; the benchmark measures what our own rules are worth.
"""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from oeft_jax import correlation, correspondence, losses, warp
from oeft_jax.models import layers, vgg


def use() -> None:
    """Takes our own rules out of this process; before anything is traced, and for good."""
    _replace(layers, "_conv", _conv)
    _replace(vgg, "max_pool", _max_pool)
    _replace(warp, "attend", _attend)
    _replace(warp, "mix", _mix)
    _replace(losses, "attend", _attend)
    _replace(correlation, "inner", _inner)
    _replace(losses, "inner", _inner)
    _replace(losses, "squares", lambda cells: _inner(cells, cells))
    _replace(losses, "moments", _moments)
    # the correlation of up-sampled layers as a product of up-sampled layers
    _replace(correspondence, "_keeps_columns", lambda config: False)


def _replace(module: ModuleType, name: str, value: Any) -> None:
    """Fails where the name has gone, so that no comparison is with ourselves unnoticed."""
    getattr(module, name)
    setattr(module, name, value)


def _conv(x: jax.Array, kernel: jax.Array, pads: tuple[int, int]) -> jax.Array:
    padding, dims = [(pad, pad) for pad in pads], ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=dims)


def _max_pool(x: jax.Array) -> jax.Array:
    window = (1, 2, 2, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


def _inner(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum("npc,nqc->npq", a, b, precision="highest")


def _moments(cells: jax.Array) -> jax.Array:
    return jnp.einsum("npc,npd->ncd", cells, cells, precision="highest")


def _mix(logits: jax.Array, values: jax.Array) -> jax.Array:
    weights = jax.nn.softmax(logits, axis=-1)
    return jnp.einsum("npq,nqd->npd", weights, values, precision="highest")


def _attend(
    source: jax.Array, target: jax.Array, values: jax.Array, *, tile: Any = None
) -> tuple[jax.Array, jax.Array]:
    del tile  # the whole matrix
    logits = _inner(source, target)
    return _mix(logits, values), jax.nn.logsumexp(logits, axis=-1)
