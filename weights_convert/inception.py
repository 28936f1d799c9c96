"""Inception-v3: the network of FID as pytorch-fid carries it, and torchvision's."""

from typing import Any

from oeft_jax.models.inception import FID_SIZE
from weights_convert.rules import Layout, Rule

PREPROCESSING = "RGB in [0, 1], 2 x - 1"
STEM = {  # names in the file -> here
    "Conv2d_1a_3x3": "conv2d_1a",
    "Conv2d_2a_3x3": "conv2d_2a",
    "Conv2d_2b_3x3": "conv2d_2b",
    "Conv2d_3b_1x1": "conv2d_3b",
    "Conv2d_4a_3x3": "conv2d_4a",
}
DOUBLE = ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
DOUBLE_7 = tuple(f"branch7x7dbl_{index}" for index in range(1, 6))
A = ("branch1x1", "branch5x5_1", "branch5x5_2", *DOUBLE, "branch_pool")
B = ("branch3x3", *DOUBLE)
C = ("branch1x1", "branch7x7_1", "branch7x7_2", "branch7x7_3", *DOUBLE_7, "branch_pool")
D = ("branch3x3_1", "branch3x3_2", *(f"branch7x7x3_{index}" for index in range(1, 5)))
E = (
    *("branch1x1", "branch3x3_1", "branch3x3_2a", "branch3x3_2b", "branch3x3dbl_1"),
    *("branch3x3dbl_2", "branch3x3dbl_3a", "branch3x3dbl_3b", "branch_pool"),
)
BLOCKS = {"5b": A, "5c": A, "5d": A, "6a": B, "6b": C, "6c": C, "6d": C, "6e": C}
BLOCKS |= {"7a": D, "7b": E, "7c": E}
NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def _rules(config: dict[str, Any]) -> list[Rule]:
    units = dict(STEM)
    for block, names in BLOCKS.items():
        units |= {f"Mixed_{block}.{name}": f"mixed_{block}/{name}" for name in names}
    rules = [Rule(f"{s}.conv.weight", f"{t}/kernel", "conv") for s, t in units.items()]
    for source, target in units.items():
        rules += [Rule(f"{source}.bn.{s}", f"{target}/{t}") for s, t in NORM.items()]
    return rules


LAYOUTS = {
    "inception_fid": (
        Layout(
            network="inception",
            naming="pytorch-fid's Inception of 2015-12-05 with 1008 classes",
            marks=("Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch_pool.conv.weight"),
            mark_shapes={"fc.weight": (1008, 2048)},
            configure=lambda shapes: {"variant": "fid", "input_size": FID_SIZE},
            rules=_rules,
            ignore=("fc.*", "*.num_batches_tracked"),
            preprocessing=f"{PREPROCESSING}, resized to {FID_SIZE} without a filter",
        ),
    ),
    "inception_torchvision": (
        Layout(
            network="inception",
            naming="torchvision's Inception-v3 with 1000 classes",
            marks=("Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch_pool.conv.weight"),
            mark_shapes={"fc.weight": (1000, 2048)},
            configure=lambda shapes: {"variant": "torchvision"},
            rules=_rules,
            ignore=("fc.*", "AuxLogits.*", "*.num_batches_tracked"),
            preprocessing=PREPROCESSING,
        ),
    ),
}
