"""Matches to warped target: the soft warp (Eq. 6) and the finished, hard one.

Images are [n, h, w, 3] in [0, 1], values [n, q, d]; p counts source cells and q target cells, both
of square grids in row order.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from oeft_jax._checks import check_choice
from oeft_jax.correlation import Matches
from oeft_jax.dense import mix
from oeft_jax.models.layers import average_pool
from oeft_jax.tiled import TILE, attend

WARPS = ("patch", "overlap", "pooled")
QUARTERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # of a patch two cells wide, (down, right)
FADE = 3.0  # of the window over such a patch: exp(-FADE d^2), d cells from its middle


def warp(values: jax.Array, matches: Matches, *, alpha: float, tile: int = TILE) -> jax.Array:
    """Eq. 6: r(u) = sum_v softmax_v(alpha M(u, v)) x(v). -> [n, p, d].

    A convex combination, so it never leaves the range of `values`.
    """
    chex.assert_rank([values, matches.source, matches.target], 3)
    chex.assert_equal(matches.target.shape[1], values.shape[1])
    if matches.matrix is not None:
        return mix(alpha * matches.matrix, values)  # Eq. 6
    return attend(alpha * matches.source, matches.target, values, tile=tile)[0]  # Eq. 6


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


def wide_patches(images: jax.Array, grid: int) -> jax.Array:
    """Patches two cells wide, one around each cell, mirrored at the image's border.

    Args:
      images: [n, s, s, 3].
    Returns:
      [n, grid^2, 4 (s/grid)^2 3], quarter by quarter.
    """
    n, size, _, c = images.shape
    cell = size // grid
    edges = (cell // 2, cell - cell // 2)
    padded = jnp.pad(images, ((0, 0), edges, edges, (0, 0)), mode="reflect")
    blocks = padded.reshape(n, grid + 1, cell, grid + 1, cell, c)
    quarters = [blocks[:, dy : dy + grid, :, dx : dx + grid] for dy, dx in QUARTERS]
    cells = jnp.stack(quarters, axis=1).transpose(0, 2, 4, 1, 3, 5, 6)
    return cells.reshape(n, grid * grid, 4 * cell * cell * c)


def blended(patches: jax.Array, size: int) -> jax.Array:
    """The image whose `wide_patches` these are; where they differ, a blend that has no block edges.

    A Gaussian window fades every patch out towards its border.

    Args:
      patches: [n, p, d], p a square number.
    Returns:
      [n, size, size, 3].
    """
    n, side = patches.shape[0], round(patches.shape[1] ** 0.5)
    cell = size // side
    window = np.exp(-FADE * ((np.arange(2 * cell) + 0.5) / cell - 1) ** 2)
    halves = (window / (window + np.roll(window, cell))).reshape(2, cell)  # sum to 1 with the next
    covered = np.ones(size + cell)
    covered[:cell], covered[size:] = halves  # no next one at the border of the image
    quarters = patches.reshape(n, side, side, 4, cell, cell, 3)
    total = jnp.zeros((n, side + 1, cell, side + 1, cell, 3), patches.dtype)
    for number, (dy, dx) in enumerate(QUARTERS):
        weight = np.outer(halves[dy], halves[dx])[None, None, None, :, :, None]
        faded = quarters[:, :, :, number] * jnp.asarray(weight, patches.dtype)
        blocks = faded.transpose(0, 1, 3, 2, 4, 5)
        around = ((0, 0), (dy, 1 - dy), (0, 0), (dx, 1 - dx), (0, 0), (0, 0))
        total = total + jnp.pad(blocks, around)
    image = total.reshape(n, size + cell, size + cell, 3)
    image = image / jnp.asarray(np.outer(covered, covered)[None, :, :, None], image.dtype)
    kept = slice(cell // 2, cell // 2 + size)
    return image[:, kept, kept]


def warp_image(
    target: jax.Array, matches: Matches, *, alpha: float, mode: str = "patch", tile: int = TILE
) -> jax.Array:
    """The soft warp of an image at its own size.

    "patch" mixes patches of size/grid pixels, so that r is as large as the target although the
    correlation is coarser; "pooled" mixes block means and scales the result up bilinearly. The
    paper writes r at the grid's size, yet feeds it on at 256: both are CoCosNet's ways there.
    "overlap" mixes patches twice as wide and blends them where they overlap, which leaves no edge
    between cells.

    Args:
      target: [n, size, size, 3].
      matches: of p and q cells; size is a multiple of the target grid's side.
      tile: cells on a side of what is in memory at once.
    Returns:
      [n, s, s, 3]: "pooled" at the target's size, the others at one target cell for each source
      cell, which is the same size where p = q.
    """
    check_choice("warp", mode, WARPS)
    n, size = target.shape[0], target.shape[1]
    side, grid = (round(cells.shape[1] ** 0.5) for cells in (matches.source, matches.target))
    moved = side * (size // grid)
    if mode == "overlap":
        patches = warp(wide_patches(target, grid), matches, alpha=alpha, tile=tile)
        return blended(patches, moved)
    if mode == "patch":
        patches = warp(image_to_patches(target, grid), matches, alpha=alpha, tile=tile)
        return patches_to_image(patches, moved)
    pooled = average_pool(target, size // grid).reshape(n, grid * grid, 3)
    small = warp(pooled, matches, alpha=alpha, tile=tile)
    return jax.image.resize(small.reshape(n, side, side, 3), (n, size, size, 3), "linear")


def voted_warp(target: jax.Array, best: jax.Array, *, grid: int, overlap: int = 2) -> jax.Array:
    """The finished warp: every source cell places its best match's patch, overlaps are averaged.

    The soft warp mixes several patches into one and leaves a block edge at every cell. Here the
    best match (hard argmax) gives a patch of `overlap` cells' width, so 8 x 8 pixels on a 64 grid
    of a 256 image, and a Gaussian window weighs the overlapping patches: no blocks, no blur.

    Args:
      target: [n, size, size, 3].
      best: [n, p] int, the best target cell of each source cell, from `consensus_matches`.
      grid: target cells on a side.
      overlap: side of a patch in cells, >= 1.
    Returns:
      [n, s, s, 3] inside the range of `target`; s is one target cell for each source cell, so
      the target's size where p = q.
    """
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
