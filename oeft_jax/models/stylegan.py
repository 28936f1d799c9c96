"""StyleGAN generator (v1, arXiv 1812.04948), cut for multi-code inversion.

A layer is convolution (layer 0: a learnt constant; even layers: nearest x 2, convolution, blur),
then noise -> bias -> LeakyReLU 0.2 -> instance norm -> style.

OEFT inverts with "PGGAN-Multi-Z and StyleGAN" and does not say what several codes mean for a
StyleGAN; the released mGANprior has single-code variants only. Here each code is one w of W that
drives the head's layers 0 .. k-1, and the features after layer k-1's style are composed. The
tail's layers k .. L-1 have codes of their own, one w per layer (W+), free and starting at the mean
w. So N identical codes whose importances sum to one give exactly the single-code W+ image, which
makes that inversion the case N = 1, and no style has to serve two feature maps. With one w shared
by head and tail, N codes would leave open which of them styles the tail.

Departure from the released files: they run the up-convolutions of outputs >= 128 as a fused
transposed convolution. That equals nearest x 2 and a convolution with the kernel rotated by 180
degrees, so the rotation is done once, when a file is converted.

Params, raw (the equalised-learning-rate scale is applied in the forward pass):
  mapping/denseN/{kernel [in, out], bias}, w_avg [w_dim], const [1, 4, 4, c],
  layerN/{kernel [3, 3, in, out] (not layer0), noise [1, r, r, 1], noise_weight [c], bias [c]},
  layerN/style/{kernel [w_dim, 2c], bias [2c]} (first c: scale - 1, last c: shift),
  output/{kernel [1, 1, in, 3], bias [3]}.
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from oeft_jax.models.generator import (
    Generator,
    equalised_scale,
    size_of_layer,
)
from oeft_jax.models.layers import blur, conv
from oeft_jax.models.styled import (
    LEAK,
    Mapping,
    StyledGenerator,
    layer_noise,
    styled_generator,
)
from oeft_jax.models.upsample import conv_upsampled


def instance_norm(x: jax.Array, *, eps: float = 1e-8) -> jax.Array:
    """Zero mean and unit (biased) variance over the cells of each channel."""
    x = x - jnp.mean(x, axis=(1, 2), keepdims=True)
    return x * lax.rsqrt(jnp.mean(x * x, axis=(1, 2), keepdims=True) + eps)


class Style(nn.Module):
    """Scales and shifts channels as a code says. [n, h, w, c], [n, w_dim] -> [n, h, w, c]."""

    @nn.compact
    def __call__(self, x: jax.Array, codes: jax.Array) -> jax.Array:
        shape = (codes.shape[-1], 2 * x.shape[-1])
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape)
        bias = self.param("bias", nn.initializers.zeros, shape[1:])
        style = codes @ kernel * equalised_scale(kernel, gain=1.0) + bias[None, :]
        scale, shift = jnp.split(style[:, None, None, :], 2, axis=-1)
        return x * (scale + 1) + shift


class Layer(nn.Module):
    """Layer `index` of the synthesis; even ones from 2 on double height and width."""

    features: int
    index: int
    noise_mode: str

    @nn.compact
    def __call__(self, x: jax.Array, codes: jax.Array) -> jax.Array:
        x = self._convolve(x) if self.index > 0 else x
        noise = layer_noise(self, x.shape[0], size_of_layer(self.index), self.noise_mode)
        weight = self.param("noise_weight", nn.initializers.zeros, (self.features,))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if noise is not None:
            x = x + noise * weight[None, None, None, :]
        x = nn.leaky_relu(x + bias[None, None, None, :], LEAK)
        return Style(name="style")(instance_norm(x), codes)

    def _convolve(self, x: jax.Array) -> jax.Array:
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape)
        if self.index % 2:
            return conv(x, kernel) * equalised_scale(kernel)
        return blur(conv_upsampled(x, kernel) * equalised_scale(kernel))


class ToRGB(nn.Module):
    """1 x 1 convolution to RGB, gain 1, no norm, no activation. [n, h, w, in] -> [n, h, w, 3]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.normal(1.0), (1, 1, x.shape[-1], 3))
        bias = self.param("bias", nn.initializers.zeros, (3,))
        return conv(x, kernel) * equalised_scale(kernel, gain=1.0) + bias[None, None, None, :]


class StyleGAN(StyledGenerator):
    """StyleGAN generator; resolution is a power of two from 8 to 1024."""

    def setup(self) -> None:
        self.mapping = Mapping(self.w_dim)
        self.w_avg = self.param("w_avg", nn.initializers.zeros, (self.w_dim,))
        # The paper starts from ones; a flat constant is all zeros after the first instance norm
        # as long as the noise weights are zero, so a network with random weights would be flat.
        shape = (1, 4, 4, self.features(0))
        self.const = self.param("const", nn.initializers.normal(1.0), shape)
        for index in range(self.num_layers):
            setattr(self, f"layer{index}", Layer(self.features(index), index, self.noise_mode))
        self.output = ToRGB()

    def segment(
        self, features: jax.Array | None, codes: jax.Array, start: int, stop: int
    ) -> jax.Array:
        """Layers `start`, ..., `stop` - 1, each styled by its own w; see `StyledGenerator`."""
        chex.assert_shape(codes, (None, self.codes_between(start, stop), self.w_dim))
        x = features
        if x is None:
            x = jnp.broadcast_to(self.const, (codes.shape[0], *self.const.shape[1:]))
        for index in range(start, stop):
            x = getattr(self, f"layer{index}")(x, codes[:, index - start])
        return x

    def to_image(self, features: jax.Array) -> jax.Array:
        """[n, R, R, c] -> [n, R, R, 3], nominally in [-1, 1], not clipped."""
        image: jax.Array = self.output(features)
        return image


def stylegan(
    resolution: int,
    *,
    z_dim: int = 512,
    w_dim: int = 512,
    fmap_base: int = 16384,
    fmap_max: int = 512,
    noise_mode: str = "stored",
    truncation_psi: float = 0.7,
    truncation_layers: int = 8,
) -> Generator:
    """StyleGAN as a Generator, with codes in W for the head and one w per layer for the tail.

    Args:
      resolution: power of two from 8 to 1024.
      z_dim: >= 1, of the latent.
      w_dim: >= 1, of w; also the code_dim.
      fmap_base: >= resolution; channels at r x r are min(fmap_base // r, fmap_max).
      fmap_max: >= 1.
      noise_mode: "stored", "none" or "random" (`sample` then takes noise_key).
      truncation_psi: in [0, 1], of `sample` and of the codes that inversion starts from; 1 is none.
      truncation_layers: >= 0, how many of the first layers `sample` truncates.
    Raises:
      InputError: a value out of these ranges.
    """
    model = StyleGAN(resolution, z_dim, w_dim, fmap_base, fmap_max, noise_mode)
    return styled_generator(
        "stylegan", model, truncation_psi=truncation_psi, truncation_layers=truncation_layers
    )
