"""Write sequences with a next-token model, each token drawn from what the model says, as a function of a seed."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqdomains.backbone import InferenceState, MambaLM
from seqdomains.backbone.step import Stepper
from seqdomains.errors import InputError
from seqdomains.pipelines.borrowed import borrowed, deterministic
from seqdomains.pipelines.interrupts import StoppedError, stop_on_signals
from seqdomains.pipelines.progress import progress_display
from seqdomains.pipelines.stream import CHUNK
from seqdomains.sampling import counter_words, uniform

# Sequences that are written side by side, always as many: how many a matrix product has decides its last bits.
TOGETHER: Final = 16
_STREAM: Final = 5 << 32
# Tokens between two looks at a signal, and of the random numbers that are made at once.
_BLOCK: Final = 1024


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn from the logits.

    Parameters
    ----------
    temperature : float
        The logits are divided by it; 0 takes the likeliest token.
    top_k : int, optional
        Only the likeliest k tokens.
    top_p : float, optional
        Of those, only the fewest whose probabilities are p together (nucleus sampling, arXiv:1904.09751).
    codes : tuple of int, optional
        Only these; all that the model has, if not given.

    Raises
    ------
    ValueError
        A value is out of range.

    Examples
    --------
    >>> logits = torch.log(torch.tensor([[0.4, 0.1, 0.3, 0.2]]))
    >>> Sampling(top_p=0.6).probabilities(logits).tolist()[0][::3]
    [0.571428..., 0.0]
    >>> Sampling(temperature=0).choose(logits, torch.tensor([0.9])).item()
    0
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    codes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature {self.temperature}: expected a number from 0")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k {self.top_k}: expected 1 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p:g}: expected a number above 0 and up to 1")
        if self.codes is not None and not self.codes:
            raise ValueError("codes: expected one or more")

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return what a token is drawn by, shape (rows, codes), float64.

        Parameters
        ----------
        logits : Tensor, shape (rows, codes)
        """
        order, sorted_ = self._sorted(logits)
        return torch.zeros_like(sorted_).scatter(1, order, sorted_)

    def choose(self, logits: Tensor, draws: Tensor) -> Tensor:
        """Draw a token for each row.

        Parameters
        ----------
        logits : Tensor, shape (rows, codes)
        draws : Tensor, shape (rows,)
            Uniform numbers in [0, 1).

        Returns
        -------
        Tensor of int64, shape (rows,)
        """
        order, chances = self._sorted(logits)
        up_to = _running_sums(chances)
        # Not above the last one that can be: rounding may leave the sum below 1.
        last = ((chances > 0).sum(1) - 1).clamp(min=0)
        place = (up_to <= (draws.to(up_to.dtype) * up_to[:, -1])[:, None]).sum(1)
        return order.gather(1, torch.minimum(place, last)[:, None])[:, 0]

    def _sorted(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens from the likeliest to the least likely, the lower code first, and their probabilities."""
        wide = logits.double()
        if self.codes is not None:
            every = torch.arange(logits.shape[1], device=logits.device)
            forbidden = torch.ones_like(every, dtype=torch.bool)
            # Code by code: a list would be copied to the device, which a CUDA graph cannot hold.
            for code in self.codes:
                forbidden = forbidden & (every != code)
            wide = wide.masked_fill(forbidden, float("-inf"))
        wide, order = wide.sort(dim=1, descending=True, stable=True)
        ranks = torch.arange(wide.shape[1], device=wide.device)
        most = 1 if self.temperature == 0 else self.top_k or wide.shape[1]
        chances = (wide / (self.temperature or 1.0)).masked_fill(ranks >= most, float("-inf")).softmax(1)
        if self.top_p is not None:
            # The token with which the sum reaches p is among them.
            before = _running_sums(chances) - chances
            chances = chances.masked_fill(before >= self.top_p, 0)
            chances = chances / chances.sum(1, keepdim=True)
        return order, chances


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
    """Yield sequences that go on from a prompt.

    Token t of sequence i is drawn by a random number that is a function of the seed, i and t, and `TOGETHER` sequences
    are always computed side by side; so a sequence is the same whatever others are written with it.

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
        Where to compute; the model is back where it was afterwards.
    progress : bool
        Whether to tell the user how far it is.

    Yields
    ------
    ndarray of int64, shape (length,)

    Raises
    ------
    InputError
        The model is not causal, or the logits are not finite.
    ValueError
        The prompt is empty.
    StoppedError
        SIGTERM or Ctrl-C came.

    Examples
    --------
    >>> from seqdomains.backbone import MambaConfig
    >>> model = MambaLM(MambaConfig(d_model=16, n_layer=1))
    >>> prompt = np.array([0, 1, 2])
    >>> one, two = generate(model, prompt, length=5, count=2, sampling=Sampling(codes=(0, 1)), progress=False)
    >>> len(one), set(one.tolist()) <= {0, 1}
    (5, True)
    """
    if not len(prompt):
        raise ValueError("an empty prompt: expected at least one token, from which the next is told")
    model.config.require_causal("generation", instead="Give a model that was trained on each next token.")
    device, how = torch.device(device), sampling or Sampling()
    recorded = device.type == "cuda" if graph is None else graph
    groups = -(-count // TOGETHER)
    with (
        deterministic(),
        borrowed(model, device=device, training=False),
        stop_on_signals("stopping") as stop,
        progress_display("generate", total=length * groups, enabled=progress) as show,
    ):
        with torch.inference_mode():
            logits, state = _read(model, prompt, chunk, device)
            writer = _Writer(model, state, how, min(length, _BLOCK), device, recorded=recorded)
        for group in range(groups):
            numbers = range(first + group * TOGETHER, first + (group + 1) * TOGETHER)
            parts = []
            with torch.inference_mode():
                writer.begin(state, logits)
                for start in range(0, length, _BLOCK):
                    parts.append(writer.write(_draws(seed, numbers, start, min(_BLOCK, length - start))))
                    show(group * length + min(start + _BLOCK, length), "tokens of each sequence", False)
                    if stop.signum is not None:
                        raise StoppedError(stop.signum, "stopped; repeat the command")
            yield from np.concatenate(parts, axis=1)[: count - group * TOGETHER]


def _read(model: MambaLM, prompt: NDArray[Any], chunk: int, device: torch.device) -> tuple[Tensor, InferenceState]:
    """Read a prompt; returns the logits behind it, shape (1, codes), and the state."""
    state: InferenceState | None = None
    tokens = torch.from_numpy(np.ascontiguousarray(prompt))[None]
    for start in range(0, tokens.shape[1], chunk):
        logits, state = model(tokens[:, start : start + chunk].to(device), state=state, return_state=True)
    assert state is not None  # noqa: S101 - the prompt is not empty
    return logits[:, -1], state


def _draws(seed: int, numbers: range, start: int, count: int) -> NDArray[np.float64]:
    """Return the random numbers of tokens of sequences, shape (sequences, count); `start` is a multiple of 4."""
    groups = -(-count // 4)
    rows = [
        counter_words(seed, _STREAM + number, start // 4, groups, words=4).reshape(-1)[:count] for number in numbers
    ]
    return uniform(np.stack(rows))


def _running_sums(chances: Tensor) -> Tensor:
    """Add up along rows by a product with a triangle: cumsum has no deterministic form on a GPU."""
    size = chances.shape[1]
    return chances @ torch.ones(size, size, dtype=chances.dtype, device=chances.device).triu()


class _Writer:
    """Writes blocks of tokens of `TOGETHER` sequences; all that a step reads or changes lies in buffers of its own."""

    def __init__(
        self,
        model: MambaLM,
        state: InferenceState,
        sampling: Sampling,
        block: int,
        device: torch.device,
        *,
        recorded: bool,
    ) -> None:
        self._stepper = Stepper(model, state, rows=TOGETHER)
        self._sampling = sampling
        self._logits = torch.zeros(TOGETHER, model.config.vocab_size, device=device)
        self._draws = torch.zeros(TOGETHER, block, dtype=torch.float64, device=device)
        self._tokens = torch.zeros(TOGETHER, block, dtype=torch.int64, device=device)
        self._columns = torch.arange(block, device=device)
        self._at = torch.zeros(1, dtype=torch.int64, device=device)
        self._finite = torch.ones((), dtype=torch.bool, device=device)
        self._advance: Callable[[], None] = _recorded(self._step, device) if recorded else self._step

    def begin(self, state: InferenceState, logits: Tensor) -> None:
        """Go back to the end of the prompt."""
        self._stepper.load(state)
        self._logits.copy_(logits.expand_as(self._logits))
        self._finite.fill_(True)

    def write(self, draws: NDArray[np.float64]) -> NDArray[np.int64]:
        """Write as many tokens as there are random numbers, shape (TOGETHER, count)."""
        count = draws.shape[1]
        self._draws[:, :count].copy_(torch.from_numpy(draws))
        self._at.zero_()
        for _ in range(count):
            self._advance()
        if not bool(self._finite):
            raise InputError("the model gives logits that are not finite; its weights are damaged or its input is")
        found: NDArray[np.int64] = self._tokens[:, :count].to("cpu").numpy().copy()
        return found

    def _step(self) -> None:
        """Draw a token of each sequence from the logits at hand, and let the model read it."""
        draws = self._draws.index_select(1, self._at)[:, 0]
        self._finite.logical_and_(self._logits.isfinite().all())
        tokens = self._sampling.choose(self._logits, draws)
        self._tokens.copy_(torch.where(self._columns == self._at, tokens[:, None], self._tokens))
        self._at.add_(1)
        self._logits.copy_(self._stepper(tokens))


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
            for _ in range(3):
                step()
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
    replay: Callable[[], None] = graph.replay
    return replay
