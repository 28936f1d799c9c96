"""Online augmentation (Sec. 3.2, Fig. 6): photometric on the source, geometric on the target.

Images are [n, h, w, 3] float32 in [0, 1]; every image of a batch gets its own draw.
"""

from typing import NamedTuple

import dm_pix
import jax
import jax.numpy as jnp


class Photometric(NamedTuple):
    """Half-widths of the draws; the paper names the kinds, Splice gave the sizes."""

    brightness: float = 0.4  # factor in [1 - b, 1 + b]
    contrast: float = 0.4  # factor in [1 - c, 1 + c]
    saturation: float = 0.2  # factor in [1 - s, 1 + s]
    hue: float = 0.1  # turns in [-h, h]
    noise: float = 0.05  # deviation of Gaussian noise in [0, n]


class Geometric(NamedTuple):
    """Half-widths of the draws: mild, so that a face stays a face."""

    scale: float = 1.25  # zoom in [1 / s, s], log-uniform
    rotation: float = 10.0  # degrees
    shear: float = 5.0  # degrees
    translation: float = 0.05  # of the side


def photometric(key: jax.Array, images: jax.Array, ranges: Photometric) -> jax.Array:
    """Colour jitter and Gaussian noise; positions do not move. -> same shape, in [0, 1]."""
    keys = jax.random.split(key, images.shape[0])
    return jax.vmap(lambda k, image: _photometric_one(k, image, ranges))(keys, images)


def _photometric_one(key: jax.Array, image: jax.Array, ranges: Photometric) -> jax.Array:
    keys = jax.random.split(key, 6)

    def draw(index: int, width: float, middle: float = 1.0) -> jax.Array:
        return jax.random.uniform(keys[index], (), minval=middle - width, maxval=middle + width)

    image = jnp.clip(image * draw(0, ranges.brightness), 0, 1)
    image = jnp.clip(dm_pix.adjust_contrast(image, draw(1, ranges.contrast)), 0, 1)
    image = _adjust_colour(image, draw(2, ranges.saturation), draw(3, ranges.hue, 0.0))
    deviation = jax.random.uniform(keys[4], (), maxval=ranges.noise)
    noise = deviation * jax.random.normal(keys[5], image.shape)
    return jnp.clip(image + noise, 0, 1)


def _adjust_colour(image: jax.Array, saturation: jax.Array, turns: jax.Array) -> jax.Array:
    """`dm_pix.adjust_saturation` by a factor and `dm_pix.adjust_hue`, without two equal numbers.

    They ask which channel equals the largest. A compiler may compute a channel twice, to other last
    bits, and then none does: the pixel's hue is another one.
    """
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value = jnp.max(image, axis=-1)
    chroma = value - jnp.min(image, axis=-1)
    divisor = jnp.where(chroma > 0, chroma, 1)
    sixths = jnp.where(green > blue, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    sixths = jnp.where((red > green) & (red > blue), (green - blue) / divisor, sixths)
    found = jnp.clip(saturation * chroma / jnp.where(value > 0, value, 1), 0, 1)
    return dm_pix.hsv_to_rgb(jnp.stack([sixths / 6 + turns, found, value], axis=-1))


def affine_matrix(key: jax.Array, size: int, ranges: Geometric) -> jax.Array:
    """A random map from output to input pixels, (row, column, 1) coordinates. -> [3, 3]."""
    keys = jax.random.split(key, 4)
    spread = jnp.log(ranges.scale)
    zoom = jnp.exp(jax.random.uniform(keys[0], (), minval=-spread, maxval=spread))
    angle = jnp.deg2rad(ranges.rotation) * jax.random.uniform(keys[1], (), minval=-1.0)
    shear = jnp.tan(jnp.deg2rad(ranges.shear) * jax.random.uniform(keys[2], (), minval=-1.0))
    shift = ranges.translation * size * jax.random.uniform(keys[3], (2,), minval=-1.0)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    turn = jnp.array([[cos, cos * shear - sin], [sin, sin * shear + cos]])  # rotation @ shear
    linear = turn / zoom
    middle = jnp.full((2,), (size - 1) / 2)
    offset = (
        middle - jnp.sum(linear * middle[None, :], axis=1) + shift
    )  # the centre stays, up to the shift
    return jnp.eye(3).at[:2, :2].set(linear).at[:2, 2].set(offset)


def geometric(key: jax.Array, images: jax.Array, ranges: Geometric) -> jax.Array:
    """Scaling, rotation, shear and translation, bilinear, mirrored at the border. -> same shape."""
    keys = jax.random.split(key, images.shape[0])

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        matrix = affine_matrix(key, image.shape[0], ranges)
        return affine(image, matrix)

    return jax.vmap(one)(keys, images)


def affine(image: jax.Array, matrix: jax.Array) -> jax.Array:
    """Resamples [h, w, c] through a [3, 3] output-to-input map; exact for the identity."""
    padded = jnp.zeros((4, 4)).at[:2, :2].set(matrix[:2, :2]).at[2, 2].set(1).at[3, 3].set(1)
    padded = padded.at[:2, 3].set(matrix[:2, 2])  # channels are dm_pix's third axis and stay
    with jax.default_matmul_precision("highest"):  # pixel places, which bfloat16 cannot hold
        moved = dm_pix.affine_transform(image, padded, order=1, mode="mirror")
    return jnp.clip(moved, 0, 1)
