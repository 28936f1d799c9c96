"""Reads PyTorch checkpoints without PyTorch, and without running anything that they hold.

Four forms are read: the zip file of torch.save since 1.6, the stream of pickles and numbers before
it, the tar file before 0.1.11, and the plain pickles of NVIDIA's StyleGAN2-ADA, whose tensors are
such streams inside byte strings. Only structure is read on opening; a tensor is read when it is asked for.
"""

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from oeft_jax._checks import InputError
from weights_convert.file_window import CUT_SHORT, Allowance, FormatError, Window
from weights_convert.pickle_machine import MAGIC_NUMBER, Function, PickleMachine
from weights_convert.plain_tree import plain
from weights_convert.stored_tensors import Kind, Storage, Tensor
from weights_convert.tar_form import TENSOR_TYPES, is_tar, read_tar
from weights_convert.torch_objects import SAVE_ANEW, Names, find, names
from weights_convert.zip_members import zip_members

__all__ = ["Tensor", "open_torch_file"]

_PROTOCOL_VERSION = 1001  # of the stream, unchanged over its life


@contextmanager
def open_torch_file(path: Path) -> Iterator[Any]:
    """The file's content as dict, list, tuple, str, int, float, bool, None and `Tensor`.

    Ordered tables and `argparse.Namespace` become dict, sets list, `torch.Size` tuple, data types
    and devices str, NumPy numbers Python's, and a module {"class_name": ..., "state": ...}. Parts
    that the file shares come out as separate containers over the same tensors.

    Args:
      path: as torch.save or NVIDIA wrote it. It stays open, for `Tensor.read`, inside the `with`.
    Raises:
      InputError: missing, damaged, of another form, or with anything beside weights in it.
    """
    try:
        if not path.is_file():  # a folder, a pipe, or nothing
            raise InputError(f"{path}: no such file; accepted: a PyTorch weight file.")
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}).") from error
    with file:
        try:
            content = _content(file, path)
        except FormatError as error:
            raise InputError(f"{path}: {error}.") from error
        yield content


def _content(file: BufferedIOBase, path: Path) -> Any:
    size = file.seek(0, 2)
    window = Window(file, 0, size, Allowance())
    head = window.part(0, min(size, 512)).take(min(size, 512))
    if head[:4] == b"PK\3\4":
        value = _zip(window)
    elif head[:1] == b"\x80":
        value = _pickles(window)
    elif is_tar(head):
        value = read_tar(window, partial(_run_tar, names(window.allowance)))
    else:
        raise FormatError("is not a PyTorch file; accepted: what torch.save writes")
    return plain(value, path, size)


def _run_tar(known: Names, window: Window, load: Callable[[Any], Any]) -> Any:
    return _run(window, {**known, **TENSOR_TYPES}, load)


def _no_storage(_: Any) -> Any:
    raise FormatError("refers to a storage where there can be none")


def _run(window: Window, known: Names, load: Callable[[Any], Storage] = _no_storage) -> Any:
    return PickleMachine(window, partial(find, known), load).run()


def _zip(file: Window) -> Any:
    """The form since PyTorch 1.6: a pickle and one member for each storage."""
    root, members = _plain_members(file)
    order = members.get(f"{root}/byteorder")
    if order is not None and order.take(min(order.size, 16)) != b"little":
        raise FormatError(f"was saved on a big-endian machine; {SAVE_ANEW} on another")

    def load(identity: Any) -> Storage:
        numbers, key, numel, _ = _storage_identity(identity, 5)
        member = members.get(f"{root}/data/{key}")
        if member is None or member.size < numel * numbers.stored.itemsize:
            raise FormatError(CUT_SHORT)
        return Storage(numbers, numel, member)

    return _run(members[f"{root}/data.pkl"], names(file.allowance), load)


