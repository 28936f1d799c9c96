"""AlexNet as a feature extractor with named taps (the default trunk of LPIPS).

Layout and preprocessing are torchvision's one-tower form (Krizhevsky 2014): RGB in [0, 1], ImageNet
mean and deviation. Taps are "relu1" .. "relu5".
"""

import flax.linen as nn
import jax

from oeft_jax._checks import deepest
from oeft_jax._types import Features, Taps
from oeft_jax.models.layers import Conv
from oeft_jax.models.vgg import normalise_imagenet

WIDTHS = (64, 192, 384, 256, 256)
KERNEL_SIZES = (11, 5, 3, 3, 3)
INIT = nn.initializers.he_normal()
POOL_BEFORE = ("relu2", "relu3")


class AlexNet(nn.Module):
    """AlexNet without its classifier; computes no further than the deepest tap asked for."""

    def tap_names(self) -> tuple[str, ...]:
        """Every tap of this network, shallow to deep."""
        return tuple(f"relu{index}" for index in range(1, len(WIDTHS) + 1))

    @nn.compact
    def __call__(self, images: jax.Array, taps: Taps) -> Features:
        """Taps of `images`.

        Args:
          images: [n, h, w, 3] float32 in [0, 1], 31 pixels or more each way for "relu5".
          taps: names such as "relu3".
        Returns:
          name -> [n, h', w', channels] float32, >= 0, about 1/4, 1/8 and then 1/16 of the size.
        Raises:
          InputError: a tap this network does not have, or none asked for.
        """
        names = self.tap_names()
        last = deepest(taps, names)
        features: Features = {}
        first = nn.Conv(WIDTHS[0], (11, 11), 4, padding=2, kernel_init=INIT, name="conv1")
        x = nn.relu(first(normalise_imagenet(images)))
        features[names[0]] = x
        for index, name in enumerate(names[1 : last + 1], 1):
            if name in POOL_BEFORE:
                x = nn.max_pool(x, (3, 3), (2, 2))
            x = nn.relu(Conv(WIDTHS[index], KERNEL_SIZES[index], name=f"conv{index + 1}")(x))
            features[name] = x
        return {tap: features[tap] for tap in taps}
