"""VGG-16 and VGG-19: torchvision's, and the VGG-19s of Caffe's line."""

from typing import Any

import numpy as np

from oeft_jax.models.vgg import FULL_WIDTHS, VGG16_DEPTHS, VGG19_DEPTHS
from weights_convert.rules import Constant, Layout, Rule, Shapes

IMAGENET = "RGB in [0, 1], ImageNet mean and deviation"
BGR255 = "BGR in [0, 255] minus (103.939, 116.779, 123.68)"
FEATURES_ONLY = (
    "torchvision's features-only VGG-16 (vgg16_features-amdegroot), which expects Caffe's "
    "preprocessing; accepted: vgg16-397923af.pth."
)
INPUT_MAP = [[[[0.0]], [[0.0]], [[255.0]]], [[[0.0]], [[255.0]], [[0.0]]]]
INPUT_MAP += [[[[255.0]], [[0.0]], [[0.0]]]]
NORMALISED_INDICES = (2, 5, 9, 12, 16, 19, 22, 25, 29, 32, 35, 38, 42, 45, 48, 51)


def _convolutions(depths: tuple[int, ...]) -> list[tuple[int, int]]:
    """(block, place in it), both from 1."""
    return [(block, place) for block, n in enumerate(depths, 1) for place in range(1, n + 1)]


def _rules(names: dict[str, tuple[int, int]]) -> list[Rule]:
    rules = []
    for name, (block, place) in names.items():
        rules.append(Rule(f"{name}.weight", f"conv{block}_{place}/kernel", "conv"))
        rules.append(Rule(f"{name}.bias", f"conv{block}_{place}/bias"))
    return rules


def _torchvision_rules(config: dict[str, Any]) -> list[Rule]:
    """Every convolution is followed by a ReLU, every block by a pooling: they count as well."""
    places = enumerate(_convolutions(config["depths"]))
    return _rules({f"features.{2 * i + block - 1}": (block, n) for i, (block, n) in places})


def _named_rules(config: dict[str, Any]) -> list[Rule]:
    return _rules({f"conv{block}_{n}": (block, n) for block, n in _convolutions(config["depths"])})


def _normalised_rules(config: dict[str, Any]) -> list[Rule]:
    places = zip(NORMALISED_INDICES, _convolutions(config["depths"]), strict=False)
    return _rules({str(index): place for index, place in places})


def _normalised_config(shapes: Shapes) -> dict[str, Any]:
    """As deep as the file: it is published in five prefixes and whole."""
    held = sum(f"{index}.weight" in shapes for index in NORMALISED_INDICES)
    depths = [min(n, held - sum(VGG19_DEPTHS[:i])) for i, n in enumerate(VGG19_DEPTHS)]
    depths = [depth for depth in depths if depth > 0]
    return {
        "depths": depths,
        "widths": list(FULL_WIDTHS[: len(depths)]),
        "preprocessing": "bgr255",
        "padding": "reflect",
        "pool_odd_edges": True,
    }


def _full(depths: tuple[int, ...], **more: Any) -> dict[str, Any]:
    return {"depths": list(depths), "widths": list(FULL_WIDTHS), **more}


LAYOUTS = {
    "vgg16": (
        Layout(
            network="vgg",
            naming="torchvision's VGG-16 with its classifier",
            marks=("features.2.weight", "features.24.weight", "classifier.6.bias"),
            configure=lambda shapes: _full(VGG16_DEPTHS),
            rules=_torchvision_rules,
            ignore=("classifier.*",),
            preprocessing=IMAGENET,
            nan_means={"classifier.6.bias": FEATURES_ONLY},
        ),
    ),
    "vgg19": (
        Layout(
            network="vgg",
            naming="torchvision's VGG-19 with its classifier",
            marks=("features.2.weight", "features.34.weight", "classifier.6.bias"),
            configure=lambda shapes: _full(VGG19_DEPTHS),
            rules=_torchvision_rules,
            ignore=("classifier.*",),
            preprocessing=IMAGENET,
        ),
    ),
    "vgg19_caffe": (
        Layout(
            network="vgg",
            naming="Caffe's VGG-19 with named layers, as of CoCosNet (vgg19_conv.pth) and Gatys",
            marks=("conv1_1.weight", "conv5_4.weight"),
            configure=lambda shapes: _full(VGG19_DEPTHS, preprocessing="bgr255"),
            rules=_named_rules,
            preprocessing=BGR255,
        ),
    ),
    "vgg19_normalised": (
        Layout(
            network="vgg",
            naming="the normalised VGG-19 of WCT and AdaIN (vgg_normalised*.pth)",
            marks=("2.weight",),
            mark_shapes={"0.weight": (3, 3, 1, 1)},
            configure=_normalised_config,
            rules=_normalised_rules,
            constants=(
                Constant("0.weight", np.array(INPUT_MAP)),
                Constant("0.bias", np.array([-103.939, -116.779, -123.68])),
            ),
            preprocessing=BGR255,
        ),
    ),
}
