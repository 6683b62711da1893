"""The commands of a long benchmark, one after the other, within a budget of time: repeated, it goes on where it was.

A benchmark makes a `Stages` of its folder and calls `Stages.command` for each `seqdomains` command. What is done is not
done again. When the minutes are over the command that runs is told to stop, saves its state as every run does, and the
benchmark ends with exit code 75 (try again); the same command goes on. Seconds are those of all sessions together.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from seqdomains import __version__
from seqdomains.files import atomic_file

GRACE_S = 25
TRY_AGAIN = 75


def parser_of(doc: str | None, *, minutes: float = 8.5) -> argparse.ArgumentParser:
    """Return a parser with the options that these benchmarks share."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs; the repeated command goes on")
    parser.add_argument("--minutes", type=float, default=minutes, help="to work before it stops and can be repeated")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="a look at it on a CPU: small models, short runs")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def hardware(device: str) -> str:
    """Say on what and with which versions this runs."""
    name = (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else f"CPU, {torch.get_num_threads()} threads"
    )
    return (
        f"{name}; seqdomains {__version__}, torch {torch.__version__}, numpy {np.__version__}, "
        f"Python {platform.python_version()}"
    )


class Stages:
    """See the module's text.

    Parameters
    ----------
    out : Path
        Folder that everything lies in.
    minutes : float
        Of this session.
    device : str
        Handed to every command that takes one.
    """

    def __init__(self, out: Path, *, minutes: float, device: str) -> None:
        self.out, self.device = out, device
        self._ends = time.monotonic() + 60 * minutes
        self._record = out / "stages.json"
        out.mkdir(parents=True, exist_ok=True)
        signal.signal(signal.SIGTERM, _interrupt)
        self._stages = json.loads(self._record.read_text()) if self._record.exists() else {}

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each stage, over all sessions."""
        return {name: stage["seconds"] for name, stage in self._stages.items()}

    def command(self, name: str, *arguments: object, on_device: bool = True) -> None:
        """Run a `seqdomains` command as stage `name` unless that is done, and stop all where the time is over."""
        words = [str(one) for one in arguments] + (["--device", self.device] if on_device else [])
        stage = self._stages.setdefault(name, {"command": words, "seconds": 0.0, "done": False})
        if stage["command"] != words:
            raise SystemExit(f"{self.out} has stage {name} of other options; choose another --out")
        if stage["done"]:
            return
        self._check()
        print(f"[{name}] seqdomains {' '.join(words)}", file=sys.stderr, flush=True)
        began = time.monotonic()
        with (self.out / f"{name.replace('/', '-')}.log").open("a") as log:
            process = subprocess.Popen([sys.executable, "-m", "seqdomains", *words], stdout=log, stderr=log)
            try:
                code = process.wait(timeout=max(1.0, self._ends - began))
            except subprocess.TimeoutExpired:
                code = self._stopped(process)
            except KeyboardInterrupt:
                self._stopped(process)
                raise
            finally:
                stage["seconds"] += time.monotonic() - began
                stage["done"] = process.returncode == 0
                self._save()
        if not stage["done"]:
            if code in (130, 143, -signal.SIGKILL):
                self._check()
            raise SystemExit(f"stage {name} ended with {code}; see {log.name}")

    def _stopped(self, process: subprocess.Popen[bytes]) -> int:
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            # A run that is killed has its last checkpoint.
            process.kill()
            return process.wait()

    def _check(self) -> None:
        if time.monotonic() >= self._ends:
            print("the minutes of this session are over: repeat the command to go on", file=sys.stderr, flush=True)
            raise SystemExit(TRY_AGAIN)

    def _save(self) -> None:
        with atomic_file(self._record) as partial:
            partial.write_text(json.dumps(self._stages, indent=1) + "\n")


def _interrupt(signum: int, frame: object) -> None:
    """End like Ctrl-C, so that the command that runs is stopped too and saves its state."""
    raise KeyboardInterrupt


def result_of(run: Path) -> dict:
    """Return the evaluation of a run."""
    return json.loads((run / "evaluation.json").read_text())
