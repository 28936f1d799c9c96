"""Lists of pairs: a CSV file, or two folders whose photos have the same names."""

import csv
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from oeft_jax._checks import InputError

COLUMNS = ("source", "target", "name")
SUMMARY = "pairs.json"  # beside the folders of the pairs
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")
MAX_BYTES = 100_000_000
SHOWN = 5  # names in an error


class PairPaths(NamedTuple):
    """One entry of a list."""

    name: str  # of its folder
    source: Path
    target: Path


def read_list(path: Path) -> list[PairPaths]:
    """The pairs of a CSV file with the header `source,target` or `source,target,name`.

    Photos are named relative to the file. A pair without a name is called SOURCE_TARGET, after
    its photos. Whether the photos are there is seen when their turn comes.

    Raises:
      InputError: not such a file, or names that are not unique or cannot be a folder's.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"--pairs {path}: is too large; accepted: at most 100 MB.")
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            header = [name.strip() for name in rows.fieldnames or ()]
            if header not in (list(COLUMNS), list(COLUMNS[:2])):
                raise InputError(
                    f"--pairs {path}: its first line is {','.join(header)!r}; accepted: "
                    "'source,target' or 'source,target,name'."
                )
            rows.fieldnames = header
            pairs = [_entry(path, rows.line_num, row) for row in rows]
    except OSError as error:
        raise InputError(f"--pairs {path}: cannot be read ({error.strerror}).") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"--pairs {path}: is no CSV file in UTF-8 ({error}).") from error
    return _checked(pairs, f"--pairs {path}")


def _entry(path: Path, line: int, row: dict) -> PairPaths:
    values = {key: (row.get(key) or "").strip() for key in COLUMNS}
    if None in row or not (values["source"] and values["target"]):
        raise InputError(
            f"--pairs {path}, line {line}: accepted: a source, a target and, where the first line "
            "has it, a name."
        )
    source, target = (path.parent / values[key] for key in ("source", "target"))
    return PairPaths(values["name"] or f"{source.stem}_{target.stem}", source, target)


def match_folders(source: Path, target: Path) -> list[PairPaths]:
    """The pairs of two folders: photos that have the same name, endings aside.

    Files that are no photos by their ending, and hidden ones, are passed over.

    Raises:
      InputError: a photo without a partner, two photos of one name, or none at all.
    """
    sources, targets = _photos(source, "--source"), _photos(target, "--target")
    for flag, mine, other in (("--source", sources, targets), ("--target", targets, sources)):
        if lonely := sorted(set(mine) - set(other)):
            folder = target if flag == "--source" else source
            raise InputError(
                f"{flag}: {_some(mine[name].name for name in lonely)} without a photo of that "
                f"name in {folder}; accepted: the same names in both folders."
            )
    pairs = [PairPaths(name, sources[name], targets[name]) for name in sorted(sources)]
    return _checked(pairs, f"--source {source}")


def _photos(folder: Path, flag: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{flag} {folder}: cannot be read ({error.strerror}).") from error
    for path in paths:
        if path.name.startswith(".") or path.suffix.lower() not in ENDINGS:
            continue
        if path.stem in found:
            raise InputError(
                f"{flag} {folder}: {found[path.stem].name} and {path.name} have one name; "
                "accepted: one photo of a name."
            )
        found[path.stem] = path
    return found


def _checked(pairs: list[PairPaths], where: str) -> list[PairPaths]:
    """Returns the pairs if each can have a folder of its own."""
    if not pairs:
        raise InputError(f"{where}: holds no pair; accepted: at least one.")
    for pair in pairs:
        plain = not any(c in '/\\:*?"<>|' or unicodedata.category(c) == "Cc" for c in pair.name)
        if not plain or pair.name.startswith(".") or pair.name.endswith((".", " ", ".unfinished")):
            raise InputError(
                f"{where}: the name {pair.name!r} cannot be a folder's; accepted: letters, digits, "
                "'-', '_' and '.' inside."
            )
    folded = Counter(pair.name.casefold() for pair in pairs)  # some disks ignore case
    if twice := [p.name for p in pairs if folded[p.name.casefold()] > 1]:
        raise InputError(
            f"{where}: the name {_some(twice)} is there more than once; accepted: a name of its "
            "own for each pair, in the column 'name'."
        )
    if any(name.startswith(SUMMARY) for name in folded):
        raise InputError(f"{where}: {SUMMARY!r} is the summary's name; accepted: another one.")
    return pairs


def _some(names: Iterable[str]) -> str:
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
