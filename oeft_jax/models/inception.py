"""Inception-v3 as a feature extractor with named taps, in the two forms that scores are built on.

"fid": the network of the Frechet inception distance (the TensorFlow graph of 2015-12-05, as
pytorch-fid carries it). Its average pools leave the zero padding out of the average, and the last
block pools by maximum. FID's "pool3" feature is the mean over height and width of "mixed_7c".

"torchvision": the usual network, with other weights. SIFID takes "conv2d_4a", each place a sample.

Both see 2 x - 1 of images in [0, 1]. torchvision's `transform_input`, on when it loads its own
weights, comes to the same for images normalised by ImageNet's mean and deviation, and SIFID calls
the layers below it. Names are torchvision's in lower case, without the size at the end of the stem's.

Batch norm is frozen: "mean" and "var" are parameters without a gradient.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from oeft_jax._checks import check_choice, deepest
from oeft_jax._types import Features, Taps
from oeft_jax.models.layers import DIMS, conv

VARIANTS = ("fid", "torchvision")
BATCH_NORM_EPS = 1e-3
FID_SIZE = 299  # pixels; pytorch-fid resizes every image to it
TAPS = (
    *("conv2d_2b", "pool1", "conv2d_4a", "pool2", "mixed_5b", "mixed_5c", "mixed_5d"),
    *("mixed_6a", "mixed_6b", "mixed_6c", "mixed_6d", "mixed_6e", "mixed_7a", "mixed_7b"),
    "mixed_7c",
)


class _Unit(nn.Module):
    """Convolution without bias, frozen batch norm, ReLU.

    `same` pads an odd kernel by half its size at stride 1; without it nothing is padded.
    """

    features: int
    kernel_size: tuple[int, int] = (1, 1)
    stride: int = 1
    same: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        if self.same:
            x = conv(x, kernel)
        else:
            strides = (self.stride, self.stride)
            x = lax.conv_general_dilated(x, kernel, strides, "VALID", dimension_numbers=DIMS)
        scale = self.param("scale", nn.initializers.ones, (self.features,))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        mean = lax.stop_gradient(self.param("mean", nn.initializers.zeros, (self.features,)))
        var = lax.stop_gradient(self.param("var", nn.initializers.ones, (self.features,)))
        factor = scale * lax.rsqrt(var + BATCH_NORM_EPS)
        shift = bias - mean * factor
        return nn.relu(x * factor[None, None, None, :] + shift[None, None, None, :])


def _down(features: int, name: str) -> _Unit:
    """3 x 3, stride 2, nothing padded."""
    return _Unit(features, (3, 3), stride=2, same=False, name=name)


def _max_pool_down(x: jax.Array) -> jax.Array:
    """3 x 3, stride 2, nothing padded."""
    return nn.max_pool(x, (3, 3), (2, 2))


def _join(*branches: jax.Array) -> jax.Array:
    return jnp.concatenate(branches, axis=-1)


def _pool_same(x: jax.Array, kind: str) -> jax.Array:
    """3 x 3, stride 1, padded by 1: "max", "average", or "average_inside" of the padding."""
    window, strides, padding = (3, 3), (1, 1), ((1, 1), (1, 1))
    if kind == "max":
        return nn.max_pool(x, window, strides, padding)
    return nn.avg_pool(x, window, strides, padding, count_include_pad=kind == "average")


class _BlockA(nn.Module):
    """35 x 35: 1 x 1, 5 x 5, two 3 x 3, pooling."""

    pool_features: int
    pool: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        five = _Unit(48, name="branch5x5_1")(x)
        three = _Unit(64, name="branch3x3dbl_1")(x)
        three = _Unit(96, (3, 3), name="branch3x3dbl_2")(three)
        return _join(
            _Unit(64, name="branch1x1")(x),
            _Unit(64, (5, 5), name="branch5x5_2")(five),
            _Unit(96, (3, 3), name="branch3x3dbl_3")(three),
            _Unit(self.pool_features, name="branch_pool")(_pool_same(x, self.pool)),
        )


class _BlockB(nn.Module):
    """35 x 35 to 17 x 17."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        three = _Unit(64, name="branch3x3dbl_1")(x)
        three = _Unit(96, (3, 3), name="branch3x3dbl_2")(three)
        return _join(
            _down(384, "branch3x3")(x), _down(96, "branch3x3dbl_3")(three), _max_pool_down(x)
        )


class _BlockC(nn.Module):
    """17 x 17: 1 x 1, one and two 7 x 7 as rows and columns, pooling."""

    width: int
    pool: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        row, column = (1, 7), (7, 1)
        one = _Unit(self.width, name="branch7x7_1")(x)
        one = _Unit(self.width, row, name="branch7x7_2")(one)
        two = _Unit(self.width, name="branch7x7dbl_1")(x)
        for index, kernel_size in enumerate((column, row, column), 2):
            two = _Unit(self.width, kernel_size, name=f"branch7x7dbl_{index}")(two)
        return _join(
            _Unit(192, name="branch1x1")(x),
            _Unit(192, column, name="branch7x7_3")(one),
            _Unit(192, row, name="branch7x7dbl_5")(two),
            _Unit(192, name="branch_pool")(_pool_same(x, self.pool)),
        )


