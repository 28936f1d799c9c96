"""The fetch command: what it says, asks, keeps, and leaves alone."""

import dataclasses
import hashlib
import io
import os
import re
import subprocess
import sys
from functools import partial

import bad_server as bad
import numpy as np
import pytest
from filelock import FileLock

from oeft_jax._checks import InputError
from weights_convert import fetch
from weights_convert.download import Patience, download, verify
from weights_convert.fetch import Tools, main
from weights_convert.registry import REGISTRY, Entry

DATA = np.random.default_rng(0).bytes(200_000)
SHA = hashlib.sha256(DATA).hexdigest()
QUICK = Patience(connect=2, read=0.3, attempts=1, pause=0.01)
FREE = Entry(
    name="free",
    network="vgg19",
    filename="free.pth",
    urls=(),
    sha256=SHA,
    size=len(DATA),
    licence="BSD",
    non_commercial=False,
    note="features",
    page="https://example.org/free",
)
BOUND = dataclasses.replace(
    FREE, name="bound", network="pggan", filename="bound.pth", licence="BY-NC", non_commercial=True
)
BY_HAND = dataclasses.replace(FREE, name="by_hand", filename="hand.pt", sha256=None, size=None)


class Converter:
    """Stands in for the converter: writes what it was given, and remembers it."""

    def __init__(self):
        self.calls = []
        self.problem = None

    def __call__(self, network, file, out, *, metadata):
        self.calls.append((network, file, out, dict(metadata)))
        if self.problem:
            raise self.problem
        out.write_bytes(file.read_bytes())


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("OEFT_JAX_CACHE", str(folder))
    return folder


@pytest.fixture
def server():
    with bad.BadServer() as running:
        yield running


@pytest.fixture
def converter():
    return Converter()


@pytest.fixture
def run(cache, server, converter):
    """Runs the command with entries that the local server has, and the stand-in converter."""
    entries = {
        entry.name: dataclasses.replace(entry, urls=(server.url(f"/{entry.filename}"),))
        for entry in (FREE, BOUND)
    } | {BY_HAND.name: BY_HAND}
    tools = Tools(partial(download, patience=QUICK), converter, verify)
    for entry in (FREE, BOUND):
        server.serve(f"/{entry.filename}", bad.whole(DATA))
    return lambda *words: main(words, tools=tools, registry=entries)


def on_terminal(monkeypatch, answers):
    """Lets the command believe that a person types `answers`."""
    stdin = io.StringIO(answers)
    stdin.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", stdin)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)


def downloads(cache):
    return sorted(path.name for path in (cache / "downloads").iterdir() if path.suffix != ".lock")


# The way through


def test_fetches_converts_and_cleans_up(run, cache, converter, server, capsys):
    assert run("free") == 0
    out = cache / "free.safetensors"
    assert out.read_bytes() == DATA
    ((network, file, written, metadata),) = converter.calls
    assert (network, file.name, written) == ("vgg19", "free.pth", out)
    assert metadata == {
        "published_as": "free.pth",
        "licence": "BSD",
        "source_url": server.url("/free.pth"),
    }
    assert downloads(cache) == []
    assert f"wrote {out}" in capsys.readouterr().out


def test_says_everything_before_it_asks_a_server(run, cache, server, capsys):
    server.serve("/free.pth", lambda request: said.append(capsys.readouterr().out))
    said = []
    run("free")
    for text in ("free: features", "free.pth, size 200.0 kB", "127.0.0.1", "BSD", str(cache)):
        assert text in said[0]


def test_keep_keeps_the_download(run, cache):
    assert run("free", "--keep") == 0
    assert downloads(cache) == ["free.pth"]


def test_what_is_here_is_left_alone(run, cache, server, converter, capsys):
    cache.mkdir()
    (cache / "free.safetensors").write_bytes(b"mine")
    assert run("free") == 0
    assert (cache / "free.safetensors").read_bytes() == b"mine"
    assert (server.seen, converter.calls) == ([], [])
    assert "free: already in" in capsys.readouterr().out


def test_overwrite_fetches_anew(run, cache, server):
    cache.mkdir()
    (cache / "free.safetensors").write_bytes(b"mine")
    assert run("free", "--overwrite") == 0
    assert (cache / "free.safetensors").read_bytes() == DATA
    assert len(server.seen) == 1


