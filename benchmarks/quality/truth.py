"""Whether the right places are matched: points, part labels, the way back."""

from pathlib import Path

import numpy as np

from benchmarks.quality.bent import bent_photos
from benchmarks.quality.judge import at_cells
from benchmarks.quality.pairs import PhotoPair
from training import ground_truth
from training.ground_truth import Match
from training.matching import carried, share_correct

THRESHOLDS = (0.02, 0.05, 0.1)
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


def points(best: np.ndarray, match: Match, *, size: int, grid: int) -> dict[str, float]:
    """PCK of one pair: share of points that land within a part of the object's size.

    A point moves as the patch of its cell does.

    Args:
      best: [grid^2] int, the target cell of every source cell.
    """
    ends = carried(best, match.source_points, size=size, grid=grid)
    return {f"PCK@{t:g}": float(np.mean(share_correct(ends, match, t))) for t in THRESHOLDS}


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
