"""StyleGAN2: rosinality's files, NVIDIA's StyleGAN2-ADA pickles, and GenForce's two namings.

Convolution n (from 0, at 4, 8, 8, 16, 16, ...) is our layer n + 1. rosinality and NVIDIA give the
kernels of up-convolutions to a transposed convolution as they are, which is our cross-correlation
over a map with zeros between its pixels with the kernel rotated by 180 degrees; GenForce rotates
them in the forward pass, so they stay. GenForce also adds the 1 of the styles there.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from oeft_jax._checks import InputError
from oeft_jax.models.generator import num_layers_of, size_of_layer
from oeft_jax.models.styled import Mapping
from weights_convert.rules import Constant, Layout, Rule, Shapes

FIR = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
MEAN_OF = 10_000  # mapped latents, where a file lacks the mean w
OLD_ROSINALITY = ("w_avg", *(f"layer{index}/noise" for index in range(1, 18)))


class Names(NamedTuple):
    """What a family calls its tensors; in a triple the transform of up-convolutions is last."""

    dense: Callable[[int], str]  # index -> prefix of a layer of the mapping
    dense_kernel: str
    w_avg: str
    const: tuple[str, str]  # name, transform
    conv: Callable[[int], str]  # n -> prefix of convolution n
    rgb: Callable[[int], str]  # b -> prefix of the layer to RGB at 4 * 2^b
    kernel: tuple[str, str, str]
    style: str
    style_bias: tuple[str, str]
    bias: str
    rgb_bias: str  # of a layer to RGB and of the mapping
    strength: str
    noise: tuple[Callable[[int], str], str]
    inputs_axis: int  # of a kernel


def _rosinality_conv(n: int) -> str:
    return "g_ema/conv1" if n == 0 else f"g_ema/convs.{n - 1}"


def _nvidia_conv(n: int) -> str:
    return f"G_ema/synthesis/b{size_of_layer(n + 1)}/conv{0 if n % 2 else 1}"


ROSINALITY = Names(
    dense=lambda index: f"g_ema/style.{index + 1}",
    dense_kernel=".weight",
    w_avg="latent_avg",
    const=("g_ema/input.input", "image"),
    conv=_rosinality_conv,
    rgb=lambda b: "g_ema/to_rgb1" if b == 0 else f"g_ema/to_rgbs.{b - 1}",
    kernel=(".conv.weight", "modulated", "modulated_rotated"),
    style=".conv.modulation.weight",
    style_bias=(".conv.modulation.bias", "same"),
    bias=".activate.bias",
    rgb_bias=".bias",
    strength=".noise.weight",
    noise=(lambda n: f"g_ema/noises.noise_{n}", "image"),
    inputs_axis=2,
)
NVIDIA = Names(
    dense=lambda index: f"G_ema/mapping/fc{index}",
    dense_kernel="/weight",
    w_avg="G_ema/mapping/w_avg",
    const=("G_ema/synthesis/b4/const", "image_chw"),
    conv=_nvidia_conv,
    rgb=lambda b: f"G_ema/synthesis/b{4 * 2**b}/torgb",
    kernel=("/weight", "conv", "conv_rotated"),
    style="/affine/weight",
    style_bias=("/affine/bias", "same"),
    bias="/bias",
    rgb_bias="/bias",
    strength="/noise_strength",
    noise=(lambda n: f"{_nvidia_conv(n)}/noise_const", "plane"),
    inputs_axis=1,
)
MGANPRIOR = Names(
    dense=lambda index: f"mapping.dense{index}",
    dense_kernel=".fc.weight",
    w_avg="truncation.w_avg",
    const=("synthesis.early_layer.const", "image"),
    conv=lambda n: f"synthesis.layer{n}",
    rgb=lambda b: f"synthesis.output{b}",
    kernel=(".weight", "same", "same"),
    style=".style.fc.weight",
    style_bias=(".style.bias", "plus_one"),
    bias=".bias",
    rgb_bias=".bias",
    strength=".noise_strength",
    noise=(lambda n: f"synthesis.layer{n}.noise", "image"),
    inputs_axis=2,
)
ZOO = MGANPRIOR._replace(
    dense=lambda index: f"generator_smooth/mapping.dense{index}",
    dense_kernel=".weight",
    w_avg="generator_smooth/truncation.w_avg",
    const=("generator_smooth/synthesis.early_layer.const", "image"),
    conv=lambda n: f"generator_smooth/synthesis.layer{n}",
    rgb=lambda b: f"generator_smooth/synthesis.output{b}",
    kernel=(".weight", "conv", "conv"),
    style=".style.weight",
    noise=(lambda n: f"generator_smooth/synthesis.layer{n}.noise", "image"),
    inputs_axis=1,
)


def _config(names: Names, shapes: Shapes) -> dict[str, Any]:
    if {"G_ema/mapping/embed/weight", "generator_smooth/mapping.label_weight"} & shapes.keys():
        raise InputError("the file holds a StyleGAN2 with labels; accepted: one without labels.")
    kernel = names.kernel[0]
    last = max((b for b in range(9) if f"{names.rgb(b)}{kernel}" in shapes), default=0)
    resolution = 4 * 2**last
    depth = sum(f"{names.dense(index)}{names.dense_kernel}" in shapes for index in range(32))
    return {
        "resolution": resolution,
        "z_dim": shapes[f"{names.dense(0)}{names.dense_kernel}"][1],
        "w_dim": shapes[f"{names.conv(0)}{names.style}"][1],
        "fmap_base": resolution * shapes[f"{names.rgb(last)}{kernel}"][names.inputs_axis],
        "fmap_max": shapes[f"{names.conv(0)}{kernel}"][names.inputs_axis],
        "mapping_depth": depth,
    }


def _rules(names: Names, config: dict[str, Any]) -> list[Rule]:
    num = num_layers_of(config["resolution"])
    rules = [Rule(names.w_avg, "w_avg"), Rule(names.const[0], "const", names.const[1])]
    for index in range(config["mapping_depth"]):
        source, target = names.dense(index), f"mapping/dense{index}"
        rules.append(Rule(f"{source}{names.dense_kernel}", f"{target}/kernel", "linear"))
        rules.append(Rule(f"{source}{names.rgb_bias}", f"{target}/bias"))
    for n in range(num - 1):
        rules += _conv_rules(names, n)
    for b in range(num // 2):
        rules += _style_rules(names, names.rgb(b), f"to_rgb{b}", is_up=False)
        rules.append(Rule(f"{names.rgb(b)}{names.rgb_bias}", f"to_rgb{b}/bias", "vector"))
    return rules


def _conv_rules(names: Names, n: int) -> list[Rule]:
    source, target = names.conv(n), f"layer{n + 1}"
    name, transform = names.noise
    return [
        *_style_rules(names, source, target, is_up=n % 2 == 1),
        Rule(name(n), f"{target}/noise", transform),
        Rule(f"{source}{names.strength}", f"{target}/noise_strength", "scalar"),
        Rule(f"{source}{names.bias}", f"{target}/bias"),
    ]


def _style_rules(names: Names, source: str, target: str, *, is_up: bool) -> list[Rule]:
    kernel, plain, up = names.kernel
    bias, transform = names.style_bias
    return [
        Rule(f"{source}{kernel}", f"{target}/kernel", up if is_up else plain),
        Rule(f"{source}{names.style}", f"{target}/style/kernel", "linear"),
        Rule(f"{source}{bias}", f"{target}/style/bias", transform),
    ]


def _fill_old_rosinality(
    config: dict[str, Any], params: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The mean w, which only files converted from TensorFlow hold, and noise, new in 2020."""
    rng, filled = np.random.default_rng(0), {}
    for index in range(1, num_layers_of(config["resolution"])):
        size = size_of_layer(index)
        filled[f"layer{index}/noise"] = rng.normal(size=(1, size, size, 1)).astype(np.float32)
    if "w_avg" not in params:
        mapping = Mapping(config["w_dim"], config["mapping_depth"], bias_gain=math.sqrt(2))
        ours: dict[str, Any] = unflatten_dict({k: jnp.asarray(v) for k, v in params.items()}, "/")
        z = jnp.asarray(rng.normal(size=(MEAN_OF, config["z_dim"])), jnp.float32)
        w = jax.jit(mapping.apply)({"params": ours["mapping"]}, z)
        filled["w_avg"] = np.asarray(jnp.mean(w, axis=0))
    return {**filled, **params}


