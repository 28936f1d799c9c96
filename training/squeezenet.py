"""SqueezeNet 1.0 (ImageNet) as a feature extractor, read from the data folder.

The published preparation: 227 x 227, BGR, 0 to 255 minus (104, 117, 123). A Frechet distance in
its features is not the FID of the literature, which uses another network; compare only with
numbers of this one.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from oeft_jax.models.layers import DIMS

Arrays = dict[str, jax.Array]
SIDE = 227
MEAN_BGR = (104.0, 117.0, 123.0)
POOL_AFTER = ("fire4", "fire8")  # and after the first convolution
FIRES = tuple(f"fire{number}" for number in range(2, 10))


def read(data: Path) -> Arrays:
    """The network's arrays, by layer."""
    path = data / "w_squeezenet10" / "squeezenet10_decoded.npz"
    return {name: jnp.asarray(array, jnp.float32) for name, array in np.load(path).items()}


def _conv(arrays: Arrays, name: str, x: jax.Array, *, stride: int = 1, pad: int = 0) -> jax.Array:
    kernel = arrays[f"{name}/weight"].transpose(2, 3, 1, 0)
    padding = [(pad, pad)] * 2
    y = lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=DIMS)
    return jax.nn.relu(y + arrays[f"{name}/bias"][None, None, None, :])


def _pool(x: jax.Array) -> jax.Array:
    """3 x 3 maximum, stride 2; a last window may reach over the edge (Caffe rounds up)."""
    over = [(0, (size - 3) % 2) for size in x.shape[1:3]]
    padding = ((0, 0), *over, (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)


def prepare(images: jax.Array) -> jax.Array:
    """[n, h, w, 3] RGB in [0, 1] -> [n, 227, 227, 3] as the network was trained on."""
    size = (len(images), SIDE, SIDE, 3)
    scaled = jax.image.resize(images, size, "linear")[..., ::-1] * 255
    return scaled - jnp.array(MEAN_BGR).reshape(1, 1, 1, 3)


def last_features(arrays: Arrays, images: jax.Array) -> jax.Array:
    """What the classifier reads, the output of fire9. [n, h, w, 3] in [0, 1] -> [n, 13, 13, 512]."""
    x = _pool(_conv(arrays, "conv1", prepare(images), stride=2))
    for fire in FIRES:
        squeezed = _conv(arrays, f"{fire}/conv1x1_1", x)
        wide = _conv(arrays, f"{fire}/conv3x3_2", squeezed, pad=1)
        x = jnp.concatenate([_conv(arrays, f"{fire}/conv1x1_2", squeezed), wide], axis=-1)
        x = _pool(x) if fire in POOL_AFTER else x
    return x


def class_scores(arrays: Arrays, images: jax.Array) -> jax.Array:
    """Scores of the 1000 classes. [n, h, w, 3] in [0, 1] -> [n, 1000]."""
    x = _conv(arrays, "conv_final", last_features(arrays, images), pad=1)
    return jnp.mean(x, axis=(1, 2))


@jax.jit
def _pooled(arrays: Arrays, images: jax.Array) -> jax.Array:
    return jnp.mean(last_features(arrays, images), axis=(1, 2))


def pooled_features(arrays: Arrays, images: np.ndarray, *, batch: int = 32) -> np.ndarray:
    """Mean over positions of `last_features`.

    Args:
      images: [n, h, w, 3], uint8 or float in [0, 1].
    Returns:
      [n, 512] float32.
    """
    scale = 255 if images.dtype == np.uint8 else 1
    parts = [
        np.asarray(_pooled(arrays, jnp.asarray(images[i : i + batch], jnp.float32) / scale))
        for i in range(0, len(images), batch)
    ]
    return np.concatenate(parts)
