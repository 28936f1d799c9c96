"""Every setting of a run, as frozen dataclasses: one source for flags, Python calls and manifest.

The reason for each default that the paper leaves open is in docs/method.md.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from oeft_jax._checks import check_choice, check_range
from oeft_jax.correlation import CENTRES, LAYER_SCALES
from oeft_jax.products import DEFAULT, PRECISIONS
from oeft_jax.tiled import TILE
from oeft_jax.warp import WARPS

OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("constant", "cosine")
DOWNS = ("area", "bilinear")
SCORERS = ("single-image", "reference", "point")
REFINES = ("auto", "always", "never")
FINISHES = ("voted", "soft")
FITS = ("crop", "squeeze")
SOURCE, WORKING = "source", "working"  # values of OutputConfig.size beside a number
LONGEST = 1024  # px, of the longer side where the size is the source's
SAME = "same"


def option(default: Any, text: str, **extra: Any) -> Any:
    """A field with its help text; `extra` may hold `flag`, `choices`, `low`, `high`."""
    return field(default=default, metadata={"help": text, **extra})


@dataclass(frozen=True)
class CorrespondenceConfig:
    """Stage 1: correspondence fine-tuning (Sec. 3.2)."""

    steps: int = option(20, "fine-tuning steps; 0 gives the untuned warp", low=0)
    features: str = option(
        "bundled", "feature network: 'bundled', a fetched network's name, or a .safetensors file"
    )
    image_size: int = option(256, "side in pixels that both photos are brought to", low=32)
    fit: str = option("squeeze", "how photos become square for tuning", choices=FITS)
    grid: int = option(64, "cells on a side of the correlation; divides the image size", low=2)
    taps: tuple[str, ...] = option(
        ("relu2_1", "relu3_1", "relu4_1", "relu5_1"), "layers joined in the hypercolumn (Fig. 3)"
    )
    layer_scale: str = option(
        "channels", "what is scaled before layers are joined", choices=LAYER_SCALES
    )
    centre: str = option("positions", "what the mean is taken over (Eq. 4-5)", choices=CENTRES)
    neighbourhood: int = option(1, "cells on a side of what is matched", choices=(1, 3))
    tile: int = option(
        0,
        "cells on a side of the part of the correlation that is in memory at once; 0 for all of "
        f"it up to 64 x 64 cells, else {TILE}",
        low=0,
    )
    shared_weights: bool = option(False, "one network for source and target, not two copies")
    prior: float = option(
        0.5, "weight of the untuned networks' correlation beside the tuned one", low=0, high=100
    )
    layout: float = option(
        2.0,
        "what a match loses for each squared side that it lies from where the photos' common layout "
        "puts it, times the part of the matches that agree with that",
        low=0,
        high=100,
    )
    alpha: float = option(150.0, "sharpness of the soft warp (Eq. 6)", low=0, high=1e4)
    warp: str = option("overlap", "soft warp during tuning", choices=WARPS)
    consensus: int = option(
        3,
        "cells on a side around each match that have a say in it at the end; 1: each is alone",
        choices=(1, 3, 5, 7),
    )
    finish: str = option("voted", "the warp at working size", choices=FINISHES)
    temperature: float = option(0.07, "of InfoNCE (Eq. 7)", low=1e-4)
    num_queries: int = option(1024, "source cells sampled a step for InfoNCE; 0 for all", low=0)
    stop_gradient: bool = option(False, "treat InfoNCE's keys as constants")
    lambda_contrastive: float = option(1.0, "weight of InfoNCE (Eq. 8)", low=0)
    lambda_perceptual: float = option(1.0, "weight of the Gram loss (Eq. 9)", low=0)
    lambda_contextual: float = option(1.0, "weight of the contextual loss (Eq. 10)", low=0)
    lambda_structure: float = option(
        20.0, "weight of the distance of the warp's self-similarity to the source's", low=0
    )
    lambda_local_structure: float = option(
        10.0, "weight of the same between neighbouring places of shallow layers", low=0
    )
    lambda_cycle: float = option(0.0, "weight of the cycle warp regulariser", low=0)
    lambda_anchor: float = option(0.0, "weight of |W - W_0|^2", low=0)
    gram_taps: tuple[str, ...] = option(
        ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"), "layers of the Gram loss"
    )
    contextual_taps: tuple[str, ...] = option(
        ("relu3_1", "relu4_1", "relu5_1"),
        "layers of the contextual loss, weighted 1:2:4:...; the structure loss takes the last two",
    )
    contextual_bandwidth: float = option(0.1, "h of the contextual loss", low=1e-4)
    augment: bool = option(False, "pass an augmented pair beside the original one")
    optimizer: str = option("adam", "of the networks", choices=OPTIMIZERS)
    learning_rate: float = option(1e-3, "of the networks", low=0, high=1e3)
    schedule: str = option("cosine", "of the rate over the steps", choices=SCHEDULES)
    beta1: float = option(0.5, "Adam's first decay", low=0, high=1)
    beta2: float = option(0.999, "Adam's second decay", low=0, high=1)


@dataclass(frozen=True)
class InversionConfig:
    """Stage 2: multiple GAN inversion (Sec. 3.3)."""

    generator: str = option(
        "bundled", "generator: 'bundled', a fetched network's name, or a .safetensors file"
    )
    composing_layers: tuple[int, ...] = option((4, 6), "layers where codes are composed")
    num_codes: tuple[int, ...] = option((5, 10), "latent codes for each hypothesis")
    steps: int = option(150, "inversion steps", low=1)
    optimizer: str = option("adam", "of codes and importances", choices=OPTIMIZERS)
    learning_rate: float = option(0.15, "of codes and importances", low=0, high=1e3)
    l1: float = option(0.0, "weight of mean |down(y) - r|", low=0)
    l2: float = option(1.0, "weight of mean (down(y) - r)^2, in [-1, 1]", low=0)
    perceptual: float = option(0.2, "weight of the feature distance", low=0)
    perceptual_tap: str = option("relu3_1", "layer of the feature distance")
    perceptual_relative: bool = option(True, "feature distance over the features' mean size")
    down: str = option("area", "down-sampling in Eq. 12", choices=DOWNS)
    halving: int = option(
        0, "times that the hypotheses of larger loss are dropped, half of them each", low=0, high=8
    )


@dataclass(frozen=True)
class SelectionConfig:
    """Choice of one hypothesis (Sec. 3.3)."""

    scorer: str = option("single-image", "what the Frechet score compares with", choices=SCORERS)
    reference: str = option("", "statistics file (.npz with mu, sigma) for reference and point")
    features: str = option(
        SAME, "network of the score: 'same' as stage 1's, 'bundled', a name or a .safetensors file"
    )
    tap: str = option("relu5_1", "layer whose positions are compared")
    tolerance: float = option(0.1, "only hypotheses within 1 + this of the best error", low=0)


@dataclass(frozen=True)
class RefineConfig:
    """Whether the generator's picture or the warp is the result."""

    mode: str = option("auto", "use the generator's picture", choices=REFINES, flag="refine")
    limit: float = option(
        0.9, "auto: least SSIM of down(y) with the warp", flag="refine-limit", low=-1, high=1
    )
    give_up: float = option(
        0.15,
        "auto: how far below that limit the hypothesis that is tried first must be after a third of "
        "the inversion steps for all others to be left out; 1 tries none and takes all steps",
        flag="refine-give-up",
        low=0,
        high=1,
    )


