"""Brings one file over HTTP(S): resumed, bounded, verified, from the first mirror that gives it.

Beside `name.part` lies `name.part.json` with the address and the validator (strong ETag, else
Last-Modified) of the bytes so far. A later attempt asks for the rest with Range and If-Range, so a
file that has changed meanwhile starts anew (RFC 9110, sections 13.1.5 and 14.2).

requests is used directly. pooch (1.9) hands its downloader a new temporary file at each attempt
and removes it afterwards, so nothing can be resumed, and it knows neither the first digits of a
hash, nor sizes, nor mirrors: with all that replaced, nothing of it would be in use.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from oeft_jax._checks import InputError

CHUNK = 1 << 16
CAP = 2 * 1024**3  # bytes taken from a server where no size is published
MAX_REDIRECTS = 8
# "identity": a packed body would fit neither the published size nor a byte range
HEADERS = {"Accept-Encoding": "identity", "User-Agent": "oeft_jax weights_convert"}
WORTH_ANOTHER_TRY = (408, 425, 429, 500, 502, 503, 504)
WEB_PAGE = "it sent a web page instead of the file (a login, consent or error page)"
NUMBER = re.compile(r"[0-9]{1,18}")
CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,18})-[0-9]{1,18}|\*)/([0-9]{1,18}|\*)")

OnBytes = Callable[[int, int | None], None]  # bytes here, bytes in all or None
OnWait = Callable[[str], None]  # why the next attempt is waited for


class Fetched(NamedTuple):
    """What a download brought."""

    url: str  # the mirror that gave it
    sha256: str


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for."""

    connect: float = 10.0  # seconds
    read: float = 30.0  # seconds without a byte
    attempts: int = 5  # for each mirror
    pause: float = 1.0  # seconds before the second attempt; doubles from one to the next


class _BrokenOffError(Exception):
    """This attempt failed; the next one may not."""


class _RefusedError(InputError):
    """This mirror will not give the file."""


