"""Descriptions of very small networks, random weights for them, and a folder with both and photos."""

from pathlib import Path

import jax
import numpy as np
from PIL import Image

from oeft_jax import golden
from oeft_jax.weights import save_weights

NETWORKS = {
    "vgg": {"depths": [1, 1], "widths": [4, 6]},
    "pggan": {"resolution": 8, "z_dim": 6, "fmap_base": 64, "fmap_max": 8},
    "stylegan": {"resolution": 8, "z_dim": 6, "w_dim": 5, "fmap_base": 64, "fmap_max": 8},
    "stylegan2": {"resolution": 8, "z_dim": 6, "w_dim": 5, "fmap_base": 64, "fmap_max": 8},
}


def random_params(network, seed=0):
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        std = 100 if path[0].key == "mapping" else 1  # kept raw there, 100 times larger
        return rng.normal(0, std, leaf.shape).astype(np.float32)

    like = golden.shapes(network, NETWORKS[network])
    return jax.tree_util.tree_map_with_path(draw, like)


def fill(folder: Path) -> Path:
    """features.safetensors, generator.safetensors and the photos a.png to d.png."""
    for name, network in (("features", "vgg"), ("generator", "pggan")):
        params, config = random_params(network), NETWORKS[network]
        save_weights(folder / f"{name}.safetensors", params, network=network, config=config)
    rng = np.random.default_rng(0)
    for name in "abcd":
        pixels = rng.integers(0, 200, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder
