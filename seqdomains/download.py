"""Downloads over HTTP that go on where they were stopped.

pooch has the checksums of this package; its downloader (1.9) begins anew each time, under a random name that a killed
process leaves behind. Of a genome of a gigabyte over a poor connection neither will do, so the transfer is here.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from urllib3.exceptions import HTTPError

from seqdomains import __version__
from seqdomains.errors import InputError
from seqdomains.files import atomic_file, parse_json, read_bounded

logger = logging.getLogger(__name__)

_BLOCK = 1 << 18
_LONGEST_WAIT = 60.0  # s between two attempts
_MOST_TEXT = 64 << 20  # bytes of a file that is read whole
# Of what never answered: there may be no network, and nothing is lost by giving up.
_MOST_COLD_ATTEMPTS = 4
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_TRANSIENT = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
_CONTENT_RANGE = re.compile(r"^bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)$")

Progress = Callable[[int, int | None], None]


class _TransferError(Exception):
    """What another attempt may mend."""

    def __init__(self, reason: str = "the connection ended early", delay: float | None = None) -> None:
        super().__init__(reason)
        self.delay = delay


class AbsentError(InputError):
    """The server has no such file."""


@dataclass(frozen=True)
class Downloader:
    """How files are fetched.

    Parameters
    ----------
    attempts : int
        How often in a row a request may bring nothing new before it is given up, once something came; 4 at most before.
    timeout : float
        Seconds without a byte.
    wait : callable
        Takes the seconds to wait before the next attempt.

    Examples
    --------
    >>> Downloader(attempts=1).fetch("http://127.0.0.1:9/genome.fa.gz", Path("genome.part"))
    Traceback (most recent call last):
    ...
    seqdomains.errors.InputError: http://127.0.0.1:9/genome.fa.gz: no answer (connection failed) in 1 attempts; ...
    """

    attempts: int = 8
    timeout: float = 60.0
    wait: Callable[[float], None] = time.sleep

    def text(self, url: str) -> str:
        """Return a small file as text.

        Raises
        ------
        AbsentError
            The server has no such file.
        InputError
            It cannot be had, or has over 64 MB.
        """

        def read() -> str:
            with self._answer(url, {}) as response:
                content = bytearray()
                for block in _blocks(response):
                    content += block
                    if len(content) > _MOST_TEXT:
                        raise InputError(f"{url}: over {_MOST_TEXT >> 20} MB, expected a list of files or of contigs")
                if (size := _length(response)) is not None and len(content) < size:
                    raise _TransferError
                return content.decode("utf-8", errors="replace")

        return self._persist(url, read, lambda: 0)

    def fetch(
        self,
        url: str,
        part: Path,
        *,
        progress: Progress | None = None,
        room: Callable[[int], None] | None = None,
    ) -> str:
        """Bring a file to `part`, going on with what is there of it.

        What is there goes on only if it came from the same address, and only if the server says that the file is the
        same (by ETag, else by its date); beside `part` stands ``<part>.json`` with these. A server that sends the
        whole file in place of the rest is taken at its word, and the file begins anew. Whether the bytes are right is
        for a checksum to tell.

        Parameters
        ----------
        url : str
        part : Path
        progress : callable, optional
            Is told the bytes that are there, and the size of the whole where the server tells it.
        room : callable, optional
            Is told the bytes that are still to come, before they come; may raise.

        Returns
        -------
        str
            The address that the file came from, after redirections.

        Raises
        ------
        InputError
            The server refuses, does not answer, or ends too early again and again; or `part` cannot be written.
        """
        try:
            return self._fetch(url, part, progress=progress, room=room)
        except OSError as error:
            raise InputError(f"{part}: cannot be written ({error.strerror or error}); make room and repeat") from error

    def _fetch(self, url: str, part: Path, *, progress: Progress | None, room: Callable[[int], None] | None) -> str:
        note = part.with_name(f"{part.name}.json")
        known = _known(note)
        if known.get("url") != url:
            discard(part)
            known = {}
        size = part.stat().st_size if part.exists() else 0
        if size and size == known.get("size"):
            return str(known["from"])
        if size:
            logger.info("going on at %s of %s", _megabytes(size), url)
        return self._persist(
            url,
            lambda: self._rest(url, part, note, progress=progress, room=room),
            lambda: part.stat().st_size if part.exists() else 0,
        )

    def _rest(
        self,
        url: str,
        part: Path,
        note: Path,
        *,
        progress: Progress | None,
        room: Callable[[int], None] | None,
    ) -> str:
        known = _known(note)
        start = part.stat().st_size if part.exists() and known else 0
        headers = {}
        if start:
            headers["Range"] = f"bytes={start}-"
            if validator := known.get("validator"):
                headers["If-Range"] = validator
        with self._answer(url, headers) as response:
            first, size = _place(response)
            if response.status_code == 416 and size == start:  # all of it is there, which nobody had told
                return str(known["from"])
            if response.status_code == 416 or first not in (0, start) or (first and known["size"] not in (None, size)):
                discard(part)
                raise _TransferError
            if start and not first:
                logger.info("%s: the server sends the whole file, so it begins anew", url)
            if room is not None and size is not None:
                room(size - first)
            if not first:
                part.unlink(missing_ok=True)
                _write_note(note, {"url": url, "from": response.url, "size": size, "validator": _validator(response)})
            done = first
            with part.open("ab") as handle:
                for block in _blocks(response):
                    handle.write(block)
                    done += len(block)
                    if progress is not None:
                        progress(done, size)
            if size is not None and done != size:
                raise _TransferError
            return response.url

    def _persist(self, url: str, attempt: Callable[[], str], progress: Callable[[], int]) -> str:
        """Try until it is done, or nothing new came so many times in a row."""
        failures, before = 0, progress()
        while True:
            try:
                return attempt()
            except _TransferError as error:
                reason, delay = str(error), error.delay
            except _TRANSIENT as error:
                reason, delay = _reason(error), None
            except requests.RequestException as error:
                raise InputError(f"{url}: cannot be fetched ({_reason(error)}); check the address") from error
            now = progress()
            failures = 1 if now > before else failures + 1
            before = now
            if failures >= (self.attempts if now else min(self.attempts, _MOST_COLD_ATTEMPTS)):
                raise InputError(
                    f"{url}: no answer ({reason}) in {failures} attempts; repeat the command, which goes on where it "
                    "stopped, or give a mirror with --base-url"
                )
            seconds = min(_LONGEST_WAIT, 2.0 ** (failures - 1) if delay is None else delay)
            logger.warning("%s: %s; again in %g s", url, reason, seconds)
            self.wait(seconds)

    @contextmanager
    def _answer(self, url: str, headers: Mapping[str, str]) -> Iterator[requests.Response]:
        # identity: a server that unpacked a .gz on the way would change its bytes and its ranges.
        own = {"User-Agent": f"seqdomains/{__version__}", "Accept-Encoding": "identity", **headers}
        with requests.get(url, headers=own, stream=True, timeout=self.timeout) as response:
            if url.startswith("https:") and any(
                not one.url.startswith("https:") for one in (*response.history, response)
            ):
                raise InputError(f"{url}: leads to {response.url}, which is not encrypted; give another --base-url")
            code = response.status_code
            if code in _AGAIN:
                raise _TransferError(f"the server says {code}", _seconds(response.headers.get("Retry-After")))
            if code >= 400 and not (code == 416 and "Range" in headers):
                raise (AbsentError if code in (404, 410) else InputError)(
                    f"{url}: the server says {code} {response.reason}; it may have moved: give a mirror with "
                    "--base-url, or a registry of your own with --registry"
                )
            yield response


def discard(part: Path) -> None:
    """Remove what is there of a download.

    Examples
    --------
    >>> discard(Path("there is none.part"))
    """
    part.unlink(missing_ok=True)
    part.with_name(f"{part.name}.json").unlink(missing_ok=True)


def _blocks(response: requests.Response) -> Iterator[bytes]:
    """Yield the bytes as they were sent: a Content-Encoding that nobody asked for is not undone."""
    try:
        yield from response.raw.stream(_BLOCK, decode_content=False)
    except HTTPError as error:
        raise _TransferError from error


def _place(response: requests.Response) -> tuple[int, int | None]:
    """Return where the sent bytes begin and the size of the whole."""
    if response.status_code not in (206, 416):
        return 0, _length(response)
    match = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
    if match is None:
        return -1, None
    return int(match[1] or 0), None if match[3] == "*" else int(match[3])


def _length(response: requests.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if re.fullmatch(r"\d{1,18}", text) else None


def _validator(response: requests.Response) -> str | None:
    """Return what If-Range may hold: a strong ETag, else the date of the file (RFC 9110, section 13.1.5)."""
    tag = response.headers.get("ETag", "")
    if tag.startswith('"'):
        return str(tag)
    return response.headers.get("Last-Modified")


def _seconds(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"\d{1,6}", text) else None


def _known(note: Path) -> Mapping[str, Any]:
    with suppress(OSError, ValueError):
        found = parse_json(read_bounded(note, 1 << 16))
        if isinstance(found, dict) and {"url", "from", "size", "validator"} <= set(found):
            return found
    return {}


def _write_note(note: Path, content: Mapping[str, Any]) -> None:
    with atomic_file(note) as partial:
        partial.write_text(json.dumps(content), encoding="utf-8")


def _reason(error: Exception) -> str:
    if isinstance(error, requests.Timeout):
        return "it took too long"
    return "connection failed" if isinstance(error, requests.ConnectionError) else str(error)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
