"""Whether the right places are matched: points, part labels, the way back."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.quality.bent import bent_photos
from benchmarks.quality.judge import at_cells
from benchmarks.quality.pairs import PhotoPair
from benchmarks.quality.tuned import Look
from oeft_jax._types import Params
from oeft_jax.config import Config, CorrespondenceConfig
from oeft_jax.correlation import Matches
from oeft_jax.correspondence import Pair, matches_of
from oeft_jax.models.backbone import Backbone
from oeft_jax.pipeline import Parts
from oeft_jax.remember import remember
from training import ground_truth
from training.ground_truth import Match
from training.matching import match_cells, share_correct

THRESHOLDS = (0.02, 0.05, 0.1)
ROOM = 256  # points of one pair at most, so that one program serves all
BACK = 0.1  # of the side: how near the way back must end


def families(data: Path, *, size: int, faces: int, warps: int, seed: int) -> dict[str, list[Match]]:
    """Pairs with points that are known to match, by kind."""
    ducks = (data / "gt_willow_ducks").is_dir()
    return {
        "landmarks": ground_truth.faces(data, faces, size, seed),
        "known warps": ground_truth.known_warps(data, warps, size, seed),
        "bent and restyled": bent_photos(data, warps, size, seed),
        "SPair": ground_truth.spair(data, size),
        **({"WILLOW": ground_truth.willow(data, size)} if ducks else {}),
    }


def points(look: Look, match: Match, config: Config, parts: Parts) -> dict[str, float]:
    """PCK of one pair: share of points whose best cell is within a part of the object's size."""
    stage, many = config.correspondence, len(match.source_points)
    matched = _matched(parts.backbone, stage)(look.params, look.pair)
    found = _match_cells(
        matched.source[0],
        matched.target[0],
        jnp.asarray(np.resize(match.source_points, (ROOM, 2))),
        size=stage.image_size,
        grid=stage.grid,
    )
    right = {t: share_correct(np.asarray(found)[:many], match, t) for t in THRESHOLDS}
    return {f"PCK@{t:g}": float(np.mean(hits)) for t, hits in right.items()}


_match_cells = jax.jit(match_cells, static_argnames=("size", "grid"))


@remember
def _matched(backbone: Backbone, stage: CorrespondenceConfig) -> Callable[[Params, Pair], Matches]:
    return jax.jit(
        lambda params, pair: matches_of(params, pair, backbone=backbone, config=stage)._replace(
            matrix=None
        )
    )


def labels(best: np.ndarray, pair: PhotoPair, *, grid: int) -> dict[str, float]:
    """The target's labels carried to the source, against the source's own.

    Args:
      best: [grid^2] int, the target cell of every source cell.
    Returns:
      Mean IoU over the labels of either, and the share of cells that are right; nothing for a pair
      without label maps.
    """
    if pair.source_labels is None or pair.target_labels is None:
        return {}
    own, others = (at_cells(x, grid).ravel() for x in (pair.source_labels, pair.target_labels))
    return {
        "mean IoU": mean_iou(others[best], own),
        "label accuracy": float(np.mean(others[best] == own)),
    }


def mean_iou(said: np.ndarray, true: np.ndarray) -> float:
    """Intersection over union, mean over the labels that either holds. [n] int each."""
    shares = [
        np.sum((said == label) & (true == label)) / np.sum((said == label) | (true == label))
        for label in np.union1d(said, true)
    ]
    return float(np.mean(shares))


def consistency(
    best: np.ndarray, back: np.ndarray, confidence: np.ndarray, *, grid: int
) -> dict[str, float]:
    """Where the way there and back ends, and how peaked the softmax is.

    Args:
      best: [p] int, the target cell of every source cell.
      back: [p] int, the source cell of every target cell.
      confidence: [p] in (0, 1], the softmax weight of the best cell.
    """
    cells = np.arange(grid * grid)
    ends = back[best]
    apart = np.hypot(ends // grid - cells // grid, ends % grid - cells % grid) / grid
    return {
        "cycle error": float(apart.mean()),
        f"cycle within {BACK:g}": float(np.mean(apart <= BACK)),
        "target cells used": len(np.unique(best)) / len(cells),
        "confidence": float(confidence.mean()),
    }
