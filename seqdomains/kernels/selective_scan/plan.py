"""Chunk lengths of the scan: how many steps lie between two stored states."""

from __future__ import annotations

from typing import Final

from seqdomains.kernels.dispatch import Implementation

CPU_CHUNK: Final = 32
TRITON_CHUNK: Final = 64


def states_shape(
    batch: int, length: int, channels: int, states: int, name: Implementation
) -> tuple[int, int, int, int]:
    """Return the shape of the states that `forward` of an implementation stores, one for each chunk.

    Examples
    --------
    >>> states_shape(2, 1000, 64, 16, "triton")
    (2, 16, 64, 16)
    """
    if name == "reference":
        return batch, 0, channels, states
    if name == "cpu":  # channels innermost, as its vectors run
        return batch, (length + CPU_CHUNK - 1) // CPU_CHUNK, states, channels
    return batch, (length + TRITON_CHUNK - 1) // TRITON_CHUNK, channels, states
