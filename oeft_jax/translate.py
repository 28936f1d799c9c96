"""The main command: `python -m oeft_jax.translate --source A --target B --out DIR`."""

import hashlib
import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from oeft_jax import compile_cache, pipeline, report
from oeft_jax._checks import InputError
from oeft_jax.correspondence import NonFiniteError
from oeft_jax.flags import config_from, parser
from oeft_jax.image import read_image
from oeft_jax.progress import show_progress

STATE = "state"  # inside the unfinished folder
REQUEST = "request.json"  # what the unfinished run was asked


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code (0 done, 1 stopped, 2 bad input)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except InputError as error:
        print(f"oeft_jax: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"oeft_jax: a file could not be read or written: {error}. Continue with --resume.",
            file=sys.stderr,
        )
        return 1
    except NonFiniteError as error:  # --resume would repeat it, and takes no other settings
        print(f"oeft_jax: {error} Start anew with --overwrite.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("oeft_jax: interrupted. Continue with --resume.", file=sys.stderr)
        return 1


def _run(words: list[str]) -> int:
    flags = parser().parse_args(words)
    config = config_from(flags)
    out = Path(flags.out)
    if not out.resolve().name:
        raise InputError(f"--out {out}: is the root folder; accepted: a new or empty folder.")
    unfinished = out.resolve().with_name(out.resolve().name + ".unfinished")
    try:
        _check_out(out, unfinished, resume=flags.resume, overwrite=flags.overwrite)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be used ({error.strerror}).") from error
    side = config.correspondence.image_size
    paths = {"source": Path(flags.source), "target": Path(flags.target)}
    images = {name: read_image(path, at_least=side) for name, path in paths.items()}
    inputs = {
        name: {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for name, path in paths.items()
    }
    compile_cache.use()
    parts = pipeline.load_parts(config)
    names = report.file_names(flags.raw_warp)
    origins = ", ".join(weights.origin for weights in parts.weights)
    print(
        f"device {report.device_name()}; weights {origins}; writing {', '.join(names)} to {out}",
        flush=True,
    )
    request = {
        "config": report.config_dict(config),
        "inputs": {name: entry["sha256"] for name, entry in inputs.items()},
        "weights": [weights.sha256 for weights in parts.weights],
    }
    _open_unfinished(unfinished, request, resume=flags.resume, overwrite=flags.overwrite)
    try:
        with show_progress() as on_progress:
            result = pipeline.translate(
                images["source"],
                images["target"],
                config,
                parts=parts,
                on_progress=on_progress,
                state_folder=unfinished / STATE,
            )
        entries = report.manifest(
            result,
            config,
            inputs=inputs,
            weights=parts.weights,
            files=names,
            command=shlex.join(["python", "-m", "oeft_jax.translate", *words]),
        )
        report.write_report(unfinished, result, entries, flags.raw_warp)
    except InputError:
        if not flags.resume:  # nothing of worth is there; after any other stop the state stays
            shutil.rmtree(unfinished, ignore_errors=True)
        raise
    _publish(unfinished, out, names)
    print(result.verdict)
    print(f"wrote {out / 'translation.png'} in {sum(result.seconds.values()):.0f} s")
    return 0


def _check_out(out: Path, unfinished: Path, *, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other; give one of them.")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; accepted: a new or empty folder.")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise InputError(
            f"--out {out}: is not empty; accepted: a new or empty folder, or --overwrite."
        )
    if unfinished.exists() and not (resume or overwrite):
        raise InputError(
            f"--out {out}: an interrupted run is kept in {unfinished}; accepted: --resume to "
            "continue it, --overwrite to start anew."
        )


def _open_unfinished(
    folder: Path, request: dict[str, Any], *, resume: bool, overwrite: bool
) -> None:
    """Makes the folder of a run, or checks that the one there was asked the same."""
    if overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    saved = folder / REQUEST
    text = json.dumps(request, indent=2, sort_keys=True)
    if saved.is_file():
        if saved.read_text("utf-8") != text:
            raise InputError(
                f"{folder}: was started with other settings, photos or weights; accepted: the "
                "same ones with --resume, or --overwrite to start anew."
            )
        return
    if resume:
        print(f"nothing to resume in {folder}; starting anew", file=sys.stderr)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        saved.write_text(text, "utf-8")
    except OSError as error:
        raise InputError(
            f"--out {folder.parent}: cannot be written ({error.strerror}); "
            "accepted: a folder whose parent you may write."
        ) from error


def _publish(unfinished: Path, out: Path, names: Sequence[str]) -> None:
    """Moves finished files into place, the manifest last, then removes what is left."""
    shutil.rmtree(unfinished / STATE, ignore_errors=True)
    (unfinished / REQUEST).unlink(missing_ok=True)
    if not out.exists():
        unfinished.rename(out)
        return
    for name in names:
        (unfinished / name).replace(out / name)
    shutil.rmtree(unfinished, ignore_errors=True)


class _CallableModule(ModuleType):
    """`oeft_jax.translate(...)` is the function even after this module has been imported.

    Importing a submodule binds it over the package's name for the function, and the command
    and the function are both to be called translate.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> pipeline.Translation:
        return pipeline.translate(*args, **kwargs)


if __name__ == "__main__":
    sys.exit(main())
else:
    sys.modules[__name__].__class__ = _CallableModule
