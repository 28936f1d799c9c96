"""Vision Transformers of DINO, the backbone alone as its authors publish it."""

import math
from typing import Any

from weights_convert.rules import Layout, Rule, Shapes

PARTS = {"attn.qkv": "qkv", "attn.proj": "proj", "mlp.fc1": "fc1", "mlp.fc2": "fc2"}
WIDTHS = {"vits": ("ViT-S", 384), "vitb": ("ViT-B", 768)}


def _configure(shapes: Shapes) -> dict[str, Any]:
    """Positions are of the class token and of a square of patches."""
    width, _, patch, _ = shapes["patch_embed.proj.weight"]
    depth = sum(name.endswith(".attn.qkv.weight") for name in shapes)
    grid = math.isqrt(max(shapes["pos_embed"][1] - 1, 0))
    return {"width": width, "depth": depth, "patch": patch, "grid": grid}


def _norm(source: str, target: str) -> list[Rule]:
    return [Rule(f"{source}.weight", f"{target}/scale"), Rule(f"{source}.bias", f"{target}/bias")]


def _rules(config: dict[str, Any]) -> list[Rule]:
    rules = [
        Rule("cls_token", "class_token"),
        Rule("pos_embed", "positions"),
        Rule("patch_embed.proj.weight", "patch/kernel", "conv"),
        Rule("patch_embed.proj.bias", "patch/bias"),
        *_norm("norm", "norm"),
    ]
    for block in range(config["depth"]):
        theirs, ours = f"blocks.{block}", f"block{block}"
        rules += _norm(f"{theirs}.norm1", f"{ours}/norm1")
        rules += _norm(f"{theirs}.norm2", f"{ours}/norm2")
        for part, name in PARTS.items():
            rules.append(Rule(f"{theirs}.{part}.weight", f"{ours}/{name}/kernel", "linear"))
            rules.append(Rule(f"{theirs}.{part}.bias", f"{ours}/{name}/bias"))
    return rules


def _layout(name: str, width: int, patch: int) -> Layout:
    return Layout(
        network="vit",
        naming=f"DINO's {name}/{patch}",
        marks=("cls_token", "pos_embed", "blocks.0.attn.qkv.weight"),
        mark_shapes={"patch_embed.proj.weight": (width, 3, patch, patch)},
        configure=_configure,
        rules=_rules,
        preprocessing="RGB in [0, 1], ImageNet mean and deviation",
    )


LAYOUTS = {
    f"dino_{key}{patch}": (_layout(name, width, patch),)
    for key, (name, width) in WIDTHS.items()
    for patch in (8, 16)
}
