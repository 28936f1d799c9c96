"""Vision Transformer as DINO trains it (Dosovitskiy et al. 2020; Caron et al. 2021), with named taps.

A square patch of the image is a token, a learned class token goes before them, and a learned
position is added to each. Block k normalises, attends, normalises and applies two dense layers, each
half added to its input. Taps are "keys0", "keys1", ..., what each token is found by in a block's
attention, all heads side by side, and "class", the normalised class token after the last block.
Keys of the last block carry structure and the class token appearance (Tumanyan et al. 2022, Splice).

Positions are learned for one size of image and scaled to others as the published code does: by
PyTorch's bicubic form (a = -0.75), with a tenth of a cell added to the size.
"""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from oeft_jax._checks import InputError, deepest
from oeft_jax._types import Features, Taps
from oeft_jax.models.vgg import normalise_imagenet

HEAD = 64  # channels of a head of attention
EPS = 1e-6
CUBIC = -0.75  # the free number of the bicubic kernel, as PyTorch has it
INIT = nn.initializers.truncated_normal(0.02)
_dense = partial(nn.Dense, kernel_init=INIT)


class _Block(nn.Module):
    """Attention, then two dense layers; returns the tokens and the keys of the attention."""

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        num, tokens, width = x.shape
        qkv = _dense(3 * width, name="qkv")(nn.LayerNorm(EPS, name="norm1")(x))
        query, key, value = (
            part.reshape(num, tokens, width // HEAD, HEAD) for part in jnp.split(qkv, 3, axis=-1)
        )
        weights = nn.softmax(jnp.einsum("nqhc,nkhc->nhqk", query, key) * HEAD**-0.5, axis=-1)
        attended = jnp.einsum("nhqk,nkhc->nqhc", weights, value).reshape(x.shape)
        x = x + _dense(width, name="proj")(attended)
        hidden = _dense(4 * width, name="fc1")(nn.LayerNorm(EPS, name="norm2")(x))
        x = x + _dense(width, name="fc2")(nn.gelu(hidden, approximate=False))
        return x, key.reshape(x.shape)


class ViT(nn.Module):
    """Vision Transformer; the defaults are DINO's ViT-S/8."""

    width: int = 384  # channels, a multiple of 64
    depth: int = 12  # blocks
    patch: int = 8  # pixels on a side of a token
    grid: int = 28  # tokens on a side of the image that positions were learned for

    def tap_names(self) -> tuple[str, ...]:
        """Every tap of this network, shallow to deep."""
        return (*(f"keys{block}" for block in range(self.depth)), "class")

    @nn.compact
    def __call__(self, images: jax.Array, taps: Taps) -> Features:
        """Taps of `images`.

        Args:
          images: [n, h, w, 3] float32 in [0, 1]; what is beyond whole patches is left out.
          taps: names such as "keys11".
        Returns:
          name -> [n, h // patch, w // patch, width] float32; "class" [n, 1, 1, width].
        Raises:
          InputError: a tap this network does not have, or none asked for; images below one patch;
            a width that heads do not divide.
        """
        names = self.tap_names()
        last = deepest(taps, names)
        if self.width % HEAD:
            raise InputError(f"width {self.width}: accepted: a multiple of {HEAD}.")
        if min(images.shape[1:3]) < self.patch:
            size = f"{images.shape[1]} x {images.shape[2]}"
            raise InputError(f"images of {size} pixels: accepted: {self.patch} or more each way.")
        x, (rows, columns) = self._tokens(images)
        features: Features = {}
        for block in range(min(last + 1, self.depth)):
            x, keys = _Block(name=f"block{block}")(x)
            features[names[block]] = keys[:, 1:].reshape(len(x), rows, columns, self.width)
        if names[last] == "class":
            features["class"] = nn.LayerNorm(EPS, name="norm")(x)[:, :1, None]
        return {tap: features[tap] for tap in taps}

    def _tokens(self, images: jax.Array) -> tuple[jax.Array, tuple[int, int]]:
        """[n, 1 + rows * columns, width] before the first block, and (rows, columns)."""
        first = self.param("class_token", INIT, (1, 1, self.width))
        places = self.param("positions", INIT, (1, 1 + self.grid**2, self.width))
        size = (self.patch, self.patch)
        embed = nn.Conv(self.width, size, size, padding="VALID", kernel_init=INIT, name="patch")
        x = embed(normalise_imagenet(images))
        num, rows, columns, _ = x.shape
        side = self.grid * self.patch
        if images.shape[1:3] != (side, side):
            places = _scaled(places, self.grid, (rows, columns))
        start = jnp.broadcast_to(first, (num, 1, self.width))
        x = jnp.concatenate([start, x.reshape(num, rows * columns, self.width)], axis=1)
        return x + places, (rows, columns)


def _scaled(places: jax.Array, grid: int, size: tuple[int, int]) -> jax.Array:
    """Positions [1, 1 + grid^2, c] of another size: [1, 1 + rows * columns, c]."""
    width = places.shape[-1]
    square = places[0, 1:].reshape(grid, grid, width)
    down, across = (jnp.asarray(bicubic_matrix(grid, cells)) for cells in size)
    scaled = jnp.einsum("ri,ijc,kj->rkc", down, square, across, precision="highest")
    return jnp.concatenate([places[:, :1], scaled.reshape(1, -1, width)], axis=1)


def bicubic_matrix(cells: int, others: int) -> np.ndarray:
    """What each of `others` places takes of each of `cells`. [others, cells] float32.

    Rows add up to 1; what lies beyond an end is the end.
    """
    matrix = np.zeros((others, cells))
    for row in range(others):
        place = (row + 0.5) * cells / (others + 0.1) - 0.5
        for near in range(math.floor(place) - 1, math.floor(place) + 3):
            matrix[row, min(max(near, 0), cells - 1)] += _cubic(abs(place - near))
    return matrix.astype(np.float32)


def _cubic(distance: float) -> float:
    """Keys's kernel of 1981, for a distance in cells."""
    if distance <= 1:
        return (CUBIC + 2) * distance**3 - (CUBIC + 3) * distance**2 + 1
    if distance < 2:
        return CUBIC * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    return 0.0
