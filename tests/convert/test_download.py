"""Downloads from a server that misbehaves: what is kept, what is refused, what is sent again."""

import hashlib
import os
import time
from functools import partial

import bad_server as bad
import numpy as np
import pytest

from oeft_jax._checks import InputError
from weights_convert import download as module
from weights_convert.download import Patience, download, verify

DATA = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(300_000)
SHA = hashlib.sha256(DATA).hexdigest()
QUICK = Patience(connect=2, read=0.3, attempts=3, pause=0.01)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """The local server is reached directly whatever proxy this machine uses."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server():
    with bad.BadServer() as running:
        yield running


@pytest.fixture
def file(tmp_path):
    return tmp_path / "downloads" / "weights.pth"


get = partial(download, patience=QUICK)


def left(file):
    return sorted(path.name for path in file.parent.iterdir())


def ranges(server):
    return [seen.headers.get("Range") for seen in server.seen]


# What works


def test_brings_and_verifies(server, file):
    url = server.serve("/f", bad.whole(DATA))
    assert get([url], file, sha256=SHA, size=len(DATA)) == (url, SHA)
    assert file.read_bytes() == DATA
    assert left(file) == ["weights.pth"]


def test_asks_for_unpacked_bytes_from_the_start(server, file):
    get([server.serve("/f", bad.whole(DATA))], file)
    (seen,) = server.seen
    assert seen.headers["Accept-Encoding"] == "identity"
    assert "Range" not in seen.headers
    assert "If-Range" not in seen.headers


@pytest.mark.parametrize("digits", [8, 64])
def test_published_digits_are_compared(server, file, digits):
    assert get([server.serve("/f", bad.whole(DATA))], file, sha256=SHA[:digits]).sha256 == SHA


def test_a_slow_drip_is_waited_for(server, file):
    """Each byte comes in time, the whole takes longer than the timeout."""
    data = DATA[:60]
    url = server.serve("/f", bad.dripping(data, step=1, pause=0.02))
    began = time.monotonic()
    get([url], file)
    assert time.monotonic() - began > 2 * QUICK.read
    assert file.read_bytes() == data
    assert len(server.seen) == 1


def test_progress_counts_what_is_here(server, file):
    url = server.serve("/f", bad.cut(DATA, 100_000), bad.whole(DATA))
    calls = []
    get([url], file, on_bytes=lambda done, total: calls.append((done, total)))
    counts = [done for done, _ in calls]
    assert counts == sorted(counts)
    assert counts[-1] == len(DATA)
    assert {total for _, total in calls} == {len(DATA)}


def test_a_body_without_length_is_taken(server, file):
    get([server.serve("/f", bad.lying(DATA, None))], file, sha256=SHA)
    assert file.read_bytes() == DATA


def test_a_chunked_body_is_taken(server, file):
    get([server.serve("/f", bad.chunked(DATA))], file, sha256=SHA)
    assert file.read_bytes() == DATA


def test_redirects_are_followed_with_the_range(server, file):
    target = server.serve("/far", bad.cut(DATA, 1000), bad.whole(DATA))
    url = server.serve("/f", bad.redirect(target), bad.redirect("/far"))
    assert get([url], file, sha256=SHA).url == url
    assert ranges(server) == [None, None, "bytes=1000-", "bytes=1000-"]


# Resuming


def test_only_the_rest_is_sent_again(server, file):
    url = server.serve("/f", bad.cut(DATA, 100_000), bad.whole(DATA))
    get([url], file, sha256=SHA, size=len(DATA))
    assert file.read_bytes() == DATA
    first, second = server.seen
    assert first.sent == 100_000
    assert second.sent == len(DATA) - 100_000
    assert second.headers["Range"] == "bytes=100000-"
    assert second.headers["If-Range"] == '"v1"'


def test_a_later_run_goes_on(server, file):
    url = server.serve("/f", bad.cut(DATA, 70_000))
    once = Patience(connect=2, read=0.3, attempts=1, pause=0.01)
    with pytest.raises(InputError, match="broke off"):
        download([url], file, patience=once)
    assert left(file) == ["weights.pth.part", "weights.pth.part.json"]
    server.serve("/f", bad.whole(DATA))
    get([url], file, sha256=SHA)
    assert server.seen[-1].sent == len(DATA) - 70_000
    assert left(file) == ["weights.pth"]


def test_an_interruption_keeps_every_byte_received(server, file):
    url = server.serve("/f", bad.dripping(DATA[:50], step=10, pause=0.02))

    def interrupt(done, total):
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get([url], file, on_bytes=interrupt)
    part = file.with_name("weights.pth.part").read_bytes()
    assert len(part) >= 20
    assert DATA.startswith(part)


def test_the_last_bytes_before_a_cut_are_kept(server, file):
    """A reader that waits for full blocks would lose the last, incomplete one."""
    url = server.serve("/f", bad.cut(DATA, 65_536 + 1234), bad.whole(DATA))
    get([url], file)
    assert ranges(server) == [None, f"bytes={65_536 + 1234}-"]


def test_a_stall_is_resumed(server, file):
    url = server.serve("/f", bad.stalling(DATA, 5000), bad.whole(DATA))
    get([url], file, sha256=SHA)
    assert "bytes=5000-" in ranges(server)


def test_without_etag_the_date_is_used(server, file):
    date = {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
    url = server.serve("/f", bad.cut(DATA, 9000, etag="", **date), bad.whole(DATA, etag="", **date))
    get([url], file, sha256=SHA)
    assert server.seen[1].headers["If-Range"] == date["Last-Modified"]
    assert server.seen[1].sent == len(DATA) - 9000


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_a_strong_validator_it_starts_anew(server, file, etag):
    url = server.serve("/f", bad.cut(DATA, 9000, etag=etag), bad.whole(DATA, etag=etag))
    get([url], file, sha256=SHA)
    assert ranges(server) == [None, None]


def test_a_server_that_ignores_range_starts_anew(server, file):
    url = server.serve("/f", bad.cut(DATA, 9000), bad.whole(DATA, ranges=False))
    get([url], file, sha256=SHA)
    assert ranges(server) == [None, "bytes=9000-"]
    assert file.read_bytes() == DATA


def test_a_changed_file_starts_anew(server, file):
    url = server.serve("/f", bad.cut(OTHER, 9000), bad.whole(DATA, etag='"v2"'))
    get([url], file)
    assert file.read_bytes() == DATA
    assert server.seen[1].sent == len(DATA)


def test_a_changed_file_is_noticed_where_if_range_is_ignored(server, file):
    def ignores_if_range(request):
        del request.headers["If-Range"]
        bad.whole(DATA, etag='"v2"')(request)

    url = server.serve("/f", bad.cut(OTHER, 9000), ignores_if_range)
    get([url], file)
    assert file.read_bytes() == DATA
    assert ranges(server) == [None, "bytes=9000-", None]


def test_other_bytes_than_asked_for_start_anew(server, file):
    url = server.serve("/f", bad.cut(DATA, 9000), bad.wrong_range(DATA, 100), bad.whole(DATA))
    get([url], file, sha256=SHA)
    assert ranges(server) == [None, "bytes=9000-", None]


def test_a_part_that_is_complete_is_not_fetched_again(server, file):
    """The run ended between the last byte and the renaming."""
    url = server.serve("/f", bad.whole(DATA))
    write_part(file, DATA, url)
    get([url], file, sha256=SHA, size=len(DATA))
    assert server.seen == []
    assert file.read_bytes() == DATA


def test_a_complete_part_of_unknown_size_is_recognised(server, file):
    url = server.serve("/f", bad.whole(DATA))
    write_part(file, DATA, url)
    get([url], file)
    assert [seen.sent for seen in server.seen] == [0]  # 416 with the size
    assert file.read_bytes() == DATA


def test_a_part_that_is_too_long_is_dropped(server, file):
    url = server.serve("/f", bad.whole(DATA))
    write_part(file, DATA + b"more", url)
    get([url], file, sha256=SHA)
    assert ranges(server) == [f"bytes={len(DATA) + 4}-", None]


@pytest.mark.parametrize("note", ["", "{", "[]", '{"url": 3}'])
def test_a_part_with_a_broken_note_starts_anew(server, file, note):
    url = server.serve("/f", bad.whole(DATA))
    write_part(file, DATA[:100], url)
    file.with_name("weights.pth.part.json").write_text(note, "utf-8")
    get([url], file, sha256=SHA)
    assert ranges(server) == [None]


def write_part(file, data, url):
    file.parent.mkdir(parents=True)
    part = module._Part(file)
    part.begin(url, '"v1"')
    part.file.write_bytes(data)


# What is refused


def refused(urls, file, match, **options):
    with pytest.raises(InputError, match=match) as info:
        get(urls, file, **options)
    assert not file.exists()
    return str(info.value)


def test_wrong_bytes_are_removed_and_named(server, file):
    url = server.serve("/f", bad.whole(OTHER))
    found = hashlib.sha256(OTHER).hexdigest()
    text = refused([url], file, f"expected sha256 {SHA}, found {found}", sha256=SHA)
    assert "weights.pth could not be downloaded: 127.0.0.1: " in text
    assert "removed" in text
    assert left(file) == []


def test_wrong_first_digits_are_named(server, file):
    url = server.serve("/f", bad.whole(OTHER))
    refused([url], file, f"sha256 beginning with {SHA[:8]}, found", sha256=SHA[:8])


def test_another_announced_size_is_not_even_read(server, file):
    url = server.serve("/f", bad.lying(DATA + b"x", len(DATA) + 1))
    refused([url], file, "announces 300001 bytes; the file has 300000", size=len(DATA))
    assert left(file) == []


def test_a_length_that_is_too_short_fails_the_hash(server, file):
    """The client must stop at the announced length, so the rest never arrives."""
    url = server.serve("/f", bad.lying(DATA, 1000))
    refused([url], file, r"found [0-9a-f]{64} \(1000 bytes\)", sha256=SHA)


def test_a_length_that_is_too_long_is_a_cut(server, file):
    url = server.serve("/f", bad.lying(DATA, len(DATA) + 5))
    refused([url], file, "the connection broke off.*, tried 3 times", sha256=SHA)
    assert len(server.seen) == QUICK.attempts


def test_an_unfinished_chunked_body_is_a_cut(server, file):
    url = server.serve("/f", bad.chunked(DATA[:500], finished=False), bad.whole(DATA))
    get([url], file, sha256=SHA)
    assert ranges(server) == [None, "bytes=500-"]


def test_a_short_body_without_length_is_a_cut_where_the_size_is_published(server, file):
    url = server.serve("/f", bad.lying(DATA[:500], None), bad.whole(DATA))
    get([url], file, sha256=SHA, size=len(DATA))
    assert file.read_bytes() == DATA


def test_a_body_that_does_not_end_stops_at_the_published_size(server, file):
    url = server.serve("/f", bad.endless())
    refused([url], file, f"sent more than {len(DATA)} bytes", size=len(DATA))
    assert left(file) == []
    assert server.seen[0].sent < 20_000_000  # what was under way when the client hung up


def test_a_body_that_does_not_end_stops_at_the_cap(server, file, monkeypatch):
    monkeypatch.setattr(module, "CAP", 1_000_000)
    refused([server.serve("/f", bad.endless())], file, "sent more than 1000000 bytes")


def test_an_announced_size_over_the_cap_is_refused(server, file):
    url = server.serve("/f", bad.lying(DATA, module.CAP + 1))
    refused([url], file, f"announces {module.CAP + 1} bytes; accepted: up to {module.CAP}")


@pytest.mark.parametrize("length", ["9" * 5000, "-5", "many"])
def test_a_length_that_is_no_number_ends_in_a_sentence(server, file, length):
    url = server.serve("/f", bad.lying(DATA, length))
    with pytest.raises(InputError, match="could not be downloaded"):
        get([url], file, sha256="0" * 64)


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_refusal_is_not_repeated(server, file, code):
    refused([server.serve("/f", bad.status(code))], file, f"it answered {code} ")
    assert len(server.seen) == 1


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_passing_failure_is_repeated(server, file, code):
    url = server.serve("/f", bad.status(code), bad.status(code), bad.whole(DATA))
    get([url], file, sha256=SHA)
    assert len(server.seen) == 3


def test_a_lasting_failure_ends(server, file):
    url = server.serve("/f", bad.status(500))
    refused([url], file, "it answered 500 .*, tried 3 times")
    assert len(server.seen) == QUICK.attempts


def test_pauses_grow(server, file, monkeypatch):
    pauses = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    url = server.serve("/f", bad.status(503))
    with pytest.raises(InputError):
        download([url], file, patience=Patience(attempts=4, pause=1.5))
    assert pauses == [1.5, 3.0, 6.0]


def test_each_further_attempt_says_why(server, file):
    said = []
    url = server.serve("/f", bad.status(503), bad.cut(DATA, 10), bad.whole(DATA))
    get([url], file, on_wait=said.append)
    assert said == ["it answered 503 Service Unavailable", "the connection broke off"]


def test_a_redirect_loop_ends(server, file):
    refused([server.serve("/f", bad.redirect("/f"))], file, "more than 8 redirects")
    assert len(server.seen) == module.MAX_REDIRECTS + 1


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://host/f", "data:,x", "http://[::"])
def test_a_redirect_out_of_the_web_is_refused(server, file, target):
    refused([server.serve("/f", bad.redirect(target))], file, "not usable")


def test_the_body_of_a_redirect_is_not_read(server, file):
    def heavy(request):
        request.head(302, {"Location": "/good", "Transfer-Encoding": "chunked"})
        for _ in range(5000):
            request.wfile.write(b"4000\r\n")
            request.body(bytes(0x4000))
            request.wfile.write(b"\r\n")

    server.serve("/good", bad.whole(DATA))
    get([server.serve("/f", heavy)], file, sha256=SHA)
    assert {seen.path: seen.sent for seen in server.seen}["/f"] < 20_000_000


def test_encryption_is_not_given_up():
    with pytest.raises(InputError, match="from https to unencrypted 'http://b/f'"):
        module._redirected("https://a/f", "http://b/f")
    assert module._redirected("https://a/f", "/g") == "https://a/g"
    assert module._redirected("https://a/f", "//b/g") == "https://b/g"
    assert module._redirected("http://a/f", "https://b/f") == "https://b/f"


@pytest.mark.parametrize("url", ["ftp://host/f", "file:///f", "f.pth", "http://", "http://[/"])
def test_other_addresses_are_refused(file, url):
    refused([url], file, "not usable")


@pytest.mark.parametrize(
    "reply",
    [
        bad.page("<script>location = 'sign-in'</script>"),
        bad.page(kind="application/octet-stream"),
        bad.page("\n <HTML><body>Quota", kind="application/octet-stream"),
    ],
)
def test_a_web_page_is_recognised(server, file, reply):
    text = refused([server.serve("/f", reply)], file, "a web page instead of the file")
    assert "login, consent" in text
    assert not [name for name in left(file) if name.endswith(".part")]


def test_a_packed_answer_is_refused(server, file):
    url = server.serve("/f", bad.whole(DATA, **{"Content-Encoding": "gzip"}))
    refused([url], file, "packed")


def test_a_silent_server_is_given_up(server, file):
    began = time.monotonic()
    refused([server.serve("/f", bad.stalling(DATA, -1))], file, r"nothing came for 0\.3 s, tried 3")
    assert time.monotonic() - began < 5


def test_a_closed_port_is_named(file):
    with bad.BadServer() as server:
        url = server.url("/f")
    refused([url], file, "127.0.0.1: the connection failed, tried 3 times")


# Mirrors


def test_the_second_mirror_serves_where_the_first_does_not(server, file):
    first = server.serve("/a", bad.status(404))
    second = server.serve("/b", bad.whole(DATA))
    assert get([first, second], file, sha256=SHA).url == second
    assert file.read_bytes() == DATA


def test_bytes_of_two_mirrors_are_not_joined(server, file):
    first = server.serve("/a", bad.cut(OTHER, 9000))
    second = server.serve("/b", bad.whole(DATA))
    get([first, second], file)
    assert file.read_bytes() == DATA
    assert server.seen[-1].headers.get("Range") is None


def test_a_mirror_with_wrong_bytes_is_passed_over(server, file):
    urls = [server.serve("/a", bad.whole(OTHER)), server.serve("/b", bad.whole(DATA))]
    assert get(urls, file, sha256=SHA).url == urls[1]


def test_a_later_run_goes_on_at_the_mirror_it_began_with(server, file):
    first = server.serve("/a", bad.status(404))
    second = server.serve("/b", bad.cut(DATA, 5000))
    with pytest.raises(InputError, match="404.*; 127.0.0.1: .*broke off"):
        download([first, second], file, patience=Patience(attempts=1))
    server.serve("/a", bad.whole(DATA))
    server.serve("/b", bad.whole(DATA))
    assert get([first, second], file, sha256=SHA).url == second
    assert server.seen[-1].sent == len(DATA) - 5000


# Files that are here


def test_verify_accepts_what_is_published(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(DATA)
    assert verify(path, sha256=SHA, size=len(DATA)) == SHA
    assert verify(path, sha256=SHA[:8].upper(), size=None) == SHA
    assert verify(path, sha256=None, size=None) == SHA


def test_verify_names_the_size(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(DATA)
    with pytest.raises(InputError, match="expected 5 bytes, found 300000"):
        verify(path, sha256=None, size=5)
