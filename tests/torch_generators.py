"""PGGAN and StyleGAN in PyTorch, as oracles: plain functions over mGANprior-style state dicts.

Written from the description of the released files, in their convolution form: layer 0 of PGGAN
as a 4 x 4 convolution with padding 3, StyleGAN's up-convolutions of outputs >= 128 as fused
transposed convolutions. They share no code with the package. Images are [n, 3, R, R].
"""

import math

import torch
import torch.nn.functional as F


def _channels(index, base, cap):
    return min(base // (4 * 2 ** (index // 2)), cap)


def _num_layers(resolution):
    return 2 * (int(math.log2(resolution)) - 1)


def _normal(generator, *shape, std=1.0):
    return torch.randn(*shape, generator=generator) * std


def _pixel_norm(x):
    return x / torch.sqrt(torch.mean(x**2, dim=1, keepdim=True) + 1e-8)


def pggan_state(resolution, *, z_dim, base, cap, seed=0):
    """Random weights, biases included, with every layer to RGB that a released file holds."""
    g = torch.Generator().manual_seed(seed)
    state = {"lod": torch.zeros(())}
    before = z_dim
    for i in range(_num_layers(resolution)):
        c, k = _channels(i, base, cap), 4 if i == 0 else 3
        state[f"layer{i}.conv.weight"] = _normal(g, c, before, k, k)
        state[f"layer{i}.wscale.bias"] = _normal(g, c, std=0.3)
        if i % 2:
            state[f"output{i // 2}.conv.weight"] = _normal(g, 3, c, 1, 1)
            state[f"output{i // 2}.wscale.bias"] = _normal(g, 3, std=0.3)
        before = c
    return state


def pggan_images(state, z, resolution):
    """[n, z_dim] -> [n, 3, R, R]."""
    x = z[:, :, None, None]
    last = _num_layers(resolution) - 1
    for i in range(last + 1):
        weight = state[f"layer{i}.conv.weight"]
        x = _pixel_norm(x)
        if i >= 2 and i % 2 == 0:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        scale = math.sqrt(2) / math.sqrt(weight.shape[1] * weight.shape[2] * weight.shape[3])
        x = F.conv2d(x, weight, padding=3 if i == 0 else 1) * scale
        x = F.leaky_relu(x + state[f"layer{i}.wscale.bias"].view(1, -1, 1, 1), 0.2)
    weight, bias = state[f"output{last // 2}.conv.weight"], state[f"output{last // 2}.wscale.bias"]
    return F.conv2d(_pixel_norm(x), weight) / math.sqrt(weight.shape[1]) + bias.view(1, -1, 1, 1)


def stylegan_state(resolution, *, z_dim, w_dim, base, cap, seed=0):
    """Random weights, with non-zero biases, noise weights and mean w."""
    g = torch.Generator().manual_seed(seed)
    state = {"truncation.w_avg": _normal(g, w_dim, std=0.3), "synthesis.lod": torch.zeros(())}
    for i in range(8):
        state[f"mapping.dense{i}.fc.weight"] = _normal(g, w_dim, w_dim if i else z_dim, std=100)
        state[f"mapping.dense{i}.wscale.bias"] = _normal(g, w_dim, std=20)
    before = _channels(0, base, cap)
    state["synthesis.layer0.const"] = _normal(g, 1, before, 4, 4)
    for i in range(_num_layers(resolution)):
        c, size, name = _channels(i, base, cap), 4 * 2 ** (i // 2), f"synthesis.layer{i}"
        if i >= 2 and i % 2 == 0:
            row = torch.tensor([1.0, 2.0, 1.0])
            state[f"{name}.blur.kernel"] = (row[:, None] * row / 16).repeat(c, 1, 1, 1)
        if i >= 2 and i % 2 == 0 and size >= 128:
            state[f"{name}.weight"] = _normal(g, 3, 3, before, c)
        elif i > 0:
            state[f"{name}.conv.weight"] = _normal(g, c, before, 3, 3)
        state[f"{name}.epilogue.apply_noise.noise"] = _normal(g, 1, 1, size, size)
        state[f"{name}.epilogue.apply_noise.weight"] = _normal(g, c, std=0.3)
        state[f"{name}.epilogue.bias"] = _normal(g, c, std=0.3)
        state[f"{name}.epilogue.style_mod.dense.fc.weight"] = _normal(g, 2 * c, w_dim, std=0.3)
        state[f"{name}.epilogue.style_mod.dense.wscale.bias"] = _normal(g, 2 * c, std=0.3)
        if i % 2:
            state[f"synthesis.output{i // 2}.conv.weight"] = _normal(g, 3, c, 1, 1)
            state[f"synthesis.output{i // 2}.bias"] = _normal(g, 3, std=0.3)
        before = c
    return state


def stylegan_w(state, z):
    """[n, z_dim] -> [n, w_dim]."""
    x = _pixel_norm(z)
    for i in range(8):
        weight = state[f"mapping.dense{i}.fc.weight"]
        scale = math.sqrt(2) / math.sqrt(weight.shape[1]) * 0.01
        x = x @ weight.T * scale + 0.01 * state[f"mapping.dense{i}.wscale.bias"]
        x = F.leaky_relu(x, 0.2)
    return x


def _fused_up(x, weight):
    weight = weight * (math.sqrt(2) / math.sqrt(9 * weight.shape[2]))
    weight = F.pad(weight, (0, 0, 0, 0, 1, 1, 1, 1))
    weight = weight[1:, 1:] + weight[:-1, 1:] + weight[1:, :-1] + weight[:-1, :-1]
    return F.conv_transpose2d(x, weight.permute(2, 3, 0, 1), stride=2, padding=1)


def _convolve(state, name, x, *, is_up):
    if f"{name}.weight" in state:
        x = _fused_up(x, state[f"{name}.weight"])
    else:
        weight = state[f"{name}.conv.weight"]
        x = F.interpolate(x, scale_factor=2, mode="nearest") if is_up else x
        x = F.conv2d(x, weight, padding=1) * (math.sqrt(2) / math.sqrt(9 * weight.shape[1]))
    if is_up:
        kernel = state[f"{name}.blur.kernel"]
        x = F.conv2d(x, kernel, padding=1, groups=kernel.shape[0])
    return x


def _epilogue(state, name, x, w, *, with_noise):
    if with_noise:
        weight = state[f"{name}.apply_noise.weight"].view(1, -1, 1, 1)
        x = x + state[f"{name}.apply_noise.noise"] * weight
    x = F.leaky_relu(x + state[f"{name}.bias"].view(1, -1, 1, 1), 0.2)
    x = x - x.mean(dim=(2, 3), keepdim=True)
    x = x / torch.sqrt((x**2).mean(dim=(2, 3), keepdim=True) + 1e-8)
    dense = state[f"{name}.style_mod.dense.fc.weight"]
    style = w @ dense.T / math.sqrt(dense.shape[1])
    style = style + state[f"{name}.style_mod.dense.wscale.bias"]
    style = style.view(len(x), 2, x.shape[1], 1, 1)
    return x * (style[:, 0] + 1) + style[:, 1]


def stylegan_images(state, z, resolution, *, with_noise, psi, truncated_layers):
    """[n, z_dim] -> [n, 3, R, R]; psi None is no truncation."""
    num_layers, w_avg = _num_layers(resolution), state["truncation.w_avg"]
    w = stylegan_w(state, z)[:, None, :].repeat(1, num_layers, 1)
    if psi is not None:
        w[:, :truncated_layers] = w_avg + psi * (w[:, :truncated_layers] - w_avg)
    x = state["synthesis.layer0.const"].repeat(len(z), 1, 1, 1)
    for i in range(num_layers):
        name = f"synthesis.layer{i}"
        if i > 0:
            x = _convolve(state, name, x, is_up=i % 2 == 0)
        x = _epilogue(state, f"{name}.epilogue", x, w[:, i], with_noise=with_noise)
    name = f"synthesis.output{(num_layers - 1) // 2}"
    weight = state[f"{name}.conv.weight"]
    return F.conv2d(x, weight) / math.sqrt(weight.shape[1]) + state[f"{name}.bias"].view(
        1, -1, 1, 1
    )


def _zoo(table):
    """The container of the newer model zoo, with another generator beside the averaged one."""
    other = {name: torch.zeros_like(value) for name, value in table.items()}
    return {
        "generator": other,
        "discriminator": {"layer0.weight": torch.ones(3, 3)},
        "generator_smooth": table,
    }


def pggan_zoo(state):
    """A PGGAN state in the naming of the newer model zoo."""
    return _zoo({_zoo_name(name): value for name, value in state.items()})


def stylegan_zoo(state):
    """A StyleGAN state in the naming of the newer model zoo: fused kernels are [out, in, 3, 3]."""
    table = {_zoo_name(name): value for name, value in state.items()}
    for name, value in state.items():
        if value.ndim == 4 and name.endswith(".weight") and ".conv." not in name:
            table[_zoo_name(name)] = value.permute(3, 2, 0, 1)
    return _zoo(table)


def _zoo_name(name):
    for old, new in (
        ("epilogue.", ""),
        ("style_mod.dense.", "style."),
        (".fc.", "."),
        (".conv.", "."),
        (".wscale.", "."),
    ):
        name = name.replace(old, new)
    return name
