"""Write sequences with a next-token model, each token drawn from what the model says, as a function of a seed."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqdomains.backbone import InferenceState, MambaLM
from seqdomains.backbone.step import Stepper, rows_apart
from seqdomains.errors import InputError
from seqdomains.kernels.token_draw import Sampling, TokenDraw
from seqdomains.pipelines.borrowed import borrowed, deterministic, thread_count
from seqdomains.pipelines.interrupts import StoppedError, stop_on_signals
from seqdomains.pipelines.progress import Paced, progress_display
from seqdomains.pipelines.stream import CHUNK
from seqdomains.sampling import counter_words, uniform

# Sequences that are computed side by side. On a GPU a step of so many takes little longer than one of a single one
# (docs/lab-log.md), and more might do too; but they are written to their end before the next ones begin, each to a file
# that is open meanwhile.
_TOGETHER: Final = 64
_STREAM: Final = 5 << 32
# Tokens between two looks at a signal, and of the random numbers that are made at once.
_BLOCK: Final = 1024
_WARM_UPS: Final = 3
# Positions of a prompt whose entropies are computed at once: 8 MiB of float64 at 256 codes.
_ASKED: Final = 1 << 12


@dataclass(frozen=True)
class Written:
    """The next tokens of sequences that are written side by side.

    Parameters
    ----------
    numbers : range
        Of the sequences.
    start : int
        Number of the first token, from 0 behind the prompt.
    tokens : ndarray of int64, shape (sequences, tokens)
    bits : ndarray of float32, shape (sequences, tokens)
        Entropy of what each token was drawn by.
    """

    numbers: range
    start: int
    tokens: NDArray[np.int64]
    bits: NDArray[np.float32]


def generate_blocks(
    model: MambaLM,
    prompt: NDArray[Any],
    *,
    length: int,
    count: int = 1,
    sampling: Sampling | None = None,
    seed: int = 0,
    first: int = 0,
    chunk: int = CHUNK,
    graph: bool | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
    heard: Callable[[NDArray[np.float32]], None] | None = None,
) -> Generator[Written]:
    """Yield sequences that go on from a prompt, block by block as they are written; memory does not follow `length`.

    Token t of sequence i is drawn by a random number that is a function of the seed, i and t, and others beside it
    change nothing (`groups`); so a sequence is the same whatever else is written. A group is written to its end before
    the next one begins.

    Parameters
    ----------
    model : MambaLM
        A next-token model in fp32.
    prompt : ndarray of an integer dtype, shape (P,)
        At least one token, which may be one that says that nothing is known of what came before.
    length : int
        Tokens to write, without the prompt.
    count : int
        How many sequences.
    sampling : Sampling, optional
        How a token is drawn.
    seed : int
        Of the random numbers.
    first : int
        Number of the first sequence.
    chunk : int
        Tokens of the prompt that are read at once.
    graph : bool, optional
        Whether a step is recorded as a CUDA graph, which says the same in fewer launches; on a GPU it is, if not given.
    device : torch.device or str
        Where to compute; the model is back where it was afterwards. On a CPU steps take one thread, whatever torch has:
        they are too short to be shared.
    progress : bool
        Whether to tell the user how far it is.
    heard : callable, optional
        Is given, before anything is written, the entropies of what would be drawn behind each token of the prompt,
        float32 of shape (P,).

    Yields
    ------
    Written

    Raises
    ------
    InputError
        The model is not causal, or the logits are not finite.
    ValueError
        The prompt is empty.
    StoppedError
        SIGTERM or Ctrl-C came; what was written until then has been yielded.

    Examples
    --------
    >>> from seqdomains.backbone import MambaConfig
    >>> model = MambaLM(MambaConfig(d_model=16, n_layer=1))
    >>> blocks = generate_blocks(model, np.array([0, 1, 2]), length=1500, count=3, progress=False)
    >>> [(block.numbers, block.start, block.tokens.shape) for block in blocks]
    [(range(0, 3), 0, (3, 1024)), (range(0, 3), 1024, (3, 476))]
    """
    if not len(prompt):
        raise ValueError("an empty prompt: expected at least one token, from which the next is told")
    model.config.require_causal("generation", instead="Give a model that was trained on each next token.")
    device, how = torch.device(device), sampling or Sampling()
    recorded = device.type == "cuda" if graph is None else graph
    parts = groups(first, count, apart=rows_apart(model, device))
    pace = Paced()
    with (
        deterministic(),
        borrowed(model, device=device, training=False),
        stop_on_signals("stopping") as stop,
        progress_display("generate", total=length * len(parts), enabled=progress) as show,
    ):
        with torch.inference_mode():
            logits, state, entropies = _read(model, prompt, chunk, device, how if heard is not None else None)
            if heard is not None:
                heard(entropies)
        writer: _Writer | None = None
        for place, (rows, wanted) in enumerate(parts):
            with torch.inference_mode(), _step_threads(device):
                if writer is None or writer.rows != len(rows):
                    writer = _Writer(model, state, how, (len(rows), min(length, _BLOCK)), device, recorded=recorded)
                writer.begin(state, logits)
            for start in range(0, length, _BLOCK):
                with torch.inference_mode(), _step_threads(device):
                    tokens, bits = writer.write(_draws(seed, rows, start, min(_BLOCK, length - start)))
                show(place * length + start + tokens.shape[1], "tokens of each sequence", pace.due())
                asked = slice(wanted.start - rows.start, wanted.stop - rows.start)
                yield Written(wanted, start, tokens[asked], bits[asked])
                if stop.signum is not None:
                    raise StoppedError(stop.signum, "stopped; repeat the command")


def groups(first: int, count: int, *, apart: bool) -> list[tuple[range, range]]:
    """Return which sequences are computed side by side, and which of these are wanted.

    Parameters
    ----------
    first, count : int
        The sequences `first` to `first + count` are wanted.
    apart : bool
        Whether a sequence is the same however many others are computed with it (`seqdomains.backbone.step.rows_apart`).
        Where it is not, one is always computed with the same others, wanted or not.

    Examples
    --------
    >>> groups(60, 8, apart=True)
    [(range(60, 68), range(60, 68))]
    >>> groups(60, 8, apart=False)
    [(range(0, 64), range(60, 64)), (range(64, 128), range(64, 68))]
    """
    end = first + count
    begin = first if apart else first // _TOGETHER * _TOGETHER
    starts = range(begin, end, _TOGETHER)
    wanted = [range(max(first, start), min(end, start + _TOGETHER)) for start in starts]
    computed = wanted if apart else [range(start, start + _TOGETHER) for start in starts]
    return list(zip(computed, wanted, strict=True))


def generate(
    model: MambaLM,
    prompt: NDArray[Any],
    *,
    length: int,
    count: int = 1,
    sampling: Sampling | None = None,
    seed: int = 0,
    first: int = 0,
    chunk: int = CHUNK,
    graph: bool | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Generator[NDArray[np.int64]]:
    """Yield sequences that go on from a prompt, each as a whole.

    Parameters
    ----------
    model, prompt, length, count, sampling, seed, first, chunk, graph, device, progress
        As those of `generate_blocks`.

    Yields
    ------
    ndarray of int64, shape (length,)

    Raises
    ------
    InputError, ValueError, StoppedError
        As `generate_blocks`.

    Examples
    --------
    >>> from seqdomains.backbone import MambaConfig
    >>> model = MambaLM(MambaConfig(d_model=16, n_layer=1))
    >>> prompt = np.array([0, 1, 2])
    >>> one, two = generate(model, prompt, length=5, count=2, sampling=Sampling(codes=(0, 1)), progress=False)
    >>> len(one), set(one.tolist()) <= {0, 1}
    (5, True)
    """
    blocks = generate_blocks(
        model,
        prompt,
        length=length,
        count=count,
        sampling=sampling,
        seed=seed,
        first=first,
        chunk=chunk,
        graph=graph,
        device=device,
        progress=progress,
    )
    with closing(blocks):
        parts: list[NDArray[np.int64]] = []
        for block in blocks:
            parts.append(block.tokens)
            if block.start + block.tokens.shape[1] == length:
                yield from np.concatenate(parts, axis=1)
                parts = []


def _read(
    model: MambaLM, prompt: NDArray[Any], chunk: int, device: torch.device, how: Sampling | None
) -> tuple[Tensor, InferenceState, NDArray[np.float32]]:
    """Read a prompt; returns the logits behind it, shape (1, codes), the state, and where `how` is given entropies."""
    state: InferenceState | None = None
    tokens = torch.from_numpy(np.ascontiguousarray(prompt))[None]
    entropies = []
    for start in range(0, tokens.shape[1], chunk):
        logits, state = model(tokens[:, start : start + chunk].to(device), state=state, return_state=True)
        if how is not None:
            entropies += [how.entropy(part).float().cpu().numpy() for part in logits[0].split(_ASKED)]
    assert state is not None  # noqa: S101 - the prompt is not empty
    return logits[:, -1], state, np.concatenate(entropies) if entropies else np.zeros(0, np.float32)


def _step_threads(device: torch.device) -> AbstractContextManager[object]:
    """Let a step on a CPU take one thread.

    Its operations are of microseconds, for which two threads wait for each other: on 2 busy cores two took 0.9 to 2.1
    times as long as one (docs/lab-log.md). One also rounds alike on any number of cores.
    """
    return thread_count(1) if device.type == "cpu" else nullcontext()


def _draws(seed: int, numbers: range, start: int, count: int) -> NDArray[np.float64]:
    """Return the random numbers of tokens of sequences, shape (sequences, count); `start` is a multiple of 4."""
    groups = -(-count // 4)
    rows = [
        counter_words(seed, _STREAM + number, start // 4, groups, words=4).reshape(-1)[:count] for number in numbers
    ]
    return uniform(np.stack(rows))


class _Writer:
    """Writes blocks of tokens of a group; all that a step reads or changes lies in buffers of its own.

    `shape` is how many sequences, and of how many tokens a block is at most.
    """

    def __init__(
        self,
        model: MambaLM,
        state: InferenceState,
        sampling: Sampling,
        shape: tuple[int, int],
        device: torch.device,
        *,
        recorded: bool,
    ) -> None:
        self.rows, block = shape
        self._stepper = Stepper(model, state, rows=self.rows)
        # Room for what is drawn while a step is recorded.
        block = max(block, _WARM_UPS + 1)
        self._draw = TokenDraw(sampling, rows=self.rows, vocabulary=model.config.vocab_size, block=block, device=device)
        # A kind of step for each stage that a token may go to: a graph holds one.
        self._kinds: list[Callable[[], None]] = []
        for depth in range(len(model.config.pool) + 1):
            self._draw.begin(torch.zeros(self.rows, 1, dtype=torch.float64))
            step = partial(self._step, depth)
            self._kinds.append(_recorded(step, device) if recorded else step)

    def begin(self, state: InferenceState, logits: Tensor) -> None:
        """Go back to the end of the prompt."""
        self._stepper.load(state)
        self._draw.logits.copy_(logits.expand_as(self._draw.logits))

    def write(self, draws: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Write as many tokens as there are random numbers; returns them and their entropies, (rows, count) each."""
        self._draw.begin(torch.from_numpy(draws))
        for _ in range(draws.shape[1]):
            self._kinds[self._stepper.depth]()
            self._stepper.tick()
        try:
            tokens, bits = self._draw.drawn()
        except FloatingPointError as error:
            raise InputError(f"the model gives {error}; its weights are damaged or its input is") from error
        return tokens.numpy(), bits.numpy()

    def _step(self, depth: int) -> None:
        """Draw a token of each sequence from the logits at hand, and let so many inner stages of the model read it."""
        self._draw()
        self._draw.logits.copy_(self._stepper.advance(self._draw.now, depth))


def _recorded(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Record a step as a CUDA graph. What it changes meanwhile is of no concern: `begin` comes after.

    Parameters
    ----------
    step : callable
        Reads and changes tensors that stay where they are.
    """
    # Kernels are compiled and chosen before, on a stream of its own, as torch.cuda.graph asks.
    with torch.cuda.device(device):
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                step()
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
    replay: Callable[[], None] = graph.replay
    return replay
