"""`python -m weights_convert NAME FILE --out OUT`, and `fetch`: official weights for oeft_jax."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from oeft_jax._checks import InputError
from weights_convert import fetch
from weights_convert.convert import convert
from weights_convert.layouts import LAYOUTS


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code (0 done, 1 stopped, 2 bad input)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["fetch"] or words == ["--list"]:
            return fetch.main([word for word in words if word != "fetch"])
        return _convert(parser().parse_args(words))
    except InputError as error:
        print(f"weights_convert: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"weights_convert: a file could not be read or written: {error}.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("weights_convert: interrupted; nothing was written.", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """Command line of the conversion; `fetch` has its own."""
    names = ", ".join(sorted(LAYOUTS))
    made = argparse.ArgumentParser(
        prog="python -m weights_convert",
        description="Converts one published PyTorch file, without PyTorch and without running "
        "anything from it. `fetch NAME` downloads and converts; `--list` says what is here.",
        epilog=f"Networks: {names}.",
    )
    made.add_argument("name", metavar="NAME", help="the network that the file holds")
    made.add_argument("file", metavar="FILE", type=Path, help="the file as published")
    made.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    made.add_argument(
        "--skip", action="append", default=[], metavar="PATTERN", help="tensors to leave out"
    )
    made.add_argument("--overwrite", action="store_true", help="replace an existing file")
    return made


def _convert(flags: argparse.Namespace) -> int:
    out = flags.out
    if out.suffix != ".safetensors":
        raise InputError(f"--out {out}: accepted: a name that ends in .safetensors.")
    if out.exists() and not flags.overwrite:
        raise InputError(f"--out {out}: exists; accepted: a new name, or --overwrite.")
    done = convert(flags.name, flags.file, out, skip=flags.skip)
    sizes = ", ".join(f"{key} {value}" for key, value in done.config.items())
    print(f"{flags.file}: {done.layout.naming}; sha256 {done.source_sha256}")
    print(f"wrote {out}: {done.layout.network} ({sizes}), {done.num_values:,} numbers, checked")
    return 0


if __name__ == "__main__":
    sys.exit(main())
