"""VGG-16 and VGG-19 as feature extractors with named taps (the paper's F, Eq. 1-2).

Layout and preprocessing are torchvision's: RGB in [0, 1], ImageNet mean and deviation, 3 x 3
convolutions with zero padding, 2 x 2 max pooling between blocks. A tap "reluB_I" is the output of
the I-th ReLU of block B, both from 1. The same module at other widths is the bundled network.
"""

import flax.linen as nn
import jax
import numpy as np

from oeft_jax._checks import InputError
from oeft_jax._types import Features, Taps
from oeft_jax.models.layers import Conv, max_pool

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)
VGG16_DEPTHS = (2, 2, 3, 3, 3)
VGG19_DEPTHS = (2, 2, 4, 4, 4)
FULL_WIDTHS = (64, 128, 256, 512, 512)


def normalise_imagenet(images: jax.Array) -> jax.Array:
    """(x - mean) / deviation of ImageNet. [n, h, w, 3] in [0, 1] -> [n, h, w, 3]."""
    return (images - IMAGENET_MEAN.reshape(1, 1, 1, 3)) / IMAGENET_STD.reshape(1, 1, 1, 3)


class VGG(nn.Module):
    """VGG of given depths and widths; computes no further than the deepest tap asked for."""

    depths: tuple[int, ...] = VGG19_DEPTHS
    widths: tuple[int, ...] = FULL_WIDTHS

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
          InputError: a tap this network does not have, or none asked for.
        """
        names = self.tap_names()
        if not taps or any(tap not in names for tap in taps):
            raise InputError(
                f"taps={tuple(taps)!r}: accepted are one or more of {', '.join(names)}."
            )
        last = max(names.index(tap) for tap in taps)
        features: Features = {}
        x = normalise_imagenet(images)
        for name in names[: last + 1]:
            block, index = (int(part) for part in name.removeprefix("relu").split("_"))
            if block > 1 and index == 1:
                x = max_pool(x)
            x = nn.relu(Conv(self.widths[block - 1], name=f"conv{block}_{index}")(x))
            features[name] = x
        return {tap: features[tap] for tap in taps}


def vgg16() -> VGG:
    """VGG-16 with torchvision's widths."""
    return VGG(VGG16_DEPTHS, FULL_WIDTHS)


def vgg19() -> VGG:
    """VGG-19 with torchvision's widths."""
    return VGG(VGG19_DEPTHS, FULL_WIDTHS)


def downscale_of(tap: str) -> int:
    """How many image pixels one cell of a VGG tap spans: 1, 2, 4, 8 or 16."""
    return 2 ** (int(tap.removeprefix("relu").split("_")[0]) - 1)
