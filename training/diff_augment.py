"""Differentiable augmentation of real and made pictures alike (Zhao et al. 2020, 2006.10738).

The discriminator only ever sees augmented pictures, so it cannot learn the training set by heart;
gradients pass through, so the generator learns un-augmented pictures all the same.

Images are [n, s, s, 3] in [-1, 1]; every picture gets its own draw.
"""

from collections.abc import Collection

import jax
import jax.numpy as jnp

SHIFT = 1 / 8  # largest translation, as a share of the side
CUT = 1 / 2  # side of the square that is blanked, as a share of the side


def _uniform(key: jax.Array, num: int, low: float, high: float) -> jax.Array:
    return jax.random.uniform(key, (num, 1, 1, 1), minval=low, maxval=high)


def colour(key: jax.Array, images: jax.Array) -> jax.Array:
    """Brightness +-0.5, saturation x 0..2, contrast x 0.5..1.5."""
    keys, n = jax.random.split(key, 3), len(images)
    images = images + _uniform(keys[0], n, -0.5, 0.5)
    grey = jnp.mean(images, axis=3, keepdims=True)
    images = grey + (images - grey) * _uniform(keys[1], n, 0.0, 2.0)
    mean = jnp.mean(images, axis=(1, 2, 3), keepdims=True)
    return mean + (images - mean) * _uniform(keys[2], n, 0.5, 1.5)


def translate(key: jax.Array, images: jax.Array) -> jax.Array:
    """Moves by whole pixels, up to an eighth of the side both ways; zeros come in.

    A product with a shifted identity matrix along each axis: a gather's gradient would be a
    scatter, which is slow on CPUs.
    """
    n, size = images.shape[:2]
    most = round(size * SHIFT)
    shifts = jax.random.randint(key, (2, n, 1, 1), -most, most + 1)
    place = jnp.arange(size)
    moved = place[None, None, :, None] - place[None, None, None, :] == shifts
    rows, columns = moved.astype(images.dtype)
    images = jnp.einsum("nij,njwc->niwc", rows, images, precision="highest")
    return jnp.einsum("nij,nhjc->nhic", columns, images, precision="highest")


def cutout(key: jax.Array, images: jax.Array) -> jax.Array:
    """Blanks a square of half the side, whose centre lies anywhere in the picture."""
    n, size = images.shape[:2]
    half = round(size * CUT) // 2
    centres = jax.random.randint(key, (2, n, 1), 0, size)
    rows, columns = jnp.abs(jnp.arange(size)[None, None, :] - centres) <= half
    blank = rows[:, :, None, None] & columns[:, None, :, None]
    return jnp.where(blank, 0.0, images)


KINDS = {"colour": colour, "translation": translate, "cutout": cutout}


def augment(key: jax.Array, images: jax.Array, kinds: Collection[str] = tuple(KINDS)) -> jax.Array:
    """Some of colour, translation and cutout, in this order."""
    keys = jax.random.split(key, len(KINDS))
    for own, (kind, function) in zip(keys, KINDS.items(), strict=True):
        images = function(own, images) if kind in kinds else images
    return images
