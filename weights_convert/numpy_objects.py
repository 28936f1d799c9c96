"""NumPy numbers and arrays inside a pickle: StyleGAN2-ADA keeps its gains as such."""

from typing import Any

import numpy as np

from weights_convert.file_window import CUT_SHORT, FormatError, Window
from weights_convert.pickle_machine import Unfinished
from weights_convert.stored_tensors import View, check_numbers, contiguous, kind, view, whole

_KINDS = {
    **{name: kind(name) for name in ("f2", "f4", "f8", "i1", "i2", "i4", "i8")},
    **{name: kind(name) for name in ("u1", "u2", "u4", "u8")},
    "b1": kind("u1", "?"),
}


class NumpyType(Unfinished):
    """A NumPy dtype; its state tells the byte order."""

    __slots__ = ("kind",)

    def __init__(self, name: str, *_: Any) -> None:
        if name not in _KINDS:
            raise FormatError(f"has a NumPy value of type {name[:20]!a}, which is no number")
        self.kind = _KINDS[name]

    def build(self, state: Any) -> None:
        """Takes (version, byte order, ...)."""
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", "|"):
            raise FormatError("has a NumPy value that is not little-endian")

    def finish(self) -> str:
        """Its name, "float32" say."""
        return self.kind.dtype.name


class NumpyArray(Unfinished):
    """A NumPy array, empty until its state comes."""

    __slots__ = ("array",)

    def __init__(self, *_: Any) -> None:
        self.array: View | None = None

    def build(self, state: Any) -> None:
        """Takes (version, shape, dtype, is in Fortran order, bytes)."""
        types = (int, tuple, NumpyType, int, Window)
        if type(state) is not tuple or len(state) != 5 or not all(map(isinstance, state, types)):
            raise FormatError("has a NumPy array of something else than numbers")
        _, shape, dtype, fortran, data = state
        check_numbers(shape)
        strides = contiguous(shape[::-1])[::-1] if fortran else contiguous(shape)
        self.array = view(whole(dtype.kind, data), 0, shape, strides)

    def finish(self) -> View:
        """The array as a tensor of the file."""
        if self.array is None:
            raise FormatError(CUT_SHORT)
        return self.array


def numpy_scalar(dtype: NumpyType, data: Window) -> Any:
    """The Python number."""
    if data.size != dtype.kind.stored.itemsize:
        raise FormatError(CUT_SHORT)
    raw = data.part(0, data.size).take(data.size)
    return np.frombuffer(raw, dtype.kind.stored).astype(dtype.kind.dtype)[0].item()
