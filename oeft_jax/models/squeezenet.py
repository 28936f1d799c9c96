"""SqueezeNet 1.0 and 1.1 with named taps (1.1 is a trunk of LPIPS).

A fire module squeezes by 1 x 1 convolutions and expands by 1 x 1 beside 3 x 3 (Iandola et al. 2016,
Fig. 1). The defaults are torchvision's; the network as first published, for Caffe, takes BGR in
0..255 minus a mean and pads its last convolution. Taps are "relu1", "fire2" .. "fire9" and "logits",
the last ReLU, whose mean over height and width are the scores of the 1000 classes of ImageNet.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from oeft_jax._checks import check_choice, deepest
from oeft_jax._types import Features, Taps
from oeft_jax.models.layers import Conv
from oeft_jax.models.vgg import bgr255, normalise_imagenet

INIT = nn.initializers.he_normal()
NUM_CLASSES = 1000
SQUEEZED = (16, 16, 32, 32, 48, 48, 64, 64)  # of fire2 .. fire9, which expand to 8 times that
CAFFE_MEAN = (104.0, 117.0, 123.0)  # blue, green, red, of 255
VERSIONS = {  # channels and kernel of the first convolution, fires that are pooled before
    "1_0": (96, 7, ("fire2", "fire5", "fire9")),
    "1_1": (64, 3, ("fire2", "fire4", "fire6")),
}
PREPROCESSING: dict[str, Callable[[jax.Array], jax.Array]] = {
    "imagenet": normalise_imagenet,
    "bgr255": partial(bgr255, mean=CAFFE_MEAN),
}


class _Fire(nn.Module):
    """1 x 1 down to `squeezed` channels, then 1 x 1 beside 3 x 3, each up to 4 times that."""

    squeezed: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(Conv(self.squeezed, 1, name="squeeze")(x))
        one = nn.relu(Conv(4 * self.squeezed, 1, name="expand1x1")(x))
        three = nn.relu(Conv(4 * self.squeezed, 3, name="expand3x3")(x))
        return jnp.concatenate([one, three], axis=-1)


class SqueezeNet(nn.Module):
    """SqueezeNet; computes no further than the deepest tap asked for."""

    version: str = "1_0"  # a key of VERSIONS
    preprocessing: str = "imagenet"  # a key of PREPROCESSING
    final_padding: int = 0  # zeros around the last features; 1 in Caffe

    def tap_names(self) -> tuple[str, ...]:
        """Every tap of this network, shallow to deep."""
        return ("relu1", *(f"fire{index}" for index in range(2, len(SQUEEZED) + 2)), "logits")

    @nn.compact
    def __call__(self, images: jax.Array, taps: Taps) -> Features:
        """Taps of `images`.

        Args:
          images: [n, h, w, 3] float32 in [0, 1], 21 pixels or more each way.
          taps: names such as "fire5".
        Returns:
          name -> [n, h', w', channels] float32, >= 0, about 1/2, 1/4, 1/8 and 1/16 of the size.
        Raises:
          InputError: a tap this network does not have, or none asked for; an unknown field value.
        """
        check_choice("version", self.version, VERSIONS)
        check_choice("preprocessing", self.preprocessing, PREPROCESSING)
        names = self.tap_names()
        last = deepest(taps, names)
        width, kernel_size, pooled_before = VERSIONS[self.version]
        x = PREPROCESSING[self.preprocessing](images)
        kernel = (kernel_size, kernel_size)
        first = nn.Conv(width, kernel, 2, padding="VALID", kernel_init=INIT, name="conv1")
        x = nn.relu(first(x))
        features: Features = {"relu1": x}
        for name, squeezed in zip(names[1 : last + 1], SQUEEZED, strict=False):
            x = _Fire(squeezed, name=name)(_max_pool_ceil(x) if name in pooled_before else x)
            features[name] = x
        if "logits" in taps:
            edge = (self.final_padding, self.final_padding)
            x = jnp.pad(x, ((0, 0), edge, edge, (0, 0)))
            features["logits"] = nn.relu(Conv(NUM_CLASSES, 1, name="conv10")(x))
        return {tap: features[tap] for tap in taps}


def _max_pool_ceil(x: jax.Array) -> jax.Array:
    """3 x 3, stride 2; a last window may hang over the edge by one ("ceil mode")."""
    over = [((0, 1) if size % 2 == 0 else (0, 0)) for size in x.shape[1:3]]
    return nn.max_pool(x, (3, 3), (2, 2), over)
