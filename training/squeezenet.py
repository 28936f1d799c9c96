"""SqueezeNet 1.0 as its authors published it, from the data folder, as a judge of sets of images.

A Frechet distance in its features is not the FID of the literature, which uses another network;
compare only with numbers of this one.
"""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from oeft_jax._types import Features, Params
from oeft_jax.models.squeezenet import SqueezeNet
from oeft_jax.weights import Weights, load_weights
from weights_convert.convert import convert

SIDE = 227  # pixels that the network was trained on
LAST = "fire9"  # what the classifier reads


def read(data: Path) -> Weights:
    """The network as a weight file of the package."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "squeezenet.safetensors"
        convert("squeezenet1_0", data / "w_squeezenet10" / "squeezenet10_decoded.npz", file)
        return load_weights(file)


@partial(jax.jit, static_argnums=0)
def _pooled(network: SqueezeNet, params: Params, images: jax.Array) -> jax.Array:
    scaled = jax.image.resize(images, (len(images), SIDE, SIDE, 3), "linear")
    features = cast(Features, network.apply({"params": params}, scaled, (LAST,)))
    return jnp.mean(features[LAST], axis=(1, 2))


def pooled_features(weights: Weights, images: np.ndarray, *, batch: int = 32) -> np.ndarray:
    """Mean over positions of the last layer before the classifier, at 227 x 227 pixels.

    Args:
      images: [n, h, w, 3], uint8 or float in [0, 1].
    Returns:
      [n, 512] float32.
    """
    network = SqueezeNet(**weights.config)
    scale = 255 if images.dtype == np.uint8 else 1
    parts = [
        np.asarray(_pooled(network, weights.params, jnp.float32(images[i : i + batch]) / scale))
        for i in range(0, len(images), batch)
    ]
    return np.concatenate(parts)
