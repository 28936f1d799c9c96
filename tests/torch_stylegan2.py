"""StyleGAN2 in PyTorch, as an oracle, and its weights in the four published namings.

Written from the description of the released files, in their form: every image has kernels of its
own, scaled by its code and brought back to unit length, and up-convolutions are transposed
convolutions followed by a filter. Shares no code with the package. Images are [n, 3, R, R].

A state is {"mapping": [...], "w_avg", "const", "convs": [...], "rgbs": [...]} with one table per
layer. "kernel" of an up-convolution is what the transposed convolution takes.
"""

import math

import torch
import torch.nn.functional as F

FIR = torch.tensor([1.0, 3.0, 3.0, 1.0])
FIR = FIR[:, None] * FIR / 64


def _channels(size, base, cap):
    return min(base // size, cap)


def _sizes(resolution):
    """Of the convolutions: 4, 8, 8, 16, 16, ..."""
    doubled = [2**power for power in range(3, int(math.log2(resolution)) + 1)]
    return [4, *(size for size in doubled for _ in range(2))]


def stylegan2_state(resolution, *, z_dim, w_dim, base, cap, depth=8, seed=0):
    """Random weights with no zeros in them."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape, std=1.0, mean=0.0):
        return torch.randn(shape, generator=g) * std + mean

    def styled(out, inputs, size):
        return {
            "kernel": normal(out, inputs, size, size),
            "style": normal(inputs, w_dim, std=0.3),
            "style_bias": normal(inputs, std=0.3, mean=1.0),
            "bias": normal(out, std=0.3),
        }

    before = _channels(4, base, cap)
    state = {
        "mapping": [
            {
                "weight": normal(w_dim, w_dim if i else z_dim, std=100),
                "bias": normal(w_dim, std=20),
            }
            for i in range(depth)
        ],
        "w_avg": normal(w_dim, std=0.3),
        "const": normal(before, 4, 4),
        "convs": [],
        "rgbs": [],
    }
    for n, size in enumerate(_sizes(resolution)):
        c = _channels(size, base, cap)
        conv = {"noise": normal(size, size), "strength": normal(std=0.3)}
        state["convs"].append(styled(c, before, 3) | conv)
        if n % 2 == 0:
            state["rgbs"].append(styled(3, c, 1))
        before = c
    return state


def stylegan2_w(state, z):
    """[n, z_dim] -> [n, w_dim]."""
    x = z / torch.sqrt(torch.mean(z**2, dim=1, keepdim=True) + 1e-8)
    for dense in state["mapping"]:
        weight = dense["weight"] * (0.01 / math.sqrt(dense["weight"].shape[1]))
        x = F.leaky_relu(x @ weight.T + 0.01 * dense["bias"], 0.2) * math.sqrt(2)
    return x


def _filter(x, pads):
    """[1, 3, 3, 1] filter with gain 4."""
    n, c, h, w = x.shape
    x = F.pad(x.reshape(n * c, 1, h, w), (*pads, *pads))
    x = F.conv2d(x, 4 * FIR[None, None])
    return x.reshape(n, c, *x.shape[2:])


def _up_rgb(x):
    n, c, h, w = x.shape
    wide = torch.zeros(n, c, 2 * h, 2 * w)
    wide[:, :, ::2, ::2] = x
    return _filter(wide, (2, 1))


def _modulated(layer, x, w, *, is_up=False, demodulate=True):
    kernel = layer["kernel"]
    _, inputs, size, _ = kernel.shape
    style = w @ layer["style"].T / math.sqrt(w.shape[1]) + layer["style_bias"]
    images = []
    for image, scales in zip(x, style, strict=True):  # a kernel for each image
        own = kernel / math.sqrt(inputs * size * size) * scales.view(1, -1, 1, 1)
        if demodulate:
            own = own / torch.sqrt((own**2).sum(dim=(1, 2, 3), keepdim=True) + 1e-8)
        if is_up:
            own = own.transpose(0, 1)
            images.append(_filter(F.conv_transpose2d(image[None], own, stride=2), (1, 1)))
        else:
            images.append(F.conv2d(image[None], own, padding=size // 2))
    return torch.cat(images)


def stylegan2_synthesis(state, codes, *, with_noise):
    """W+ codes [n, 2 log2 R - 2, w_dim] -> [n, 3, R, R]."""
    x = state["const"].repeat(len(codes), 1, 1, 1)
    image = None
    for n, conv in enumerate(state["convs"]):
        x = _modulated(conv, x, codes[:, n], is_up=n % 2 == 1)
        if with_noise:
            x = x + conv["strength"] * conv["noise"]
        x = F.leaky_relu(x + conv["bias"].view(1, -1, 1, 1), 0.2) * math.sqrt(2)
        if n % 2 == 0:
            rgb = state["rgbs"][n // 2]
            new = _modulated(rgb, x, codes[:, n + 1], demodulate=False)
            new = new + rgb["bias"].view(1, -1, 1, 1)
            image = new if image is None else new + _up_rgb(image)
    return image


def stylegan2_images(state, z, *, with_noise, psi=1.0, truncated_codes=18):
    """[n, z_dim] -> [n, 3, R, R]; psi 1 is no truncation."""
    codes = stylegan2_w(state, z)[:, None].repeat(1, len(state["convs"]) + 1, 1)
    short = codes[:, :truncated_codes]
    codes[:, :truncated_codes] = state["w_avg"] + psi * (short - state["w_avg"])
    return stylegan2_synthesis(state, codes, with_noise=with_noise)


def as_rosinality(state):
    """{"g_ema", "latent_avg", ...}, as converted from the official files."""
    g = {"input.input": state["const"][None]}
    for i, dense in enumerate(state["mapping"], 1):
        g[f"style.{i}.weight"], g[f"style.{i}.bias"] = dense["weight"], dense["bias"]
    for n, conv in enumerate(state["convs"]):
        name = f"convs.{n - 1}" if n else "conv1"
        g |= _rosinality_conv(f"{name}.conv", conv)
        g[f"{name}.noise.weight"] = conv["strength"].reshape(1)
        g[f"{name}.activate.bias"] = conv["bias"]
        g[f"noises.noise_{n}"] = conv["noise"][None, None]
        if n % 2:
            g[f"{name}.conv.blur.kernel"] = 4 * FIR
    for b, rgb in enumerate(state["rgbs"]):
        name = f"to_rgbs.{b - 1}" if b else "to_rgb1"
        g |= _rosinality_conv(f"{name}.conv", rgb)
        g[f"{name}.bias"] = rgb["bias"].view(1, 3, 1, 1)
        if b:
            g[f"{name}.upsample.kernel"] = 4 * FIR
    return {"g_ema": g, "latent_avg": state["w_avg"]}


def _rosinality_conv(name, layer):
    return {
        f"{name}.weight": layer["kernel"][None],
        f"{name}.modulation.weight": layer["style"],
        f"{name}.modulation.bias": layer["style_bias"],
    }


def _module(parts=(), *, parameters=(), buffers=()):
    """A module as a pickle keeps it."""
    tables = {"_modules": dict(parts), "_parameters": dict(parameters), "_buffers": dict(buffers)}
    return {"class_name": "Module", "state": {"training": False, "num_conv": 2, **tables}}


def as_nvidia(state):
    """{"G", "D", "G_ema", ...}: the tree of a StyleGAN2-ADA pickle."""
    mapping = {
        f"fc{i}": _module(parameters={"weight": dense["weight"], "bias": dense["bias"]})
        for i, dense in enumerate(state["mapping"])
    }
    blocks = {}
    for b, rgb in enumerate(state["rgbs"]):
        parts = {"conv1": _nvidia_layer(state["convs"][2 * b])}
        if b:
            parts["conv0"] = _nvidia_layer(state["convs"][2 * b - 1])
        torgb = {"weight": rgb["kernel"], "bias": rgb["bias"]}
        parts["torgb"] = _module({"affine": _affine(rgb)}, parameters=torgb)
        first = {} if b else {"const": state["const"]}
        block = _module(parts, parameters=first, buffers={"resample_filter": FIR})
        blocks[f"b{4 * 2**b}"] = block
    parts = {
        "synthesis": _module(blocks),
        "mapping": _module(mapping, buffers={"w_avg": state["w_avg"]}),
    }
    other = _module({"b4": _module(parameters={"weight": torch.ones(2, 2)})})
    return {"G": other, "D": other, "G_ema": _module(parts), "augment_pipe": None}


def _affine(layer):
    return _module(parameters={"weight": layer["style"], "bias": layer["style_bias"]})


def _nvidia_layer(conv):
    return _module(
        {"affine": _affine(conv)},
        parameters={
            "weight": conv["kernel"],
            "noise_strength": conv["strength"],
            "bias": conv["bias"],
        },
        buffers={"resample_filter": FIR, "noise_const": conv["noise"]},
    )


def as_mganprior(state):
    """A flat table; kernels are [kh, kw, in, out]."""
    table = _genforce(state, dense=".fc.weight", style=".style.fc.weight")
    for name, value in table.items():
        if name.startswith("synthesis.") and name.endswith(".weight") and value.ndim == 4:
            table[name] = value.permute(2, 3, 1, 0)
    return table


def as_zoo(state):
    """{"generator", "discriminator", "generator_smooth"}."""
    table = _genforce(state, dense=".weight", style=".style.weight")
    other = {name: torch.zeros_like(value) for name, value in table.items()}
    return {
        "generator": other,
        "discriminator": {"layer0.weight": torch.ones(3, 3)},
        "generator_smooth": table,
    }


def _genforce(state, *, dense, style):
    """Kernels of up-convolutions rotated, styles without their 1: the forward pass adds both."""
    table = {
        "truncation.w_avg": state["w_avg"],
        "synthesis.early_layer.const": state["const"][None],
        "synthesis.upsample.kernel": 4 * FIR[None, None],
    }
    for i, layer in enumerate(state["mapping"]):
        table[f"mapping.dense{i}{dense}"] = layer["weight"]
        table[f"mapping.dense{i}.bias"] = layer["bias"]
    for n, conv in enumerate(state["convs"]):
        name = f"synthesis.layer{n}"
        kernel = conv["kernel"].flip(2, 3) if n % 2 else conv["kernel"]
        table |= _genforce_layer(name, conv, kernel, style)
        table[f"{name}.noise"] = conv["noise"][None, None]
        table[f"{name}.noise_strength"] = conv["strength"]
        if n % 2:
            table[f"{name}.filter.kernel"] = 4 * FIR[None, None]
    for b, rgb in enumerate(state["rgbs"]):
        table |= _genforce_layer(f"synthesis.output{b}", rgb, rgb["kernel"], style)
    return table


def _genforce_layer(name, layer, kernel, style):
    return {
        f"{name}.weight": kernel,
        f"{name}.bias": layer["bias"],
        f"{name}{style}": layer["style"],
        f"{name}.style.bias": layer["style_bias"] - 1,
    }
