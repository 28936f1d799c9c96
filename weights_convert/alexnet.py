"""torchvision's AlexNet."""

from weights_convert.rules import Layout, Rule

INDICES = (0, 3, 6, 8, 10)  # of the convolutions among the layers


def _rules(config: dict[str, object]) -> list[Rule]:
    rules = []
    for number, index in enumerate(INDICES, 1):
        rules.append(Rule(f"features.{index}.weight", f"conv{number}/kernel", "conv"))
        rules.append(Rule(f"features.{index}.bias", f"conv{number}/bias"))
    return rules


LAYOUTS = {
    "alexnet": (
        Layout(
            network="alexnet",
            naming="torchvision's AlexNet",
            marks=("features.8.weight", "features.10.weight"),
            mark_shapes={"features.0.weight": (64, 3, 11, 11)},
            configure=lambda shapes: {},
            rules=_rules,
            ignore=("classifier.*",),
            preprocessing="RGB in [0, 1], ImageNet mean and deviation",
        ),
    ),
}