def _plain_members(file: Window) -> tuple[str, dict[str, Window]]:
    """The folder in the zip file that holds everything, and its members."""
    members = zip_members(file)
    roots = [name.removesuffix("/data.pkl") for name in members if name.endswith("/data.pkl")]
    if len(roots) != 1 or "/" in roots[0]:
        raise FormatError("is a zip file without the one data.pkl that torch.save writes")
    code = (f"{roots[0]}/constants.pkl", f"{roots[0]}/code/")
    if any(name.startswith(code) for name in members):
        raise FormatError(
            "is a TorchScript program; save torch.jit.load(...).state_dict() with torch.save"
        )
    plain = {name: member for name, member in members.items() if member is not None}
    if len(plain) != len(members):
        raise FormatError(
            "has compressed members, where torch.save stores them plain; "
            "load it in PyTorch and save it anew with torch.save"
        )
    return roots[0], plain


def _storage_identity(identity: Any, length: int) -> tuple[Kind, str, int, Any]:
    """Kind, key, length and last part of ("storage", kind, key, device, length[, view])."""
    if type(identity) is not tuple or len(identity) != length or identity[0] != "storage":
        raise FormatError(f"refers to something else than a storage; {SAVE_ANEW}")
    _, numbers, key, _, numel = identity[:5]
    if not isinstance(numbers, Kind) or type(key) is not str or len(key) > 64:
        raise FormatError(CUT_SHORT)
    if type(numel) is not int or not 0 <= numel < 2**48:
        raise FormatError(CUT_SHORT)
    return numbers, key, numel, identity[-1]


def _pickles(file: Window) -> Any:
    """A stream of the older form, or a plain pickle with such streams in its byte strings."""
    known = names(file.allowance)
    load_bytes = Function(
        "torch.storage._load_from_bytes", partial(_storage_of_bytes, known), ((Window,),)
    )
    first = _run(file, {**known, ("torch.storage", "_load_from_bytes"): load_bytes})
    return _stream(file, known) if first == MAGIC_NUMBER else first


def _storage_of_bytes(known: Names, data: Window) -> Storage:
    """One storage in a byte string; `known` has no `_load_from_bytes`, so this never nests."""
    data = data.part(0, data.size)
    storage = _stream(data, known) if _run(data, known) == MAGIC_NUMBER else None
    if not isinstance(storage, Storage):
        raise FormatError(CUT_SHORT)
    return storage


def _stream(file: Window, known: Names) -> Any:
    """The form before PyTorch 1.6, after its magic number: pickles, then the numbers."""
    if _run(file, known) != _PROTOCOL_VERSION:
        raise FormatError("has an unknown version of the form before PyTorch 1.6")
    system = _run(file, known)
    if type(system) is not dict or system.get("little_endian") is not True:
        raise FormatError(f"was saved on a big-endian machine; {SAVE_ANEW} on another")
    storages: dict[str, Storage] = {}
    value = _run(file, known, partial(_stream_storage, storages))
    keys = _run(file, known)
    if type(keys) is not list or any(type(key) is not str for key in keys):
        raise FormatError(CUT_SHORT)
    if len(keys) != len(storages) or set(keys) != set(storages):
        raise FormatError(CUT_SHORT)
    for key in keys:
        _locate(storages[key], file)
    return value


def _stream_storage(storages: dict[str, Storage], identity: Any) -> Storage:
    numbers, key, numel, part = _storage_identity(identity, 6)
    storage = storages.setdefault(key, Storage(numbers, numel))
    if (storage.kind, storage.numel) != (numbers, numel):
        raise FormatError(CUT_SHORT)
    if part is None:
        return storage
    if type(part) is not tuple or list(map(type, part)) != [str, int, int]:
        raise FormatError(CUT_SHORT)
    _, offset, size = part  # PyTorch before 0.4 could save a storage that is a part of another
    if min(offset, size) < 0 or offset + size > numel:
        raise FormatError(CUT_SHORT)
    return Storage(numbers, size, base=storage, offset=offset)


def _locate(storage: Storage, file: Window) -> None:
    (numel,) = struct.unpack("<q", file.take(8))
    if numel != storage.numel:
        raise FormatError(CUT_SHORT)
    storage.data = file.take_part(numel * storage.kind.stored.itemsize)
