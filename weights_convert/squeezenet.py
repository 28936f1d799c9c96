"""SqueezeNet: torchvision's 1.0 and 1.1, and 1.0 as its authors published it for Caffe."""

from typing import Any

from weights_convert.rules import Layout, Rule

IMAGENET = "RGB in [0, 1], ImageNet mean and deviation"
FIRES = {"1_0": (3, 4, 5, 7, 8, 9, 10, 12), "1_1": (3, 4, 6, 7, 9, 10, 11, 12)}
PARTS = {"squeeze": "conv1x1_1", "expand1x1": "conv1x1_2", "expand3x3": "conv3x3_2"}


def _rules(names: dict[str, str], joint: str) -> list[Rule]:
    rules = [Rule(f"{s}{joint}weight", f"{t}/kernel", "conv") for s, t in names.items()]
    return rules + [Rule(f"{s}{joint}bias", f"{t}/bias") for s, t in names.items()]


def _torchvision_rules(config: dict[str, Any]) -> list[Rule]:
    names = {"features.0": "conv1", "classifier.1": "conv10"}
    for fire, index in enumerate(FIRES[config["version"]], 2):
        names |= {f"features.{index}.{part}": f"fire{fire}/{part}" for part in PARTS}
    return _rules(names, ".")


def _caffe_rules(config: dict[str, Any]) -> list[Rule]:
    names = {"conv1": "conv1", "conv_final": "conv10"}
    for fire in range(2, 10):
        names |= {f"fire{fire}/{theirs}": f"fire{fire}/{part}" for part, theirs in PARTS.items()}
    return _rules(names, "/")


LAYOUTS = {
    "squeezenet1_0": (
        Layout(
            network="squeezenet",
            naming="torchvision's SqueezeNet 1.0",
            marks=("features.5.squeeze.weight", "features.12.squeeze.weight"),
            configure=lambda shapes: {"version": "1_0"},
            rules=_torchvision_rules,
            preprocessing=IMAGENET,
        ),
        Layout(
            network="squeezenet",
            naming="SqueezeNet 1.0 of Caffe",
            marks=("conv1/weight", "fire2/conv1x1_1/weight", "conv_final/weight"),
            configure=lambda shapes: {
                "version": "1_0",
                "preprocessing": "bgr255",
                "final_padding": 1,
            },
            rules=_caffe_rules,
            preprocessing="BGR in [0, 255] minus (104, 117, 123)",
        ),
    ),
    "squeezenet1_1": (
        Layout(
            network="squeezenet",
            naming="torchvision's SqueezeNet 1.1",
            marks=("features.6.squeeze.weight", "features.12.squeeze.weight"),
            configure=lambda shapes: {"version": "1_1"},
            rules=_torchvision_rules,
            preprocessing=IMAGENET,
        ),
    ),
}
