"""Pairs of aligned faces: different people, the same part at the same place, to train on.

Random warps ask for the same thing seen twice and say nothing about what two things have in
common. Faces that were aligned to one template show about the same part at the same place, so two
of them, each under a warp of its own, are places that match by meaning, known to within what the
alignment leaves open.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from oeft_jax._types import Features, Params, Taps
from training.matching import JOINED, joined
from training.warped import CELL, NUM_PLACES, cross_entropy, moved, warped_views

ALONE = ("relu4_1", "relu5_1")  # relu3_1 sees too little of a face to say which part it is
SPREAD = 0.03  # of the side, deviation of where the same part lies in another aligned face


def matching_terms(
    key: jax.Array,
    apply: Callable[[Params, jax.Array, Taps], Features],
    params: Params,
    faces: jax.Array,
) -> dict[str, jax.Array]:
    """Cross-entropies of places of each face among the cells of its partner, by tap.

    Args:
      apply: the network.
      faces: [2 n, s, s, 3] in [0, 1], aligned alike; the partner of i is i + n.
    """
    keys = jax.random.split(key)
    size, half = faces.shape[1], len(faces) // 2
    views, matrices = warped_views(keys[0], faces)
    features = apply(params, views, JOINED)
    grid = size // CELL
    maps = {tap: features[tap] for tap in ALONE}
    maps["joined"] = joined(features, grid=grid).reshape(len(faces), grid, grid, -1)
    places = jax.random.uniform(keys[1], (len(faces), NUM_PLACES, 2), maxval=size - 1.0)
    aligned = moved(places, matrices)
    partner_of = jnp.roll(jnp.arange(len(faces)), half)
    meant = moved(aligned, jnp.linalg.inv(matrices[partner_of]))
    shown = jnp.all((aligned >= 0) & (aligned <= size - 1), axis=-1, keepdims=True)
    meant = jnp.where(shown, meant, -1)  # what is mirrored at the border has no partner
    return {
        f"{name} faces": cross_entropy(
            value[partner_of], value, meant, places, size, spread=SPREAD * size
        )
        for name, value in maps.items()
    }
