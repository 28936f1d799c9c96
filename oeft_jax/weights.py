"""Weight files: safetensors with the network's name and shape in the header; the bundled ones.

A file holds flat names ("conv1_1/kernel"), float16 or float32 values, and the metadata keys
`network` (what it is), `config` (JSON: how to build it) and whatever its maker adds. Reading one
runs no code from it, and its size on disk bounds the memory it takes.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import platformdirs
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from oeft_jax._checks import InputError
from oeft_jax._types import Params


class Weights(NamedTuple):
    """What a weight file holds."""

    params: Params  # nested dict of float32 arrays
    network: str  # "vgg", "resnet", "pggan", "stylegan"
    config: dict[str, Any]  # keyword arguments that build the network
    metadata: dict[str, str]  # the rest of the header
    sha256: str  # of the file
    origin: str  # "bundled:features" or the path


BUNDLED = {"features": "features.safetensors", "generator": "generator.safetensors"}
ROLES = {
    "features": ("vgg", "resnet", "inception", "alexnet", "squeezenet"),
    "generator": ("pggan", "stylegan", "stylegan2"),
    "judge": ("vit",),  # of the quality benchmark
    "LPIPS": ("lpips",),
}


def save_weights(
    path: Path,
    params: Params,
    *,
    network: str,
    config: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
    dtype: str = "float16",
) -> None:
    """Writes `params` to `path`, whole or not at all; the same input gives the same bytes."""
    flat = {  # safetensors writes memory as it lies, so a transposed kernel must be laid out anew
        name: np.asarray(leaf, dtype, order="C")
        for name, leaf in flatten_dict(params, sep="/").items()
    }
    header = {"network": network, "config": json.dumps(dict(config), sort_keys=True)}
    payload = _ordered(save(dict(sorted(flat.items())), metadata={**(metadata or {}), **header}))
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(payload)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _ordered(payload: bytes) -> bytes:
    """The same file with a sorted header: safetensors writes the metadata in random order."""
    size = int.from_bytes(payload[:8], "little")
    text = json.dumps(json.loads(payload[8 : 8 + size]), sort_keys=True, separators=(",", ":"))
    header = text.encode() + b" " * (-len(text) % 8)
    return len(header).to_bytes(8, "little") + header + payload[8 + size :]


def load_weights(path: Path | str, *, origin: str | None = None) -> Weights:
    """Reads a file that `save_weights` or the converter wrote.

    Raises:
      InputError: missing, not a safetensors file, damaged, or without this project's header.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such weight file; accepted: a .safetensors file.")
    try:
        with safe_open(path, framework="numpy") as file:
            header = dict(file.metadata() or {})
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a readable safetensors file ({error}); "
            "accepted: a file written by weights_convert or by training."
        ) from error
    try:
        network = header.pop("network")
        config = json.loads(header.pop("config"))
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: has no description of its network; "
            "accepted: a file written by weights_convert or by training."
        ) from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: the description of its network is not a table.")
    bad = [name for name, leaf in flat.items() if not np.all(np.isfinite(leaf))]
    if bad:
        raise InputError(f"{path}: holds non-finite values in {bad[0]!r}; get the file anew.")
    # Put there, not converted there: that would be a program for each shape.
    leaves = jax.device_put({name: leaf.astype(np.float32) for name, leaf in flat.items()})
    try:
        params = unflatten_dict(leaves, sep="/")
    except TypeError as error:
        raise InputError(f"{path}: uses one name as both an array and a group.") from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Weights(params, network, config, header, digest, origin or str(path))


def load_bundled(name: str) -> Weights:
    """Weights that come with the package: "features" or "generator"."""
    with resources.as_file(resources.files("oeft_jax") / "assets" / BUNDLED[name]) as path:
        return load_weights(path, origin=f"bundled:{name}")


def find_weights(name: str, role: str) -> Weights:
    """The weights that a setting names: "bundled", a file, or a converted network of the cache.

    Args:
      name: "bundled", a path ending in .safetensors, or a network's name.
      role: a key of ROLES.
    Raises:
      InputError: not there, damaged, or a network of another role.
    """
    if name == "bundled":
        weights = load_bundled(role)
    else:
        require([name])
        weights = load_weights(_path_of(name))
    if weights.network not in ROLES[role]:
        raise InputError(
            f"{weights.origin}: holds a {weights.network!r} network, which cannot serve as "
            f"{role}; accepted: {', '.join(ROLES[role])}."
        )
    return weights


def require(names: Iterable[str]) -> None:
    """Raises one InputError that names every network missing from the cache and how to get it."""
    named = [name for name in names if name != "bundled" and not name.endswith(".safetensors")]
    missing = [name for name in dict.fromkeys(named) if not _path_of(name).is_file()]
    if missing:
        raise InputError(
            f"weights {', '.join(repr(name) for name in missing)} are not in {cache_folder()}; "
            "accepted: 'bundled', a .safetensors file, or what "
            f"`python -m weights_convert fetch {' '.join(missing)}` puts there (it may ask for "
            "--accept-license; --list says what it knows)."
        )


def _path_of(name: str) -> Path:
    return Path(name) if name.endswith(".safetensors") else cache_folder() / f"{name}.safetensors"


def cache_folder() -> Path:
    """Where converted networks are looked for: OEFT_JAX_CACHE, else the user's cache folder."""
    override = os.environ.get("OEFT_JAX_CACHE")
    return Path(override) if override else platformdirs.user_cache_path("oeft_jax") / "weights"


def check_fits(params: Params, expected: Params, origin: str) -> None:
    """Raises one InputError with every missing, unused and mis-shaped name.

    Args:
      params: the weights read.
      expected: pytree with `.shape` leaves, of `jax.eval_shape` say.
      origin: named in the message.
    """
    have = {name: np.shape(leaf) for name, leaf in flatten_dict(params, sep="/").items()}
    want = {name: tuple(leaf.shape) for name, leaf in flatten_dict(expected, sep="/").items()}
    problems = [
        *(f"missing {name}" for name in sorted(want.keys() - have.keys())),
        *(f"unused {name}" for name in sorted(have.keys() - want.keys())),
        *(
            f"{name} is {have[name]}, the network has {want[name]}"
            for name in sorted(want.keys() & have.keys())
            if have[name] != want[name]
        ),
    ]
    if problems:
        raise InputError(f"{origin}: does not fit its network: {'; '.join(problems)}.")
