"""VGG-16 and VGG-19 as feature extractors with named taps (the paper's F, Eq. 1-2).

Layout and preprocessing are torchvision's: RGB in [0, 1], ImageNet mean and deviation, 3 x 3
convolutions with zero padding, 2 x 2 max pooling between blocks. A tap "reluB_I" is the output of
the I-th ReLU of block B, both from 1. The same module at other widths is the bundled network.

The networks of Caffe's line (Gatys, WCT, AdaIN, CoCosNet) differ in what the fields say: BGR in
0..255 minus a mean, and for the normalised VGG-19 reflection padding and pooling of odd edges too.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from oeft_jax._checks import check_choice, deepest
from oeft_jax._types import Features, Taps
from oeft_jax.models.layers import Conv, max_pool

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)
CAFFE_MEAN = (103.939, 116.779, 123.68)  # blue, green, red, of 255
VGG16_DEPTHS = (2, 2, 3, 3, 3)
VGG19_DEPTHS = (2, 2, 4, 4, 4)
FULL_WIDTHS = (64, 128, 256, 512, 512)


def normalise_imagenet(images: jax.Array) -> jax.Array:
    """(x - mean) / deviation of ImageNet. [n, h, w, 3] in [0, 1] -> [n, h, w, 3]."""
    return (images - IMAGENET_MEAN.reshape(1, 1, 1, 3)) / IMAGENET_STD.reshape(1, 1, 1, 3)


def bgr255(images: jax.Array, mean: tuple[float, ...] = CAFFE_MEAN) -> jax.Array:
    """RGB in [0, 1] to BGR in [0, 255] minus `mean` (in that order). [n, h, w, 3] -> the same."""
    return 255 * images[..., ::-1] - jnp.asarray(mean, images.dtype).reshape(1, 1, 1, 3)


PREPROCESSING: dict[str, Callable[[jax.Array], jax.Array]] = {
    "imagenet": normalise_imagenet,
    "bgr255": bgr255,
}
PADDINGS = ("zeros", "reflect")


class VGG(nn.Module):
    """VGG of given depths and widths; computes no further than the deepest tap asked for."""

    depths: tuple[int, ...] = VGG19_DEPTHS
    widths: tuple[int, ...] = FULL_WIDTHS
    preprocessing: str = "imagenet"  # a key of PREPROCESSING
    padding: str = "zeros"  # of the convolutions, one of PADDINGS
    pool_odd_edges: bool = False  # a last odd row or column is pooled by itself, not dropped

    def tap_names(self) -> tuple[str, ...]:
        """Every tap of this network, shallow to deep."""
        return tuple(
            f"relu{block}_{index}"
            for block, depth in enumerate(self.depths, 1)
            for index in range(1, depth + 1)
        )

    @nn.compact
    def __call__(self, images: jax.Array, taps: Taps) -> Features:
        """Taps of `images`.

        Args:
          images: [n, h, w, 3] float32 in [0, 1].
          taps: names such as "relu3_1".
        Returns:
          name -> [n, h / 2^(block-1), w / 2^(block-1), width] float32, >= 0.
        Raises:
          InputError: a tap this network does not have, or none asked for; an unknown field value.
        """
        check_choice("preprocessing", self.preprocessing, PREPROCESSING)
        check_choice("padding", self.padding, PADDINGS)
        names = self.tap_names()
        last = deepest(taps, names)
        features: Features = {}
        x = PREPROCESSING[self.preprocessing](images)
        for name in names[: last + 1]:
            block, index = (int(part) for part in name.removeprefix("relu").split("_"))
            if block > 1 and index == 1:
                x = max_pool(_with_even_edges(x) if self.pool_odd_edges else x)
            conv = Conv(self.widths[block - 1], name=f"conv{block}_{index}")
            x = nn.relu(reflected(conv, x) if self.padding == "reflect" else conv(x))
            features[name] = x
        return {tap: features[tap] for tap in taps}


def reflected(conv: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """A 3 x 3 convolution padded by reflection: by zeros around that, whose ring is cut off."""
    return conv(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect"))[:, 1:-1, 1:-1]


def _with_even_edges(x: jax.Array) -> jax.Array:
    """Repeats a last odd row and column, which leaves the maximum of its window as it is."""
    return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)), mode="edge")


def vgg16() -> VGG:
    """VGG-16 with torchvision's widths."""
    return VGG(VGG16_DEPTHS, FULL_WIDTHS)


def vgg19() -> VGG:
    """VGG-19 with torchvision's widths."""
    return VGG(VGG19_DEPTHS, FULL_WIDTHS)


def downscale_of(tap: str) -> int:
    """How many image pixels one cell of a VGG tap spans: 1, 2, 4, 8 or 16."""
    return 2 ** (int(tap.removeprefix("relu").split("_")[0]) - 1)
