"""PGGAN generator (arXiv 1710.10196) at its final level of detail, cut for multi-code inversion.

Every layer is PixelNorm -> (nearest x 2) -> convolution -> scale -> bias -> LeakyReLU 0.2. The norm
comes first, so the features at a composing layer are not normalised, and the image depends on
neither the length of a code nor a common factor of the importances.

Departure from the released files: they hold one layer to RGB per resolution, of which a finished
model uses the last; only that one is kept here, as "output".

Params, raw (the equalised-learning-rate scale is applied in the forward pass):
  layer0/kernel   [z_dim, 4, 4, c]: K[z, i, j, c] = W[c, z, 3 - i, 3 - j], where W is the kernel of
                  the released 4 x 4 convolution with padding 3 over a 1 x 1 latent.
  layerN/kernel   [3, 3, in, out];  output/kernel [1, 1, in, 3];  */bias [out].
"""

from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from oeft_jax._types import Params
from oeft_jax.models.generator import (
    Generator,
    apply_method,
    channels_of_layer,
    check_composing_layer,
    check_sizes,
    equalised_scale,
    init_params,
    num_layers_of,
)
from oeft_jax.models.layers import conv, pixel_norm
from oeft_jax.models.upsample import conv_upsampled

LEAK = 0.2


class FirstLayer(nn.Module):
    """Codes to 4 x 4 features. [n, z_dim] -> [n, 4, 4, features]."""

    features: int

    @nn.compact
    def __call__(self, codes: jax.Array) -> jax.Array:
        shape = (codes.shape[-1], 4, 4, self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x = jnp.einsum("nz,zhwc->nhwc", pixel_norm(codes), kernel) * equalised_scale(kernel)
        return nn.leaky_relu(x + bias[None, None, None, :], LEAK)


class Layer(nn.Module):
    """3 x 3 convolution. [n, h, w, in] -> [n, h, w, features], or twice the size if up-sampled."""

    features: int
    upsample: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param(
            "kernel", nn.initializers.normal(1.0), (3, 3, x.shape[-1], self.features)
        )
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x = pixel_norm(x)
        x = (conv_upsampled if self.upsample else conv)(x, kernel) * equalised_scale(kernel)
        return nn.leaky_relu(x + bias[None, None, None, :], LEAK)


class ToRGB(nn.Module):
    """1 x 1 convolution to RGB, gain 1, no activation. [n, h, w, in] -> [n, h, w, 3]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.normal(1.0), (1, 1, x.shape[-1], 3))
        bias = self.param("bias", nn.initializers.zeros, (3,))
        x = conv(pixel_norm(x), kernel) * equalised_scale(kernel, gain=1.0)
        return x + bias[None, None, None, :]


class PGGAN(nn.Module):
    """PGGAN generator; resolution is a power of two from 8 to 1024."""

    resolution: int
    z_dim: int = 512
    fmap_base: int = 16384  # channels at r x r: min(fmap_base // r, fmap_max)
    fmap_max: int = 512

    def __post_init__(self) -> None:
        check_sizes(
            resolution=self.resolution,
            fmap_base=self.fmap_base,
            fmap_max=self.fmap_max,
            z_dim=self.z_dim,
        )
        super().__post_init__()

    def setup(self) -> None:
        self.layer0 = FirstLayer(self._channels(0))
        for index in range(1, num_layers_of(self.resolution)):
            setattr(self, f"layer{index}", Layer(self._channels(index), upsample=index % 2 == 0))
        self.output = ToRGB()

    def _channels(self, index: int) -> int:
        return channels_of_layer(index, fmap_base=self.fmap_base, fmap_max=self.fmap_max)

    def channels(self, composing_layer: int) -> int:
        """Channels of the features at a composing layer."""
        check_composing_layer(composing_layer, num_layers_of(self.resolution))
        return self._channels(composing_layer - 1)

    def segment(
        self, features: jax.Array | None, codes: jax.Array, start: int, stop: int
    ) -> jax.Array:
        """Layers `start`, ..., `stop` - 1.

        Args:
          features: [n, h, w, c], not normalised; unused where start is 0.
          codes: [n, 1, z_dim] where start is 0, else [n, 0, z_dim].
        Returns:
          [n, h', w', c'], not normalised.
        """
        chex.assert_shape(codes, (None, num_codes(start, stop), self.z_dim))
        x = codes[:, 0] if features is None else features
        for index in range(start, stop):
            x = getattr(self, f"layer{index}")(x)
        return x

    def to_image(self, features: jax.Array) -> jax.Array:
        """[n, R, R, c] -> [n, R, R, 3], nominally in [-1, 1], not clipped."""
        image: jax.Array = self.output(features)
        return image

    def __call__(self, z: jax.Array) -> jax.Array:
        """Images of latents. [n, z_dim] -> [n, R, R, 3], nominally in [-1, 1], not clipped."""
        chex.assert_shape(z, (None, self.z_dim))
        return self.to_image(self.segment(None, z[:, None], 0, num_layers_of(self.resolution)))


def num_codes(start: int, stop: int) -> int:
    """Only the first layer takes a code."""
    return int(start == 0 < stop)


def pggan(
    resolution: int, *, z_dim: int = 512, fmap_base: int = 16384, fmap_max: int = 512
) -> Generator:
    """PGGAN as a Generator; its tail takes no codes, and codes start standard normal.

    Args:
      resolution: power of two from 8 to 1024.
      z_dim: >= 1, of the latent; also the code_dim.
      fmap_base: >= resolution; channels at r x r are min(fmap_base // r, fmap_max).
      fmap_max: >= 1.
    Raises:
      InputError: a size out of these ranges.
    """
    model = PGGAN(resolution, z_dim, fmap_base, fmap_max)
    return Generator(
        name="pggan",
        resolution=resolution,
        z_dim=z_dim,
        code_dim=z_dim,
        num_layers=num_layers_of(resolution),
        channels=model.channels,
        num_codes=num_codes,
        segment=partial(apply_method, model, "segment"),
        to_image=partial(apply_method, model, "to_image"),
        init_codes=partial(_init_codes, model),
        init_tail_codes=partial(_init_tail_codes, model),
        sample=partial(_sample, model),
        init=partial(init_params, model, z_dim),
    )


def _sample(
    model: PGGAN, params: Params, z: jax.Array, *, noise_key: jax.Array | None = None
) -> jax.Array:
    del noise_key  # this generator has no noise
    return apply_method(model, "__call__", params, z)


def _init_codes(model: PGGAN, key: jax.Array, params: Params, num: int) -> jax.Array:
    del params
    return jax.random.normal(key, (num, model.z_dim))


def _init_tail_codes(model: PGGAN, params: Params, composing_layer: int) -> jax.Array:
    del params
    num_layers = num_layers_of(model.resolution)
    check_composing_layer(composing_layer, num_layers)
    return jnp.zeros((num_codes(composing_layer, num_layers), model.z_dim))
