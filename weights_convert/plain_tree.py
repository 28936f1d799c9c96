"""From what a pickle left behind to plain containers and tensors, in bounded time and memory."""

from pathlib import Path
from typing import Any

from weights_convert.file_window import FormatError, Window
from weights_convert.pickle_machine import Function, Unfinished
from weights_convert.stored_tensors import Storage, Tensor, View, flat, kind, whole

_MAX_DEPTH = 64  # of containers; a StyleGAN2-ADA pickle has 21 levels and 7000 values
_MAX_VALUES = 2**17  # a part that is shared counts each time: sharing can describe huge trees
_SHARED = 2**24  # bytes of tensors that even a small file may hold under several names
_BYTES = kind("u1")
_LEAVES = (str, int, float, bool, type(None))


def plain(value: Any, path: Path, file_size: int) -> Any:
    """The tree of dict, list, tuple, str, int, float, bool, None and `Tensor`.

    Raises:
      FormatError: contains itself, or is larger than a file of this size can need.
    """
    return _Walk(path, 2 * file_size + _SHARED).plain(value, 0)


class _Walk:
    def __init__(self, path: Path, bytes_left: int) -> None:
        self.path = path
        self.values_left = _MAX_VALUES
        self.bytes_left = bytes_left
        self.tensors: dict[
            int, Tensor
        ] = {}  # by id of what they stand for, which outlives the walk

    def plain(self, value: Any, depth: int) -> Any:
        self.values_left -= 1
        if depth > _MAX_DEPTH or self.values_left < 0:
            raise FormatError("is nested too deeply, contains itself or has over 131072 values")
        if type(value) in _LEAVES:
            return value
        if type(value) is dict:
            return {key: self.plain(item, depth + 1) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self.plain(item, depth + 1) for item in value)
        if isinstance(value, Unfinished):
            return self.plain(value.finish(), depth + 1)
        return self.tensor(value)

    def tensor(self, value: Any) -> Tensor:
        if id(value) not in self.tensors:
            self.tensors[id(value)] = _view(value).located(self.path)
        tensor = self.tensors[id(value)]
        self.bytes_left -= tensor.stored_bytes
        if self.bytes_left < 0:
            raise FormatError("describes more bytes of tensors than twice its size")
        return tensor


def _view(value: Any) -> View:
    if isinstance(value, Window):  # bytes
        return flat(whole(_BYTES, value))
    if isinstance(value, Storage):
        return flat(value)
    if not isinstance(value, View):
        what = value.name if isinstance(value, Function) else type(value).__name__
        raise FormatError(f"holds {what} where a value should be")
    return value
