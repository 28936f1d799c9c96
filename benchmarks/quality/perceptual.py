"""LPIPS for the benchmark, where its trunk and heads are in the weight cache."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from oeft_jax import golden
from oeft_jax._checks import check_choice
from oeft_jax.loading import load_features
from oeft_jax.models import lpips
from oeft_jax.weights import check_fits, find_weights, require

Distance = Callable[[np.ndarray, np.ndarray], float]  # of two images [h, w, 3] in [0, 1]


def load(trunk: str) -> Distance:
    """LPIPS 0.1 with the heads of a trunk and torchvision's weights under it.

    Args:
      trunk: a key of `lpips.TRUNKS`; files "lpips_TRUNK" and the network's must be in the cache.
    Raises:
      InputError: an unknown trunk; a file that is missing, damaged or of another network.
    """
    check_choice("--lpips", trunk, lpips.TRUNKS)
    described = lpips.TRUNKS[trunk]
    require([f"lpips_{trunk}", described.network])
    heads = find_weights(f"lpips_{trunk}", "LPIPS")
    check_fits(heads.params, lpips.init(trunk), heads.origin)
    golden.check(heads)
    weights, network = load_features(described.network, set(described.channels))

    @jax.jit
    def distance(a: jax.Array, b: jax.Array) -> jax.Array:
        return lpips.image_distance(heads.params, network.apply, weights.params, a, b)[0]

    return lambda a, b: float(distance(*(jnp.asarray(x, jnp.float32)[None] for x in (a, b))))
