"""A discriminator on frozen features (Projected GANs, Sauer et al. 2021, 2111.01007), training only.

What a trained network sees is compared at five depths, each by a small head of its own, so a
generator learns in thousands of pictures what a discriminator from nothing needs millions for: what
a CPU has time for. Left out of the original: random projections between channels and depths, which
a network as narrow as the bundled one does not need to be compared as a whole. Added to it: a head
on the pictures themselves, which sees what the frozen network is blind to (a grain of a few pixels).

Large pictures are judged as views of `VIEW` pixels a side, each view by heads of its own: the whole,
scaled down, for what is where, and at every larger size one window, for detail. At 128 px that
takes half the time of judging all of the picture at once.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from oeft_jax._types import Features, Params
from oeft_jax.models.backbone import Backbone
from oeft_jax.models.layers import average_pool
from oeft_jax.models.vgg import downscale_of
from training.discriminator import Discriminator, EqualisedConv, EqualisedDense

TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
PIXELS = "pixels"  # the picture itself, as another depth
LEAST = 16  # channels of a head, if `width` allows
SIDE = 4  # every head ends in this many places a side
VIEW = 64  # pixels a side of what is judged at a time, if pictures are larger


class Heads(nn.Module):
    """One small network per tap, pooling until `SIDE` places a side are left."""

    width: int

    @nn.compact
    def __call__(self, features: Features) -> jax.Array:
        """Features [n, s, s, c] -> scores [n, taps * SIDE^2]."""
        scores = []
        for tap, x in features.items():
            # to unit mean square for each picture: taps differ in size, and no gain from contrast alone
            x = x / jnp.sqrt(jnp.mean(x**2, axis=(1, 2, 3), keepdims=True) + 1e-8)
            # shallow maps are large, wide heads slow
            width = min(self.width, max(LEAST, 2 * x.shape[-1]))
            for level in range(max(1, (x.shape[1] // SIDE).bit_length() - 1)):
                x = EqualisedConv(width, name=f"{tap}_{level}")(x)
                x = average_pool(x, 2) if x.shape[1] > SIDE else x
            x = EqualisedDense(1, gain=1.0, name=f"{tap}_score")(x.reshape(-1, x.shape[-1]))
            scores.append(x.reshape(-1, SIDE**2))
        return jnp.concatenate(scores, axis=1)


def windows(images: jax.Array, side: int) -> jax.Array:
    """One window of `side` pixels of each picture, a neighbour's next: [n, s, s, c] -> [n, side, side, c].

    Pictures are cut into whole windows, in reading order; picture i shows number i modulo their
    number. Translation before it moves what falls on the cuts.
    """
    n, size, _, channels = images.shape
    across = size // side
    shown = jax.nn.one_hot(jnp.arange(n) % across**2, across**2).reshape(n, across, across)
    cells = images.reshape(n, across, side, across, side, channels)
    # a product, since the gradient of a gather is slow on CPUs
    return jnp.einsum("nahbwc,nab->nhwc", cells, shown, precision="highest")


def projected(network: Backbone, resolution: int, *, width: int) -> Discriminator:
    """The discriminator on a VGG's features of pictures of `resolution`, a power of two >= 4.

    Heads have at most `width` channels, and at most twice as many as they read.
    """
    model, view = Heads(width), min(resolution, VIEW)
    taps = tuple(tap for tap in TAPS if view // downscale_of(tap) >= SIDE)

    def seen(frozen: Params, images: jax.Array) -> Features:
        features = {}
        for scale in (2**i for i in range((resolution // view).bit_length())):
            view_of = windows(average_pool(images, resolution // (scale * view)), view)
            prefix = f"x{scale}_" if scale > 1 else ""
            features[f"{prefix}{PIXELS}"] = view_of
            for tap, x in network.apply(frozen, view_of * 0.5 + 0.5, taps).items():
                features[f"{prefix}{tap}"] = x
        return features

    def score(params: Params, images: jax.Array, frozen: Params) -> jax.Array:
        return model.apply({"params": params}, seen(frozen, images))  # type: ignore[return-value]

    def init(key: jax.Array) -> Params:
        images = jnp.zeros((1, resolution, resolution, 3))
        frozen = jax.eval_shape(lambda: network.init(key, taps))
        shapes = jax.eval_shape(seen, frozen, images)
        like = {tap: jnp.zeros(leaf.shape) for tap, leaf in shapes.items()}
        return jax.jit(model.init)(key, like)["params"]

    return Discriminator(score, init)
