"""What StyleGAN and StyleGAN2 share: mapping network, truncation, noise and codes in W.

A code is one w of W. It drives every layer of the head; each layer of the tail has a free w of its
own (W+), which starts at the mean w. So with one code the cut says how much of W+ is free: at
composing layer num_layers the code styles the whole image (inversion in W), at layer 1 it styles
the first layer at most and every other w is free (inversion in W+). Several codes are the same
program with more features to compose. The importances of the composed channels are free in each.
"""

from functools import partial
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from oeft_jax._checks import InputError, check_choice, check_range
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
from oeft_jax.models.layers import pixel_norm

LEAK = 0.2
MAPPING_LR = 0.01  # the mapping's relative learning rate, which multiplies its kernels and biases
NOISE_MODES = ("stored", "none", "random")


class Mapping(nn.Module):
    """z to w: PixelNorm and dense layers. [n, z_dim] -> [n, w_dim]."""

    w_dim: int
    depth: int = 8
    bias_gain: float = 1.0

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        x = pixel_norm(z)
        for index in range(self.depth):
            x = MappingDense(self.w_dim, self.bias_gain, name=f"dense{index}")(x)
        return x


class MappingDense(nn.Module):
    """Dense layer and LeakyReLU at the mapping's learning rate.

    StyleGAN has its gain of sqrt(2) in the kernel's scale, StyleGAN2 behind the activation. That is
    the same but for the bias, which StyleGAN2 multiplies as well.
    """

    features: int
    bias_gain: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.normal(1 / MAPPING_LR)
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x = x @ kernel * (equalised_scale(kernel) * MAPPING_LR)
        return nn.leaky_relu(x + self.bias_gain * MAPPING_LR * bias[None, :], LEAK)


def layer_noise(layer: nn.Module, num: int, size: int, mode: str) -> jax.Array | None:
    """Standard normal noise of a layer: its own, fresh for each image, or none.

    Returns:
      [1, size, size, 1] of its params ("stored"), [num, size, size, 1] ("random") or None.
    """
    stored: jax.Array = layer.param("noise", nn.initializers.normal(1.0), (1, size, size, 1))
    if mode == "random":
        return jax.random.normal(layer.make_rng("noise"), (num, size, size, 1))
    return stored if mode == "stored" else None


class StyledGenerator(nn.Module):
    """Sizes, mapping and truncation; a subclass adds `setup`, `segment` and `to_image`."""

    resolution: int  # a power of two from 8 to 1024
    z_dim: int = 512
    w_dim: int = 512
    fmap_base: int = 16384  # channels at r x r: min(fmap_base // r, fmap_max)
    fmap_max: int = 512
    noise_mode: str = "stored"  # noise kept in params, "none", or "random": from the rng "noise"

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

    @property
    def num_codes(self) -> int:
        """Codes that style an image (W+): 14 for 256, 18 for 1024."""
        return num_layers_of(self.resolution)

    @property
    def num_layers(self) -> int:
        """The last composing layer."""
        return num_layers_of(self.resolution)

    def features(self, index: int) -> int:
        """Channels of the features that layer `index` (from 0) gives."""
        return channels_of_layer(index, fmap_base=self.fmap_base, fmap_max=self.fmap_max)

    def channels(self, composing_layer: int) -> int:
        """Channels of what is composed at a composing layer."""
        check_composing_layer(composing_layer, self.num_layers)
        return self.features(composing_layer - 1)

    def codes_between(self, start: int, stop: int) -> int:
        """Codes of a segment: one for each of its layers."""
        return stop - start

    def segment(
        self, features: jax.Array | None, codes: jax.Array, start: int, stop: int
    ) -> jax.Array:
        """Layers `start`, ..., `stop` - 1, each styled by its own w.

        Args:
          features: [n, h, w, c], what is composed at `start`; unused where start is 0.
          codes: [n, codes_between(start, stop), w_dim].
        Returns:
          [n, h', w', c'], what is composed at `stop`.
        """
        raise NotImplementedError

    def to_image(self, features: jax.Array) -> jax.Array:
        """What is composed at the last layer -> [n, R, R, 3], not clipped."""
        raise NotImplementedError

    def synthesise(self, codes: jax.Array) -> jax.Array:
        """Images of W+ codes. [n, num_codes, w_dim] -> [n, R, R, 3], not clipped."""
        chex.assert_shape(codes, (None, self.num_codes, self.w_dim))
        return self.to_image(self.segment(None, codes, 0, self.num_layers))

    def map(self, z: jax.Array) -> jax.Array:
        """[n, z_dim] -> w [n, w_dim], not truncated."""
        chex.assert_shape(z, (None, self.z_dim))
        w: jax.Array = self.mapping(z)
        return w

    def map_truncated(self, z: jax.Array, truncation_psi: float) -> jax.Array:
        """[n, z_dim] -> w [n, w_dim], moved towards the mean w; 1 leaves it as it is."""
        w_avg = self.w_avg[None, :]
        return w_avg + truncation_psi * (self.map(z) - w_avg)

    def __call__(
        self, z: jax.Array, *, truncation_psi: float = 1.0, truncation_layers: int = 18
    ) -> jax.Array:
        """Images of latents.

        Args:
          z: [n, z_dim].
          truncation_psi: 1 is no truncation, 0 gives the mean w.
          truncation_layers: codes truncated, counted from the first.
        Returns:
          [n, R, R, 3], nominally in [-1, 1], not clipped.
        """
        w, w_avg = self.map(z)[:, None, :], self.w_avg[None, None, :]
        is_truncated = jnp.arange(self.num_codes) < truncation_layers
        psi = jnp.where(is_truncated, truncation_psi, 1.0)[None, :, None]
        return self.synthesise(w_avg + psi * (w - w_avg))


