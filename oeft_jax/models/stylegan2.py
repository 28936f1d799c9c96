"""StyleGAN2 generator (arXiv 1912.04958, "skip" architecture), cut for multi-code inversion.

A code scales the input channels of a convolution; its outputs are scaled back to unit variance
(demodulation), then noise -> bias -> LeakyReLU 0.2 times sqrt(2). The picture grows beside the
features: at each resolution a styled 1 x 1 convolution adds to it, then it is up-sampled.

How layers are counted. Layer 0 is the learnt 4 x 4 constant, which has no style. Layers 1 .. L-1
(L = 2 log2 R - 2) are the convolutions, at 4, 8, 8, 16, 16, ..., so features have the sizes that
they have at the same composing layer of the other generators (4, 4, 8, 8, ...). Layer L, also a
composing layer, gives the image. Every layer but the constant has one code, L codes in all (W+):
layer i takes code i - 1, as does the convolution to RGB of the resolution below, which runs at the
start of an up-sampling layer (and is layer L at the end). These are the codes of the released
implementations, in their order.

What is composed is everything that the tail needs: features and picture so far, c + 3 channels
(only the picture, 3, at layer L). So composing stays one linear map over channels, and N identical
codes whose importances sum to one give exactly the image of one code. Composing layer num_layers
(= L + 1) with one code is inversion in W; composing layer 1 composes constants, so its codes do
nothing and with one of them inversion is in W+; between them, and for several codes, it is the same
program. See `styled`.

Departures from the released implementations, with the same result: activations are scaled instead
of kernels, so one kernel serves a batch of codes; the up-convolution is four plain ones
(`layers.conv_up`). Their clamp of half-precision activations at 256, ten times what occurs, is left
out.

Params, raw (the equalised-learning-rate scale is applied in the forward pass):
  mapping/denseN/{kernel [in, out], bias}, w_avg [w_dim], const [1, 4, 4, c],
  layerN/{kernel [3, 3, in, out], noise [1, r, r, 1], noise_strength [], bias [out]},
  to_rgbB/{kernel [1, 1, in, 3], bias [3]} for resolution 4 * 2^B,
  */style/{kernel [w_dim, in], bias [in]}, biases about 1.
Up-sampling kernels (layers 2, 4, ...) are for cross-correlation with a map of zeros between pixels.
"""

import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from oeft_jax._checks import check_range
from oeft_jax.models.generator import (
    Generator,
    check_composing_layer,
    equalised_scale,
    size_of_layer,
)
from oeft_jax.models.layers import conv, conv_up, upsample_filtered
from oeft_jax.models.styled import LEAK, Mapping, StyledGenerator, layer_noise, styled_generator


class Style(nn.Module):
    """Scales of a convolution's input channels. [n, w_dim] -> [n, features]."""

    features: int

    @nn.compact
    def __call__(self, codes: jax.Array) -> jax.Array:
        shape = (codes.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape)
        bias = self.param("bias", nn.initializers.ones, shape[1:])
        return codes @ kernel * equalised_scale(kernel, gain=1.0) + bias[None, :]


def demodulation(kernel: jax.Array, scales: jax.Array, *, eps: float = 1e-8) -> jax.Array:
    """What brings each output of a scaled convolution back to unit variance. -> [n, out]."""
    return lax.rsqrt(scales**2 @ jnp.sum(kernel**2, axis=(0, 1)) + eps)


class Layer(nn.Module):
    """Layer `index` of the synthesis, from 1; even ones double height and width."""

    features: int
    index: int
    noise_mode: str

    @nn.compact
    def __call__(self, x: jax.Array, codes: jax.Array) -> jax.Array:
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape)
        scales = Style(x.shape[-1], name="style")(codes) * equalised_scale(kernel, gain=1.0)
        convolve = conv if self.index % 2 else conv_up
        x = convolve(x * scales[:, None, None, :], kernel)
        x = x * demodulation(kernel, scales)[:, None, None, :]
        noise = layer_noise(self, x.shape[0], size_of_layer(self.index), self.noise_mode)
        strength = self.param("noise_strength", nn.initializers.zeros, ())
        x = x if noise is None else x + noise * strength
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return nn.leaky_relu(x + bias[None, None, None, :], LEAK) * math.sqrt(2)


