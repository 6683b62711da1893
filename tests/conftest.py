"""An HTTP server on this machine that misbehaves in the ways that servers of genomes do."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class Site:
    """Files by path, and what goes wrong.

    Parameters
    ----------
    files : dict of str to bytes
        By path, without the first slash. A path that ends with a slash is a listing.
    drop_after : list of int
        For each of the next answers with a file of over 10 kB: how many of its bytes are sent before the connection
        is closed.
    statuses : list of int
        For each of the next answers: this status in place of the file.
    ranges, tags : bool
        Whether ranges are served, and ETags sent.
    chunked : bool
        Whether no length is told.
    headers : dict of str to str
        Sent with each file.
    redirect : dict of str to str
        From path to address.
    seen : list of (str, str or None)
        Path and Range of each request.
    held : Event or None
        What a dropped connection waits for before it is closed.
    """

    files: dict[str, bytes]
    drop_after: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    ranges: bool = True
    tags: bool = True
    chunked: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    redirect: dict[str, str] = field(default_factory=dict)
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    held: threading.Event | None = None
    url: str = ""


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    """Serve a site while the block runs; its address is then in `site.url`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            path = self.path.removeprefix("/")
            asked = self.headers.get("Range")
            site.seen.append((path, asked))
            if path in site.redirect:
                self.answer(302, b"", {"Location": site.redirect[path]})
            elif site.statuses:
                self.answer(site.statuses.pop(0), b"", {"Retry-After": "7"})
            elif path not in site.files:
                self.answer(404, b"", {})
            else:
                self.file(site.files[path], asked)

        def file(self, content: bytes, asked: str | None) -> None:
            tag = f'"{hashlib.md5(content).hexdigest()}"'  # noqa: S324
            headers = site.headers | ({"ETag": tag} if site.tags else {})
            start = 0
            if asked and site.ranges and self.headers.get("If-Range", tag) == tag:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(content):
                    self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                    return
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.answer(206 if start else 200, content[start:], headers)

        def answer(self, code: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            if site.chunked and code == 200:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")
                return
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            sent = site.drop_after.pop(0) if len(body) > 10_000 and site.drop_after else len(body)
            self.wfile.write(body[:sent])
            if sent < len(body):
                self.wfile.flush()
                if site.held is not None:
                    site.held.wait(30)
                self.close_connection = True

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """Keep quiet about clients that were killed."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def serve():
    """Serve files by path, with the misbehaviour of `Site`."""
    with ExitStack() as stack:
        yield lambda files, **options: stack.enter_context(serving(Site(files, **options)))
