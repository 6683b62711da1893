"""How the scan cuts time: chunks between two stored states, chunks of packed sequences, and slabs of scratch memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

import torch
from torch import Tensor

from seqdomains.kernels.dispatch import Implementation

# What tells a part of a scan what enters it, its state or the gradient of its last one; see `kernels.raw`.
Enter = Callable[..., Tensor] | None
CPU_CHUNK: Final = 32
# Programs of 32 channels that an H100 holds at once in the sweeps of the backward: 8 on each of 132 multiprocessors.
RESIDENT: Final = 1056
# Steps between two states that the sweep back starts from afresh. 32 would save 2 bytes of scratch per element, but
# errors of the bias's gradient were 0.8 to 1.2e-6 with it and are half of that with 16.
STRIDE: Final = 16
# Scratch of the backward in bytes: up to this it is taken whole, since smaller slabs would leave processors idle.
SCRATCH: Final = 192 << 20
# The same of the Gluon kernels. Slabs of what the CUDA peer would take held fewer programs than
# an H100 runs at once, up to 2^26 elements of u: at 1 x 2^15 x 1536 the backward took three times as long.
GLUON_SCRATCH: Final = 448 << 20
# Scratch of the portable kernels beyond that is cut to so many bytes per element of u.
BYTES_PER_ELEMENT: Final = 2


def _rounded(length: int, chunks: int) -> int:
    """Return the steps of a chunk, a multiple of 32, where there shall be so many."""
    return max(32, (-(-length // chunks) + 31) // 32 * 32)


def gpu_chunk(batch: int, length: int, channels: int, N: int) -> int:
    """Return how many steps a chunk has on a GPU: a multiple of 32 that depends on shapes alone.

    As many chunks as fill the processors eight times, so that slabs of a quarter still do twice; but the states between
    chunks shall not take more than a tenth of what the CUDA peer keeps for its backward, 2 + N / 256 bytes per element
    of u in 16 bits. Where this leaves fewer, the number with the fewest steps in all rounds of programs, the last one
    partly filled; with more than 16 states, whose slabs are small, as many as may be.

    Examples
    --------
    >>> gpu_chunk(8, 2048, 1536, 16), gpu_chunk(1, 2**20, 256, 16), gpu_chunk(1, 1, 8, 16)
    (416, 1024, 32)
    """
    # Under torch.compile these may be symbols; the number of chunks is a search over numbers.
    return _chunk(int(batch) * -(-int(channels) // 32) * max(1, int(N) // 16), int(length), int(N))


@cache
def _chunk(programs: int, length: int, N: int) -> int:
    most = 1 + int(length * (0.2 + N / 2560) / (4 * N))
    wanted = -(-8 * RESIDENT * max(1, N // 16) // programs)
    if wanted <= most or N > 16:
        return _rounded(length, min(wanted, most, 2 * RESIDENT))

    def cost(chunks: int) -> tuple[int, int]:
        return -(-programs * chunks // RESIDENT) * _rounded(length, chunks), -chunks

    return _rounded(length, min(range(1, most + 1), key=cost))


def portable_chunk(batch: int, length: int, channels: int, N: int) -> int:
    """Return how many steps a chunk has in the portable kernels: a multiple of 32 that depends on shapes alone.

    128 steps for 16 states, 512 for 64, cost half a byte per element of u for the states between chunks. There are
    fewer where the programs would not fill the processors twice, and more where a row has above 2048 chunks, which are
    walked one after the other between the passes.

    Examples
    --------
    >>> portable_chunk(8, 2048, 1536, 16), portable_chunk(1, 2**20, 256, 16), portable_chunk(1, 2048, 256, 16)
    (128, 512, 32)
    """
    # Under torch.compile these may be symbols.
    wide = max(1, int(N) // 16)
    filling = int(length) * int(batch) * -(-int(channels) // 32) * wide // (2 * RESIDENT) // 32 * 32
    return max(32, min(128 * wide, filling), _rounded(int(length), 2048))


def slots_of(length: int, sequences: int, chunk: int) -> int:
    """Return how many chunks packed sequences can fill, whatever their lengths."""
    return length // chunk + sequences


def states_shape(
    batch: int, length: int, channels: int, states: int, name: Implementation, *, sequences: int, portable: bool = False
) -> tuple[int, int, int, int]:
    """Return the shape of the states that `forward` of an implementation stores.

    Parameters
    ----------
    batch, length, channels, states : int
        B, L, D and N.
    name : str
        The implementation.
    sequences : int
        How many sequences are packed; B where there are only batch rows. A single packed sequence is a batch row.
    portable : bool, default False
        Whether the kernels on a GPU are the portable ones for real states, which have chunks of their own.

    Examples
    --------
    On a GPU the state that enters the first chunk is h0 and not stored.

    >>> states_shape(8, 2048, 1536, 16, "triton", sequences=8)
    (8, 4, 1536, 16)
    >>> states_shape(8, 2048, 1536, 16, "triton", sequences=8, portable=True)
    (8, 15, 1536, 16)
    """
    if name == "reference":
        return batch, 0, channels, states
    if name == "cpu":  # channels innermost, as its vectors run
        chunks = -(-length // CPU_CHUNK)
        # Packed sequences may each end in the midst of a chunk: as many as they can fill, whatever their lengths.
        return batch, chunks if sequences == batch else slots_of(length, sequences, CPU_CHUNK), states, channels
    chunk = (portable_chunk if portable else gpu_chunk)(batch, length, channels, states)
    chunks = -(-length // chunk) - 1
    return batch, chunks if sequences == batch else slots_of(length, sequences, chunk), channels, states


def chunk_table(cu_seqlens: Tensor, length: int, chunk: int, reverse: bool) -> tuple[Tensor, Tensor]:
    """Cut packed sequences into chunks, on their device and without waiting for it.

    Parameters
    ----------
    cu_seqlens : Tensor, shape (S + 1,), int32 or int64
        Where the sequences begin and the last one ends.
    length, chunk : int
        L, and the most steps of a chunk.
    reverse : bool
        Whether each sequence is run from its last step to its first.

    Returns
    -------
    table : Tensor, shape (slots, 4), int64
        For each chunk, in the order of processing: its first step that is processed; how many there are, 0 for a chunk
        beyond the last; its sequence; and 1 if it is that sequence's last chunk, else 0.
    borders : Tensor, shape (S + 1,), int64
        Where the chunks of each sequence begin in the table, and how many there are in all.

    Examples
    --------
    >>> table, borders = chunk_table(torch.tensor([0, 5, 5, 7]), 7, 4, False)
    >>> table.tolist(), borders.tolist()
    ([[0, 4, 0, 0], [4, 1, 0, 1], [5, 2, 2, 1], [7, 0, 2, 0]], [0, 2, 2, 3])
    """
    first, end = cu_seqlens[:-1].long(), cu_seqlens[1:].long()
    counts = (end - first + (chunk - 1)) // chunk
    borders = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    slot = torch.arange(slots_of(length, counts.shape[0], chunk), device=cu_seqlens.device)
    sequence = torch.searchsorted(borders[1:], slot, right=True).clamp_(max=counts.shape[0] - 1)
    done = (slot - borders[sequence]) * chunk
    steps = (end - first)[sequence].sub_(done).clamp_(0, chunk)
    row = end[sequence] - 1 - done if reverse else (first[sequence] + done).clamp_(max=length)
    last = (slot == borders[1:][sequence] - 1).long()
    return torch.stack([row, steps, sequence, last], 1), borders


def slabs(batch: int, chunks: int, most: int, wave: int) -> list[tuple[slice, int, int]]:
    """Cut the backward into batch rows, first chunk and number of chunks, of at most `most` chunks of all rows.

    Rows are cut before time, and time from last to first. Slabs of whole waves, as many chunks as run at once, leave
    the fewest processors idle.

    Examples
    --------
    >>> slabs(4, 3, 7, 2)
    [(slice(0, 2, None), 0, 3), (slice(2, 4, None), 0, 3)]
    >>> slabs(1, 5, 3, 2)
    [(slice(0, 1, None), 3, 2), (slice(0, 1, None), 1, 2), (slice(0, 1, None), 0, 1)]
    """
    if most >= wave:
        most -= most % wave
    rows, segment = max(1, most // chunks), max(1, min(chunks, most))
    return [
        (slice(row, min(batch, row + rows)), max(0, end - segment), min(end, segment))
        for row in range(0, batch, rows)
        for end in range(chunks, 0, -segment)
    ]
