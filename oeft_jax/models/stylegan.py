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

from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from oeft_jax._checks import check_choice, check_range
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
    size_of_layer,
)
from oeft_jax.models.layers import blur, conv, pixel_norm, upsample_nearest

LEAK = 0.2
MAPPING_DEPTH = 8
MAPPING_LR = 0.01  # the mapping's relative learning rate, which multiplies its kernels and biases
NOISE_MODES = ("stored", "none")


class Mapping(nn.Module):
    """z to w: PixelNorm and eight dense layers. [n, z_dim] -> [n, w_dim]."""

    w_dim: int

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        x = pixel_norm(z)
        for index in range(MAPPING_DEPTH):
            x = MappingDense(self.w_dim, name=f"dense{index}")(x)
        return x


class MappingDense(nn.Module):
    """Dense layer and LeakyReLU at the mapping's learning rate."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.normal(1 / MAPPING_LR)
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x = x @ kernel * (equalised_scale(kernel) * MAPPING_LR) + MAPPING_LR * bias[None, :]
        return nn.leaky_relu(x, LEAK)


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
        size = size_of_layer(self.index)
        noise = self.param("noise", nn.initializers.normal(1.0), (1, size, size, 1))
        weight = self.param("noise_weight", nn.initializers.zeros, (self.features,))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if self.noise_mode == "stored":
            x = x + noise * weight[None, None, None, :]
        x = nn.leaky_relu(x + bias[None, None, None, :], LEAK)
        return Style(name="style")(instance_norm(x), codes)

    def _convolve(self, x: jax.Array) -> jax.Array:
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape)
        if self.index % 2:
            return conv(x, kernel) * equalised_scale(kernel)
        return blur(conv(upsample_nearest(x), kernel) * equalised_scale(kernel))


class ToRGB(nn.Module):
    """1 x 1 convolution to RGB, gain 1, no norm, no activation. [n, h, w, in] -> [n, h, w, 3]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.normal(1.0), (1, 1, x.shape[-1], 3))
        bias = self.param("bias", nn.initializers.zeros, (3,))
        return conv(x, kernel) * equalised_scale(kernel, gain=1.0) + bias[None, None, None, :]


