"""What a result depends on beside its configuration: versions, device, threads, command line."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import seqdomains
from seqdomains.kernels.dispatch import OPS, implementation

_DISTRIBUTIONS = ("torch", "triton", "numba", "numpy", "safetensors", "scikit-learn")

# A run goes on bit for bit only where these are as they were.
DECISIVE = ("machine", "cpu", "device", "threads", "kernels", "seqdomains", "torch", "triton", "numba", "numpy")


def session_facts(device: torch.device, *, command: Sequence[str] | None = None) -> dict[str, Any]:
    """Describe this process and machine, JSON-ready.

    Parameters
    ----------
    device : torch.device
        Where the work is done.
    command : sequence of str, optional
        The command line; this process's own by default.

    Examples
    --------
    >>> facts = session_facts(torch.device("cpu"), command=["seqdomains", "report", "my run"])
    >>> facts["command"], facts["device"]
    ("seqdomains report 'my run'", 'cpu')
    """
    arguments = list(sys.argv if command is None else command)
    if arguments:
        arguments[0] = Path(arguments[0]).name
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(arguments),
        "seqdomains": seqdomains.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "kernels": {op: implementation(op, device, torch.float32) for op in OPS},
        **{name: _version(name) for name in _DISTRIBUTIONS},
    }


def decisive_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """List what differs between two sessions and can change the last bits of a result.

    Examples
    --------
    >>> decisive_changes({"threads": 2, "python": "3.11.4"}, {"threads": 4, "python": "3.12.1"})
    ['threads was 2 and is 4']
    """
    return [
        f"{name} was {before.get(name)} and is {now.get(name)}"
        for name in DECISIVE
        if before.get(name) != now.get(name)
    ]


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    """Return the processor's model name; platform.processor() is empty or just the architecture on Linux."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the git commit that the package is run from; None outside a checkout or without git."""
    root = Path(seqdomains.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],  # noqa: S607 - git as the user's PATH has it
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