def download(
    urls: Sequence[str],
    destination: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    patience: Patience | None = None,
    on_bytes: OnBytes = lambda done, total: None,
    on_wait: OnWait = lambda reason: None,
) -> Fetched:
    """Brings the file to `destination`, whole and verified or not at all.

    Args:
      urls: http or https addresses of the same bytes, tried in order; the one that an earlier run
        began with comes first.
      destination: what has come so far lies beside it, with ".part" added.
      sha256: expected hash in hex, or its first digits; None checks none.
      size: expected number of bytes; None allows up to CAP.
      on_bytes: called after each piece.
      on_wait: called before each further attempt.
    Raises:
      InputError: no mirror gave the expected bytes; says what went wrong at each.
      OSError: the file cannot be written.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    part = _Part(destination)
    problems = []
    with _Session() as session:
        session.headers.update(HEADERS)
        transfer = _Transfer(session, part, size, patience or Patience(), on_bytes, on_wait)
        for url in sorted(urls, key=lambda url: url != part.started_with()):
            try:
                transfer.run(url)
                found = _verified(part, sha256=sha256, size=size)
            except InputError as error:
                problems.append(f"{_host(url)}: {error}")
            else:
                part.publish(destination)
                return Fetched(url, found)
    raise InputError(f"{destination.name} could not be downloaded: {'; '.join(problems)}.")


def verify(file: Path, *, sha256: str | None, size: int | None) -> str:
    """Returns the SHA-256 of `file`, after comparing it with what is published.

    Raises:
      InputError: a web page, or other bytes than expected; says what was expected and found.
    """
    with file.open("rb") as stream:
        start = stream.read(256).lstrip().lower()
        if start.startswith((b"<!doctype html", b"<html")):
            raise InputError(WEB_PAGE)
        stream.seek(0)
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    length = file.stat().st_size
    if sha256 is not None and not found.startswith(sha256.lower()):
        begins = "" if len(sha256) == 64 else "beginning with "
        raise InputError(f"expected sha256 {begins}{sha256}, found {found} ({length} bytes)")
    if size is not None and length != size:
        raise InputError(f"expected {size} bytes, found {length}")
    return found


def _verified(part: "_Part", *, sha256: str | None, size: int | None) -> str:
    try:
        return verify(part.file, sha256=sha256, size=size)
    except InputError as error:
        part.discard()
        raise InputError(f"{error}; what came was removed") from error


class _Session(requests.Session):
    """Leaves redirects to `_Transfer`: requests would read their bodies, however long (it does so
    even when told not to follow them), and go from https to http.
    """

    def get_redirect_target(self, resp: Any) -> None:
        """No answer is a redirect to requests."""


class _Part:
    """The bytes that came so far, and what says of which file they are."""

    def __init__(self, destination: Path) -> None:
        self.file = destination.with_name(destination.name + ".part")
        self.note = destination.with_name(destination.name + ".part.json")

    def _read_note(self) -> dict[str, str]:
        try:
            note = json.loads(self.note.read_text("utf-8"))
            return {"url": str(note["url"]), "validator": str(note["validator"])}
        except (OSError, ValueError, TypeError, KeyError):  # none, or written by somebody else
            return {"url": "", "validator": ""}

    def started_with(self) -> str:
        """The address that the bytes came from, or ""."""
        return self._read_note()["url"] if self.file.is_file() else ""

    def resume_point(self, url: str) -> tuple[int, str]:
        """Number of bytes to go on after, and their validator; 0 without something to go on from."""
        note = self._read_note()
        if note["url"] != url or not note["validator"] or not self.file.is_file():
            return 0, ""
        return self.file.stat().st_size, note["validator"]

    def begin(self, url: str, validator: str) -> None:
        """Drops what is there and notes what comes now."""
        self.discard()
        self.note.write_text(json.dumps({"url": url, "validator": validator}), "utf-8")

    def discard(self) -> None:
        """Removes the bytes and the note."""
        self.file.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def publish(self, destination: Path) -> None:
        """Gives the finished file its name."""
        self.file.replace(destination)
        self.note.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Transfer:
    """One file from one server at a time."""

    session: requests.Session
    part: _Part
    size: int | None
    patience: Patience
    on_bytes: OnBytes
    on_wait: OnWait

    def run(self, url: str) -> None:
        """Tries until the whole file has come or the patience is used up."""
        reason = ""
        for attempt in range(self.patience.attempts):
            if attempt:
                self.on_wait(reason)
                time.sleep(self.patience.pause * 2 ** (attempt - 1))
            try:
                return self._attempt(url)
            except _BrokenOffError as error:
                reason = str(error)
            except requests.exceptions.SSLError as error:
                raise _RefusedError(f"its certificate is not accepted ({error})") from error
            except (requests.exceptions.InvalidURL, UnicodeError) as error:
                raise _RefusedError(f"its address is not usable ({error})") from error
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                reason = self._in_words(error)
        raise _RefusedError(f"{reason}, tried {self.patience.attempts} times")

    def _attempt(self, url: str) -> None:
        have, validator = self.part.resume_point(url)
        if self.size is not None and have == self.size:
            return
        with self._open(url, have, validator) as response:
            if _holds_all(response, have):
                return
            start = self._start(response, have, validator)
            total = _total(response)
            self._check_announced(total)
            if start == 0:
                self.part.begin(url, _validator(response))
            done = self._receive(response, start, total)
        expected = self.size if self.size is not None else total
        if expected is not None and done < expected:
            raise _BrokenOffError(f"the connection broke off after {done} of {expected} bytes")

    def _open(self, url: str, have: int, validator: str) -> requests.Response:
        headers = {"Range": f"bytes={have}-", "If-Range": validator} if have else {}
        timeouts = (self.patience.connect, self.patience.read)
        for _ in range(MAX_REDIRECTS + 1):
            _check_address(url)
            response = self.session.get(
                url, headers=headers, stream=True, allow_redirects=False, timeout=timeouts
            )
            if not response.is_redirect:
                return response
            response.close()
            url = _redirected(url, response.headers["Location"])
        raise _RefusedError(f"more than {MAX_REDIRECTS} redirects")

    def _start(self, response: requests.Response, have: int, validator: str) -> int:
        """Where the body begins in the file: after what is there, or at 0."""
        if response.status_code == 416:
            self.part.discard()
            raise _BrokenOffError("it has nothing after what is here")
        _check_status(response)
        if response.status_code == 200:
            return 0
        match = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        tag = _validator(response)
        if not match or match[1] != str(have) or (tag and validator and tag != validator):
            self.part.discard()
            raise _BrokenOffError("the rest that came does not fit what is here")
        return have

    def _check_announced(self, total: int | None) -> None:
        if total is None:
            return
        if self.size is not None and total != self.size:
            self.part.discard()
            raise _RefusedError(f"it announces {total} bytes; the file has {self.size}")
        if total > CAP and self.size is None:
            raise _RefusedError(f"it announces {total} bytes; accepted: up to {CAP}")

    def _receive(self, response: requests.Response, start: int, total: int | None) -> int:
        """Appends the body to the part; returns how many bytes are there then."""
        limit = CAP if self.size is None else self.size
        done = start
        with self.part.file.open("ab" if start else "wb") as file:
            # read1 gives what is there at once: nothing received is lost when the rest never comes
            while piece := response.raw.read1(CHUNK, decode_content=False):
                done += len(piece)
                if done > limit:
                    break
                file.write(piece)
                self.on_bytes(done, total or self.size)
        if done > limit:
            self.part.discard()
            raise _RefusedError(f"it sent more than {limit} bytes; what came was removed")
        return done

    def _in_words(self, error: Exception) -> str:
        if isinstance(error, (requests.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError)):
            return f"no connection within {self.patience.connect:g} s"
        if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError)):
            return f"nothing came for {self.patience.read:g} s"
        if isinstance(error, requests.ConnectionError):
            return "the connection failed"
        return "the connection broke off"


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or url
    except ValueError:
        return url


def _check_address(url: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise _RefusedError(f"address {url!r} is not usable ({error})") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _RefusedError(f"address {url!r} is not usable; accepted: https://..., http://...")


def _redirected(url: str, target: str) -> str:
    """The address that `url` redirects to, unless that is unsafe."""
    try:
        there = urljoin(url, target)
    except ValueError as error:
        raise _RefusedError(f"it redirects to {target!r}, which is not usable") from error
    _check_address(there)
    if urlsplit(url).scheme == "https" and urlsplit(there).scheme == "http":
        raise _RefusedError(f"it redirects from https to unencrypted {there!r}")
    return there


def _check_status(response: requests.Response) -> None:
    status = response.status_code
    answer = f"it answered {status} {response.reason}"
    if status in WORTH_ANOTHER_TRY:
        raise _BrokenOffError(answer)
    if status not in (200, 206):
        raise _RefusedError(answer)
    if response.headers.get("Content-Type", "").lower().startswith("text/html"):
        raise _RefusedError(WEB_PAGE)
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _RefusedError("it sent the file packed, although asked not to")


def _holds_all(response: requests.Response, have: int) -> bool:
    """Whether the server says that the file ends where the bytes here end."""
    match = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return response.status_code == 416 and match is not None and match[2] == str(have)


def _total(response: requests.Response) -> int | None:
    """Bytes of the whole file, as announced."""
    if response.status_code == 206:
        match = CONTENT_RANGE.fullmatch(response.headers["Content-Range"])
        return int(match[2]) if match and match[2] != "*" else None
    length = response.headers.get("Content-Length", "")
    return int(length) if NUMBER.fullmatch(length) else None


def _validator(response: requests.Response) -> str:
    """What If-Range accepts: a strong ETag, else the date of the last change, else ""."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
