"""Bounded reading of a file that is not trusted: a window is never left, and little is held."""

from io import BufferedIOBase
from typing import Any

import numpy as np


class FormatError(ValueError):
    """What is wrong with a file: a sentence that lacks its subject (the path) and its full stop."""


CUT_SHORT = "is damaged or cut short; get the file anew"


class Allowance:
    """What may be read into memory from one file beside its tensors.

    Structure is small in a real file: 0.24 MB and 65 000 instructions in a StyleGAN2-ADA pickle for
    1024 pixels, the largest of them. The limits keep what a hostile file costs below 200 MB and a
    few seconds.
    """

    __slots__ = ("bytes_left", "instructions_left")

    def __init__(self) -> None:
        self.bytes_left = 16 * 2**20
        self.instructions_left = 2**19

    def spend_bytes(self, count: int) -> None:
        self.bytes_left -= count
        if self.bytes_left < 0:
            raise FormatError("holds over 16 MiB of names and structure, more than weights need")

    def spend_instructions(self, count: int = 1) -> None:
        self.instructions_left -= count
        if self.instructions_left < 0:
            raise FormatError(
                "holds over half a million pickle instructions, more than weights need"
            )


class Window:
    """A part of an open file, read in order or located for later; reading outside it fails."""

    __slots__ = ("_file", "_start", "allowance", "position", "size")

    def __init__(self, file: BufferedIOBase, start: int, size: int, allowance: Allowance) -> None:
        self._file = file
        self._start = start
        self.size = size
        self.allowance = allowance
        self.position = 0  # of the next byte, counted from the window's start

    def part(self, offset: int, size: int) -> "Window":
        """The window over `size` bytes from `offset`; nothing is read."""
        if min(offset, size) < 0 or offset + size > self.size:
            raise FormatError(CUT_SHORT)
        return Window(self._file, self._start + offset, size, self.allowance)

    def take_part(self, size: int) -> "Window":
        """The window over the next `size` bytes, which are stepped over unread."""
        part = self.part(self.position, size)
        self.position += size
        return part

    def take(self, size: int) -> bytes:
        """Reads the next `size` bytes; the check comes first, so a lying size allocates nothing."""
        if not 0 <= size <= self.size - self.position:
            raise FormatError(CUT_SHORT)
        self.allowance.spend_bytes(size)
        try:
            self._file.seek(self._start + self.position)
            data = self._file.read(size)
        except OSError as error:
            raise _unreadable(error) from error
        if len(data) != size:
            raise FormatError(CUT_SHORT)
        self.position += size
        return data

    def take_line(self) -> bytes:
        """Reads up to the next newline, which is left out; a line of a pickle is a short name."""
        line = bytearray()
        while (byte := self.take(1)) != b"\n":
            line += byte
            if len(line) > 256:
                raise FormatError(CUT_SHORT)
        return bytes(line)

    def fill(self, array: np.ndarray[Any, Any]) -> None:
        """Reads the whole window into a contiguous array of exactly its size."""
        try:
            self._file.seek(self._start)
            count = self._file.readinto(array.reshape(-1).view(np.uint8).data)
        except OSError as error:
            raise _unreadable(error) from error
        if count != self.size:
            raise FormatError(CUT_SHORT)


def _unreadable(error: OSError) -> FormatError:
    return FormatError(f"cannot be read ({error.strerror})")
