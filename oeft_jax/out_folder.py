"""The folder of a run: checked, kept as NAME.unfinished while it runs, moved into place at last."""

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from oeft_jax import report
from oeft_jax._checks import InputError
from oeft_jax.config import Config
from oeft_jax.image import read_image
from oeft_jax.pipeline import Parts, Translation

STATE = "state"  # inside the unfinished folder
REQUEST = "request.json"  # what the unfinished run was asked
MANIFEST = "manifest.json"


class Photos(NamedTuple):
    """The two photos of a run."""

    images: tuple[np.ndarray, np.ndarray]  # source, target
    inputs: dict[str, dict[str, str]]  # path and hash of each, for the manifest


def read_photos(source: Path, target: Path, config: Config) -> Photos:
    """Reads and hashes both photos. Raises InputError for one that cannot be used."""
    side = max(config.correspondence.image_size, config.output.longer_side() or 0)
    paths = {"source": source, "target": target}
    images = [read_image(path, at_least=side) for path in paths.values()]
    inputs = {
        name: {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for name, path in paths.items()
    }
    return Photos((images[0], images[1]), inputs)


def request_of(photos: Photos, config: Config, parts: Parts) -> dict[str, Any]:
    """What a run is asked; two runs with the same request make the same."""
    return {
        "config": report.config_dict(config),
        "inputs": {name: entry["sha256"] for name, entry in photos.inputs.items()},
        "weights": [weights.sha256 for weights in parts.weights],
    }


def unfinished_of(out: Path) -> Path:
    """Where the run of a folder is until it is finished."""
    return out.resolve().with_name(out.resolve().name + ".unfinished")


def check_out(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Raises InputError unless a run may write this folder."""
    _check_modes(out, resume=resume, overwrite=overwrite)
    try:
        _check_free(out, unfinished_of(out), resume=resume, overwrite=overwrite)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be used ({error.strerror}).") from error


def check_list_out(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Raises InputError unless the pairs of a list may have their folders in this one."""
    _check_modes(out, resume=resume, overwrite=overwrite)
    try:
        _check_empty(out, overwrite=resume or overwrite)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be used ({error.strerror}).") from error


def _check_modes(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Raises InputError for a folder that cannot have a name, or flags that contradict."""
    if not out.resolve().name:
        raise InputError(f"--out {out}: is the root folder; accepted: a new or empty folder.")
    if resume and overwrite:
        raise InputError("--resume and --overwrite exclude each other; give one of them.")


def _check_empty(out: Path, *, overwrite: bool) -> None:
    """Raises InputError unless a folder is new or empty, or may be overwritten."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; accepted: a new or empty folder.")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise InputError(
            f"--out {out}: is not empty; accepted: a new or empty folder, or --overwrite."
        )


def _check_free(out: Path, unfinished: Path, *, resume: bool, overwrite: bool) -> None:
    _check_empty(out, overwrite=overwrite)
    if unfinished.exists() and not (resume or overwrite):
        raise InputError(
            f"--out {out}: an interrupted run is kept in {unfinished}; accepted: --resume to "
            "continue it, --overwrite to start anew."
        )


def open_unfinished(
    folder: Path, request: Mapping[str, Any], *, resume: bool, overwrite: bool
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


def is_finished(out: Path, request: Mapping[str, Any]) -> bool:
    """Whether a finished run is there that was asked the same.

    Raises:
      InputError: one is there that was asked something else, or that cannot be read.
    """
    if not (out / MANIFEST).is_file():
        return False
    try:
        made = json.loads((out / MANIFEST).read_text("utf-8"))
        asked = {
            "config": made["config"],
            "inputs": {name: entry["sha256"] for name, entry in made["inputs"].items()},
            "weights": [weights["sha256"] for weights in made["weights"]],
        }
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{out}: its manifest is damaged; accepted: --overwrite.") from error
    if asked != request:
        raise InputError(
            f"{out}: was made with other settings, photos or weights; accepted: the same ones "
            "with --resume, or --overwrite to make it anew."
        )
    return True


def write_run(
    out: Path,
    result: Translation,
    config: Config,
    parts: Parts,
    inputs: Mapping[str, Any],
    *,
    raw: bool,
    field: bool,
    command: str,
) -> None:
    """Writes every file of a finished run beside its folder and moves them into place."""
    names = report.file_names(raw=raw, field=field)
    entries = report.manifest(
        result, config, inputs=inputs, weights=parts.weights, files=names, command=command
    )
    unfinished = unfinished_of(out)
    report.write_report(unfinished, result, entries, raw=raw, field=field)
    _publish(unfinished, out, names)


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


def discard(out: Path) -> None:
    """Removes a run that was refused before it made anything of worth."""
    shutil.rmtree(unfinished_of(out), ignore_errors=True)
