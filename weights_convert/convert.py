"""One published file to one weight file: recognise, check, convert, fingerprint, write."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile, ZipFile

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

import oeft_jax
from oeft_jax import golden
from oeft_jax._checks import InputError, check_choice
from oeft_jax.weights import save_weights
from weights_convert.layouts import LAYOUTS
from weights_convert.registry import REGISTRY
from weights_convert.rules import Layout, Shapes, apply_rules, flatten, matches
from weights_convert.torch_file import open_torch_file

NPZ_RATIO = 64  # trained numbers hardly compress


class Converted(NamedTuple):
    """What was written."""

    out: Path
    layout: Layout
    config: dict[str, Any]
    source_sha256: str
    num_values: int


def convert(
    name: str,
    file: Path,
    out: Path,
    *,
    metadata: Mapping[str, str] | None = None,
    skip: Sequence[str] = (),
) -> Converted:
    """Converts `file` into the weight file `out`, whole or not at all.

    Args:
      name: what the file should hold, a key of LAYOUTS ("vgg19", "pggan", ...).
      file: as published: a PyTorch file, or an .npz of the same names.
      metadata: added to the header (licence, where it came from).
      skip: patterns of tensors to leave out beyond those that the layout leaves out.
    Raises:
      InputError: unreadable, another network, or one that does not fit, with all that differs.
    """
    check_choice("network", name, LAYOUTS)
    with open_tensors(file) as tree:
        tensors = flatten(tree)
        layout = _recognise(name, file, tensors, tree)
        config, params = apply_rules(layout, tensors, shapes_of, origin=file.name, skip=skip)
    bad = [key for key, value in params.items() if not np.isfinite(value).all()]
    if bad:
        raise InputError(f"{file}: {bad[0]} holds non-finite values; get the file anew.")
    nested = unflatten_dict({key: jnp.asarray(v) for key, v in params.items()}, sep="/")
    digest = _sha256(file)
    header = {
        "source_file": file.name,
        "source_sha256": digest,
        "naming": layout.naming,
        "preprocessing": layout.preprocessing,
        "licence": licence_of(digest),
        "converter": f"weights_convert {oeft_jax.__version__}",
        **(metadata or {}),
        **golden.header(layout.network, config, nested),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(
        out, nested, network=layout.network, config=config, metadata=header, dtype="float32"
    )
    return Converted(out, layout, config, digest, sum(v.size for v in params.values()))


def licence_of(sha256: str) -> str:
    """The licence of the published file with this hash, where one is known."""
    for entry in REGISTRY.values():
        if entry.sha256 and sha256.startswith(entry.sha256):
            return entry.licence
    return "unknown; the hash is of no published file that is listed"


def shapes_of(network: str, config: dict[str, Any]) -> Shapes:
    """Parameters of the network by name."""
    flat = flatten_dict(golden.shapes(network, config), sep="/")
    return {key: tuple(leaf.shape) for key, leaf in flat.items()}


@contextmanager
def open_tensors(file: Path) -> Iterator[Any]:
    """The content of a PyTorch or .npz file as nested containers with tensors read on demand."""
    if not file.is_file():
        raise InputError(f"{file}: no such file; accepted: a published weight file.")
    if file.suffix == ".npz":
        with _open_npz(file) as tree:
            yield tree
    else:
        with open_torch_file(file) as tree:
            yield tree


def _recognise(name: str, file: Path, tensors: Mapping[str, Any], tree: Any) -> Layout:
    for layout in LAYOUTS[name]:
        if matches(layout, tensors):
            return layout
    others = [
        f"{other} ({layout.naming})"
        for other, layouts in LAYOUTS.items()
        for layout in layouts
        if matches(layout, tensors)
    ]
    wanted = " or ".join(layout.naming for layout in LAYOUTS[name])
    if others:
        raise InputError(f"{file}: this looks like {others[0]}, not {name} ({wanted}).")
    top = list(tree) if isinstance(tree, dict) else []
    found = ", ".join(str(key) for key in top[:8]) or "no named tensors"
    more = f" and {len(top) - 8} more" if len(top) > 8 else ""
    raise InputError(f"{file}: not a file of {name}; it holds {found}{more}; accepted: {wanted}.")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class _Member(NamedTuple):
    """One array of an .npz file, read when asked for."""

    archive: ZipFile
    name: str
    shape: tuple[int, ...]

    def read(self) -> np.ndarray:
        """Its values."""
        with self.archive.open(self.name) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)


@contextmanager
def _open_npz(file: Path) -> Iterator[dict[str, _Member]]:
    """The arrays of an .npz file, none of which is larger than its header and member say."""
    try:
        with ZipFile(file) as archive:
            names = [item.filename for item in archive.infolist()]
            yield {name.removesuffix(".npy"): _member(archive, name) for name in names}
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except (BadZipFile, ValueError, OSError, EOFError, KeyError, NotImplementedError) as error:
        raise InputError(f"{file}: not a readable .npz file ({error}).") from error


def _member(archive: ZipFile, name: str) -> _Member:
    size = archive.getinfo(name).file_size
    if size > NPZ_RATIO * archive.getinfo(name).compress_size + 4096:
        raise InputError(f"{name} unpacks to {size} bytes, more than weights can be packed.")
    with archive.open(name) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
        read = read or np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        if math.prod(shape) * dtype.itemsize != size - stream.tell() or dtype.hasobject:
            raise InputError(f"{name} does not hold the array that its header describes.")
    return _Member(archive, name, shape)