@dataclass(frozen=True)
class OutputConfig:
    """The finished picture, made from the tuned matches."""

    size: str = option(
        SOURCE,
        f"of the picture: '{SOURCE}' for the source's own up to {LONGEST} pixels, its longer side in "
        f"pixels, or '{WORKING}' for the square that is tuned on",
    )
    structure: float = option(
        0.5, "0 for the target's patches as they are, 1 for the source's drawing", low=0, high=1
    )

    def led(self) -> float:
        """`structure` where it applies: the working size shows what was tuned, unfinished."""
        return 0.0 if self.size == WORKING else self.structure

    def longer_side(self) -> int | None:
        """The longer side in pixels, the most it may be for "source"; None for "working"."""
        if self.size == WORKING:
            return None
        return LONGEST if self.size == SOURCE else int(self.size)


@dataclass(frozen=True)
class Config:
    """All settings of one translation."""

    correspondence: CorrespondenceConfig = field(default_factory=CorrespondenceConfig)
    inversion: InversionConfig = field(default_factory=InversionConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    seed: int = option(0, "of everything random", low=0, high=2**31 - 1)
    precision: str = option(
        DEFAULT,
        "of the networks' products: the device's own (float32 on a CPU), float32, or bfloat16, which "
        "CPUs with AMX or AVX-512 BF16 multiply faster",
        choices=PRECISIONS,
    )


def _paper() -> Config:
    correspondence = CorrespondenceConfig(
        steps=200,
        features="vgg19",
        taps=("relu2_2", "relu3_4", "relu4_4", "relu5_4"),
        gram_taps=("relu1_2", "relu2_2", "relu3_4", "relu4_4", "relu5_4"),
        contextual_taps=("relu3_2", "relu4_2", "relu5_2"),
        layer_scale="rms",
        prior=0.0,
        layout=0.0,
        alpha=100.0,
        lambda_structure=0.0,
        lambda_local_structure=0.0,
        augment=True,
        learning_rate=1e-4,
        schedule="constant",
        warp="patch",
        consensus=1,
        finish="soft",
    )
    inversion = InversionConfig(
        generator="pggan_celebahq1024",
        composing_layers=(4, 5, 6, 7, 8),
        num_codes=(10, 20, 30, 40),
        steps=2000,
        optimizer="sgd",
        learning_rate=1.0,
        perceptual=0.001,
        perceptual_tap="relu3_4",
        perceptual_relative=False,
        down="bilinear",
    )
    selection = SelectionConfig(features="inception_fid", tap="pool2", tolerance=float("inf"))
    output = OutputConfig(size=WORKING)
    return Config(correspondence, inversion, selection, RefineConfig(mode="always"), output)


def _draft() -> Config:
    return Config(
        CorrespondenceConfig(steps=10, image_size=128, grid=32),
        InversionConfig(composing_layers=(6,), num_codes=(10,), steps=30),
        output=OutputConfig(size="512"),
    )


PRESETS = {
    "bundled": Config(),
    "draft": _draft(),
    "fine": Config(CorrespondenceConfig(steps=80)),
    "paper": _paper(),
}


def preset(name: str) -> Config:
    """A preset by name; raises InputError with the accepted names."""
    check_choice("preset", name, PRESETS)
    return PRESETS[name]


def sections(config: Config) -> dict[str, Any]:
    """The dataclasses of a config by name, the config itself under ""."""
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    return {"": config, **{k: v for k, v in values.items() if dataclasses.is_dataclass(v)}}


def flag_of(section: str, name: str, metadata: Any) -> str:
    """The command-line flag of a field: without a prefix but for stage 2's."""
    bare = section in ("", "correspondence", "output")
    return metadata.get("flag") or (name if bare else f"{section}-{name}").replace("_", "-")


def check(config: Config) -> Config:
    """Returns `config`; raises InputError for the first value that cannot be used."""
    for section, values in sections(config).items():
        for item in dataclasses.fields(values):
            if "help" not in item.metadata:
                continue
            value, flag = (
                getattr(values, item.name),
                f"--{flag_of(section, item.name, item.metadata)}",
            )
            if "choices" in item.metadata:
                check_choice(flag, value, item.metadata["choices"])
            if "low" in item.metadata:
                check_range(
                    flag, value, item.metadata["low"], item.metadata.get("high", float("inf"))
                )
            if isinstance(value, tuple) and not value:
                check_range(f"number of values of {flag}", 0, 1)
    stage = config.correspondence
    if stage.image_size % stage.grid:
        options = [g for g in (16, 32, 64, 128, 256) if stage.image_size % g == 0]
        check_choice("--grid", stage.grid, options or [stage.image_size])
    check_range("--image-size", stage.image_size, 32, 2048)
    _check_size(config.output.size)
    for layer in config.inversion.composing_layers:
        check_range("--inversion-composing-layers", layer, 1, 19)
    for number in config.inversion.num_codes:
        check_range("--inversion-num-codes", number, 1, 100)
    if config.selection.scorer != "single-image" and not config.selection.reference:
        check_choice("--selection-reference", "", ["an .npz file with mu and sigma"])
    return config


def _check_size(size: str) -> None:
    if size in (SOURCE, WORKING):
        return
    if not (size.isascii() and size.isdecimal()):
        check_choice("--size", size, [SOURCE, WORKING, "a number of pixels"])
    check_range("--size", int(size), 32, 8192)