class ToRGB(nn.Module):
    """Styled 1 x 1 convolution to RGB, not demodulated. [n, h, w, in] -> [n, h, w, 3]."""

    @nn.compact
    def __call__(self, x: jax.Array, codes: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.normal(1.0), (1, 1, x.shape[-1], 3))
        scales = Style(x.shape[-1], name="style")(codes) * equalised_scale(kernel, gain=1.0)
        bias = self.param("bias", nn.initializers.zeros, (3,))
        return conv(x * scales[:, None, None, :], kernel) + bias[None, None, None, :]


class StyleGAN2(StyledGenerator):
    """StyleGAN2 generator; the configuration "F" of the paper by default."""

    fmap_base: int = 32768
    mapping_depth: int = 8

    def setup(self) -> None:
        self.mapping = Mapping(self.w_dim, self.mapping_depth, bias_gain=math.sqrt(2))
        self.w_avg = self.param("w_avg", nn.initializers.zeros, (self.w_dim,))
        shape = (1, 4, 4, self.features(0))
        self.const = self.param("const", nn.initializers.normal(1.0), shape)
        for index in range(1, self.num_codes):
            setattr(self, f"layer{index}", Layer(self.features(index), index, self.noise_mode))
        for index in range(self.num_codes // 2):
            setattr(self, f"to_rgb{index}", ToRGB())

    @property
    def num_layers(self) -> int:
        """The last composing layer, of the image itself."""
        return self.num_codes + 1

    def channels(self, composing_layer: int) -> int:
        """Channels of what is composed: features and picture, at the end the picture alone."""
        check_composing_layer(composing_layer, self.num_layers)
        is_image = composing_layer == self.num_layers
        return 3 if is_image else self.features(composing_layer - 1) + 3

    def codes_between(self, start: int, stop: int) -> int:
        """Codes of a segment: one for each of its layers but the constant."""
        return stop - max(start, 1)

    def segment(
        self, features: jax.Array | None, codes: jax.Array, start: int, stop: int
    ) -> jax.Array:
        """Layers `start`, ..., `stop` - 1, each styled by its own w; see `StyledGenerator`."""
        chex.assert_shape(codes, (None, self.codes_between(start, stop), self.w_dim))
        if features is None:
            x = jnp.broadcast_to(self.const, (codes.shape[0], *self.const.shape[1:]))
            rgb = jnp.zeros((*x.shape[:3], 3), x.dtype)
        else:
            x, rgb = features[..., :-3], features[..., -3:]
        first = max(start, 1)
        for index in range(first, stop):
            x, rgb = self._layer(index, x, rgb, codes[:, index - first])
        return rgb if stop == self.num_layers else jnp.concatenate([x, rgb], axis=-1)

    def _layer(
        self, index: int, x: jax.Array, rgb: jax.Array, codes: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        if index % 2 == 0:
            rgb = rgb + getattr(self, f"to_rgb{index // 2 - 1}")(x, codes)
        if index == self.num_codes:
            return x, rgb
        if index % 2 == 0:
            rgb = upsample_filtered(rgb)
        return getattr(self, f"layer{index}")(x, codes), rgb

    def to_image(self, features: jax.Array) -> jax.Array:
        """The picture is what is composed at the last layer."""
        return features


def stylegan2(
    resolution: int,
    *,
    z_dim: int = 512,
    w_dim: int = 512,
    fmap_base: int = 32768,
    fmap_max: int = 512,
    mapping_depth: int = 8,
    noise_mode: str = "stored",
    truncation_psi: float = 0.5,
    truncation_layers: int = 18,
) -> Generator:
    """StyleGAN2 as a Generator, with codes in W for the head and one w per layer for the tail.

    Args:
      resolution: power of two from 8 to 1024.
      z_dim: >= 1, of the latent.
      w_dim: >= 1, of w; also the code_dim.
      fmap_base: >= resolution; channels at r x r are min(fmap_base // r, fmap_max).
      fmap_max: >= 1.
      mapping_depth: >= 1, dense layers from z to w.
      noise_mode: "stored", "none" or "random" (`sample` then takes noise_key).
      truncation_psi: in [0, 1], of `sample` and of the codes that inversion starts from; 1 is none.
      truncation_layers: >= 0, how many of the first codes `sample` truncates.
    Raises:
      InputError: a value out of these ranges.
    """
    check_range("mapping_depth", mapping_depth, 1)
    model = StyleGAN2(resolution, z_dim, w_dim, fmap_base, fmap_max, noise_mode, mapping_depth)
    return styled_generator(
        "stylegan2", model, truncation_psi=truncation_psi, truncation_layers=truncation_layers
    )
