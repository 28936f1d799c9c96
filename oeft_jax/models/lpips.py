"""LPIPS, the learned perceptual distance of two images (Zhang et al. 2018, version 0.1).

Features of an ImageNet network ("trunk") are compared at each place after scaling to unit length;
learned non-negative weights per channel ("heads") add up the squared differences.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from oeft_jax._checks import check_choice
from oeft_jax._types import FeatureFn, Features, Params

EPS = 1e-10  # added to the length of a feature vector


class Trunk(NamedTuple):
    """What the heads of one network are for."""

    network: str  # of oeft_jax, with torchvision's ImageNet weights
    channels: Mapping[str, int]  # of every tap that has a head, shallow to deep


TRUNKS = {
    "vgg": Trunk(
        "vgg16",
        {"relu1_2": 64, "relu2_2": 128, "relu3_3": 256, "relu4_3": 512, "relu5_3": 512},
    ),
    "alex": Trunk("alexnet", {"relu1": 64, "relu2": 192, "relu3": 384, "relu4": 256, "relu5": 256}),
    "squeeze": Trunk(
        "squeezenet1_1",
        {
            "relu1": 64,
            "fire3": 128,
            "fire5": 256,
            "fire6": 384,
            "fire7": 384,
            "fire8": 512,
            "fire9": 512,
        },
    ),
}


def init(trunk: str) -> Params:
    """Heads that weigh every channel alike: tap -> [channels] float32.

    Raises:
      InputError: an unknown trunk.
    """
    check_choice("trunk", trunk, TRUNKS)
    return {tap: jnp.ones(width) for tap, width in TRUNKS[trunk].channels.items()}


def distance_maps(heads: Params, features_a: Features, features_b: Features) -> Features:
    """Weighted squared differences at every place of every tap that has a head.

    Args:
      heads: tap -> [c] float32, >= 0.
      features_a: tap -> [n, h, w, c].
      features_b: of the same shapes.
    Returns:
      tap -> [n, h, w] float32, >= 0.
    """
    maps = {}
    for tap, head in heads.items():
        difference = _unit(features_a[tap]) - _unit(features_b[tap])
        maps[tap] = jnp.einsum("nhwc,c->nhw", difference * difference, head, precision="highest")
    return maps


def distance(heads: Params, features_a: Features, features_b: Features) -> jax.Array:
    """LPIPS of two images, given their features: the mean over places, summed over taps.

    Args:
      heads: tap -> [c] float32, >= 0.
      features_a: tap -> [n, h, w, c].
      features_b: of the same shapes.
    Returns:
      [n] float32, >= 0.
    """
    maps = distance_maps(heads, features_a, features_b)
    return jnp.sum(jnp.stack([jnp.mean(m, axis=(1, 2)) for m in maps.values()]), axis=0)


def image_distance(
    heads: Params, trunk: FeatureFn, params: Params, images_a: jax.Array, images_b: jax.Array
) -> jax.Array:
    """LPIPS of two images.

    LPIPS's own scaling of [-1, 1], (x - (-.030, -.088, -.188)) / (.458, .448, .450), is ImageNet's
    mean and deviation written for that range, so a trunk that takes [0, 1] needs nothing more.

    Args:
      heads: tap -> [c] float32, >= 0.
      trunk: `apply` of the backbone that TRUNKS names.
      params: of the trunk.
      images_a: [n, h, w, 3] float32 in [0, 1].
      images_b: of the same shape.
    Returns:
      [n] float32, >= 0.
    """
    taps = tuple(heads)
    return distance(heads, trunk(params, images_a, taps), trunk(params, images_b, taps))


def probe(heads: Params) -> jax.Array:
    """[total channels] float32: what each channel and the one after it weigh, tap after tap.

    Place k of a row of c has channel k in one image and channel k + 1 in the other.
    """
    units = {tap: jnp.eye(head.size)[None, None] for tap, head in heads.items()}
    shifted = {tap: jnp.roll(unit, 1, axis=-1) for tap, unit in units.items()}
    maps = distance_maps(heads, units, shifted)
    return jnp.concatenate([maps[tap].ravel() for tap in sorted(maps)])


def _unit(features: jax.Array) -> jax.Array:
    """Scales to unit length over channels; a root of exactly zero would have no gradient."""
    norm = jnp.sqrt(jnp.maximum(jnp.sum(features**2, axis=-1, keepdims=True), np.float32(1e-30)))
    return features / (norm + EPS)
