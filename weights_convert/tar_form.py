"""The tar file that torch.save wrote before PyTorch 0.1.11, as torchvision's first models are.

Three members matter: `storages` (numbers one after another, each behind a small pickle), `tensors`
(how each sees its storage) and `pickle` (the object, in which tensors stand by number).
"""

import struct
from collections.abc import Callable
from functools import partial
from typing import Any

from weights_convert.file_window import CUT_SHORT, FormatError, Window
from weights_convert.stored_tensors import Kind, Storage, View, view

_BLOCK = 512
_MAX_MEMBERS = 64
_MAX_TENSORS = 2**16
_TYPES = ("Double", "Float", "Half", "Long", "Int", "Short", "Char", "Byte")
# What only this form refers to; a tensor's own type says nothing that its storage does not.
TENSOR_TYPES = {("torch", f"{name}Tensor"): f"torch.{name}Tensor" for name in _TYPES}

Load = Callable[[Any], Any]
Run = Callable[[Window, Load], Any]  # runs the next pickle of a window


def is_tar(head: bytes) -> bool:
    """Whether a file that begins so is a tar file."""
    return head[257:262] == b"ustar"


def read_tar(file: Window, run: Run) -> Any:
    """The object that the file holds.

    Args:
      file: all of it.
      run: (window, persistent id -> value) -> value of the next pickle there.
    Raises:
      FormatError: damaged, or not what torch.save wrote.
    """
    members = _members(file)
    if not {"storages", "tensors", "pickle"} <= members.keys():
        raise FormatError("is a tar file without the members that PyTorch before 0.1.11 wrote")
    storages = _storages(members["storages"], run)
    tensors = _tensors(members["tensors"], storages, run)
    return run(members["pickle"], partial(_lookup, tensors))


def _members(file: Window) -> dict[str, Window]:
    """The regular files of a tar file; extended headers, which only carry dates, are left out."""
    members: dict[str, Window] = {}
    for _ in range(_MAX_MEMBERS):
        header = file.take(_BLOCK)
        if not any(header):
            return members
        name, kind = header[:100].rstrip(b"\0"), header[156:157]
        if _octal(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * 32:
            raise FormatError(CUT_SHORT)
        size = _octal(header[124:136])
        data = file.take_part(size)
        file.take_part(-size % _BLOCK)
        if kind in (b"0", b"\0"):
            if not name.isascii() or name.decode() in members:
                raise FormatError(CUT_SHORT)
            members[name.decode()] = data
        elif kind not in (b"x", b"g", b"5"):  # dates; the folder itself
            raise FormatError("is a tar file with links in it, which torch.save never writes")
    raise FormatError(f"is a tar file of over {_MAX_MEMBERS} members, which is not a checkpoint")


def _octal(field: bytes) -> int:
    digits = field.strip(b"\0 ")
    if not digits or not set(digits) <= set(b"01234567"):
        raise FormatError(CUT_SHORT)
    return int(digits, 8)


def _nothing(_: Any) -> Any:
    raise FormatError(CUT_SHORT)


def _count(window: Window, run: Run) -> int:
    count = run(window, _nothing)
    if type(count) is not int or not 0 <= count <= _MAX_TENSORS:
        raise FormatError(CUT_SHORT)
    return count


def _entry(value: Any, *types: type) -> tuple[Any, ...]:
    """A tuple of exactly these types."""
    if type(value) is not tuple or len(value) != len(types):
        raise FormatError(CUT_SHORT)
    if not all(map(isinstance, value, types)):
        raise FormatError(CUT_SHORT)
    return value


def _storages(window: Window, run: Run) -> dict[int, Storage]:
    found: dict[int, Storage] = {}
    for _ in range(_count(window, run)):
        key, _, numbers = _entry(run(window, _nothing), int, str, Kind)
        (numel,) = struct.unpack("<q", window.take(8))
        if not 0 <= numel <= window.size:
            raise FormatError(CUT_SHORT)
        found[key] = Storage(numbers, numel, window.take_part(numel * numbers.stored.itemsize))
    views = run(window, _nothing)
    if type(views) is not list:
        raise FormatError(CUT_SHORT)
    for item in views:
        key, root, offset, numel = _entry(item, int, int, int, int)
        base = found.get(root)
        if base is None or base.base is not None or min(offset, numel) < 0:
            raise FormatError(CUT_SHORT)
        if offset + numel > base.numel:
            raise FormatError(CUT_SHORT)
        found[key] = Storage(base.kind, numel, base=base, offset=offset)
    return found


def _tensors(window: Window, storages: dict[int, Storage], run: Run) -> dict[int, View]:
    found: dict[int, View] = {}
    for _ in range(_count(window, run)):
        key, storage, _ = _entry(run(window, _nothing), int, int, str)
        (axes,) = struct.unpack("<i4x", window.take(8))
        if not 0 <= axes <= 8 or storage not in storages:
            raise FormatError(CUT_SHORT)
        *numbers, offset = struct.unpack(f"<{2 * axes + 1}q", window.take(8 * (2 * axes + 1)))
        shape, strides = tuple(numbers[:axes]), tuple(numbers[axes:])
        found[key] = view(storages[storage], offset, shape, strides)
    return found


def _lookup(tensors: dict[int, View], identity: Any) -> View:
    """The tensor that a persistent id names; ids of classes come with source code, and are refused."""
    if type(identity) is str and identity.isdecimal() and len(identity) < 20:
        identity = int(identity)
    if type(identity) is not int or identity not in tensors:
        raise FormatError("refers to something else than its tensors; save its state_dict() anew")
    return tensors[identity]
