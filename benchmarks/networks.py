"""Settings, weights and pictures that both sides of a comparison take: NumPy arrays only."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from oeft_jax.config import Config, CorrespondenceConfig, InversionConfig, preset
from oeft_jax.models.generator import channels_of_layer, num_layers_of
from oeft_jax.models.vgg import FULL_WIDTHS, VGG19_DEPTHS
from oeft_jax.weights import find_weights

LEARNING_RATE = 0.05  # of Adam on latent codes
CODES, LAYER = 20, 6  # of the single hypothesis
LAYERS, COUNTS = (4, 5, 6, 7), (10, 20)  # of eight
TINY = "tiny"  # tries every program in seconds
TINY_DEPTHS, TINY_WIDTHS, TINY_TAP = (2, 1), (4, 6), "relu2_1"
TINY_SETTINGS: dict[str, Any] = {
    "image_size": 32,
    "grid": 8,
    "num_queries": 16,
    "taps": ("relu1_2", TINY_TAP),
    "gram_taps": ("relu1_1",),
    "contextual_taps": (TINY_TAP,),
}


class Network(NamedTuple):
    """A kind of network, its description and its weights, as `models.backbone` takes them."""

    kind: str
    config: dict[str, Any]
    params: Any


def settings(size: str, **changes: Any) -> CorrespondenceConfig:
    """Stage 1 of a preset, or of the paper's at a size that tries the program."""
    config: Config = preset("paper" if size == TINY else size)
    small = TINY_SETTINGS if size == TINY else {}
    return dataclasses.replace(config.correspondence, **{**small, **changes})


def inversion_settings(size: str) -> InversionConfig:
    """Stage 2: L2 and feature distance, Adam."""
    paper = preset("bundled" if size == "bundled" else "paper").inversion
    tap = TINY_TAP if size == TINY else paper.perceptual_tap
    return dataclasses.replace(
        paper, optimizer="adam", learning_rate=LEARNING_RATE, perceptual_tap=tap
    )


def features(size: str) -> Network:
    """VGG-19's shape with random He weights ("paper"), the bundled network, or a tiny one."""
    if size == "bundled":
        return _bundled("features")
    depths: tuple[int, ...] = VGG19_DEPTHS
    widths: tuple[int, ...] = FULL_WIDTHS
    if size == TINY:
        depths, widths = TINY_DEPTHS, TINY_WIDTHS
    rng, before, params = np.random.default_rng(0), 3, {}
    for block, (depth, width) in enumerate(zip(depths, widths, strict=True), 1):
        for index in range(1, depth + 1):
            kernel = rng.normal(0, (2 / (9 * before)) ** 0.5, (3, 3, before, width))
            bias = np.zeros(width, np.float32)
            params[f"conv{block}_{index}"] = {"kernel": kernel.astype(np.float32), "bias": bias}
            before = width
    return Network("vgg", {"depths": depths, "widths": widths}, params)


def generator(size: str) -> Network:
    """A random PGGAN of mGANprior's 256-pixel shape, the bundled one, or a tiny one."""
    if size == "bundled":
        return _bundled("generator")
    config = {"resolution": 256, "z_dim": 512, "fmap_base": 16384, "fmap_max": 512}
    if size == TINY:
        config = {"resolution": 32, "z_dim": 6, "fmap_base": 128, "fmap_max": 8}
    rng, layers = np.random.default_rng(1), num_layers_of(config["resolution"])
    channels = [
        channels_of_layer(i, fmap_base=config["fmap_base"], fmap_max=config["fmap_max"])
        for i in range(layers)
    ]
    shapes = {"layer0": (config["z_dim"], 4, 4, channels[0]), "output": (1, 1, channels[-1], 3)}
    shapes |= {f"layer{i}": (3, 3, channels[i - 1], channels[i]) for i in range(1, layers)}
    params = {
        name: {
            "kernel": rng.standard_normal(shape, np.float32),
            "bias": np.zeros(shape[-1], np.float32),
        }
        for name, shape in shapes.items()
    }
    return Network("pggan", config, params)


def _bundled(role: str) -> Network:
    weights = find_weights("bundled", role)
    params = {
        name: {leaf: np.asarray(value) for leaf, value in layer.items()}
        for name, layer in weights.params.items()
    }
    return Network(weights.network, weights.config, params)


def pictures(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Two smooth pictures with something to match. [1, size, size, 3] in [0, 1], float32."""
    rng = np.random.default_rng(2)
    place = np.moveaxis(np.indices((size, size)) / size, 0, -1)
    phases = 2 * np.pi * np.einsum("hwd,nkcd->nkhwc", place, rng.uniform(-9, 9, (2, 4, 3, 2)))
    waves = (0.5 + 0.12 * np.sin(phases).sum(1)).clip(0, 1).astype(np.float32)
    return waves[:1], waves[1:]


def start_codes(network: Network, num: int, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """Standard normal codes [num, z] and importances 1 / num, [num, c]."""
    codes = np.random.default_rng(3).standard_normal((num, network.config["z_dim"]), np.float32)
    channels = network.params[f"layer{layer - 1}"]["bias"].shape[0]
    return codes, np.full((num, channels), 1 / num, np.float32)
