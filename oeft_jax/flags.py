"""Command-line flags made from the config dataclasses, so that the two cannot drift."""

import argparse
import dataclasses
from typing import Any, NoReturn

from oeft_jax._checks import InputError
from oeft_jax.config import PRESETS, Config, check, flag_of, preset, sections

TITLES = {
    "": "general",
    "correspondence": "stage 1, correspondence fine-tuning",
    "inversion": "stage 2, multiple GAN inversion",
    "selection": "stage 2, selection",
    "refine": "stage 2, result",
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are InputErrors, one sentence each."""

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage."""
        raise InputError(f"{message}; see --help.")


def parser() -> Parser:
    """Every flag of the main command."""
    made = Parser(
        prog="python -m oeft_jax.translate",
        usage="%(prog)s --source A --target B --out DIR [options]",
        description="Gives the source photo the target photo's appearance. It tunes a feature "
        "network on the two photos alone, warps the target onto the source, inverts the warp "
        "through a generator and writes pictures, losses and a manifest.",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    files = made.add_argument_group("files")
    files.add_argument("--source", required=True, help="photo that gives structure")
    files.add_argument("--target", required=True, help="photo that gives appearance")
    files.add_argument("--out", required=True, help="folder to write; must be new or empty")
    files.add_argument("--resume", action="store_true", help="continue an interrupted run")
    files.add_argument("--overwrite", action="store_true", help="replace an earlier run's files")
    files.add_argument("--raw-warp", action="store_true", help="also write warped_raw.png (Eq. 6)")
    names = ", ".join(PRESETS)
    files.add_argument("--preset", default="bundled", help=f"one of {names} (default bundled)")
    for section, values in sections(Config()).items():
        group = made.add_argument_group(TITLES[section])
        for item in dataclasses.fields(values):
            if "help" in item.metadata:
                _add(group, section, item)
    return made


def _add(group: Any, section: str, item: Any) -> None:
    flag, default = flag_of(section, item.name, item.metadata), item.default
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    text = item.metadata["help"]
    if "choices" in item.metadata:
        text += f"; one of {', '.join(map(str, item.metadata['choices']))}"
    text = f"{text} (bundled: {shown})".replace("%", "%%")
    options: dict[str, Any] = {"dest": f"{section}.{item.name}", "help": text, "default": None}
    if isinstance(default, bool):
        options["action"] = argparse.BooleanOptionalAction
    else:
        options["type"] = (
            _tuple_of(type(default[0])) if isinstance(default, tuple) else type(default)
        )
        options["metavar"] = "A,B,..." if isinstance(default, tuple) else "VALUE"
    group.add_argument(f"--{flag}", **options)


def _tuple_of(kind: type) -> Any:
    def parse(text: str) -> tuple:
        return tuple(kind(part.strip()) for part in text.split(","))

    parse.__name__ = f"comma-separated {kind.__name__}"  # argparse puts it into its message
    return parse


def config_from(arguments: argparse.Namespace) -> Config:
    """The preset with every flag that was given in its place, checked."""
    config = preset(arguments.preset)
    given: dict[str, dict[str, Any]] = {}
    for name, value in vars(arguments).items():
        if "." in name and value is not None:
            section, option = name.split(".")
            given.setdefault(section, {})[option] = value
    for section, values in given.items():
        if section:
            part = dataclasses.replace(getattr(config, section), **values)
            config = dataclasses.replace(config, **{section: part})
        else:
            config = dataclasses.replace(config, **values)
    return check(config)
