"""The losses of correspondence fine-tuning, each a pure function of arrays (Eq. 7-11).

Cells are [n, p, c], feature maps [n, h, w, c]; every loss is a mean over the batch, shape [].
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from oeft_jax._types import Features, Params, Terms
from oeft_jax.correlation import Matches, centred, inverse_norms, unit
from oeft_jax.dense import Columns, joined, products
from oeft_jax.models.layers import average_pool
from oeft_jax.products import inner, moments, squares
from oeft_jax.tiled import TILE, attend

STEPS = (1, 3)  # places apart that the local structure loss compares


def info_nce(
    query: jax.Array,
    keys: jax.Array | Columns,
    *,
    temperature: float,
    positives: jax.Array | None = None,
    stop_gradient: bool = False,
    tile: int = TILE,
) -> jax.Array:
    """Eq. 7, averaged over queries (Eq. 8): each query against its positive and all other keys.

    Eq. 8 taken literally sums a two-way loss over every negative; the sum over n inside Eq. 7 says
    that one loss with all negatives is meant. The products are of unit vectors: raw ones overflow
    exp at the temperatures in use.

    Args:
      query: [n, p, c].
      keys: [n, q, c], or columns whose joined channels are in the order of the query's; these
        are compared as one matrix, without multiplying what was interpolated.
      temperature: > 0 (the paper's tau).
      positives: [p] int, the key that belongs to each query; None means key i for query i.
      stop_gradient: treats the keys as constants (as CUT does).
      tile: cells on a side of what is in memory at once.
    """
    if stop_gradient:
        keys = jax.lax.stop_gradient(keys)
    query = unit(query) / temperature
    if positives is None:
        positives = jnp.arange(query.shape[1])
    if isinstance(keys, Columns):
        logits = products(keys, inverse_norms(joined(keys)), query)  # [n, q, p]
        own = jnp.diagonal(logits[:, positives], axis1=1, axis2=2)
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - own)
    keys = unit(keys)
    own = jnp.einsum("npc,npc->np", query, keys[:, positives], precision="highest")
    log_sum = attend(query, keys, jnp.zeros((*keys.shape[:2], 0), keys.dtype), tile=tile)[1]
    return jnp.mean(log_sum - own)  # Eq. 7, 8


def gram(features: jax.Array) -> jax.Array:
    """G(c, c') = mean over positions u of phi(u, c) phi(u, c') (Eq. 9). -> [n, c, c].

    The paper's inner sum runs over c', a misprint for u. Dividing by the positions lets maps of
    different sizes be compared.
    """
    n, h, w, c = features.shape
    cells = features.reshape(n, h * w, c)
    return moments(cells) / (h * w)


def gram_loss(warped: jax.Array, target_gram: jax.Array) -> jax.Array:
    """Eq. 9 relative to the target: |G(target) - G(warped)|^2 / |G(target)|^2.

    Without the division the value is 1e12 and more and swamps every other term.

    Args:
      warped: [n, h, w, c] features of the warp.
      target_gram: [n, c, c], from `gram`.
    """
    difference = jnp.sum((gram(warped) - target_gram) ** 2, axis=(1, 2))  # Eq. 9
    return jnp.mean(difference / (jnp.sum(target_gram**2, axis=(1, 2)) + 1e-12))


def contextual_loss(
    target: jax.Array, warped: jax.Array, *, bandwidth: float = 0.1, eps: float = 1e-5
) -> jax.Array:
    """Eq. 10: for every target position the best-fitting warped position, minus log of the mean.

    The direction is the paper's and Mechrez's (maximum over the generated side), not the one that
    CoCosNet trains with. A mean in place of the sum adds a constant and makes the loss >= 0.

    Args:
      target: [n, q, c].
      warped: [n, p, c].
      bandwidth: > 0 (Mechrez's h).
      eps: > 0, keeps the relative distance finite where the best distance is 0.
    """
    mean = jnp.mean(target, axis=1, keepdims=True)
    cosine = inner(unit(warped - mean), unit(target - mean))
    distance = (1 - cosine) / 2
    relative = distance / (jnp.min(distance, axis=2, keepdims=True) + eps)
    similarity = jax.nn.softmax(-relative / bandwidth, axis=2)  # the constant 1/h cancels
    return jnp.mean(-jnp.log(jnp.mean(jnp.max(similarity, axis=1), axis=1)))  # Eq. 10


def pooled_cells(features: jax.Array, largest: int) -> jax.Array:
    """A map as cells, block-averaged until its side is at most `largest`. -> [n, p, c]."""
    while features.shape[1] > largest:
        features = average_pool(features, 2)
    n, h, w, c = features.shape
    return features.reshape(n, h * w, c)


def structure_loss(warped: jax.Array, of_source: jax.Array) -> jax.Array:
    """Mean squared difference of the warp's centred cosine self-similarities and the source's.

    Not in the paper: after Splice (Tumanyan et al. 2022), there of a vision transformer's keys. How
    alike two places of a picture are does not depend on what it looks like, so this keeps the
    source's layout and leaves appearance to the other losses.

    Args:
      warped: [n, p, c].
      of_source: [1 or n, p, p], from `self_similarity`.
    """
    return jnp.mean((self_similarity(warped) - of_source) ** 2)


def self_similarity(cells: jax.Array) -> jax.Array:
    """Cosine of every two cells, minus the mean over cells (as Eq. 4-5). -> [n, p, p]."""
    return squares(unit(centred(cells)))


def local_structure_loss(warped: jax.Array, of_source: Sequence[jax.Array]) -> jax.Array:
    """As `structure_loss`, but each place is compared with those around it alone, in whole maps.

    Self-similarity around a place (Shechtman and Irani 2007) is where outlines are, which a few
    cells on a side do not hold.

    Args:
      warped: [n, h, w, c].
      of_source: from `local_similarities` of a map [1 or n, h, w, c'].
    """
    ours = local_similarities(warped)
    each = [jnp.mean((a - b) ** 2) for a, b in zip(ours, of_source, strict=True)]
    return jnp.mean(jnp.stack(each)) if each else jnp.float32(0)


def local_similarities(features: jax.Array) -> tuple[jax.Array, ...]:
    """Cosines of every place and those 1 and 3 from it, axis by axis and diagonally.

    Args:
      features: [n, h, w, c]; steps as wide as it is are left out.
    Returns:
      Eight maps [n, h - dy, w - |dx|] at most.
    """
    n, h, w, c = features.shape
    cells = unit(centred(features.reshape(n, h * w, c))).reshape(n, h, w, c)
    ones = jnp.ones((c,), features.dtype)
    found = []
    for step in (step for step in STEPS if step < min(h, w)):
        for dy, dx in ((0, step), (step, 0), (step, step), (step, -step)):
            here, there = cells[:, : h - dy], cells[:, dy:]
            left, right = max(-dx, 0), max(dx, 0)  # columns that have no neighbour on that side
            product = here[:, :, left : w - right] * there[:, :, right : w - left]
            # A sum, written as a product: XLA:CPU takes six times as long over `jnp.sum` here.
            found.append(jnp.matmul(product, ones, precision="highest"))
    return tuple(found)


def cycle_loss(back: jax.Array, target: jax.Array) -> jax.Array:
    """Mean absolute difference of the target warped there and back, and the target."""
    return jnp.mean(jnp.abs(back - target))


def anchor_loss(params: Params, start: Params) -> jax.Array:
    """Squared drift of the weights from where they began, relative to their squared size."""
    drift = sum(jnp.sum((a - b) ** 2) for a, b in _pairs(params, start))
    size = sum(jnp.sum(b**2) for _, b in _pairs(params, start))
    return jnp.asarray(drift / (size + 1e-12))


def _pairs(a: Params, b: Params) -> list[tuple[jax.Array, jax.Array]]:
    return list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


class Structure(NamedTuple):
    """How alike the places of a picture are in the frozen network, by tap."""

    whole: dict[str, jax.Array]  # [1, p, p], from `self_similarity`
    local: dict[str, tuple[jax.Array, ...]]  # from `local_similarities`


class LossInputs(NamedTuple):
    """All that a loss may look at. n counts original and augmented pairs."""

    key: jax.Array  # for sampling
    source: jax.Array  # [n, h, w, 3] in [0, 1]
    target: jax.Array  # [n, h, w, 3]
    warped: jax.Array  # [n, h, w, 3], Eq. 6
    matches: Matches  # Eq. 3
    source_cells: jax.Array  # [n, p, c], hypercolumn of the source under W_S
    warped_cells: jax.Array | Columns  # [n, p, c], hypercolumn of the warp under W_T
    target_phi: Features  # frozen network on the target
    warped_phi: Features  # frozen network on the warp
    source_structure: Structure  # of the source as it is
    params: Params  # what is being tuned
    start_params: Params  # and where it began


LossFn = Callable[[LossInputs], jax.Array]
Losses = Mapping[str, tuple[float, LossFn]]  # name -> (lambda, function)


def total(losses: Losses, inputs: LossInputs) -> tuple[jax.Array, Terms]:
    """Eq. 11: the weighted sum, and its weighted terms."""
    terms = {name: weight * fn(inputs) for name, (weight, fn) in losses.items() if weight}
    return sum(terms.values(), jnp.float32(0)), terms
