"""A web server on this machine that misbehaves as told.

`serve(path, *replies)` gives the replies one request after another, the last one again and again.
A reply is a function of the request handler; those below send a file well or badly.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ENDLESS = 10**9  # a body longer than any test waits for


@dataclass
class Seen:
    """One request, in the order they came, and how much of a body was sent for it so far."""

    path: str
    headers: dict[str, str]
    sent: int = 0


class BadServer:
    """A context manager; `url("/name")` is where the replies are."""

    def __init__(self):
        self._replies = {}
        self.seen = []
        self.released = threading.Event()  # ends the stalls when the test is over
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def url(self, path):
        return f"http://127.0.0.1:{self._server.server_port}{path}"

    def serve(self, path, *replies):
        self._replies[path] = list(replies)
        return self.url(path)

    def reply_for(self, path):
        replies = self._replies.get(path, [status(404)])
        return replies.pop(0) if len(replies) > 1 else replies[0]

    def _handler(outer):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.close_connection = True
                self.seen = Seen(self.path, dict(self.headers))
                outer.seen.append(self.seen)
                self.released = outer.released
                with suppress(BrokenPipeError, ConnectionResetError):  # the client had enough
                    outer.reply_for(self.path)(self)

            def head(self, status, headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Connection", "close")
                self.end_headers()

            def body(self, data):
                self.seen.sent += len(data)  # before the client can have it
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        return Handler


Reply = Callable[[BaseHTTPRequestHandler], None]


def whole(data, *, etag='"v1"', ranges=True, **headers) -> Reply:
    """As a good server does; with `ranges=False` it ignores Range, with `etag=""` it sends none."""

    def reply(request):
        send(request, data, data, etag=etag, ranges=ranges, headers=headers)

    return reply


def cut(data, after, *, etag='"v1"', **headers) -> Reply:
    """Announces everything that was asked for, and hangs up after `after` bytes of it."""

    def reply(request):
        send(request, data, data, etag=etag, ranges=True, headers=headers, limit=after)

    return reply


def dripping(data, *, step, pause) -> Reply:
    """`step` bytes at a time."""

    def reply(request):
        request.head(200, {"Content-Length": str(len(data)), "ETag": '"v1"'})
        for start in range(0, len(data), step):
            request.body(data[start : start + step])
            time.sleep(pause)

    return reply


def lying(data, announced, **headers) -> Reply:
    """Sends `data` under a Content-Length of `announced`, or without one if that is None."""

    def reply(request):
        length = {} if announced is None else {"Content-Length": str(announced)}
        request.head(200, {**length, **headers})
        request.body(data)

    return reply


def stalling(data, after) -> Reply:
    """Sends `after` bytes and then nothing, without hanging up; after=-1 sends no header either."""

    def reply(request):
        if after >= 0:
            request.head(200, {"Content-Length": str(len(data)), "ETag": '"v1"'})
            request.body(data[:after])
        request.released.wait(20)

    return reply


def endless(**headers) -> Reply:
    """A body that does not end, in chunks."""

    def reply(request):
        request.head(200, {"Transfer-Encoding": "chunked", **headers})
        piece = bytes(1 << 14)
        while request.seen.sent < ENDLESS:
            request.wfile.write(b"%x\r\n" % len(piece))
            request.body(piece)
            request.wfile.write(b"\r\n")

    return reply


def chunked(data, *, finished=True) -> Reply:
    """In one chunk; unfinished hangs up before the end mark."""

    def reply(request):
        request.head(200, {"Transfer-Encoding": "chunked", "ETag": '"v1"'})
        request.wfile.write(b"%x\r\n" % len(data))
        request.body(data)
        request.wfile.write(b"\r\n0\r\n\r\n" if finished else b"\r\n")

    return reply


def status(code, **headers) -> Reply:
    """An answer without the file."""

    def reply(request):
        body = f"{code}".encode()
        request.head(code, {"Content-Length": str(len(body)), **headers})
        request.body(body)

    return reply


def redirect(target) -> Reply:
    return status(302, Location=target)


def page(text="<!DOCTYPE html><title>Sign in</title>", kind="text/html; charset=utf-8") -> Reply:
    """A web page where the file should be."""

    def reply(request):
        request.head(200, {"Content-Type": kind, "Content-Length": str(len(text))})
        request.body(text.encode())

    return reply


def wrong_range(data, first) -> Reply:
    """Answers a request for the rest with bytes from `first` on, whatever was asked for."""

    def reply(request):
        rest = data[first:]
        request.head(206, {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"})
        request.body(rest)

    return reply


def send(request, data, body, *, etag, ranges, headers, limit=None):
    """The whole body, or the rest when Range asks for it and If-Range still holds."""
    start, code = 0, 200
    tags = {"ETag": etag} if etag else {}
    asked = request.headers.get("Range")
    held = request.headers.get("If-Range") in (None, etag, headers.get("Last-Modified"))
    if asked and ranges and held:
        start, code = int(asked.removeprefix("bytes=").rstrip("-")), 206
        if start >= len(data):
            request.head(416, {"Content-Range": f"bytes */{len(data)}", "Content-Length": "0"})
            return
        tags["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
    rest = body[start:]
    request.head(code, {"Content-Length": str(len(rest)), **tags, **headers})
    request.body(rest if limit is None else rest[:limit])