def test_overwrite_uses_a_kept_file(run, server, converter):
    assert run("free", "--keep") == 0
    assert run("free", "--overwrite") == 0
    assert len(converter.calls) == 2
    assert len(server.seen) == 1


def test_progress_is_a_few_plain_lines(run, capsys):
    run("free")
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= fetch.LINES + 1
    assert lines[-1] == "free: 200.0 kB of 200.0 kB"


# Consent


def test_without_a_terminal_consent_is_a_flag(run, server, capsys):
    assert run("bound") == 2
    assert "not for commercial use (BY-NC); accepted: --accept-license." in capsys.readouterr().err
    assert server.seen == []


def test_the_flag_is_consent(run, cache):
    assert run("bound", "--accept-license") == 0
    assert (cache / "bound.safetensors").is_file()


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("Yes\n", 0), ("\n", 2), ("n\n", 2)])
def test_a_person_is_asked(run, server, monkeypatch, capsys, answer, code):
    on_terminal(monkeypatch, answer)
    assert run("bound") == code
    assert "not for commercial use. Keep to that? [y/N]" in capsys.readouterr().out
    assert len(server.seen) == (code == 0)


def test_a_person_is_asked_once_and_only_for_bound_files(run, server, cache, monkeypatch, capsys):
    on_terminal(monkeypatch, "n\n")
    assert run("free", "bound") == 2
    assert capsys.readouterr().out.count("[y/N]") == 1
    assert (cache / "free.safetensors").is_file()
    assert [seen.path for seen in server.seen] == ["/free.pth"]


def test_nobody_is_asked_about_what_is_here(run, cache, monkeypatch, capsys):
    on_terminal(monkeypatch, "")
    cache.mkdir()
    (cache / "bound.safetensors").write_bytes(b"mine")
    assert run("bound") == 0
    assert "[y/N]" not in capsys.readouterr().out


# Files that are here


def test_from_needs_no_network(run, cache, server, converter, tmp_path):
    given = tmp_path / "given.pth"
    given.write_bytes(DATA)
    assert run("free", "--from", str(given)) == 0
    assert (cache / "free.safetensors").read_bytes() == DATA
    assert server.seen == []
    assert given.is_file()
    assert converter.calls[0][3] == {"published_as": "free.pth", "licence": "BSD"}


def test_from_compares_the_hash(run, converter, tmp_path, capsys):
    given = tmp_path / "given.pth"
    given.write_bytes(b"other")
    found = hashlib.sha256(b"other").hexdigest()
    assert run("free", "--from", str(given)) == 2
    error = capsys.readouterr().err
    assert f"expected sha256 {SHA}, found {found}" in error
    assert "accepted: free.pth as published, or --any-hash" in error
    assert converter.calls == []
    assert given.read_bytes() == b"other"


def test_any_hash_says_what_it_found(run, converter, tmp_path, capsys):
    given = tmp_path / "given.pth"
    given.write_bytes(b"other")
    assert run("free", "--from", str(given), "--any-hash") == 0
    found = hashlib.sha256(b"other").hexdigest()
    assert f"has sha256 {found} (not compared with {SHA})" in capsys.readouterr().out
    assert len(converter.calls) == 1


def test_from_recognises_a_saved_web_page(run, tmp_path, capsys):
    given = tmp_path / "hand.pt"
    given.write_text("<!DOCTYPE html><title>Google Drive</title>", "utf-8")
    assert run("by_hand", "--from", str(given)) == 2
    assert "a web page instead of the file" in capsys.readouterr().err


def test_from_names_a_missing_file(run, tmp_path, capsys):
    assert run("free", "--from", str(tmp_path / "none.pth")) == 2
    assert "no such file; accepted: free.pth" in capsys.readouterr().err


def test_without_a_published_hash_the_found_one_is_shown(run, tmp_path, capsys):
    given = tmp_path / "hand.pt"
    given.write_bytes(DATA)
    assert run("by_hand", "--from", str(given)) == 0
    assert f"has sha256 {SHA} (none is published)" in capsys.readouterr().out


def test_a_file_for_people_names_its_page(run, capsys):
    assert run("by_hand") == 2
    error = capsys.readouterr().err
    assert "get hand.pt from https://example.org/free in a browser" in error
    assert "--from FILE" in error


# Another address


