"""Correspondence fine-tuning (Sec. 3.2) in straightforward PyTorch, for a fair comparison.

The same losses of the same networks as `oeft_jax.correspondence`, written with what PyTorch has a
fast function for: dense products, `cross_entropy`, `grid_sample`, fused Adam. What does not change
is computed once, frozen weights take no gradient, and denormals are flushed by the caller
(`prepare`). Images and maps are [n, c, h, w], cells [n, p, c].
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.torch_augment import geometric, photometric
from benchmarks.torch_layout import apart, layout_of
from oeft_jax.config import CorrespondenceConfig
from oeft_jax.correlation import STEADY
from oeft_jax.models.vgg import IMAGENET_MEAN, IMAGENET_STD
from oeft_jax.warp import FADE

STEPS = (1, 3)  # places apart that the local structure loss compares
LARGEST = 32  # cells on a side that the contextual loss sees

Weights = dict[str, tuple[Tensor, Tensor]]  # "conv3_2" -> (kernel, bias), shallow to deep
Maps = Mapping[str, Tensor]


class Style(NamedTuple):
    """What the style losses want to know of a target."""

    grams: dict[str, Tensor]  # tap -> [n, c, c]
    cells: dict[str, Tensor]  # tap -> [n, q, c]


class Tuned(NamedTuple):
    """The two copies of the network."""

    source: Weights
    target: Weights


class Scales(NamedTuple):
    """What the taps of either side are divided by."""

    source: dict[str, Tensor]  # tap -> [] or [1, c, 1, 1]
    target: dict[str, Tensor]


class Pair(NamedTuple):
    """What a run looks at and never changes."""

    source: Tensor  # [1, 3, s, s] in [0, 1]
    target: Tensor
    scales: Scales  # of the taps
    phi: Weights  # of the frozen loss network
    style: Style  # of the target
    structure: dict[str, Tensor]  # tap -> [1, p, p], self-similarity of the source
    local: dict[str, list[Tensor]]  # tap -> of the source, cosines of places a step apart
    start: Tuned  # the networks as they begin
    known: Tensor | None  # [n, p, q], what untuned networks say, as it is added to M


class Bent(NamedTuple):
    """The augmented pair of a step."""

    source: Tensor  # [1, 3, s, s]
    target: Tensor


def prepare(*, threads: int | None = None) -> torch.device:
    """The device to use, set up for speed: denormals flushed, cuDNN's fastest algorithms."""
    torch.set_flush_denormal(True)  # or a softmax at temperature 0.01 runs nine times slower
    torch.backends.cudnn.benchmark = True
    if threads:
        torch.set_num_threads(threads)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_tensor(images: Any, device: torch.device, layout: torch.memory_format) -> Tensor:
    """[n, h, w, c] array -> [n, c, h, w] tensor."""
    return torch.tensor(images, device=device).permute(0, 3, 1, 2).contiguous(memory_format=layout)


def vgg_weights(
    params: Any, device: torch.device, layout: torch.memory_format, *, tuned: bool = False
) -> Weights:
    """Flax parameters as tensors of PyTorch's layout, shallow to deep."""
    weights: Weights = {}
    for name in sorted(params):
        kernel = torch.tensor(params[name]["kernel"], device=device).permute(3, 2, 0, 1)
        kernel = kernel.contiguous(memory_format=layout).requires_grad_(tuned)
        bias = torch.tensor(params[name]["bias"], device=device).requires_grad_(tuned)
        weights[name] = kernel, bias
    return weights


