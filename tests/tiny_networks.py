"""Descriptions of very small networks, and random weights for them."""

import jax
import numpy as np

from oeft_jax import golden

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
