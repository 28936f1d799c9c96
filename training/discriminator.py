"""The generator's mirror image: a PGGAN discriminator (arXiv 1710.10196), used in training only.

Layer sizes and channels are the generator's in reverse, kernels are raw and scaled in the forward
pass (equalised learning rate). No normalisation. Every convolution has stride 1.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from oeft_jax._types import Params
from oeft_jax.models.generator import channels_of_layer, equalised_scale, num_layers_of
from oeft_jax.models.layers import average_pool, conv
from oeft_jax.models.pggan import LEAK

GROUP = 4  # pictures whose deviation is shown to the last layers


class Discriminator(NamedTuple):
    """Scores pictures, high for real ones, by what it sees in them."""

    # (weights of the feature networks, [n, R, R, 3] in [-1, 1]) -> what is judged
    see: Callable[[Params, jax.Array], Any]
    # (params, what is judged) -> [n] or [n, places]
    judge: Callable[[Params, Any], jax.Array]
    init: Callable[[jax.Array], Params]


class EqualisedConv(nn.Module):
    """Convolution, bias, LeakyReLU 0.2. [n, h, w, in] -> [n, h, w, features]."""

    features: int
    kernel_size: int = 3

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x = conv(x, kernel * equalised_scale(kernel)) + bias[None, None, None, :]
        return nn.leaky_relu(x, LEAK)


class EqualisedDense(nn.Module):
    """Product and bias. [n, in] -> [n, features]."""

    features: int
    gain: float = 2**0.5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.normal(1.0), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return x @ (kernel * equalised_scale(kernel, gain=self.gain)) + bias[None, :]


def batch_deviation(x: jax.Array) -> jax.Array:
    """One more channel: how much the pictures of a group of four differ (PGGAN, Sec. 3).

    Without it a generator that makes one picture only would go unnoticed. n is a multiple of 4.
    """
    n, h, w, c = x.shape
    groups = x.reshape(GROUP, n // GROUP, h, w, c)
    deviation = jnp.sqrt(jnp.var(groups, axis=0) + 1e-8).mean(axis=(1, 2, 3))  # [n / 4]
    plane = jnp.tile(deviation, GROUP).reshape(n, 1, 1, 1)
    return jnp.concatenate([x, jnp.broadcast_to(plane, (n, h, w, 1))], axis=-1)


class Mirror(nn.Module):
    """The discriminator of a PGGAN of these sizes."""

    resolution: int
    fmap_base: int
    fmap_max: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """[n, R, R, 3] in [-1, 1], n a multiple of 4 -> [n]."""
        channels = partial(channels_of_layer, fmap_base=self.fmap_base, fmap_max=self.fmap_max)
        last = num_layers_of(self.resolution) - 1
        x = EqualisedConv(channels(last), 1, name="input")(images)
        for index in range(last, 1, -1):
            x = EqualisedConv(channels(index - 1), name=f"layer{index}")(x)
            x = average_pool(x, 2) if index % 2 == 0 else x
        x = EqualisedConv(channels(0), name="layer1")(batch_deviation(x))
        x = EqualisedDense(channels(0), name="layer0")(x.reshape(len(x), -1))
        return EqualisedDense(1, gain=1.0, name="score")(nn.leaky_relu(x, LEAK))[:, 0]


def discriminator(resolution: int, *, fmap_base: int, fmap_max: int) -> Discriminator:
    """The discriminator that mirrors `pggan(resolution, ...)`; any batch is a multiple of 4.

    It looks at the pictures themselves, not at features of them.
    """
    model = Mirror(resolution, fmap_base, fmap_max)

    def see(frozen: Params, images: jax.Array) -> jax.Array:
        return images

    def judge(params: Params, images: jax.Array) -> jax.Array:
        return model.apply({"params": params}, images)  # type: ignore[return-value]

    def init(key: jax.Array) -> Params:
        images = jnp.zeros((GROUP, resolution, resolution, 3))
        return jax.jit(model.init)(key, images)["params"]

    return Discriminator(see, judge, init)
