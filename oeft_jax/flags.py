"""Command-line flags made from the config dataclasses, so that the two cannot drift."""

import argparse
import dataclasses
from typing import Any, NoReturn

from oeft_jax._checks import InputError, check_range
from oeft_jax.config import PRESETS, Config, check, flag_of, preset, sections

TITLES = {
    "": "general",
    "correspondence": "stage 1, correspondence fine-tuning",
    "inversion": "stage 2, multiple GAN inversion",
    "selection": "stage 2, selection",
    "refine": "stage 2, result",
    "output": "finished picture",
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
        usage="%(prog)s --source A --target B --out DIR [options]\n"
        "       %(prog)s --pairs FILE --out DIR [options]",
        description="Gives the source photo the target photo's appearance. It tunes a feature "
        "network on the two photos alone, warps the target onto the source, inverts the warp "
        "through a generator and writes pictures, losses and a manifest.",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    files = made.add_argument_group("files")
    files.add_argument("--source", help="photo that gives structure, or a folder of such photos")
    files.add_argument(
        "--target", help="photo that gives appearance, or a folder with a photo for each source"
    )
    files.add_argument(
        "--pairs", metavar="FILE", help="CSV file: source,target[,name] on each line"
    )
    files.add_argument("--out", help="folder to write; must be new or empty")
    files.add_argument("--resume", action="store_true", help="continue an interrupted run")
    files.add_argument("--overwrite", action="store_true", help="replace an earlier run's files")
    files.add_argument(
        "--plan", action="store_true", help="print the memory that each stage needs, and stop"
    )
    files.add_argument(
        "--save-field", action="store_true", help="also write field.npz: what comes from where"
    )
    files.add_argument("--raw-warp", action="store_true", help="also write warped_raw.png (Eq. 6)")
    names = ", ".join(PRESETS)
    files.add_argument("--preset", default="bundled", help=f"one of {names} (default bundled)")
    _add_processes(made)
    for section, values in sections(Config()).items():
        group = made.add_argument_group(TITLES[section])
        for item in dataclasses.fields(values):
            if "help" in item.metadata:
                _add(group, section, item)
    return made


def _add_processes(made: Parser) -> None:
    group = made.add_argument_group("several processes, for a list of pairs")
    group.add_argument(
        "--distributed",
        action="store_true",
        help="share the list with the other processes of a Slurm, GKE, TPU or Open MPI job",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="elsewhere: of process 0")
    group.add_argument("--num-processes", type=int, metavar="N", help="elsewhere: of the whole run")
    group.add_argument("--process-id", type=int, metavar="I", help="elsewhere: of this one, from 0")


def check_processes(arguments: argparse.Namespace, *, of_list: bool) -> None:
    """Raises InputError for flags about several processes that do not fit together."""
    named = {
        "--coordinator": arguments.coordinator,
        "--num-processes": arguments.num_processes,
        "--process-id": arguments.process_id,
    }
    missing = [flag for flag, value in named.items() if value is None]
    if not arguments.distributed:
        if len(missing) < len(named):
            raise InputError(f"{', '.join(named)}: accepted: only together with --distributed.")
        return
    if not of_list:
        raise InputError("--distributed: shares a list; accepted: with --pairs or two folders.")
    if len(missing) == len(named):
        return
    if missing:
        raise InputError(
            f"{', '.join(missing)}: missing; accepted: all of {', '.join(named)}, or none of them "
            "where JAX recognises the cluster."
        )
    host, _, port = arguments.coordinator.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise InputError(f"--coordinator {arguments.coordinator}: accepted: HOST:PORT.")
    check_range("--num-processes", arguments.num_processes, 1)
    check_range("--process-id", arguments.process_id, 0, arguments.num_processes - 1)


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


def flags_between(old: Config, new: Config) -> str:
    """The flags that turn one config into another, as they are typed; "" for equal ones."""
    words = []
    for section, values in sections(new).items():
        before = sections(old)[section]
        for item in dataclasses.fields(values):
            value = getattr(values, item.name)
            if "help" not in item.metadata or value == getattr(before, item.name):
                continue
            flag = flag_of(section, item.name, item.metadata)
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
                words.append(f"--{flag} {shown}")
    return " ".join(words)
