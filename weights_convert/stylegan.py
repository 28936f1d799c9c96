"""StyleGAN (v1): mGANprior's files and GenForce's newer model zoo.

Both run the up-convolutions of outputs >= 128 as a fused transposed convolution, which is a plain
one with the kernel rotated by 180 degrees; mGANprior keeps those kernels as [3, 3, in, out].
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from oeft_jax._checks import InputError
from oeft_jax.models.generator import num_layers_of, size_of_layer
from weights_convert.rules import Constant, Layout, Rule, Shapes

BLUR = np.outer([1, 2, 1], [1, 2, 1]) / 16
FUSED_FROM = 128  # height and width of the output


class Names(NamedTuple):
    """What a family calls its tensors."""

    prefix: str
    dense: str  # of the mapping
    dense_bias: str
    kernel: str
    fused: str
    fused_transform: str
    epilogue: str  # between a layer and its noise, bias and style
    style: str
    style_bias: str


FLAT = Names(
    prefix="",
    dense=".fc.weight",
    dense_bias=".wscale.bias",
    kernel=".conv.weight",
    fused=".weight",
    fused_transform="hwio_rotated",
    epilogue=".epilogue",
    style=".style_mod.dense.fc.weight",
    style_bias=".style_mod.dense.wscale.bias",
)
NESTED = Names(
    prefix="generator_smooth/",
    dense=".weight",
    dense_bias=".bias",
    kernel=".weight",
    fused=".weight",
    fused_transform="conv_rotated",
    epilogue="",
    style=".style.weight",
    style_bias=".style.bias",
)


def _config(names: Names, shapes: Shapes) -> dict[str, Any]:
    prefix = names.prefix
    if f"{prefix}mapping.label_weight" in shapes:
        raise InputError("the file holds a StyleGAN with labels; accepted: one without labels.")
    last = max(
        (b for b in range(9) if f"{prefix}synthesis.output{b}{names.kernel}" in shapes), default=0
    )
    resolution = 4 * 2**last
    return {
        "resolution": resolution,
        "z_dim": shapes[f"{prefix}mapping.dense0{names.dense}"][1],
        "w_dim": shapes[f"{prefix}synthesis.layer0{names.epilogue}{names.style}"][1],
        "fmap_base": resolution * shapes[f"{prefix}synthesis.output{last}{names.kernel}"][1],
        "fmap_max": shapes[f"{prefix}synthesis.layer0.const"][1],
    }


def _last_output(config: dict[str, Any]) -> int:
    return num_layers_of(config["resolution"]) // 2 - 1


def _lower_outputs(names: Names, config: dict[str, Any]) -> list[str]:
    return [f"{names.prefix}synthesis.output{index}.*" for index in range(_last_output(config))]


def _rules(names: Names, config: dict[str, Any]) -> list[Rule]:
    prefix = names.prefix
    output = f"{prefix}synthesis.output{_last_output(config)}"
    rules = [
        Rule(f"{prefix}truncation.w_avg", "w_avg"),
        Rule(f"{prefix}synthesis.layer0.const", "const", "image"),
        Rule(f"{output}{names.kernel}", "output/kernel", "conv"),
        Rule(f"{output}.bias", "output/bias"),
    ]
    for index in range(8):
        source = f"{prefix}mapping.dense{index}"
        rules.append(Rule(f"{source}{names.dense}", f"mapping/dense{index}/kernel", "linear"))
        rules.append(Rule(f"{source}{names.dense_bias}", f"mapping/dense{index}/bias"))
    for index in range(num_layers_of(config["resolution"])):
        rules += _layer_rules(names, index)
    return rules


def _layer_rules(names: Names, index: int) -> list[Rule]:
    layer = f"{names.prefix}synthesis.layer{index}"
    rest = f"{layer}{names.epilogue}"
    is_fused = index % 2 == 0 and size_of_layer(index) >= FUSED_FROM
    name = names.fused if is_fused else names.kernel
    kernel = Rule(f"{layer}{name}", f"layer{index}/kernel", "conv")
    if is_fused:
        kernel = kernel._replace(transform=names.fused_transform)
    return [
        *([kernel] if index > 0 else []),
        Rule(f"{rest}.apply_noise.noise", f"layer{index}/noise", "image"),
        Rule(f"{rest}.apply_noise.weight", f"layer{index}/noise_weight"),
        Rule(f"{rest}.bias", f"layer{index}/bias"),
        Rule(f"{rest}{names.style}", f"layer{index}/style/kernel", "linear"),
        Rule(f"{rest}{names.style_bias}", f"layer{index}/style/bias"),
    ]


def _layout(naming: str, names: Names, ignore: tuple[str, ...]) -> Layout:
    synthesis = f"{names.prefix}synthesis"
    return Layout(
        network="stylegan",
        naming=naming,
        marks=(f"{synthesis}.layer0.const", f"{synthesis}.output1{names.kernel}"),
        configure=partial(_config, names),
        rules=partial(_rules, names),
        ignore=ignore,
        unneeded=partial(_lower_outputs, names),
        constants=(
            Constant(f"{synthesis}.lod", 0.0),
            Constant(f"{synthesis}.layer*.blur.kernel", BLUR),
        ),
        preprocessing="latent codes; images come out in [-1, 1]",
    )


LAYOUTS = {
    "stylegan": (
        _layout("mGANprior's StyleGAN", FLAT, ("truncation.truncation",)),
        _layout("StyleGAN of GenForce's model zoo", NESTED, ("generator/*", "discriminator/*")),
    )
}
