"""`python -m weights_convert fetch NAME`: shows, asks, downloads, converts, and puts into the cache.

Nothing is asked of any server before the command has said what it will fetch and from where, and
files that may not be used commercially are fetched only after consent.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn
from rich.progress import TransferSpeedColumn as SpeedColumn
from rich.table import Column, Table

from oeft_jax._checks import InputError, check_choice
from oeft_jax.flags import Parser
from oeft_jax.weights import cache_folder
from weights_convert.registry import REGISTRY, Entry

LINES = 10  # plain lines of progress a file
WIDE = 1000  # columns where the output is not a terminal: no line is broken


@dataclass(frozen=True)
class Tools:
    """What does the work; tests put their own here."""

    download: Callable[..., Any]  # weights_convert.download.download
    convert: Callable[..., Any]  # weights_convert.convert.convert
    verify: Callable[..., str]  # weights_convert.download.verify


def _tools() -> Tools:
    # imported when needed: --list works without requests, and opens no socket (urllib3 tries an
    # IPv6 one when it is imported)
    from weights_convert.convert import convert
    from weights_convert.download import download, verify

    return Tools(download, convert, verify)


def main(
    arguments: Sequence[str],
    *,
    tools: Tools | None = None,
    registry: Mapping[str, Entry] = REGISTRY,
) -> int:
    """Runs the command; returns the exit code (0 done, 1 stopped, 2 bad input or not fetched)."""
    try:
        flags = _parser().parse_args(list(arguments))
        if flags.list:
            _print_list(registry)
            return 0
        entries = _chosen(flags, registry)
        wanted = [entry for entry in entries if flags.overwrite or not _out(entry).is_file()]
        for entry in wanted:
            _describe(entry, flags)
        failed = _fetch_all(entries, flags, _consent(wanted, flags), tools or _tools())
    except InputError as error:
        _complain(str(error))
        return 2
    except KeyboardInterrupt:
        _complain("interrupted; the same command continues the download")
        return 1
    if len(entries) > 1:
        done = [entry.name for entry in entries if entry.name not in failed]
        print(f"here: {', '.join(done) or 'none'}; not fetched: {', '.join(failed) or 'none'}")
    return 2 if failed else 0


def _parser() -> Parser:
    made = Parser(
        prog="python -m weights_convert fetch",
        usage="%(prog)s NAME [NAME ...] [options]",
        description="Downloads published weights, checks them against their published hash, and "
        f"converts them into the cache folder ({cache_folder()}).",
        allow_abbrev=False,
    )
    made.add_argument("names", nargs="*", metavar="NAME", help="what to fetch; see --list")
    made.add_argument("--list", action="store_true", help="show everything there is; no network")
    made.add_argument("--from", dest="file", type=Path, metavar="FILE", help="a file that is here")
    made.add_argument("--url", help="download from this address instead of the published ones")
    made.add_argument(
        "--any-hash",
        action="store_true",
        help="with --from or --url: take the file although its hash or size is not the published "
        "one",
    )
    made.add_argument(
        "--accept-license",
        action="store_true",
        help="the licence is known and kept; needed for non-commercial files without a terminal",
    )
    made.add_argument("--overwrite", action="store_true", help="convert anew although it is here")
    made.add_argument("--keep", action="store_true", help="keep the file as it was downloaded")
    return made


def _chosen(flags: argparse.Namespace, registry: Mapping[str, Entry]) -> list[Entry]:
    if not flags.names:
        raise InputError("no NAME is given; --list shows the accepted ones.")
    for name in flags.names:
        check_choice("NAME", name, registry)
    given = [flag for flag, value in (("--from", flags.file), ("--url", flags.url)) if value]
    if len(given) == 2:
        raise InputError("--from and --url exclude each other; give one of them.")
    if given and len(flags.names) > 1:
        raise InputError(f"{given[0]} is for one NAME; {len(flags.names)} are given.")
    if flags.any_hash and not given:
        raise InputError("--any-hash needs --from or --url.")
    return [registry[name] for name in dict.fromkeys(flags.names)]


def _out(entry: Entry) -> Path:
    return cache_folder() / f"{entry.name}.safetensors"


def _print_list(registry: Mapping[str, Entry]) -> None:
    terminal = sys.stdout.isatty()
    whole = (Column(title, no_wrap=True) for title in ("name", "state", "size"))
    table = Table(*whole, "licence", "what for")
    if not terminal:
        table.box, table.pad_edge, table.show_edge = None, False, False
    for entry in registry.values():
        state = "here" if _out(entry).is_file() else "missing"
        table.add_row(entry.name, state, size_text(entry.size), entry.licence, entry.note)
    Console(width=None if terminal else WIDE, markup=False, highlight=False).print(table)


def size_text(size: int | None) -> str:
    """A number of bytes as people read it."""
    if size is None:
        return "unknown"
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def _describe(entry: Entry, flags: argparse.Namespace) -> None:
    where = flags.file or flags.url or entry.hosts
    print(f"{entry.name}: {entry.note}")
    print(f"  file     {entry.filename}, size {size_text(entry.size)}, from {where}")
    print(f"  licence  {entry.licence}{'; non-commercial' if entry.non_commercial else ''}")
    print(f"  writes   {_out(entry)}", flush=True)


def _consent(wanted: Sequence[Entry], flags: argparse.Namespace) -> bool:
    """Whether files that may not be used commercially may be fetched; asks once on a terminal."""
    names = [entry.name for entry in wanted if entry.non_commercial]
    if flags.accept_license or not names:
        return True
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    print(f"{', '.join(names)}: not for commercial use. Keep to that? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _fetch_all(
    entries: Sequence[Entry], flags: argparse.Namespace, consent: bool, tools: Tools
) -> list[str]:
    """Fetches each; one that fails does not stop the others. Returns the names of those."""
    failed = []
    for entry in entries:
        try:
            _fetch(entry, flags, consent, tools)
        except InputError as error:
            _complain(f"{entry.name}: {error}")
            failed.append(entry.name)
        except OSError as error:
            _complain(f"{entry.name}: a file could not be read or written: {error}.")
            failed.append(entry.name)
    return failed


def _fetch(entry: Entry, flags: argparse.Namespace, consent: bool, tools: Tools) -> None:
    out = _out(entry)
    downloads = out.parent / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    with _only_one(downloads / f"{entry.name}.lock"):
        if out.is_file() and not flags.overwrite:
            print(f"{entry.name}: already in {out}")
            return
        if entry.non_commercial and not consent:
            raise InputError(
                f"is not for commercial use ({entry.licence}); accepted: --accept-license."
            )
        metadata = {"published_as": entry.filename, "licence": entry.licence}
        if flags.file:
            _check_given(entry, flags, tools)
            _convert(entry, flags.file, out, metadata, tools)
        else:
            file, url = _bring(entry, flags, downloads, tools)
            _convert(entry, file, out, {**metadata, "source_url": url}, tools)
            if not flags.keep:
                file.unlink(missing_ok=True)
    print(f"{entry.name}: wrote {out}")


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Holds a lock that ends with the process, however it ends."""
    try:
        with FileLock(path, timeout=0):
            yield
    except Timeout as error:
        raise InputError("is being fetched by another process; wait for that one.") from error


