"""The networks that the bundled feature network learns from, read from the data folder.

Both take RGB in [0, 1]: the real VGG-19 in its normalised form (to relu3_1), and a distilled
VGG-19 (to relu5_1), which pads by reflection and whose linear heads map back to VGG-19's channels.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from oeft_jax._types import Features
from oeft_jax.models import vgg
from oeft_jax.models.layers import conv, max_pool

Arrays = dict[str, np.ndarray]
VGG_LAYERS = ("2", "5", "pool", "9", "12", "pool", "16")
DISTILLED_LAYERS = (
    *("conv11", "conv12", "pool", "conv21", "conv22", "pool"),
    *("conv31", "conv32", "conv33", "conv34", "pool"),
    *("conv41", "conv42", "conv43", "conv44", "pool", "conv51"),
)


def read_real(data: Path) -> Arrays:
    """The real VGG-19 to relu3_1 as flat arrays."""
    return dict(np.load(data / "w_vgg19_normalised/vgg_normalised_conv3_1.npz"))


def read_distilled(data: Path) -> Arrays:
    """The distilled VGG-19 to relu5_1 as flat arrays."""
    return dict(np.load(data / "w_vgg19_distilled16x/5SE.npz"))


def _conv(arrays: Arrays, name: str, x: jax.Array, *, reflected: bool = True) -> jax.Array:
    kernel = jnp.asarray(arrays[f"{name}.weight"], jnp.float32).transpose(2, 3, 1, 0)
    bias = jnp.asarray(arrays[f"{name}.bias"], jnp.float32).reshape(1, 1, 1, -1)
    if kernel.shape[:2] == (1, 1):
        return jnp.einsum("nhwi,io->nhwo", x, kernel[0, 0]) + bias
    convolve = partial(conv, kernel=kernel)
    return (vgg.reflected(convolve, x) if reflected else convolve(x)) + bias


def vgg_features(arrays: Arrays, images: jax.Array, *, reflected: bool = False) -> Features:
    """relu1_1, relu2_1, relu3_1 of the real network. [n, h, w, 3] in [0, 1].

    Args:
      reflected: pad by reflection, as where these weights come from and as the distilled network was
        taught; else by zeros, as VGG-19 was trained and as the students pad.
    """
    taps = {"2": "relu1_1", "9": "relu2_1", "16": "relu3_1"}
    x, features = _conv(arrays, "0", images), {}
    for layer in VGG_LAYERS:
        if layer == "pool":
            x = max_pool(x)
        else:
            x = jax.nn.relu(_conv(arrays, layer, x, reflected=reflected))
        if layer in taps:
            features[taps[layer]] = x
    return features


def distilled_layers(arrays: Arrays, images: jax.Array) -> Features:
    """relu1_1, relu1_2, ... relu5_1 of the distilled network at its own widths."""
    x, layers = _conv(arrays, "conv0", images), {}
    for layer in DISTILLED_LAYERS:
        x = max_pool(x) if layer == "pool" else jax.nn.relu(_conv(arrays, layer, x))
        if layer != "pool":
            layers[f"relu{layer[4]}_{layer[5]}"] = x
    return layers


def widened(arrays: Arrays, layers: Features) -> Features:
    """relu1_1, relu2_1, ... relu5_1 of `distilled_layers` in VGG-19's own channels."""
    return {
        tap: jax.nn.relu(_conv(arrays, f"conv{tap[4]}1_aux", value))
        for tap, value in layers.items()
        if tap.endswith("_1")
    }


def distilled_features(arrays: Arrays, images: jax.Array) -> Features:
    """relu1_1, relu2_1, ... relu5_1 of the distilled network in VGG-19's own channels."""
    return widened(arrays, distilled_layers(arrays, images))
