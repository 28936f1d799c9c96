"""Tensors located in a file: what a storage holds, how a tensor sees it, and reading one."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from oeft_jax._checks import InputError
from weights_convert.file_window import CUT_SHORT, FormatError, Window

_MAX_AXES = 8
_MAX_NUMBER = 2**48  # of elements; keeps every product below 64 bits


@dataclass(frozen=True, slots=True)
class Kind:
    """How numbers lie in a file (little-endian) and what they are read as."""

    stored: np.dtype[Any]
    dtype: np.dtype[Any]


def kind(stored: str, dtype: str | None = None) -> Kind:
    """The Kind of two NumPy type names; without the second, numbers stay as they are."""
    return Kind(np.dtype(stored).newbyteorder("<"), np.dtype(dtype or stored))


@dataclass(slots=True)
class Storage:
    """Numbers of one kind in the file; the older format tells where only after its pickle."""

    kind: Kind
    numel: int
    data: Window | None = None
    base: "Storage | None" = None  # what this storage is a part of, from its `offset`-th number on
    offset: int = 0

    def window(self, offset: int, numel: int) -> Window:
        """The bytes of `numel` numbers from the `offset`-th on."""
        if self.base is not None:
            return self.base.window(self.offset + offset, numel)
        if self.data is None:
            raise FormatError(CUT_SHORT)
        size = self.kind.stored.itemsize
        return self.data.part(offset * size, numel * size)


@dataclass(frozen=True, slots=True)
class View:
    """A tensor as its file describes it: a storage seen through offset, shape and strides."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # counted in numbers, not bytes

    def located(self, path: Path) -> "Tensor":
        """The tensor that can be read."""
        numel = _extent(self.shape, self.strides)
        window = self.storage.window(self.offset if numel else 0, numel)
        return Tensor(
            self.shape, self.storage.kind.dtype, self.storage.kind, self.strides, window, path
        )


def view(storage: Storage, offset: int, shape: Any, strides: Any) -> View:
    """A View, once it is known to lie inside its storage and to use each number at most once."""
    for numbers in ((offset,), shape, strides):
        check_numbers(numbers)
    if len(shape) != len(strides):
        raise FormatError(f"describes a tensor of {len(shape)} axes and {len(strides)} strides")
    extent = _extent(shape, strides)
    if extent and offset + extent > storage.numel:
        raise FormatError("describes a tensor that reaches beyond its storage")
    return View(storage, offset, shape, strides)


def check_numbers(numbers: tuple[Any, ...]) -> None:
    """Raises FormatError unless they are sizes or strides that a tensor can have."""
    if len(numbers) > _MAX_AXES:
        raise FormatError(f"describes a tensor of {len(numbers)} axes; accepted: {_MAX_AXES}")
    if not all(type(number) is int and 0 <= number < _MAX_NUMBER for number in numbers):
        raise FormatError("describes a tensor with an impossible shape, stride or offset")
    if math.prod(number or 1 for number in numbers) >= 2**62:  # also where a 0 makes it empty
        raise FormatError("describes a tensor larger than any file")


def whole(numbers: Kind, data: Window) -> Storage:
    """All of a window as one storage."""
    return Storage(numbers, data.size // numbers.stored.itemsize, data)


def flat(storage: Storage) -> View:
    """All of a storage as a tensor of one axis."""
    return view(storage, 0, (storage.numel,), (1,))


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a dense tensor in C order."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _extent(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """How many numbers lie from the first to the last that the tensor uses."""
    if 0 in shape:
        return 0
    reach = 0
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size > 1:
            if stride <= reach:
                raise FormatError(
                    "has a tensor that uses a number twice, as expand() makes them; in PyTorch, "
                    "load it, take .contiguous() of it and save it anew"
                )
            reach += stride * (size - 1)
    return reach + 1


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of an open file: its layout is checked, its values are read on demand."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]  # of what `read` returns; bfloat16 is widened to float32
    _kind: Kind = field(repr=False)
    _strides: tuple[int, ...] = field(repr=False)
    _window: Window = field(repr=False)  # from the first number to the last
    _path: Path = field(repr=False)

    def read(self) -> np.ndarray:
        """Reads the values, while the file is open, into a C-contiguous array of their own.

        Raises:
          InputError: the file was changed since it was opened.
        """
        item = self._kind.stored.itemsize
        raw = np.empty(self._window.size // item, self._kind.stored)
        try:
            self._window.fill(raw)
        except FormatError as error:
            raise InputError(f"{self._path}: {error}.") from error
        if raw.size and self._strides != contiguous(self.shape):
            axes = zip(self._strides, self.shape, strict=True)
            steps = [stride * item if size > 1 else item for stride, size in axes]
            raw = np.ndarray(self.shape, raw.dtype, raw, strides=steps).copy()
        return _converted(raw, self.dtype).reshape(self.shape)

    @property
    def stored_bytes(self) -> int:
        """Bytes of its numbers in the file."""
        return math.prod(self.shape) * self._kind.stored.itemsize


def _converted(raw: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    if dtype == np.bool_:
        return raw != 0
    if raw.dtype == np.uint16 and dtype == np.float32:  # bfloat16: the upper half of a float32
        wide = raw.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return raw.astype(dtype, copy=False)