def styled_generator(
    name: str, model: StyledGenerator, *, truncation_psi: float, truncation_layers: int
) -> Generator:
    """A Generator with codes in W for the head and one w per layer for the tail.

    Args:
      truncation_psi: in [0, 1], of `sample` and of the codes that inversion starts from; 1 is none.
      truncation_layers: >= 0, how many of the first codes `sample` truncates.
    Raises:
      InputError: a value out of these ranges.
    """
    check_range("truncation_psi", truncation_psi, 0.0, 1.0)
    check_range("truncation_layers", truncation_layers, 0)
    truncation = {"truncation_psi": truncation_psi, "truncation_layers": truncation_layers}
    return Generator(
        name=name,
        resolution=model.resolution,
        z_dim=model.z_dim,
        code_dim=model.w_dim,
        num_layers=model.num_layers,
        channels=model.channels,
        num_codes=model.codes_between,
        segment=partial(_segment, model),
        to_image=partial(apply_method, model, "to_image"),
        init_codes=partial(_init_codes, model, truncation_psi),
        init_tail_codes=partial(_init_tail_codes, model),
        sample=partial(_sample, model, truncation),
        init=partial(init_params, model, model.z_dim),
    )


def _segment(model: StyledGenerator, params: Params, *args: Any) -> jax.Array:
    if model.noise_mode == "random":
        raise InputError(
            "noise_mode='random' gives another image each time, which cannot be inverted; "
            "accepted: none, stored."
        )
    return apply_method(model, "segment", params, *args)


def _sample(
    model: StyledGenerator,
    truncation: dict[str, Any],
    params: Params,
    z: jax.Array,
    *,
    noise_key: jax.Array | None = None,
) -> jax.Array:
    rngs = {}
    if model.noise_mode == "random":
        if noise_key is None:
            raise InputError("noise_mode='random' needs noise_key; accepted: a key of jax.random.")
        rngs["noise"] = noise_key
    return apply_method(model, "__call__", params, z, rngs=rngs, **truncation)


def _init_codes(
    model: StyledGenerator, truncation_psi: float, key: jax.Array, params: Params, num: int
) -> jax.Array:
    z = jax.random.normal(key, (num, model.z_dim))
    return apply_method(model, "map_truncated", params, z, truncation_psi)


def _init_tail_codes(model: StyledGenerator, params: Params, composing_layer: int) -> jax.Array:
    check_composing_layer(composing_layer, model.num_layers)
    shape = (model.codes_between(composing_layer, model.num_layers), model.w_dim)
    return jnp.broadcast_to(params["w_avg"][None, :], shape)