class _BlockD(nn.Module):
    """17 x 17 to 8 x 8."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        seven = _Unit(192, name="branch7x7x3_1")(x)
        seven = _Unit(192, (1, 7), name="branch7x7x3_2")(seven)
        seven = _Unit(192, (7, 1), name="branch7x7x3_3")(seven)
        return _join(
            _down(320, "branch3x3_2")(_Unit(192, name="branch3x3_1")(x)),
            _down(192, "branch7x7x3_4")(seven),
            _max_pool_down(x),
        )


class _BlockE(nn.Module):
    """8 x 8: 1 x 1, 3 x 3 and two 3 x 3 that end in a row beside a column, pooling."""

    pool: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        row, column = (1, 3), (3, 1)
        one = _Unit(384, name="branch3x3_1")(x)
        two = _Unit(448, name="branch3x3dbl_1")(x)
        two = _Unit(384, (3, 3), name="branch3x3dbl_2")(two)
        return _join(
            _Unit(320, name="branch1x1")(x),
            _Unit(384, row, name="branch3x3_2a")(one),
            _Unit(384, column, name="branch3x3_2b")(one),
            _Unit(384, row, name="branch3x3dbl_3a")(two),
            _Unit(384, column, name="branch3x3dbl_3b")(two),
            _Unit(192, name="branch_pool")(_pool_same(x, self.pool)),
        )


class Inception(nn.Module):
    """Inception-v3 without its classifier; computes no further than the deepest tap asked for."""

    variant: str = "fid"  # one of VARIANTS
    input_size: int | None = None  # pixels that images are resized to; None: as they are

    def tap_names(self) -> tuple[str, ...]:
        """Every tap of this network, shallow to deep."""
        return TAPS

    @nn.compact
    def __call__(self, images: jax.Array, taps: Taps) -> Features:
        """Taps of `images`.

        Args:
          images: [n, h, w, 3] float32 in [0, 1].
          taps: names such as "mixed_7c".
        Returns:
          name -> [n, h', w', channels] float32, >= 0. A 299 x 299 image gives 73 x 73 x 64 for
          "pool1", 35 x 35 x 192 for "pool2", 17 x 17 x 768 for "mixed_6e" and 8 x 8 x 2048 for
          "mixed_7c"; below 75 x 75 nothing is left of the last.
        Raises:
          InputError: a tap this network does not have, or none asked for; an unknown variant.
        """
        check_choice("variant", self.variant, VARIANTS)
        last = deepest(taps, TAPS)
        if self.input_size is not None:
            images = resize_bilinear(images, self.input_size)
        x = self._stem_start(2 * images - 1)
        features: Features = {}
        for name in TAPS[: last + 1]:
            x = self._step(name, x)
            features[name] = x
        return {tap: features[tap] for tap in taps}

    def _stem_start(self, x: jax.Array) -> jax.Array:
        x = _down(32, "conv2d_1a")(x)
        return _Unit(32, (3, 3), same=False, name="conv2d_2a")(x)

    def _step(self, tap: str, x: jax.Array) -> jax.Array:
        """From one tap to the next."""
        average = "average_inside" if self.variant == "fid" else "average"
        match tap:
            case "conv2d_2b":
                return _Unit(64, (3, 3), name=tap)(x)
            case "pool1" | "pool2":
                return _max_pool_down(x)
            case "conv2d_4a":
                x = _Unit(80, name="conv2d_3b")(x)
                return _Unit(192, (3, 3), same=False, name=tap)(x)
            case "mixed_5b" | "mixed_5c" | "mixed_5d":
                return _BlockA(32 if tap == "mixed_5b" else 64, average, name=tap)(x)
            case "mixed_6a":
                return _BlockB(name=tap)(x)
            case "mixed_6b" | "mixed_6c" | "mixed_6d" | "mixed_6e":
                width = {"mixed_6b": 128, "mixed_6e": 192}.get(tap, 160)
                return _BlockC(width, average, name=tap)(x)
            case "mixed_7a":
                return _BlockD(name=tap)(x)
            case _:
                last_of_fid = self.variant == "fid" and tap == "mixed_7c"
                return _BlockE("max" if last_of_fid else average, name=tap)(x)


def resize_bilinear(images: jax.Array, size: int) -> jax.Array:
    """Bilinear at half-pixel centres without a filter against aliasing, as pytorch-fid does.

    Images that were brought to `size` by a better filter pass unchanged.

    Args:
      images: [n, h, w, c] float32.
      size: > 0, pixels.
    Returns:
      [n, size, size, c] float32.
    """
    n, h, w, c = images.shape
    if (h, w) == (size, size):
        return images
    return jax.image.resize(images, (n, size, size, c), "linear", antialias=False)
