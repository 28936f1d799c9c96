"""The linear heads of LPIPS 0.1, in one file per trunk."""

from typing import Any

from oeft_jax.models.lpips import TRUNKS
from weights_convert.rules import Layout, Rule


def _rules(config: dict[str, Any]) -> list[Rule]:
    """Layer 0 of a head is dropout, so that the weight is in layer 1."""
    taps = TRUNKS[config["trunk"]].channels
    return [Rule(f"lin{k}.model.1.weight", tap, "vector") for k, tap in enumerate(taps)]


def _layout(trunk: str) -> Layout:
    """Recognised by the fifth head, which is 512, 256 or 384 wide."""
    name, channels = TRUNKS[trunk].network, TRUNKS[trunk].channels
    return Layout(
        network="lpips",
        naming=f"the heads of LPIPS for {name}",
        marks=("lin0.model.1.weight",),
        mark_shapes={"lin4.model.1.weight": (1, tuple(channels.values())[4], 1, 1)},
        configure=lambda shapes: {"trunk": trunk},
        rules=_rules,
        preprocessing="features of a trunk with torchvision's weights, in [0, 1]",
    )


LAYOUTS = {f"lpips_{trunk}": (_layout(trunk),) for trunk in TRUNKS}
