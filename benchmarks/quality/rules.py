"""Rules that choose a hypothesis without looking through the judge's network."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from oeft_jax import metrics, selection
from oeft_jax._types import Params
from oeft_jax.config import Config
from oeft_jax.inversion import Hypothesis
from oeft_jax.models.backbone import Backbone
from oeft_jax.pipeline import Parts
from oeft_jax.selection import Scorer
from training import photos

Rule = Callable[[Sequence[Hypothesis], np.ndarray], int]  # (hypotheses, target) -> the chosen one

DEFAULT = "default rule"
REFERENCES = 200  # faces whose statistics the reference scorers compare with
REFERENCE_SIDE = 128  # pixels, as the faces come
TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


def rules(data: Path, parts: Parts, config: Config) -> dict[str, Rule]:
    """Each scorer, among all hypotheses and among those near the best error; and the errors."""
    found: dict[str, Rule] = {DEFAULT: _by(parts.scorer, config.selection.tolerance)}
    for name, scorer in scorers(data, parts, config).items():
        found[f"{name}, near the best error"] = _by(scorer, config.selection.tolerance)
        found[f"{name}, all"] = _by(scorer, np.inf)
    found["smallest loss"] = lambda hypotheses, target: int(np.argmin([h.loss for h in hypotheses]))
    found["largest SSIM"] = lambda hypotheses, target: int(np.argmax([h.ssim for h in hypotheses]))
    return found


def scorers(data: Path, parts: Parts, config: Config) -> dict[str, Scorer]:
    """The single-image score at every layer, and both that compare with a set of real faces."""
    net, params, tap = parts.backbone, parts.params, config.selection.tap
    found = {f"single-image {t}": selection.single_image(net, params, t) for t in TAPS}
    statistics = reference_statistics(data, net, params, tap, config.correspondence.image_size)
    found[f"reference {tap}"] = selection.against_reference(net, params, tap, *statistics)
    found[f"point {tap}"] = selection.against_point(net, params, tap, *statistics)
    return found


def reference_statistics(
    data: Path, net: Backbone, params: Params, tap: str, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a tap's positions over faces that no generator was trained on."""
    faces = photos.load_faces(data, REFERENCE_SIDE)[-photos.HELD_OUT :]
    places = np.linspace(0, len(faces) - 1, min(REFERENCES, len(faces))).round().astype(int)
    features = selection.position_features(net, params, tap)
    positions = (features(faces[n].astype(np.float32) / 255, size) for n in places)
    means, covariances = zip(*(metrics.feature_statistics(one) for one in positions), strict=True)
    # Every face has as many positions, so the whole covariance is theirs and that of the means.
    spread = np.cov(np.stack(means), rowvar=False, bias=True)
    return np.mean(means, axis=0), np.mean(covariances, axis=0) + spread


def _by(scorer: Scorer, tolerance: float) -> Rule:
    def rule(hypotheses: Sequence[Hypothesis], target: np.ndarray) -> int:
        scores = scorer([h.image for h in hypotheses], target)
        losses = np.array([h.loss for h in hypotheses])
        return selection.choose(scores, losses, tolerance=tolerance).chosen

    return rule
