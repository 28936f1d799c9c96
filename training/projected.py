"""A discriminator on frozen features (Projected GANs, Sauer et al. 2021, 2111.01007), training only.

What trained networks see is compared at several depths, each by small heads of its own, so a
generator learns in thousands of pictures what a discriminator from nothing needs millions for: what
a CPU has time for. Left out of the original: random projections between channels and depths, which
networks as narrow do not need to be compared as a whole. Added to it: heads on the mean and deviation
of every channel, which find a wrong texture within a hundred steps, and the picture itself as one
more depth. A narrow network alone can be deceived by pictures that anybody calls false: beside it a
whole VGG-19, as deep as it is at hand, is worth its time.

Large pictures are judged as views of `VIEW` pixels a side, each view by heads of its own: the whole,
scaled down, for what is where, and at every larger size one window, for detail. The networks read
twice the pixels of a view for a picture of 128 px, and not four times.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from oeft_jax._types import Features, Params
from oeft_jax.models.backbone import Backbone
from oeft_jax.models.layers import average_pool
from oeft_jax.models.pggan import LEAK
from oeft_jax.models.vgg import downscale_of
from training.discriminator import Discriminator, EqualisedConv, EqualisedDense
from training.moment_matching import channel_moments

TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
PIXELS = "pixels"  # the picture itself, as another depth
LARGEST = 16  # side of the largest map whose places are judged: larger ones take most of the time
SIDE = 4  # every head ends in this many places a side
VIEW = 64  # pixels a side of what is judged at a time, if pictures are larger


def unit(x: jax.Array) -> jax.Array:
    """Each picture's map over its root mean square: taps differ in size, and no gain from contrast alone."""
    return x / jnp.sqrt(jnp.mean(x**2, axis=(1, 2, 3), keepdims=True) + 1e-8)


class Heads(nn.Module):
    """Two small networks per tap: on its channels' moments, and on its places if they are few."""

    width: int

    @nn.compact
    def __call__(self, features: Features) -> jax.Array:
        """Features [n, s, s, c] -> scores [n, heads * SIDE^2], as many of each head."""
        scores = []
        for tap, x in features.items():
            x = unit(x)
            scores.append(self.moments(tap, x))
            if x.shape[1] <= LARGEST:
                scores.append(self.places(tap, x))
        return jnp.concatenate(scores, axis=1)

    def moments(self, tap: str, x: jax.Array) -> jax.Array:
        """A score of the whole."""
        x = jax.nn.standardize(channel_moments(x), axis=1)
        x = nn.leaky_relu(EqualisedDense(self.width, name=f"{tap}_moments")(x), LEAK)
        x = EqualisedDense(1, gain=1.0, name=f"{tap}_moments_score")(x)
        return jnp.broadcast_to(x, (len(x), SIDE**2))

    def places(self, tap: str, x: jax.Array) -> jax.Array:
        """Scores of `SIDE` x `SIDE` places, which the map is pooled to."""
        width = min(self.width, 2 * x.shape[-1])
        for level in range(max(1, (x.shape[1] // SIDE).bit_length() - 1)):
            x = EqualisedConv(width, name=f"{tap}_{level}")(x)
            x = unit(average_pool(x, 2) if x.shape[1] > SIDE else x)
        x = EqualisedDense(1, gain=1.0, name=f"{tap}_score")(x.reshape(-1, x.shape[-1]))
        return x.reshape(-1, SIDE**2)


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


def taps_of(network: Backbone, side: int) -> tuple[str, ...]:
    """Those of `TAPS` that a VGG has and that leave `SIDE` cells of a picture of `side` pixels."""
    return tuple(
        tap for tap in TAPS if tap in network.tap_names and side // downscale_of(tap) >= SIDE
    )


def projected(networks: Sequence[Backbone], resolution: int, *, width: int) -> Discriminator:
    """The discriminator on VGGs' features of pictures of `resolution`, a power of two >= 4.

    Args:
      networks: of any depth; the weights of all of them are what `see` takes, in this order.
      width: channels of a head, which has at most twice as many as it reads.
    """
    model, view = Heads(width), min(resolution, VIEW)
    taps = [taps_of(network, view) for network in networks]

    def see(frozen: Sequence[Params], images: jax.Array) -> Features:
        seen = {}
        for scale in (2**i for i in range((resolution // view).bit_length())):
            shown = windows(average_pool(images, resolution // (scale * view)), view)
            seen[f"x{scale}_{PIXELS}"] = shown
            for index, network in enumerate(networks):
                features = network.apply(frozen[index], shown * 0.5 + 0.5, taps[index])
                seen |= {f"x{scale}_{index}_{tap}": x for tap, x in features.items()}
        return seen

    def judge(params: Params, seen: Features) -> jax.Array:
        return model.apply({"params": params}, seen)  # type: ignore[return-value]

    def init(key: jax.Array) -> Params:
        images = jnp.zeros((1, resolution, resolution, 3))
        pairs = zip(networks, taps, strict=True)
        frozen = jax.eval_shape(lambda: [network.init(key, own) for network, own in pairs])
        shapes = jax.eval_shape(see, frozen, images)
        like = {tap: jnp.zeros(leaf.shape) for tap, leaf in shapes.items()}
        return jax.jit(model.init)(key, like)["params"]

    return Discriminator(see, judge, init)
