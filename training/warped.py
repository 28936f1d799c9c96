"""Photos against random warps of themselves: places that are known to match, to train on.

Distillation alone leaves the deep taps behind their teacher where a photo is turned and zoomed, so
the same place in both is asked for directly: the cross-entropy of where it lies in the photo, among
all cells of its map, by the cosines that correspondence is computed from (Eq. 3-5).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from oeft_jax._types import Features, Params, Taps
from oeft_jax.augment import Geometric, Photometric, affine, affine_matrix, photometric
from oeft_jax.config import CorrespondenceConfig
from oeft_jax.correlation import centred, match_features, unit
from training.matching import JOINED, axis_weights, joined

RANGES = Geometric(scale=1.6, rotation=30.0, shear=10.0, translation=0.1)
ALONE = ("relu3_1", "relu4_1", "relu5_1")
CELL = CorrespondenceConfig().image_size // CorrespondenceConfig().grid  # pixels on a side
NUM_PLACES = 128  # asked for in each picture
TEMPERATURE = 0.05


def warped_views(key: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Each picture zoomed, turned, sheared, shifted and with other colours.

    Args:
      images: [n, s, s, 3] in [0, 1].
    Returns:
      (the views [n, s, s, 3], maps [n, 3, 3] from a view's (row, column, 1) to the picture's).
    """
    keys = jax.random.split(key, len(images) + 1)
    matrices = jax.vmap(lambda k: affine_matrix(k, images.shape[1], RANGES))(keys[1:])
    return photometric(keys[0], jax.vmap(affine)(images, matrices), Photometric()), matrices


def moved(places: jax.Array, matrices: jax.Array) -> jax.Array:
    """Places [n, k, 2] through the maps [n, 3, 3] of (row, column, 1)."""
    linear, shift = matrices[:, :2, :2], matrices[:, :2, 2]
    return jnp.einsum("nij,nkj->nki", linear, places, precision="highest") + shift[:, None]


def matching_terms(
    key: jax.Array,
    apply: Callable[[Params, jax.Array, Taps], Features],
    params: Params,
    images: jax.Array,
    features: Features,
) -> dict[str, jax.Array]:
    """Cross-entropies of places of random warps among the cells of the pictures, by tap.

    Args:
      apply: the network.
      images: [n, s, s, 3] in [0, 1].
      features: its taps of `images`, at least `JOINED`.
    """
    keys = jax.random.split(key)
    size = images.shape[1]
    views, matrices = warped_views(keys[0], images)
    of_views = apply(params, views, JOINED)
    places = jax.random.uniform(keys[1], (len(images), NUM_PLACES, 2), maxval=size - 1.0)
    meant = moved(places, matrices)
    both = [(tap, features[tap], of_views[tap]) for tap in ALONE]
    grid, chosen = size // CELL, {tap: features[tap] for tap in JOINED}
    cells = [joined(x, grid=grid) for x in (chosen, of_views)]
    maps = [x.reshape(len(x), grid, grid, -1) for x in cells]
    both.append(("joined", maps[0], maps[1]))
    return {
        f"{name} matching": cross_entropy(ours, theirs, meant, places, size)
        for name, ours, theirs in both
    }


def cross_entropy(
    photo: jax.Array,
    view: jax.Array,
    meant: jax.Array,
    places: jax.Array,
    size: int,
    *,
    spread: float = 0.0,
) -> jax.Array:
    """-log of the share that the right cells have in the softmax of cosines, mean over places.

    Args:
      photo: [n, g, g, c], among whose cells a place is looked for.
      view: [n, g, g, c], read at the places, bilinearly.
      meant: [n, k, 2] (row, column) in pixels of the photo; those outside it do not count.
      places: [n, k, 2] in pixels of the view.
      size: of both in pixels.
      spread: pixels, the deviation of what is right around `meant`; 0 for the cells around it.
    """
    n, grid = photo.shape[:2]
    among, seen = (x.reshape(n, grid * grid, -1) for x in (photo, view))
    read = jnp.einsum("nkp,npc->nkc", bilinear(places, grid, size), centred(seen))
    logits = jnp.einsum("nkc,npc->nkp", unit(read), match_features(among)) / TEMPERATURE
    target = gaussian(meant, grid, size, spread) if spread else bilinear(meant, grid, size)
    inside = jnp.all((meant >= 0) & (meant <= size - 1), axis=-1)
    each = -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)
    return jnp.sum(each * inside) / jnp.maximum(jnp.sum(inside), 1)


def bilinear(places: jax.Array, grid: int, size: int) -> jax.Array:
    """Weights of the cells around places given in pixels. [n, k, 2] -> [n, k, grid * grid]."""
    return _of_both_axes(axis_weights(places, size=size, grid=grid))


def gaussian(places: jax.Array, grid: int, size: int, spread: float) -> jax.Array:
    """The same, of a Gaussian of `spread` pixels over all cells; each place's sum to 1."""
    centres = (jnp.arange(grid) + 0.5) * (size / grid) - 0.5
    away = (places[..., None] - centres.reshape(1, 1, 1, grid)) / spread
    return _of_both_axes(jax.nn.softmax(-(away**2) / 2))


def _of_both_axes(near: jax.Array) -> jax.Array:
    weights = near[:, :, 0, :, None] * near[:, :, 1, None, :]
    return weights.reshape(*near.shape[:2], -1)