def _layout(naming: str, names: Names, filters: tuple[Constant, ...], **options: Any) -> Layout:
    return Layout(
        network="stylegan2",
        naming=naming,
        marks=(names.const[0], f"{names.conv(0)}{names.style}", f"{names.rgb(1)}{names.kernel[0]}"),
        configure=partial(_config, names),
        rules=partial(_rules, names),
        constants=filters,
        preprocessing="latent codes; images come out in [-1, 1]",
        **options,
    )


def _without_state(path: str) -> str:
    for part in ("_modules", "_parameters", "_buffers"):
        path = path.replace(f"/state/{part}/", "/")
    return path


LAYOUTS = {
    "stylegan2": (
        _layout(
            "rosinality's StyleGAN2",
            ROSINALITY,
            (
                Constant("g_ema/*.blur.kernel", 4 * FIR),
                Constant("g_ema/*.upsample.kernel", 4 * FIR),
            ),
            ignore=("g/*", "d/*", "g_optim/*", "d_optim/*", "ada_aug_p"),
            complete=_fill_old_rosinality,
            optional=OLD_ROSINALITY,
        ),
        _layout(
            "NVIDIA's StyleGAN2-ADA",
            NVIDIA,
            (Constant("G_ema/synthesis/*resample_filter", FIR),),
            ignore=("G/*", "D/*", "augment_pipe/*"),
            rename=_without_state,
        ),
        _layout(
            "mGANprior's StyleGAN2",
            MGANPRIOR,
            (
                Constant("synthesis.layer*.filter.kernel", 4 * FIR),
                Constant("synthesis.upsample.kernel", 4 * FIR),
            ),
            ignore=("truncation.truncation",),
        ),
        _layout(
            "StyleGAN2 of GenForce's model zoo",
            ZOO,
            (
                Constant("generator_smooth/synthesis.layer*.filter.kernel", 4 * FIR),
                Constant("generator_smooth/synthesis.upsample.kernel", 4 * FIR),
            ),
            ignore=("generator/*", "discriminator/*"),
        ),
    )
}
