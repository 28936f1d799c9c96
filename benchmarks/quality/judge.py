"""How good a picture is, in networks that nothing was tuned on.

Structure is compared with the source: edge agreement and self-similarity. Appearance is compared
with the target: Gram, contextual and single-image Frechet distance, and where there are label maps
the style relevance of each label (CoCosNet, Zhang et al. 2020, Sec. 4.1).
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.quality.pairs import PhotoPair
from oeft_jax import metrics
from oeft_jax._types import Features
from oeft_jax.loading import load_features
from oeft_jax.losses import contextual_loss, pooled_cells
from oeft_jax.models.backbone import backbone
from training import squeezenet as reader
from training import teachers

LARGEST = 32  # cells on a side in the distances that compare all positions with all


class Judge(NamedTuple):
    """A network and the layers that are looked at."""

    name: str
    features: Callable[[jax.Array], Features]  # images [n, s, s, 3] in [0, 1]
    style: tuple[str, ...]  # layers of the Gram distance and of the style relevance
    structure: str  # layer of the self-similarity and of the contextual distance
    statistics: str  # layer whose positions are the samples of the Frechet distance
    token: str | None = None  # one vector for the whole image, where a network has one


def squeezenet(data: Path) -> Judge:
    """SqueezeNet 1.0 as published, which neither tuned nor taught the bundled networks."""
    taps = ("relu1", "fire2", "fire3", "fire4", "fire5")
    weights = reader.read(data)
    network = backbone(weights.network, weights.config)
    features = jax.jit(lambda images: network.apply(weights.params, images, taps))
    return Judge("SqueezeNet", features, ("relu1", "fire3", "fire4"), "fire5", "fire3")


def real_vgg(data: Path) -> Judge:
    """The real VGG-19 to relu3_1: the teacher of the bundled network's first layers."""
    arrays = jax.tree.map(jnp.float32, teachers.read_real(data))
    features = jax.jit(lambda images: teachers.vgg_features(arrays, images))
    return Judge("VGG-19", features, ("relu1_1", "relu2_1", "relu3_1"), "relu3_1", "relu2_1")


def dino(name: str) -> Judge:
    """A Vision Transformer of DINO: keys of its last block, and its class token (Splice).

    Args:
      name: a weight file, or the name of a converted one in the cache ("dino_vits8").
    Raises:
      InputError: missing, damaged or of another network.
    """
    weights, network = load_features(name, {"class"}, "judge")
    keys, token = network.tap_names[-2:]
    features = jax.jit(lambda images: network.apply(weights.params, images, (keys, token)))
    return Judge("DINO", features, (keys,), keys, keys, token)


class Judged(NamedTuple):
    """What of a pair does not depend on the picture."""

    pair: PhotoPair
    source: Features
    target: Features


def prepare(judge: Judge, pair: PhotoPair) -> Judged:
    """The pair as the judge sees it."""
    return Judged(pair, *(judge.features(jnp.asarray(x)[None]) for x in (pair.source, pair.target)))


def measures(judge: Judge, judged: Judged, picture: np.ndarray) -> dict[str, float]:
    """Every measure of a picture [s, s, 3] of the pair's size.

    Edge agreement and style relevance are better when larger, the distances when smaller.
    """
    pair, ours = judged.pair, judge.features(jnp.asarray(picture)[None])
    found = {
        "edge agreement": float(
            metrics.edge_agreement(*(jnp.asarray(x) for x in (picture, pair.source)))
        ),
        "self-similarity distance": self_similarity(
            ours[judge.structure], judged.source[judge.structure]
        ),
        "Gram distance": gram(ours, judged.target, judge.style),
        "contextual distance": contextual(ours[judge.structure], judged.target[judge.structure]),
        "Frechet distance": frechet(ours[judge.statistics], judged.target[judge.statistics]),
    }
    if judge.token is not None:
        found["token distance"] = token_distance(ours[judge.token], judged.target[judge.token])
    relevance = style_relevance(judge, judged, ours)
    return found if relevance is None else {**found, "style relevance": relevance}


def _pooled(features: jax.Array) -> jax.Array:
    """[1, h, w, c] -> [1, g, g, c] with g at most LARGEST."""
    cells = pooled_cells(features, LARGEST)
    side = round(cells.shape[1] ** 0.5)
    return cells.reshape(1, side, side, cells.shape[-1])


@jax.jit
def _self_similarity(ours: jax.Array, theirs: jax.Array) -> jax.Array:
    return metrics.self_similarity_distance(_pooled(ours), _pooled(theirs))[0]


def self_similarity(ours: jax.Array, theirs: jax.Array) -> float:
    """Distance of the self-similarities of two maps [1, h, w, c], pooled."""
    return float(_self_similarity(ours, theirs))


@jax.jit
def _gram(ours: jax.Array, theirs: jax.Array) -> jax.Array:
    return metrics.gram_distance(ours, theirs)[0]


def gram(ours: Features, theirs: Features, taps: tuple[str, ...]) -> float:
    """Relative Gram distance, mean over layers."""
    return float(np.mean([_gram(ours[tap], theirs[tap]) for tap in taps]))


@jax.jit
def _contextual(ours: jax.Array, theirs: jax.Array) -> jax.Array:
    return contextual_loss(pooled_cells(theirs, LARGEST), pooled_cells(ours, LARGEST))


def contextual(ours: jax.Array, theirs: jax.Array) -> float:
    """The contextual loss (Eq. 10) of two maps."""
    return float(_contextual(ours, theirs))


def frechet(ours: jax.Array, theirs: jax.Array) -> float:
    """Frechet distance of the positions of two maps over the variance of the second (SIFID)."""
    a, b = (np.asarray(x, np.float64).reshape(-1, x.shape[-1]) for x in (ours, theirs))
    return metrics.frechet_distance(a, b) / float(np.var(b, axis=0, ddof=1).sum())


def token_distance(ours: jax.Array, theirs: jax.Array) -> float:
    """Squared difference of two vectors [1, 1, 1, c] over the second's squared length."""
    a, b = (np.asarray(x, np.float64).ravel() for x in (ours, theirs))
    return float(np.sum((a - b) ** 2) / np.sum(b**2))


def style_relevance(judge: Judge, judged: Judged, ours: Features) -> float | None:
    """Mean cosine, over labels of both photos, of a label's mean features here and in the target.

    The picture is read where the source has the label. None without label maps.
    """
    pair = judged.pair
    if pair.source_labels is None or pair.target_labels is None:
        return None
    cosines = []
    for tap in judge.style:
        here, there = (np.asarray(x[tap][0], np.float64) for x in (ours, judged.target))
        mine, theirs = (
            at_cells(x, here.shape[0]) for x in (pair.source_labels, pair.target_labels)
        )
        for label in np.intersect1d(mine, theirs):
            a, b = here[mine == label].mean(0), there[theirs == label].mean(0)
            cosines.append(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-12))
    return float(np.mean(cosines)) if cosines else None


def at_cells(labels: np.ndarray, grid: int) -> np.ndarray:
    """The label at the middle of each cell. [s, s] -> [grid, grid]."""
    place = ((np.arange(grid) + 0.5) / grid * labels.shape[0]).astype(int)
    return labels[np.ix_(place, place)]