def test_url_replaces_the_published_addresses(run, server, converter):
    url = server.serve("/elsewhere?key=secret", bad.whole(DATA))
    assert run("free", "--url", url.replace("//", "//user:word@")) == 0
    assert [seen.path for seen in server.seen] == ["/elsewhere?key=secret"]
    assert converter.calls[0][3]["source_url"] == server.url("/elsewhere")


def test_url_compares_the_hash(run, server, capsys):
    url = server.serve("/elsewhere", bad.whole(bytes(len(DATA))))
    assert run("free", "--url", url) == 2
    assert f"expected sha256 {SHA}" in capsys.readouterr().err
    assert run("free", "--url", url, "--any-hash") == 0


def test_any_hash_takes_no_file_of_an_earlier_run(run, server, converter, cache):
    """Otherwise it would convert the published file instead of the one at the address."""
    (cache / "downloads").mkdir(parents=True)
    (cache / "downloads" / "free.pth").write_bytes(DATA)
    url = server.serve("/elsewhere", bad.whole(b"new"))
    assert run("free", "--url", url, "--any-hash") == 0
    assert (cache / "free.safetensors").read_bytes() == b"new"


# What goes wrong


def test_further_attempts_are_told(cache, server, converter, capsys):
    url = server.serve("/free.pth", bad.status(503), bad.whole(DATA))
    patience = dataclasses.replace(QUICK, attempts=2)
    tools = Tools(partial(download, patience=patience), converter, verify)
    entry = dataclasses.replace(FREE, urls=(url,))
    assert main(["free"], tools=tools, registry={"free": entry}) == 0
    expected = "weights_convert: free: it answered 503 Service Unavailable; trying again"
    assert expected in capsys.readouterr().err


def test_wrong_bytes_are_not_converted(run, server, converter, cache, capsys):
    server.serve("/free.pth", bad.whole(bytes(len(DATA))))
    assert run("free") == 2
    error = capsys.readouterr().err
    assert f"expected sha256 {SHA}, found" in error
    assert "by hand from https://example.org/free" in error
    assert converter.calls == []
    assert downloads(cache) == []


def test_one_that_fails_does_not_stop_the_others(run, server, cache, capsys):
    server.serve("/bound.pth", bad.status(404))
    assert run("bound", "by_hand", "free", "--accept-license") == 2
    printed = capsys.readouterr()
    assert (cache / "free.safetensors").is_file()
    assert "here: free; not fetched: bound, by_hand" in printed.out
    assert "bound.pth could not be downloaded: 127.0.0.1: it answered 404" in printed.err


def test_an_interruption_is_continued_by_the_same_command(run, server, cache, capsys, monkeypatch):
    def interrupt(name):
        def on_bytes(done, total):
            raise KeyboardInterrupt

        return on_bytes

    with monkeypatch.context() as patch:
        patch.setattr(fetch, "_plain_progress", interrupt)
        assert run("free") == 1
    assert "interrupted; the same command continues the download" in capsys.readouterr().err
    have = (cache / "downloads" / "free.pth.part").stat().st_size
    assert have > 0
    assert run("free") == 0
    assert server.seen[-1].sent == len(DATA) - have
    assert (cache / "free.safetensors").read_bytes() == DATA


def test_what_cannot_be_converted_stays_and_is_not_fetched_twice(
    run, server, cache, converter, capsys
):
    converter.problem = InputError("holds something else.")
    assert run("free") == 2
    file = cache / "downloads" / "free.pth"
    assert f"not converted: holds something else. The file stays in {file}" in (
        capsys.readouterr().err
    )
    converter.problem = None
    assert run("free") == 0
    assert len(server.seen) == 1
    assert converter.calls[1][3]["source_url"] == server.url("/free.pth")


def test_a_damaged_file_of_an_earlier_run_is_replaced(run, cache, server):
    (cache / "downloads").mkdir(parents=True)
    (cache / "downloads" / "free.pth").write_bytes(DATA[:-1] + b"x")
    assert run("free") == 0
    assert (cache / "free.safetensors").read_bytes() == DATA
    assert len(server.seen) == 1