class StyleGAN(nn.Module):
    """StyleGAN generator; resolution is a power of two from 8 to 1024."""

    resolution: int
    z_dim: int = 512
    w_dim: int = 512
    fmap_base: int = 16384  # channels at r x r: min(fmap_base // r, fmap_max)
    fmap_max: int = 512
    noise_mode: str = "stored"  # "stored" adds the noise kept in params, "none" adds none

    def __post_init__(self) -> None:
        check_sizes(
            resolution=self.resolution,
            fmap_base=self.fmap_base,
            fmap_max=self.fmap_max,
            z_dim=self.z_dim,
            w_dim=self.w_dim,
        )
        check_choice("noise_mode", self.noise_mode, NOISE_MODES)
        super().__post_init__()

    def setup(self) -> None:
        self.mapping = Mapping(self.w_dim)
        self.w_avg = self.param("w_avg", nn.initializers.zeros, (self.w_dim,))
        # The paper starts from ones; a flat constant is all zeros after the first instance norm
        # as long as the noise weights are zero, so a network with random weights would be flat.
        shape = (1, 4, 4, self._channels(0))
        self.const = self.param("const", nn.initializers.normal(1.0), shape)
        for index in range(num_layers_of(self.resolution)):
            layer = Layer(self._channels(index), index, self.noise_mode)
            setattr(self, f"layer{index}", layer)
        self.output = ToRGB()

    def _channels(self, index: int) -> int:
        return channels_of_layer(index, fmap_base=self.fmap_base, fmap_max=self.fmap_max)

    def channels(self, composing_layer: int) -> int:
        """Channels of the features at a composing layer."""
        check_composing_layer(composing_layer, self.resolution)
        return self._channels(composing_layer - 1)

    def num_tail_codes(self, composing_layer: int) -> int:
        """Layers after a composing layer, each of which has a code of its own."""
        check_composing_layer(composing_layer, self.resolution)
        return num_layers_of(self.resolution) - composing_layer

    def map(self, z: jax.Array) -> jax.Array:
        """[n, z_dim] -> w [n, w_dim], not truncated."""
        chex.assert_shape(z, (None, self.z_dim))
        return self.mapping(z)

    def map_truncated(self, z: jax.Array, truncation_psi: float) -> jax.Array:
        """[n, z_dim] -> w [n, w_dim], moved towards the mean w; 1 leaves it as it is."""
        w_avg = self.w_avg[None, :]
        return w_avg + truncation_psi * (self.map(z) - w_avg)

    def head(self, codes: jax.Array, composing_layer: int) -> jax.Array:
        """The first `composing_layer` layers, all styled by one w. [n, w_dim] -> [n, h, w, c]."""
        check_composing_layer(composing_layer, self.resolution)
        chex.assert_shape(codes, (None, self.w_dim))
        shape = (codes.shape[0], composing_layer, self.w_dim)
        return self._head(jnp.broadcast_to(codes[:, None, :], shape))

    def _head(self, codes: jax.Array) -> jax.Array:
        x = jnp.broadcast_to(self.const, (codes.shape[0], *self.const.shape[1:]))
        return self._run(x, codes, 0)

    def _run(self, x: jax.Array, codes: jax.Array, first: int) -> jax.Array:
        """Runs one layer per code of [n, layers, w_dim], from layer `first` on."""
        for offset in range(codes.shape[1]):
            x = getattr(self, f"layer{first + offset}")(x, codes[:, offset])
        return x

    def tail(self, features: jax.Array, tail_codes: jax.Array, composing_layer: int) -> jax.Array:
        """The other layers, each styled by its own w.

        Args:
          features: [n, h, w, c], the output of layer composing_layer - 1.
          tail_codes: [n, num_layers - composing_layer, w_dim].
          composing_layer: 1 .. num_layers.
        Returns:
          [n, R, R, 3], nominally in [-1, 1], not clipped.
        """
        check_composing_layer(composing_layer, self.resolution)
        chex.assert_shape(features, (None, None, None, self._channels(composing_layer - 1)))
        num_codes = self.num_tail_codes(composing_layer)
        chex.assert_shape(tail_codes, (features.shape[0], num_codes, self.w_dim))
        return self.output(self._run(features, tail_codes, composing_layer))

    def synthesise(self, codes: jax.Array) -> jax.Array:
        """Images of W+ codes. [n, num_layers, w_dim] -> [n, R, R, 3], not clipped."""
        chex.assert_shape(codes, (None, num_layers_of(self.resolution), self.w_dim))
        return self.output(self._head(codes))

    def __call__(
        self, z: jax.Array, *, truncation_psi: float = 0.7, truncation_layers: int = 8
    ) -> jax.Array:
        """Images of latents.

        Args:
          z: [n, z_dim].
          truncation_psi: 1 is no truncation, 0 gives the mean w.
          truncation_layers: layers truncated, counted from the first.
        Returns:
          [n, R, R, 3], nominally in [-1, 1], not clipped.
        """
        w, w_avg = self.map(z)[:, None, :], self.w_avg[None, None, :]
        is_truncated = jnp.arange(num_layers_of(self.resolution)) < truncation_layers
        psi = jnp.where(is_truncated, truncation_psi, 1.0)[None, :, None]
        return self.synthesise(w_avg + psi * (w - w_avg))


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
      noise_mode: "stored" or "none".
      truncation_psi: in [0, 1], of `sample` and of the codes that inversion starts from; 1 is none.
      truncation_layers: >= 0, how many of the first layers `sample` truncates.
    Raises:
      InputError: a value out of these ranges.
    """
    check_range("truncation_psi", truncation_psi, 0.0, 1.0)
    check_range("truncation_layers", truncation_layers, 0)
    model = StyleGAN(resolution, z_dim, w_dim, fmap_base, fmap_max, noise_mode)
    return Generator(
        name="stylegan",
        resolution=resolution,
        code_dim=w_dim,
        num_layers=num_layers_of(resolution),
        channels=model.channels,
        num_tail_codes=model.num_tail_codes,
        head=partial(apply_method, model, "head"),
        tail=partial(apply_method, model, "tail"),
        init_codes=partial(_init_codes, model, truncation_psi),
        init_tail_codes=partial(_init_tail_codes, model),
        sample=partial(
            apply_method,
            model,
            "__call__",
            truncation_psi=truncation_psi,
            truncation_layers=truncation_layers,
        ),
        init=partial(init_params, model, z_dim),
    )


def _init_codes(
    model: StyleGAN, truncation_psi: float, key: jax.Array, params: Params, num: int
) -> jax.Array:
    z = jax.random.normal(key, (num, model.z_dim))
    return apply_method(model, "map_truncated", params, z, truncation_psi)


def _init_tail_codes(model: StyleGAN, params: Params, composing_layer: int) -> jax.Array:
    shape = (model.num_tail_codes(composing_layer), model.w_dim)
    return jnp.broadcast_to(params["w_avg"][None, :], shape)
