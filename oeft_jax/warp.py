"""Correlation to warped target: the soft warp (Eq. 6) and the finished, hard one.

Images are [n, h, w, 3] in [0, 1], correlation [n, p, q], values [n, q, d]; p and q are cells of
square grids in row order.
"""

import chex
import jax
import jax.numpy as jnp

from oeft_jax._checks import check_choice
from oeft_jax.models.layers import average_pool

WARPS = ("patch", "pooled")


def warp(values: jax.Array, correlation: jax.Array, *, alpha: float) -> jax.Array:
    """Eq. 6: r(u) = sum_v softmax_v(alpha M(u, v)) x(v). -> [n, p, d].

    A convex combination, so it never leaves the range of `values`.
    """
    chex.assert_rank([values, correlation], 3)
    chex.assert_equal(correlation.shape[-1], values.shape[1])
    weights = jax.nn.softmax(alpha * correlation, axis=-1)  # Eq. 6
    return jnp.einsum("npq,nqd->npd", weights, values, precision="highest")


def image_to_patches(images: jax.Array, grid: int) -> jax.Array:
    """Cuts into grid x grid non-overlapping patches. [n, s, s, 3] -> [n, grid^2, (s/grid)^2 3]."""
    n, size, _, c = images.shape
    side = size // grid
    blocks = images.reshape(n, grid, side, grid, side, c).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(n, grid * grid, side * side * c)


def patches_to_image(patches: jax.Array, size: int) -> jax.Array:
    """The inverse of `image_to_patches`. [n, grid^2, d] -> [n, size, size, 3]."""
    n, cells, _ = patches.shape
    grid = round(cells**0.5)
    side = size // grid
    blocks = patches.reshape(n, grid, grid, side, side, 3).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(n, size, size, 3)


def warp_image(
    target: jax.Array, correlation: jax.Array, *, alpha: float, mode: str = "patch"
) -> jax.Array:
    """The soft warp of an image at its own size.

    "patch" mixes patches of size/grid pixels, so that r is as large as the target although the
    correlation is coarser; "pooled" mixes block means and scales the result up bilinearly. The
    paper writes r at the grid's size, yet feeds it on at 256: both are CoCosNet's ways there.

    Args:
      target: [n, size, size, 3].
      correlation: [n, p, q]; size is a multiple of the target grid's side.
    Returns:
      [n, s, s, 3]: "pooled" at the target's size, "patch" at as many of its patches as the
      source grid has cells, which is the same size where p = q.
    """
    check_choice("warp", mode, WARPS)
    n, size = target.shape[0], target.shape[1]
    grid = round(correlation.shape[-1] ** 0.5)
    if mode == "patch":
        patches = warp(image_to_patches(target, grid), correlation, alpha=alpha)
        return patches_to_image(patches, round(correlation.shape[1] ** 0.5) * (size // grid))
    pooled = average_pool(target, size // grid).reshape(n, grid * grid, 3)
    small = warp(pooled, correlation, alpha=alpha)
    side = round(correlation.shape[1] ** 0.5)
    return jax.image.resize(small.reshape(n, side, side, 3), (n, size, size, 3), "linear")


def warp_confidence(correlation: jax.Array, *, alpha: float) -> jax.Array:
    """Largest softmax weight of each source cell, in (0, 1]. [n, p, q] -> [n, p]."""
    scaled = alpha * correlation
    return jnp.exp(jnp.max(scaled, -1) - jax.nn.logsumexp(scaled, -1))


def voted_warp(target: jax.Array, correlation: jax.Array, *, overlap: int = 2) -> jax.Array:
    """The finished warp: every source cell places its best match's patch, overlaps are averaged.

    The soft warp mixes several patches into one and leaves a block edge at every cell. Here the
    best match (hard argmax) gives a patch of `overlap` cells' width, so 8 x 8 pixels on a 64 grid
    of a 256 image, and a Gaussian window weighs the overlapping patches: no blocks, no blur.

    Args:
      target: [n, size, size, 3].
      correlation: [n, p, q].
      overlap: side of a patch in cells, >= 1.
    Returns:
      [n, s, s, 3] inside the range of `target`; s is one target cell for each source cell, so
      the target's size where p = q.
    """
    grid = round(correlation.shape[-1] ** 0.5)
    best = jnp.argmax(correlation, axis=-1)
    return jax.vmap(lambda image, index: _vote(image, index, grid, overlap))(target, best)


def _vote(image: jax.Array, best: jax.Array, grid: int, overlap: int) -> jax.Array:
    size = image.shape[0]
    cell = size // grid
    side = overlap * cell
    margin = (side - cell) // 2
    padded = jnp.pad(image, ((margin, side), (margin, side), (0, 0)), mode="reflect")
    place = jnp.arange(best.shape[0])
    columns = round(best.shape[0] ** 0.5)
    offset = jnp.arange(side)

    def window(index: jax.Array, width: int) -> tuple[jax.Array, jax.Array]:
        rows = (index // width)[:, None] * cell + offset[None, :]
        cols = (index % width)[:, None] * cell + offset[None, :]
        return rows[:, :, None], cols[:, None, :]

    falloff = jnp.exp(-0.5 * ((offset - (side - 1) / 2) / (side / 4)) ** 2)
    weight = falloff[None, :, None, None] * falloff[None, None, :, None]
    patches = padded[window(best, grid)] * weight
    extent = columns * cell + side
    total = jnp.zeros((extent, extent, 3)).at[window(place, columns)].add(patches)
    weights = jnp.zeros((extent, extent, 1)).at[window(place, columns)].add(weight)
    kept = slice(margin, margin + columns * cell)
    return total[kept, kept] / weights[kept, kept]
