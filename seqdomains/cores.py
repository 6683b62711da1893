"""How many CPU cores there are for this process."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Return the number of cores that this process may use.

    Examples
    --------
    >>> usable_cores() >= 1
    True
    """
    # os.process_cpu_count says the same from Python 3.13 on.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
