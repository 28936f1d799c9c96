"""PGGAN: mGANprior's and InterFaceGAN's files, and GenForce's newer model zoo.

All hold the averaged generator with one layer to RGB per resolution, of which a finished model
(level of detail 0) uses the last. The two families differ in their names alone.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from oeft_jax.models.generator import num_layers_of
from weights_convert.rules import Constant, Layout, Rule, Shapes

# (prefix, kernel, bias)
FLAT = ("", ".conv.weight", ".wscale.bias")
NESTED = ("generator_smooth/", ".weight", ".bias")


def _config(prefix: str, kernel: str, bias: str, shapes: Shapes) -> dict[str, Any]:
    last = max((b for b in range(9) if f"{prefix}output{b}{kernel}" in shapes), default=0)
    resolution, first = 4 * 2**last, shapes[f"{prefix}layer0{kernel}"]
    return {
        "resolution": resolution,
        "z_dim": first[1],
        "fmap_base": resolution * shapes[f"{prefix}output{last}{kernel}"][1],
        "fmap_max": first[0],
    }


def _last_output(config: dict[str, Any]) -> int:
    return num_layers_of(config["resolution"]) // 2 - 1


def _lower_outputs(prefix: str, kernel: str, bias: str, config: dict[str, Any]) -> list[str]:
    return [f"{prefix}output{index}.*" for index in range(_last_output(config))]


def _rules(prefix: str, kernel: str, bias: str, config: dict[str, Any]) -> list[Rule]:
    names = {
        f"layer{index}": f"layer{index}" for index in range(num_layers_of(config["resolution"]))
    }
    names[f"output{_last_output(config)}"] = "output"
    rules = []
    for theirs, ours in names.items():
        transform = "first" if ours == "layer0" else "conv"
        rules.append(Rule(f"{prefix}{theirs}{kernel}", f"{ours}/kernel", transform))
        rules.append(Rule(f"{prefix}{theirs}{bias}", f"{ours}/bias"))
    return rules


def _layout(naming: str, names: tuple[str, str, str], **options: Any) -> Layout:
    prefix, kernel, _ = names
    config: Callable[[Shapes], dict[str, Any]] = partial(_config, *names)
    return Layout(
        network="pggan",
        naming=naming,
        marks=(f"{prefix}layer0{kernel}", f"{prefix}output1{kernel}"),
        configure=config,
        rules=partial(_rules, *names),
        unneeded=partial(_lower_outputs, *names),
        constants=(Constant(f"{prefix}lod", 0.0),),
        preprocessing="latent codes; images come out in [-1, 1]",
        **options,
    )


LAYOUTS = {
    "pggan": (
        _layout("mGANprior's or InterFaceGAN's PGGAN", FLAT),
        _layout("PGGAN of GenForce's model zoo", NESTED, ignore=("generator/*", "discriminator/*")),
    )
}
