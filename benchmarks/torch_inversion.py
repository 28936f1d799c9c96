"""Multi-code inversion (Sec. 3.3) in straightforward PyTorch, for a fair comparison.

One hypothesis of a PGGAN: L2 and feature distance, Adam. mGANprior's released code runs the layers
before the composition for one code at a time; "batched" runs them for all codes at once. Frozen
weights take no gradient, the equalised scale is multiplied into them once and the features of r
are computed once. Images and maps are [n, c, h, w].
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.torch_cft import Weights, to_tensor, vgg, vgg_weights
from oeft_jax.config import InversionConfig

LEAK = 0.2


class Generator(NamedTuple):
    """A frozen PGGAN; every kernel already has its equalised scale."""

    first: tuple[Tensor, Tensor]  # [z, 16 c], [c]
    layers: list[tuple[Tensor, Tensor]]  # [out, in, 3, 3], [out]
    output: tuple[Tensor, Tensor]  # [3, in, 1, 1], [3]


class Latents(NamedTuple):
    """What is optimised."""

    codes: Tensor  # [k, z]
    importance: Tensor  # [k, c]


class Goal(NamedTuple):
    """What the picture must reach."""

    phi: Weights
    warped: Tensor  # [1, 3, s, s] in [-1, 1]
    features: Tensor  # of the perceptual tap


def generator(params: Any, device: torch.device, layout: torch.memory_format) -> Generator:
    """A PGGAN's Flax parameters as tensors of PyTorch's layout."""

    def tensor(array: Any) -> Tensor:
        return torch.tensor(array, device=device)

    def kernel(name: str, gain: float) -> Tensor:
        raw = tensor(params[name]["kernel"])
        scaled = raw * (gain / math.sqrt(math.prod(raw.shape[:-1])))
        return scaled.permute(3, 2, 0, 1).contiguous(memory_format=layout)

    raw = tensor(params["layer0"]["kernel"])
    first = (raw * (math.sqrt(2) / math.sqrt(math.prod(raw.shape[:-1])))).flatten(1)
    names = [f"layer{index}" for index in range(1, len(params) - 1)]
    return Generator(
        (first, tensor(params["layer0"]["bias"])),
        [(kernel(name, math.sqrt(2)), tensor(params[name]["bias"])) for name in names],
        (kernel("output", 1.0), tensor(params["output"]["bias"])),
    )


def pixel_norm(x: Tensor) -> Tensor:
    """Divides by the root mean square over channels."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


def _run(net: Generator, x: Tensor, start: int, stop: int) -> Tensor:
    """Layers `start` to `stop` - 1, none of them the first."""
    for index in range(start, stop):
        kernel, bias = net.layers[index - 1]
        x = pixel_norm(x)
        if index % 2 == 0:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        x = F.leaky_relu_(F.conv2d(x, kernel, bias, padding=1), LEAK)
    return x


def head(net: Generator, codes: Tensor, layer: int, layout: torch.memory_format) -> Tensor:
    """The first `layer` layers. [n, z] -> [n, c, h, w]."""
    kernel, bias = net.first
    x = (pixel_norm(codes) @ kernel).unflatten(1, (4, 4, -1)) + bias
    x = F.leaky_relu_(x.permute(0, 3, 1, 2).contiguous(memory_format=layout), LEAK)
    return _run(net, x, 1, layer)


def tail(net: Generator, x: Tensor, layer: int) -> Tensor:
    """The other layers. [n, c, h, w] -> [n, 3, R, R]."""
    return F.conv2d(pixel_norm(_run(net, x, layer, len(net.layers) + 1)), *net.output)


def compose(
    net: Generator,
    latents: Latents,
    layer: int,
    *,
    batched: bool,
    layout: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """sum_k importance_k head(code_k). -> [1, c, h, w]."""
    if batched:
        maps = head(net, latents.codes, layer, layout)
        return (maps * latents.importance[:, :, None, None]).sum(0, keepdim=True)
    parts = [
        head(net, code[None], layer, layout) * share[None, :, None, None]
        for code, share in zip(*latents, strict=True)
    ]
    return torch.stack(parts).sum(0)


def objective(image: Tensor, goal: Goal, config: InversionConfig) -> dict[str, Tensor]:
    """Weighted terms of Eq. 12 for a picture of r's size or a multiple of it."""
    factor = image.shape[2] // goal.warped.shape[2]
    image = F.avg_pool2d(image, factor) if factor > 1 else image
    terms = {"l2": config.l2 * (image - goal.warped).square().mean()}
    if config.perceptual:
        ours = vgg(goal.phi, image * 0.5 + 0.5, (config.perceptual_tap,))[config.perceptual_tap]
        gap = (ours - goal.features).abs().mean()
        if config.perceptual_relative:
            gap = gap / (goal.features.abs().mean() + 1e-12)
        terms["perceptual"] = config.perceptual * gap
    return terms


def make_goal(
    warped: Any,
    phi: Any,
    *,
    config: InversionConfig,
    device: torch.device,
    layout: torch.memory_format = torch.contiguous_format,
) -> Goal:
    """r, [s, s, 3] in [0, 1], and what the perceptual network says of it."""
    weights, image = vgg_weights(phi, device, layout), to_tensor(warped[None], device, layout)
    with torch.no_grad():
        features = vgg(weights, image, (config.perceptual_tap,))[config.perceptual_tap]
    return Goal(weights, image * 2 - 1, features)


def init(codes: Any, importance: Any, device: torch.device) -> Latents:
    """Start values [k, z] and [k, c] as what is optimised."""
    made = (torch.tensor(array, device=device).requires_grad_() for array in (codes, importance))
    return Latents(*made)


def make_step(
    net: Generator,
    latents: Latents,
    goal: Goal,
    config: InversionConfig,
    layer: int,
    *,
    batched: bool,
    layout: torch.memory_format = torch.contiguous_format,
    compiled: bool = False,
) -> Callable[[], float]:
    """One Adam step on codes and importances, in place; returns the loss."""
    optimizer = torch.optim.Adam([*latents], config.learning_rate, fused=True)

    def loss(latents: Latents) -> Tensor:
        features = compose(net, latents, layer, batched=batched, layout=layout)
        terms = objective(tail(net, features, layer), goal, config)
        return torch.stack([*terms.values()]).sum()

    run = torch.compile(loss) if compiled else loss

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        total = run(latents)
        total.backward()
        optimizer.step()
        return float(total.detach())

    return step
