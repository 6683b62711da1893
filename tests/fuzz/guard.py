"""What a reader may do with a file that it doesn't know: within these limits, a result or an error of the house."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from seqdomains.errors import SeqdomainsError

SECONDS = 5  # of processor time: what else the machine does is no concern of the bound
HARD_SECONDS = 60  # of the clock, for code that waits or never returns to the interpreter
MEMORY = 256 << 20  # bytes of address space above what the process has before it reads
LONGEST_MESSAGE = 2000  # characters, without the folder's path

_FORBIDDEN = re.compile(
    r"(compile|subprocess\.Popen|os\.(system|exec|posix_spawn|fork|forkpty|startfile)|pickle\.find_class|"
    r"marshal\.load|ctypes\.dlopen|socket\.(connect|getaddrinfo|bind)|urllib\.Request)$"
)
_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class Hang(BaseException):
    """Reading took longer than `SECONDS`; no reader may catch this."""


class Watch:
    """Sees every file that Python opens or changes, and every way to code, while it is on.

    Parameters
    ----------
    root : Path
        Holds `in`, the folder that is read, and `canary`, which nobody may touch.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.folder = self.root / "in"
        self.folder.mkdir()
        (self.root / "canary").write_text("canary")
        self.on = False
        self.found: list[str] = []
        sys.addaudithook(self._hear)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Fail if what runs inside leaves the folder or runs code."""
        self.found.clear()
        self.on = True
        try:
            yield
        finally:
            self.on = False
        assert not self.found, f"forbidden: {self.found[:3]}"
        around = sorted(path.name for path in self.root.iterdir())
        assert around == ["canary", "in"], around
        assert (self.root / "canary").read_text() == "canary"

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if _FORBIDDEN.match(event):
            self.found.append(f"{event} {arguments!r:.200}")
        elif event == "exec":
            code = arguments[0]
            # A module that is imported late is executed too: its code comes from a file.
            if not isinstance(code, CodeType) or not Path(code.co_filename).is_file():
                self.found.append(f"exec {code!r:.200}")
        elif event == "open" and isinstance(arguments[0], str | bytes):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if path in (str(self.root / "canary"), "/etc/passwd") or (writes and not self._inside(path)):
                self.found.append(f"open {path}")
        elif event in _CHANGES:
            for path in arguments[: 2 if event == "os.rename" else 1]:
                if isinstance(path, str | bytes) and not self._inside(os.path.realpath(os.fsdecode(path))):
                    self.found.append(f"{event} {path!r}")

    def _inside(self, path: str) -> bool:
        return path == os.devnull or Path(path).is_relative_to(self.folder)


def _stop(signum: int, frame: FrameType | None) -> None:
    raise Hang


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """Stop what runs inside after `SECONDS` and at `MEMORY`; code that holds the interpreter ends the process."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGPROF, _stop)
    faulthandler.dump_traceback_later(HARD_SECONDS, exit=True)
    if sys.platform == "linux":  # macOS neither tells nor limits the address space
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGPROF, handler)


def check_message(error: SeqdomainsError, watch: Watch, *, where: str) -> None:
    """Hold a message to what users were promised: where, what, short, and safe to print."""
    # What Arrow's allocator refuses is an error of Arrow's too.
    assert not isinstance(error.__cause__, MemoryError), f"reading took over {MEMORY >> 20} MiB: {error}"
    text = str(error).replace(str(watch.folder), "IN")
    assert re.search(where, text), f"says not where: {text[:300]!r}"
    assert len(text) <= LONGEST_MESSAGE, f"{len(text)} characters: {text[:300]!r}"
    bad = _CONTROL.search(text)
    assert bad is None, f"not safe to print: {text[max(0, bad.start() - 100) : bad.end()]!r}"


def refused(read: Callable[[Path], object], watch: Watch, *, where: str) -> tuple[bool, float]:
    """Read the folder once; tell whether it was refused, and the seconds it took. Anything else is an error."""
    start = time.process_time()
    try:
        with watch.watching(), limits():
            read(watch.folder)
    except SeqdomainsError as error:
        check_message(error, watch, where=where)
        return True, time.process_time() - start
    except Hang:
        raise AssertionError(f"reading took over {SECONDS} s") from None
    except MemoryError:
        raise AssertionError(f"reading took over {MEMORY >> 20} MiB") from None
    return False, time.process_time() - start
