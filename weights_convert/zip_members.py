"""The members of a zip file as torch.save writes it: stored whole, one after the other.

The standard library's reader is not used: it believes the directory (overlapping members, any
number of entries) and looks for it in several places. Here everything must fit together exactly.
Checksums are left alone, as PyTorch does: it can be told to write none.
"""

import struct
from itertools import pairwise
from typing import NamedTuple

from weights_convert.file_window import CUT_SHORT, FormatError, Window

_END = struct.Struct("<4s4H2LH")
_LOCATOR64 = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_IN_EXTRA = 0xFFFFFFFF  # a 32-bit field that says: see the zip64 extra field
_MAX_DIRECTORY = 4 * 2**20  # about 50 000 members


class _Entry(NamedTuple):
    """What the directory says of one member."""

    name: str
    header_at: int
    size: int  # of its bytes in the file
    plain: bool  # stored as it is, not compressed


def zip_members(file: Window) -> dict[str, Window | None]:
    """Locates every member of `file`; None stands for one that is compressed.

    Raises:
      FormatError: damaged, encrypted, overlapping or oddly named members.
    """
    start, size, count = _directory(file)
    members: dict[str, Window | None] = {}
    spans: list[tuple[int, int]] = []
    directory, body = file.part(start, size), file.part(0, start)
    while directory.position < directory.size:
        entry = _entry(directory)
        if entry.name in members:
            raise FormatError(f"is damaged: it has two members named {entry.name[:80]!a}")
        data_at = _data_start(body, entry)
        data = body.part(data_at, entry.size)
        members[entry.name] = data if entry.plain else None
        spans.append((entry.header_at, data_at + entry.size))
    if len(members) != count:
        raise FormatError(CUT_SHORT)
    _check_apart(spans)
    return members


def _directory(file: Window) -> tuple[int, int, int]:
    """Start, size in bytes and number of entries of the central directory."""
    end_at = file.size - _END.size
    _, disk, first_disk, here, count, size, start, comment = _unpack(file, end_at, _END, b"PK\5\6")
    if disk or first_disk or comment or here != count:
        raise FormatError(CUT_SHORT)
    locator_at = end_at - _LOCATOR64.size
    if locator_at >= 0 and file.part(locator_at, 4).take(4) == b"PK\6\7":
        narrow = ((count, 0xFFFF), (size, _IN_EXTRA), (start, _IN_EXTRA))
        end_at, (count, size, start) = _directory64(file, locator_at)
        wide = (count, size, start)
        if any(short not in (long, full) for (short, full), long in zip(narrow, wide, strict=True)):
            raise FormatError(CUT_SHORT)
    if start + size != end_at:
        raise FormatError(CUT_SHORT)
    if size > _MAX_DIRECTORY:
        raise FormatError("has a zip directory over 4 MiB, more than weights need")
    return start, size, count


def _directory64(file: Window, locator_at: int) -> tuple[int, tuple[int, ...]]:
    """Where the zip64 end record is, and its number of entries, size and start of the directory."""
    _, _, record_at, disks = _unpack(file, locator_at, _LOCATOR64, b"PK\6\7")
    if record_at + _END64.size != locator_at or disks != 1:
        raise FormatError(CUT_SHORT)
    return record_at, _unpack(file, record_at, _END64, b"PK\6\6")[-3:]


def _unpack(file: Window, offset: int, form: struct.Struct, signature: bytes) -> tuple[int, ...]:
    fields = form.unpack(file.part(offset, form.size).take(form.size))
    if fields[0] != signature:
        raise FormatError(CUT_SHORT)
    return fields


def _entry(directory: Window) -> _Entry:
    fields = _ENTRY.unpack(directory.take(_ENTRY.size))
    signature, _, _, flags, method, _, _, _, packed, length = fields[:10]
    name_size, extra_size, comment_size, disk, _, _, header_at = fields[10:]
    name = _checked_name(directory.take(name_size))
    extra = directory.take(extra_size)
    directory.take(comment_size)
    length, packed, header_at = _widened(extra, length, packed, header_at)
    if signature != b"PK\1\2" or disk or (method == 0 and packed != length):
        raise FormatError(CUT_SHORT)
    if flags & 1:
        raise FormatError("has encrypted members, which torch.save never writes")
    return _Entry(name, header_at, packed, method == 0)


def _checked_name(raw: bytes) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise FormatError(CUT_SHORT) from None
    if not name.isprintable() or "\\" in name or name.startswith("/") or ".." in name.split("/"):
        raise FormatError(f"has a member named {name[:80]!a}, which torch.save never writes")
    return name


def _widened(extra: bytes, *fields: int) -> list[int]:
    """The fields, with those that say so replaced from the zip64 extra field, in its order."""
    at, wide = 0, b""
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            wide = extra[at + 4 : at + 4 + size]
        at += 4 + size
    numbers = struct.iter_unpack("<Q", wide[: len(wide) // 8 * 8])
    try:
        return [next(numbers)[0] if field == _IN_EXTRA else field for field in fields]
    except StopIteration:
        raise FormatError(CUT_SHORT) from None


def _data_start(body: Window, entry: _Entry) -> int:
    """Where the member's bytes begin; its own header must agree with the directory."""
    fields = _unpack(body, entry.header_at, _LOCAL, b"PK\3\4")
    flags, method, name_size, extra_size = fields[2], fields[3], *fields[-2:]
    name_at = entry.header_at + _LOCAL.size
    name = body.part(name_at, name_size).take(name_size)
    if flags & 1 or (method == 0) != entry.plain or name != entry.name.encode():
        raise FormatError(CUT_SHORT)
    return name_at + name_size + extra_size


def _check_apart(spans: list[tuple[int, int]]) -> None:
    spans.sort()
    for (_, end), (start, _) in pairwise(spans):
        if start < end:
            raise FormatError("has members that share bytes, which torch.save never writes")
