"""Settings that are compared: each is the default with a few values of stage 1, or of all, changed."""

import dataclasses
from typing import Any

from oeft_jax._checks import check_choice
from oeft_jax.config import Config, CorrespondenceConfig, preset

DEFAULT = "default"
APART = "patches apart"  # a square of the target for each cell, as the paper preset mixes them
PAPER = preset("paper").correspondence
PAPERS = (
    "layer_scale",
    "consensus",
    "lambda_structure",
    "lambda_local_structure",
    "prior",
    "layout",
    "alpha",
    "augment",
    "learning_rate",
    "schedule",
    "warp",
)
HALVED = {"lambda_perceptual": 0.5, "lambda_structure": 10.0}
VARIANTS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "paper's losses and rate": {name: getattr(PAPER, name) for name in PAPERS},
    "steady rate 3e-4 and no local structure loss": {
        "lambda_local_structure": 0.0,
        "learning_rate": 3e-4,
        "schedule": "constant",
    },
    "no contrastive loss": {"lambda_contrastive": 0.0},
    "no Gram loss": {"lambda_perceptual": 0.0},
    "no contextual loss": {"lambda_contextual": 0.0},
    "no structure loss": {"lambda_structure": 0.0},
    "no local structure loss": {"lambda_local_structure": 0.0},
    APART: {"warp": "patch"},
    "augmentation": {"augment": True},  # the paper's Figure 8
    "Gram and structure loss x 0.5": HALVED,
    "Gram and structure loss x 0.5 and augmentation": {**HALVED, "augment": True},
    "contrastive loss x 3": {"lambda_contrastive": 3.0},
    "Gram loss x 2": {"lambda_perceptual": 2.0},
    "Gram loss x 5": {"lambda_perceptual": 5.0},
    "contextual loss x 3": {"lambda_contextual": 3.0},
    "structure loss x 3": {"lambda_structure": 60.0},
    "local structure loss x 2": {"lambda_local_structure": 20.0},
    "local structure loss x 10 and Gram loss x 5": {
        "lambda_local_structure": 100.0,
        "lambda_perceptual": 5.0,
    },
    "cycle loss": {"lambda_cycle": 1.0},
    "anchor loss": {"lambda_anchor": 10.0},
    "taps scaled whole": {"layer_scale": "rms"},
    "matches alone": {"consensus": 1},
    "no prior": {"prior": 0.0, "alpha": 100.0},  # the tuned part as sharp as with one
    "prior of 1": {"prior": 1.0, "alpha": 200.0},  # the same
    "no layout": {"layout": 0.0},
    "layout x 0.3": {"layout": 0.6},
    "layout x 3": {"layout": 6.0},
    "shared weights": {"shared_weights": True},
    "temperature 0.5": {"temperature": 0.5},
    "rate that stays": {"schedule": "constant"},
    "rate 3e-4": {"learning_rate": 3e-4},
    "rate 6e-4": {"learning_rate": 6e-4},
    "rate 1.4e-3": {"learning_rate": 1.4e-3},
    "bfloat16": {"precision": "bfloat16"},
}


def settings(variant: str, *, size: int, steps: int) -> Config:
    """The default preset with a variant's values, at a working size of 4 pixels a cell."""
    check_choice("--variants", variant, VARIANTS)
    config, changes = preset("bundled"), dict(VARIANTS[variant])
    precision = changes.pop("precision", config.precision)
    stage: CorrespondenceConfig = dataclasses.replace(
        config.correspondence, image_size=size, grid=size // 4, steps=steps, **changes
    )
    return dataclasses.replace(config, correspondence=stage, precision=precision)