def test_a_file_of_an_earlier_run_is_not_trusted_without_a_hash(run, cache, server, converter):
    url = server.serve("/hand.pt", bad.whole(DATA))
    (cache / "downloads").mkdir(parents=True)
    (cache / "downloads" / "hand.pt").write_bytes(b"damaged")
    assert run("by_hand", "--url", url) == 0
    assert (cache / "by_hand.safetensors").read_bytes() == DATA


def test_a_folder_that_cannot_be_written_is_one_sentence(run, cache, capsys):
    cache.write_text("a file where the folder should be", "utf-8")
    assert run("free") == 2
    assert "free: a file could not be read or written" in capsys.readouterr().err


# Two at once


def test_two_processes_do_not_fetch_one_name(run, cache, server, capsys):
    (cache / "downloads").mkdir(parents=True)
    with FileLock(cache / "downloads" / "free.lock"):
        assert run("free", "bound", "--accept-license") == 2
    assert "free: is being fetched by another process" in capsys.readouterr().err
    assert [seen.path for seen in server.seen] == ["/bound.pth"]
    assert run("free") == 0


def test_a_killed_process_leaves_no_lock(run, cache):
    path = cache / "downloads" / "free.lock"
    path.parent.mkdir(parents=True)
    program = f"""
import filelock
lock = filelock.FileLock({str(path)!r})
lock.acquire()
print("held", flush=True)
input()
"""
    words = [sys.executable, "-c", program]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert run("free") == 2
        other.kill()
    assert run("free") == 0


# Flags


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ([], "no NAME is given; --list shows"),
        (["vgg20"], "NAME='vgg20' is not known; accepted: .*bound.*by_hand.*free"),
        (["free", "--from", "a", "--url", "b"], "--from and --url exclude each other"),
        (["free", "bound", "--from", "a"], "--from is for one NAME; 2 are given"),
        (["free", "--any-hash"], "--any-hash needs --from or --url"),
        (["free", "--nothing"], "unrecognized arguments: --nothing; see --help"),
        (["free", "--url", "ftp://host/f"], "not usable; accepted: https://"),
    ],
)
def test_bad_flags_end_in_a_sentence(run, capsys, words, match):
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith("weights_convert: ")
    assert re.search(match, error)


def test_a_name_given_twice_is_fetched_once(run, server):
    assert run("free", "free") == 0
    assert len(server.seen) == 1


# The list


def test_list_shows_what_is_here(cache, capsys):
    cache.mkdir()
    (cache / "vgg19.safetensors").write_bytes(b"")
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines[1:]}
    assert list(rows) == list(REGISTRY)
    assert "  here " in rows["vgg19"]
    assert "  missing " in rows["vgg16"]
    assert "574.7 MB" in rows["vgg19"]
    for name, entry in REGISTRY.items():
        assert entry.licence in rows[name]
        assert entry.note in rows[name]


def test_list_is_plain_where_no_terminal_is(cache, capsys):
    main(["--list"])
    assert capsys.readouterr().out.isascii()


def test_list_fits_a_terminal(cache, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    main(["--list"])
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "stylegan2_afhqwild512_nvidia" in shown
    assert max(map(len, shown.splitlines())) <= 100


WATCHED = """
import sys
seen = []
sys.addaudithook(lambda event, args: event.startswith("socket.") and seen.append(event))
{program}
print("EVENTS", sorted(set(seen)))
"""


def events_of(program, cache):
    """Socket events of a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED.format(program=program)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OEFT_JAX_CACHE": str(cache), "JAX_PLATFORMS": "cpu"},
    )
    return done.stdout.splitlines()[-1]


def test_the_list_opens_no_socket(cache):
    program = "from weights_convert import fetch; fetch.main(['--list'])"
    assert events_of(program, cache) == "EVENTS []"


def test_imports_reach_nobody(cache):
    """urllib3 binds a socket of this machine to see whether it has IPv6; nothing is connected."""
    program = """
import importlib, pkgutil, weights_convert, oeft_jax
for found in pkgutil.iter_modules(weights_convert.__path__):
    if found.name != "__main__":
        importlib.import_module(f"weights_convert.{found.name}")
"""
    events = events_of(program, cache)
    assert "socket.connect" not in events
    assert "socket.getaddrinfo" not in events
    assert "socket.sendto" not in events
    assert events == "EVENTS ['socket.__new__', 'socket.bind']"


def test_the_watch_sees_connections(cache):
    program = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"
    assert "socket.connect" in events_of(program, cache)