def _published(entry: Entry, flags: argparse.Namespace) -> dict[str, Any]:
    return {
        "sha256": None if flags.any_hash else entry.sha256,
        "size": None if flags.any_hash else entry.size,
    }


def _check_given(entry: Entry, flags: argparse.Namespace, tools: Tools) -> None:
    file = flags.file
    if not file.is_file():
        raise InputError(f"--from {file}: no such file; accepted: {entry.filename}.")
    try:
        found = tools.verify(file, **_published(entry, flags))
    except InputError as error:
        raise InputError(
            f"--from {file}: {error}; accepted: {entry.filename} as published, or --any-hash."
        ) from error
    print(f"{entry.name}: {file} has sha256 {found} ({_standing(entry, flags)})")


def _standing(entry: Entry, flags: argparse.Namespace) -> str:
    if entry.sha256 is None:
        return "none is published"
    return f"not compared with {entry.sha256}" if flags.any_hash else "as published"


def _bring(
    entry: Entry, flags: argparse.Namespace, downloads: Path, tools: Tools
) -> tuple[Path, str]:
    """The file as published, and the address it came from: from an earlier run or the network."""
    urls = (flags.url,) if flags.url else entry.urls
    if not urls:
        raise InputError(
            f"no program can download it; get {entry.filename} from {entry.page} in a browser, "
            "then give it with --from FILE."
        )
    file = downloads / entry.filename
    if _reusable(entry, file, flags, tools):
        print(f"{entry.name}: {file} is here, sha256 as published")
        return file, _shown(urls[0])
    try:
        with _progress(entry.name) as on_bytes:
            fetched = tools.download(
                urls,
                file,
                **_published(entry, flags),
                on_bytes=on_bytes,
                on_wait=lambda reason: _complain(f"{entry.name}: {reason}; trying again"),
            )
    except InputError as error:
        raise InputError(
            f"{error} It can also be got by hand from {entry.page} and given with --from FILE."
        ) from error
    print(f"{entry.name}: downloaded, sha256 {fetched.sha256} ({_standing(entry, flags)})")
    return file, _shown(fetched.url)


def _reusable(entry: Entry, file: Path, flags: argparse.Namespace, tools: Tools) -> bool:
    """Whether an earlier run left the published file; without a published hash nobody can say."""
    if flags.any_hash or entry.sha256 is None or not file.is_file():
        return False
    try:
        tools.verify(file, sha256=entry.sha256, size=entry.size)
    except InputError:
        return False
    return True


def _shown(url: str) -> str:
    """An address without what may be secret in it: a user, a password, a signed query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _convert(
    entry: Entry, file: Path, out: Path, metadata: Mapping[str, str], tools: Tools
) -> None:
    try:
        tools.convert(entry.network, file, out, metadata=metadata)
    except InputError as error:
        raise InputError(f"not converted: {error} The file stays in {file}.") from error


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Yields what to call after each piece: a bar on a terminal, a few lines elsewhere."""
    if not sys.stderr.isatty():
        yield _plain_progress(name)
        return
    columns = ("{task.description}", BarColumn(), DownloadColumn(), SpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        task = bars.add_task(name, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _plain_progress(name: str) -> Callable[[int, int | None], None]:
    said = -1

    def update(done: int, total: int | None) -> None:
        nonlocal said
        step = done * LINES // total if total else done // 100_000_000
        if step != said:
            said = step
            of = f" of {size_text(total)}" if total else ""
            print(f"{name}: {size_text(done)}{of}", file=sys.stderr, flush=True)

    return update


def _complain(text: str) -> None:
    print(f"weights_convert: {text}", file=sys.stderr, flush=True)
