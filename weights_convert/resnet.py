"""torchvision's ResNet-50, with or without the counters that newer files hold."""

from typing import Any

from oeft_jax.models.resnet import RESNET50_STAGES
from weights_convert.rules import Layout, Rule


def _norm(source: str, target: str) -> list[Rule]:
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    return [Rule(f"{source}.{theirs}", f"{target}/{ours}") for theirs, ours in names.items()]


def _unit(prefix: str, target: str, conv: str, norm: str) -> list[Rule]:
    kernel = Rule(f"{prefix}{conv}.weight", f"{target}{conv.replace('.', '_')}/kernel", "conv")
    return [kernel, *_norm(f"{prefix}{norm}", f"{target}{norm.replace('.', '_')}")]


def _rules(config: dict[str, Any]) -> list[Rule]:
    rules = _unit("", "", "conv1", "bn1")
    for stage, blocks in enumerate(config["stage_sizes"], 1):
        for block in range(blocks):
            prefix, target = f"layer{stage}.{block}.", f"layer{stage}_{block}/"
            for index in (1, 2, 3):
                rules += _unit(prefix, target, f"conv{index}", f"bn{index}")
            if block == 0:
                rules += _unit(prefix, target, "downsample.0", "downsample.1")
    return rules


LAYOUTS = {
    "resnet50": (
        Layout(
            network="resnet",
            naming="torchvision's ResNet-50",
            marks=("conv1.weight", "layer1.0.conv3.weight", "layer3.5.conv3.weight"),
            configure=lambda shapes: {"stage_sizes": list(RESNET50_STAGES), "width": 64},
            rules=_rules,
            ignore=("fc.*", "*.num_batches_tracked"),
            preprocessing="RGB in [0, 1], ImageNet mean and deviation",
        ),
    ),
}
