"""Channels of a feature network that no picture wakes, and how they begin again.

A ReLU that is off at every place of every picture has no slope, so training never brings it back;
of the bundled network a fifth had come to that.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from oeft_jax._types import Params
from oeft_jax.models.backbone import Backbone

QUIET = 1e-6  # of its layer's mean squared value: below it a channel counts as never awake


class Loudness(NamedTuple):
    """What a layer says over some pictures."""

    dead: np.ndarray  # [c] bool, the channels that say nothing
    size: float  # root mean square of the others; 0 where there are none


def loudness(network: Backbone, params: Params, images: jax.Array) -> dict[str, Loudness]:
    """Of every layer of the network.

    Args:
      images: [n, h, w, 3] in [0, 1], n h w of a hundred thousand and more to judge by.
    """
    found = {}
    for tap, value in network.apply(params, images, network.tap_names).items():
        squared = np.square(np.asarray(value, np.float64)).mean(axis=(0, 1, 2))
        dead = squared <= QUIET * squared.mean()
        found[tap] = Loudness(dead, float(np.sqrt(squared[~dead].mean())) if any(~dead) else 0.0)
    return found


def revived(
    key: jax.Array,
    network: Backbone,
    params: Params,
    images: jax.Array,
    *,
    deepest: str | None = None,
) -> tuple[Params, dict[str, int]]:
    """`params` whose dead channels begin again, and how many they are of each layer.

    Their kernels are random, centred and as loud as their layer over `images` (as in Mishkin and
    Matas 2016, 1511.06422); the channels that were awake do not read them yet, so those of every layer
    say what they said.

    Args:
      deepest: tap after which all channels stay as they are; None for none.
    """
    names = network.tap_names
    before = loudness(network, params, images)
    if deepest is not None:
        for tap in names[names.index(deepest) + 1 :]:
            before[tap] = before[tap]._replace(dead=np.zeros_like(before[tap].dead))
    unread = np.zeros(3, bool)  # channels that come in and that nothing shall read
    for index, tap in enumerate(names):
        name, (dead, size) = "conv" + tap.removeprefix("relu"), before[tap]
        kernel = params[name]["kernel"].at[:, :, unread].set(0.0)
        bias = params[name]["bias"].at[dead].set(0.0)
        if dead.any():
            shape = (*kernel.shape[:3], int(dead.sum()))
            fresh = jax.random.normal(jax.random.fold_in(key, index), shape)
            linear = jnp.zeros(())
            for sign in (1, -1):  # ReLUs of either sign keep what they are of
                layer = {"kernel": kernel.at[..., dead].set(sign * fresh), "bias": bias}
                said = network.apply({**params, name: layer}, images, (tap,))[tap]
                linear = linear + sign * said[..., dead]
            scale = size / (jnp.std(linear, axis=(0, 1, 2), keepdims=True) + 1e-12)
            kernel = kernel.at[..., dead].set(scale * fresh)
            bias = bias.at[dead].set(-jnp.mean(scale * linear, axis=(0, 1, 2)))
        params = {**params, name: {"kernel": kernel, "bias": bias}}
        unread = dead
    return params, {tap: int(one.dead.sum()) for tap, one in before.items()}
