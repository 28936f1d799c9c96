"""What every frozen generator offers to inversion, and the size rules that they share.

A generator is a chain of layers, two per resolution from 4 x 4 up, and a last 1 x 1 convolution
to RGB (a layer as well where a code styles it, in StyleGAN2). Cut at composing layer k it is
G = tail o head, where head is the first k layers, so the features are the output of layer k - 1
after its activation (mGANprior, arXiv 1912.07116, Sec. 3). Both are segments of the one chain, so
that a batch can hold features cut at different layers and run the layers they share together.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from oeft_jax._checks import InputError, check_range
from oeft_jax._types import Params

RESOLUTIONS = (8, 16, 32, 64, 128, 256, 512, 1024)


class Generator(NamedTuple):
    """A frozen generator that can be cut at any composing layer.

    `composing_layer` is a whole number from 1 to `num_layers`, fixed when a program is traced;
    another value raises InputError. `params` is what Flax keeps under "params".

    A segment runs the layers `start`, ..., `stop` - 1. From 0 it begins with nothing but codes;
    every other `start`, and every `stop`, is a composing layer.
    """

    name: str  # "pggan", "stylegan" or "stylegan2"
    resolution: int  # R, height and width of the images
    z_dim: int  # of the latent that sample takes
    code_dim: int  # of a code that head takes
    num_layers: int  # 2 (log2 R - 1); one more for StyleGAN2
    channels: Callable[[int], int]  # composing_layer -> channels of the features there
    num_codes: Callable[[int, int], int]  # (start, stop) -> s, codes a segment takes per image
    # (params, features [n, h, w, c] or None, codes [n, s, code_dim], start, stop)
    # -> features at `stop`, [n, h', w', c']
    segment: Callable[..., jax.Array]
    # (params, features at num_layers) -> images [n, R, R, 3], nominally in [-1, 1], not clipped
    to_image: Callable[..., jax.Array]
    init_codes: Callable[..., jax.Array]  # (key, params, num) -> start values [num, code_dim]
    init_tail_codes: Callable[..., jax.Array]  # (params, composing_layer) -> [t, code_dim]
    # (params, z [n, z_dim], *, noise_key=None) -> images [n, R, R, 3]; the key is for a generator
    # whose noise is "random"
    sample: Callable[..., jax.Array]
    init: Callable[..., Params]  # (key) -> params with random weights

    def num_tail_codes(self, composing_layer: int) -> int:
        """Codes that `tail` takes for each image."""
        check_composing_layer(composing_layer, self.num_layers)
        return self.num_codes(composing_layer, self.num_layers)

    def repeated(self, codes: jax.Array, start: int, stop: int) -> jax.Array:
        """What a segment takes where one code drives all of it. [n, d] -> [n, s, d]."""
        chex.assert_shape(codes, (None, self.code_dim))
        num = self.num_codes(start, stop)
        return jnp.broadcast_to(codes[:, None, :], (codes.shape[0], num, self.code_dim))

    def head(self, params: Params, codes: jax.Array, composing_layer: int) -> jax.Array:
        """The first `composing_layer` layers, driven by one code. [n, code_dim] -> [n, h, w, c]."""
        check_composing_layer(composing_layer, self.num_layers)
        codes = self.repeated(codes, 0, composing_layer)
        return self.segment(params, None, codes, 0, composing_layer)

    def tail(
        self, params: Params, features: jax.Array, tail_codes: jax.Array, composing_layer: int
    ) -> jax.Array:
        """The other layers, each with codes of its own, and the image.

        Args:
          features: [n, h, w, c], what `head` gives at this composing layer.
          tail_codes: [n, num_tail_codes(composing_layer), code_dim].
          composing_layer: 1 .. num_layers.
        Returns:
          [n, R, R, 3], nominally in [-1, 1], not clipped.
        """
        num = self.num_tail_codes(composing_layer)
        chex.assert_shape(features, (None, None, None, self.channels(composing_layer)))
        chex.assert_shape(tail_codes, (features.shape[0], num, self.code_dim))
        last = self.segment(params, features, tail_codes, composing_layer, self.num_layers)
        return self.to_image(params, last)


def num_layers_of(resolution: int) -> int:
    """Layers before the one to RGB: 14 for 256, 18 for 1024."""
    return 2 * (resolution.bit_length() - 2)


def size_of_layer(index: int) -> int:
    """Height and width of the output of layer `index` (from 0): 4, 4, 8, 8, 16, ..."""
    return 4 * 2 ** (index // 2)


def channels_of_layer(index: int, *, fmap_base: int, fmap_max: int) -> int:
    """Channels of the output of layer `index` (from 0): fmap_base / size, at most fmap_max."""
    return min(fmap_base // size_of_layer(index), fmap_max)


def equalised_scale(kernel: jax.Array, *, gain: float = math.sqrt(2)) -> float:
    """gain / sqrt(fan-in), the factor of an equalised learning rate; the last axis is the output.

    Kernels are kept raw and scaled in the forward pass, so that a converted file can be compared
    with its source tensor by tensor.
    """
    return gain / math.sqrt(math.prod(kernel.shape[:-1]))


def check_sizes(*, resolution: int, fmap_base: int, fmap_max: int, **dims: int) -> None:
    """Raises InputError unless a generator of these sizes can be built."""
    if resolution not in RESOLUTIONS or not isinstance(resolution, int):
        names = ", ".join(str(item) for item in RESOLUTIONS)
        raise InputError(f"resolution={resolution!r} is not supported; accepted: {names}.")
    check_range("fmap_base", fmap_base, resolution)  # fewer leave no channel at the last layer
    check_range("fmap_max", fmap_max, 1)
    for name, value in dims.items():
        check_range(name, value, 1)


def check_composing_layer(composing_layer: int, num_layers: int) -> None:
    """Raises InputError unless a generator of so many layers can be cut there."""
    is_whole = isinstance(composing_layer, int) and not isinstance(composing_layer, bool)
    if not is_whole or not 1 <= composing_layer <= num_layers:
        raise InputError(
            f"composing_layer={composing_layer!r} is not a layer of this generator; "
            f"accepted: whole numbers from 1 to {num_layers}."
        )


def apply_method(
    model: nn.Module, method: str, params: Params, *args: Any, **options: Any
) -> jax.Array:
    """A method of a module on its params, as the function that a Generator holds."""
    result: Any = model.apply({"params": params}, *args, method=method, **options)
    return result


def init_params(model: nn.Module, z_dim: int, key: jax.Array) -> Params:
    """Random weights; compiled, so that the images of the tracing call are never computed."""
    return jax.jit(model.init)(key, jnp.zeros((1, z_dim)))["params"]