def vgg(weights: Weights, images: Tensor, taps: tuple[str, ...]) -> dict[str, Tensor]:
    """Taps of images in [0, 1], no further than the deepest."""
    mean, std = (images.new_tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    x, found = (images - mean) / std, {}
    for name, (kernel, bias) in weights.items():
        if name.endswith("_1") and name != "conv1_1":
            x = F.max_pool2d(x, 2)
        x = F.relu_(F.conv2d(x, kernel, bias, padding=1))
        tap = name.replace("conv", "relu")
        if tap in taps:
            found[tap] = x
        if len(found) == len(taps):
            break
    return found


def flat(maps: Tensor) -> Tensor:
    """[n, c, h, w] -> cells [n, h w, c]; a view where the layout is channels_last."""
    n, c, h, w = maps.shape
    return maps.permute(0, 2, 3, 1).reshape(n, h * w, c)


def unit(cells: Tensor) -> Tensor:
    """Unit length on the last axis."""
    return cells * torch.rsqrt(cells.square().sum(-1, keepdim=True) + 1e-6)


def resize(maps: Tensor, grid: int) -> Tensor:
    """Block means where a map is larger than the grid, bilinear where it is smaller."""
    side = maps.shape[2]
    if side == grid:
        return maps
    if side % grid == 0:
        return F.avg_pool2d(maps, side // grid)
    return F.interpolate(maps, (grid, grid), mode="bilinear", antialias=side > grid)


def layer_scales(maps: Maps, mode: str) -> dict[str, Tensor]:
    """Each tap's root mean square, or the deviations of its channels and a tenth of that."""
    sizes = {tap: (value.square().mean() + 1e-12).sqrt() for tap, value in maps.items()}
    if mode == "rms":
        return sizes
    spread = {tap: x.var((2, 3), correction=0, keepdim=True) for tap, x in maps.items()}
    return {tap: (spread[tap] + 1e-12).sqrt() + STEADY * sizes[tap] for tap in maps}


def hypercolumn(maps: Maps, scales: Maps, grid: int) -> Tensor:
    """Taps joined on one grid (Fig. 3). -> [n, grid^2, c]."""
    return flat(torch.cat([resize(maps[tap], grid) / scales[tap] for tap in sorted(maps)], 1))


def correlation(source: Tensor, target: Tensor) -> Tensor:
    """Eq. 3-5 on hypercolumns. -> [n, p, q]."""
    source, target = (unit(cells - cells.mean(1, keepdim=True)) for cells in (source, target))
    return torch.bmm(source, target.transpose(1, 2))


def warp(matrix: Tensor, image: Tensor, config: CorrespondenceConfig) -> Tensor:
    """Eq. 6: the target's patches moved to source cells."""
    grid = config.grid
    side = image.shape[2] // grid
    weights = torch.softmax(config.alpha * matrix, -1)
    if config.warp == "overlap":
        return overlapping(weights, image, side)
    moved = torch.bmm(weights, F.pixel_unshuffle(image, side).flatten(2).transpose(1, 2))
    moved = moved.transpose(1, 2).unflatten(2, (grid, grid))
    return F.pixel_shuffle(moved, side)


def overlapping(weights: Tensor, image: Tensor, cell: int) -> Tensor:
    """Patches two cells wide, mixed, faded out towards their borders and put together."""
    size, before = image.shape[2], cell // 2
    wide = F.pad(image, (before, cell - before) * 2, mode="reflect")
    mixed = torch.bmm(F.unfold(wide, 2 * cell, stride=cell), weights.transpose(1, 2))
    distance = (torch.arange(2 * cell, dtype=image.dtype, device=image.device) + 0.5) / cell - 1
    window = torch.exp(-FADE * distance**2)
    window = torch.outer(window, window).flatten().repeat(3)[None, :, None]
    total, weight = (
        F.fold(patches, wide.shape[2:], 2 * cell, stride=cell)
        for patches in (mixed * window, window.expand_as(mixed))
    )
    return (total / weight)[:, :, before : before + size, before : before + size]


def info_nce(query: Tensor, keys: Tensor, positives: Tensor, *, temperature: float) -> Tensor:
    """Eq. 7-8: every query against all keys, its own the right one."""
    logits = torch.bmm(unit(query) / temperature, unit(keys).transpose(1, 2))
    return F.cross_entropy(logits.flatten(0, 1), positives.repeat(len(query)))


def gram(maps: Tensor) -> Tensor:
    """[n, c, h, w] -> [n, c, c], mean over positions."""
    cells = flat(maps)
    return torch.bmm(cells.transpose(1, 2), cells) / cells.shape[1]


def pooled_cells(maps: Tensor) -> Tensor:
    """Cells of a map averaged down to at most LARGEST on a side."""
    factor = 1
    while maps.shape[2] // factor > LARGEST:
        factor *= 2
    return flat(F.avg_pool2d(maps, factor) if factor > 1 else maps)


def contextual_loss(target: Tensor, warped: Tensor, *, bandwidth: float) -> Tensor:
    """Eq. 10: for every target cell the best warped one."""
    mean = target.mean(1, keepdim=True)
    cosine = torch.bmm(unit(warped - mean), unit(target - mean).transpose(1, 2))
    distance = (1 - cosine) / 2
    relative = distance / (distance.amin(2, keepdim=True) + 1e-5)
    similarity = torch.softmax(-relative / bandwidth, 2)
    return -similarity.amax(1).mean(1).log().mean()


def self_similarity(cells: Tensor) -> Tensor:
    """Centred cosine of every two cells. [n, p, c] -> [n, p, p]."""
    cells = unit(cells - cells.mean(1, keepdim=True))
    return torch.bmm(cells, cells.transpose(1, 2))


def local_similarities(maps: Tensor) -> list[Tensor]:
    """Centred cosine of every place and those a step away. [n, c, h, w] -> [n, h', w'] each."""
    maps = maps - maps.mean((2, 3), keepdim=True)
    maps = maps * torch.rsqrt(maps.square().sum(1, keepdim=True) + 1e-6)
    height, width = maps.shape[2:]
    found = []
    for d in STEPS:
        upper, lower = maps[:, :, : height - d], maps[:, :, d:]
        left, right = slice(0, width - d), slice(d, width)
        found += [
            (maps[..., left] * maps[..., right]).sum(1),
            (upper * lower).sum(1),
            (upper[..., left] * lower[..., right]).sum(1),
            (upper[..., right] * lower[..., left]).sum(1),
        ]
    return found


def local_taps(config: CorrespondenceConfig) -> tuple[str, ...]:
    """Layers of the local structure loss; none where it is off."""
    return config.gram_taps[:2] if config.lambda_local_structure else ()


def structure_taps(config: CorrespondenceConfig) -> tuple[str, ...]:
    """Layers of the structure loss; none where it is off."""
    return config.contextual_taps[-2:] if config.lambda_structure else ()


def style(maps: Maps, config: CorrespondenceConfig) -> Style:
    """What the style losses compare, of a frozen network's maps."""
    return Style(
        {tap: gram(maps[tap]) for tap in config.gram_taps},
        {tap: pooled_cells(maps[tap]) for tap in config.contextual_taps},
    )


def style_losses(
    warped: Style, target: Style, config: CorrespondenceConfig
) -> tuple[Tensor, Tensor]:
    """Eq. 9 and Eq. 10."""
    grams = []
    for tap, wanted in target.grams.items():
        difference = (warped.grams[tap] - wanted).square().sum((1, 2))
        grams.append((difference / (wanted.square().sum((1, 2)) + 1e-12)).mean())
    shares = [2.0**place for place in range(len(config.contextual_taps))]
    contextual = [
        share
        / sum(shares)
        * contextual_loss(
            target.cells[tap], warped.cells[tap], bandwidth=config.contextual_bandwidth
        )
        for share, tap in zip(shares, config.contextual_taps, strict=True)
    ]
    return torch.stack(grams).mean(), torch.stack(contextual).sum()


def phi_taps(config: CorrespondenceConfig) -> tuple[str, ...]:
    """Taps of the frozen network."""
    return tuple({*config.gram_taps, *config.contextual_taps})


def matched(
    networks: Tuned, source: Tensor, target: Tensor, scales: Scales, config: CorrespondenceConfig
) -> Tensor:
    """Eq. 1-5 of images under given weights. -> [n, p, q]."""
    sides = [
        hypercolumn(vgg(weights, image, tuple(config.taps)), own, config.grid)
        for weights, image, own in zip(networks, (source, target), scales, strict=True)
    ]
    return correlation(*sides)


@torch.no_grad()
def known(
    start: Tuned, source: Tensor, target: Tensor, scales: Scales, config: CorrespondenceConfig
) -> Tensor | None:
    """What the networks say of images before any tuning; None where nothing of it has a weight."""
    if not (config.prior or config.layout):
        return None
    matrix = matched(start, source, target, scales, config)
    beside = matrix * (config.prior / (1 + config.prior))
    if config.layout:
        layout = layout_of(matrix, window=config.consensus, alpha=config.alpha)
        beside = beside - apart(layout, matrix.shape[2], config.layout)
    return beside


def make_loss(
    config: CorrespondenceConfig,
) -> Callable[[Tuned, Pair, Bent | None, Tensor], dict[str, Tensor]]:
    """(tuned, pair, augmented pair if there is one, positives) -> terms of Eq. 11.

    It has the options of the two presets: both copies tuned, cells centred over positions, scaled
    by root mean squares or channel by channel, single points matched, patches warped, apart or
    overlapping.
    """
    taps, deep = tuple(config.taps), phi_taps(config)

    def loss(tuned: Tuned, pair: Pair, bent: Bent | None, positives: Tensor) -> dict[str, Tensor]:
        source, target, wanted_style = pair.source, pair.target, pair.style
        if bent is not None:
            with torch.no_grad():
                bent_style = style(vgg(pair.phi, bent.target, deep), config)
            joined = [
                {tap: torch.cat([one[tap], two[tap]]) for tap in one}
                for one, two in zip(pair.style, bent_style, strict=True)
            ]
            wanted_style = Style(*joined)
            source = torch.cat([source, bent.source])
            target = torch.cat([target, bent.target])
        scales, grid = pair.scales, config.grid
        source_cells = hypercolumn(vgg(tuned.source, source, taps), scales.source, grid)
        target_cells = hypercolumn(vgg(tuned.target, target, taps), scales.target, grid)
        matrix = correlation(source_cells, target_cells)
        before = pair.known
        if bent is not None:
            before = known(pair.start, source, target, scales, config)
        if before is not None:
            matrix = matrix / (1 + config.prior) + before
        warped = warp(matrix, target, config)
        warped_cells = hypercolumn(vgg(tuned.target, warped, taps), scales.target, grid)
        contrastive = info_nce(
            source_cells[:, positives], warped_cells, positives, temperature=config.temperature
        )
        warped_maps = vgg(pair.phi, warped, deep)
        warped_style = style(warped_maps, config)
        perceptual, contextual = style_losses(warped_style, wanted_style, config)
        terms = {
            "contrastive": config.lambda_contrastive * contrastive,
            "perceptual": config.lambda_perceptual * perceptual,
            "contextual": config.lambda_contextual * contextual,
        }
        if pair.structure:
            apart = [
                (self_similarity(warped_style.cells[tap]) - wanted).square().mean()
                for tap, wanted in pair.structure.items()
            ]
            terms["structure"] = config.lambda_structure * torch.stack(apart).mean()
        if pair.local:
            apart = [
                (ours - theirs).square().mean()
                for tap, wanted in pair.local.items()
                for ours, theirs in zip(local_similarities(warped_maps[tap]), wanted, strict=True)
            ]
            terms["local_structure"] = config.lambda_local_structure * torch.stack(apart).mean()
        return terms

    return loss


def init(
    params: Any,
    source: Any,
    target: Any,
    *,
    config: CorrespondenceConfig,
    device: torch.device,
    layout: torch.memory_format = torch.contiguous_format,
) -> tuple[Tuned, Pair]:
    """Both networks at their pre-trained weights; images are [1, s, s, 3] arrays in [0, 1]."""
    phi = vgg_weights(params, device, layout)
    images = [to_tensor(image, device, layout) for image in (source, target)]
    deepest = max(config.taps)
    used = {name: params[name] for name in params if name.replace("conv", "relu") <= deepest}
    tuned = Tuned(*(vgg_weights(used, device, layout, tuned=True) for _ in range(2)))
    start = Tuned(*[vgg_weights(used, device, layout)] * 2)
    with torch.no_grad():
        seen = [vgg(phi, image, tuple(config.taps)) for image in images]
        scales = Scales(*(layer_scales(maps, config.layer_scale) for maps in seen))
        target_style = style(vgg(phi, images[1], phi_taps(config)), config)
        deep, shallow = structure_taps(config), local_taps(config)
        maps = vgg(phi, images[0], tuple({*deep, *shallow}))
        structure = {tap: self_similarity(pooled_cells(maps[tap])) for tap in deep}
        local = {tap: local_similarities(maps[tap]) for tap in shallow}
    before = known(start, images[0], images[1], scales, config)
    fixed = (phi, target_style, structure, local, start)
    return tuned, Pair(images[0], images[1], scales, *fixed, before)


def leaves(tuned: Tuned) -> list[Tensor]:
    """Every tensor that is tuned."""
    return [tensor for weights in tuned for pair in weights.values() for tensor in pair]


def rate(config: CorrespondenceConfig, done: int) -> float:
    """Part of the learning rate after so many steps."""
    part = min(done / max(config.steps, 1), 1)
    return 1 if config.schedule == "constant" else (1 + math.cos(math.pi * part)) / 2


def make_step(
    tuned: Tuned, pair: Pair, config: CorrespondenceConfig, *, compiled: bool = False
) -> Callable[[], float]:
    """One Adam step in place, on an augmented pair too if the settings say so; returns the loss."""
    loss = make_loss(config)
    if compiled:
        loss = torch.compile(loss)
    optimizer = torch.optim.Adam(
        leaves(tuned), config.learning_rate, (config.beta1, config.beta2), fused=True
    )
    falls = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: rate(config, done))
    cells = config.grid**2

    def step() -> float:
        positives = torch.randperm(cells, device=pair.source.device)
        positives = positives[: config.num_queries or cells]
        bent = None
        if config.augment:
            bent = Bent(photometric(pair.source), geometric(pair.target))
        optimizer.zero_grad(set_to_none=True)
        total = torch.stack([*loss(tuned, pair, bent, positives).values()]).sum()
        total.backward()
        optimizer.step()
        falls.step()
        return float(total.detach())

    return step
