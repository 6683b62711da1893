"""Chunk lengths of the scan: how many steps lie between two stored states."""

from __future__ import annotations

from typing import Final

from seqdomains.kernels.dispatch import Implementation

CPU_CHUNK: Final = 32
TRITON_CHUNK: Final = 64


def chunk_count(length: int, name: Implementation) -> int:
    """Return the number of states that `forward` of an implementation stores for `length` steps.

    Examples
    --------
    >>> chunk_count(1000, "triton"), chunk_count(1000, "reference")
    (16, 0)
    """
    if name == "reference":
        return 0
    chunk = CPU_CHUNK if name == "cpu" else TRITON_CHUNK
    return (length + chunk - 1) // chunk
