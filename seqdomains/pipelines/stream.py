"""Class probabilities along a record of any length, in memory that does not grow: the model's state is carried on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqdomains.backbone import InferenceState, SequenceClassifier
from seqdomains.backbone.heads import shares_of
from seqdomains.errors import InputError
from seqdomains.pipelines.answers import Answers, PredictOutcome, reading, write_answers
from seqdomains.pipelines.borrowed import borrowed, deterministic
from seqdomains.pipelines.prefetch import prefetched
from seqdomains.pipelines.tables import STDOUT, open_table
from seqdomains.task import Span

# Tokens that go through the model at once: 64 MiB for each fp32 tensor of a block at an inner width of 256.
CHUNK = 1 << 16
_NO_TOKENS = np.zeros(0, dtype=np.uint8)


class RunningClassifier:
    """Reads one sequence chunk by chunk and classifies what it has read so far.

    After e tokens its answer is the model's for the window of the first e tokens, to rounding, however they were cut.

    Parameters
    ----------
    model : SequenceClassifier
        In evaluation mode.
    every : int
        Tokens from one answer to the next.
    device : torch.device
        Where the model lies.

    Examples
    --------
    >>> from seqdomains.backbone import MambaConfig
    >>> model = SequenceClassifier(MambaConfig(d_model=16, n_layer=2), classes=("a", "b"), pooling="mean").eval()
    >>> tokens = torch.randint(4, (1, 100))
    >>> running = RunningClassifier(model, every=40, device=torch.device("cpu"))
    >>> ends, answers = zip(*(running.read(part[0].numpy()) for part in tokens.split(33, dim=1)), strict=True)
    >>> np.concatenate(ends).tolist(), running.length
    ([40, 80], 100)
    >>> with torch.no_grad():
    ...     whole = model(tokens[:, :80]).softmax(-1)
    >>> bool(np.allclose(np.concatenate(answers)[1], whole[0], atol=1e-5))
    True
    """

    def __init__(self, model: SequenceClassifier, *, every: int, device: torch.device) -> None:
        self._model = model
        self._every = every
        self._device = device
        self._state: InferenceState | None = None
        self._sum: Tensor | None = None
        self._last: Tensor | None = None
        self.length = 0

    def read(self, tokens: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Read on.

        Parameters
        ----------
        tokens : ndarray of an integer dtype, shape (L,)
            The next tokens.

        Returns
        -------
        ends : ndarray of int64, shape (n,)
            The multiples of `every` that were reached.
        probabilities : ndarray of float64, shape (n, n_classes)
            Of the classes of all tokens before each.

        Raises
        ------
        InputError
            The logits are not finite.
        """
        first, self.length = self.length, self.length + len(tokens)
        ends = np.arange(first // self._every + 1, self.length // self._every + 1, dtype=np.int64) * self._every
        if not len(tokens):
            return ends, np.zeros((0, len(self._model.classes)))
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(tokens))[None].to(self._device)
            hidden, self._state = self._model.backbone(batch, state=self._state, return_state=True)
            # A sum of a hundred million terms needs more than fp32 has.
            before = hidden.new_zeros(hidden.shape[-1], dtype=torch.float64) if self._sum is None else self._sum
            sums = before + _sums_up_to(hidden[0], [*(ends - first).tolist(), len(tokens)])
            self._sum, self._last = sums[-1].clone(), hidden[0, -1].clone()
            places = torch.from_numpy(ends - first - 1).to(self._device)
            return ends, self._answers(hidden[0, places], sums[:-1], torch.from_numpy(ends).to(self._device))

    def now(self) -> NDArray[np.float64]:
        """Return the probabilities after all that was read, shape (n_classes,).

        Raises
        ------
        ValueError
            Nothing was read.
        """
        if self._last is None or self._sum is None:
            raise ValueError("nothing was read, which has no class")
        with torch.inference_mode():
            length = torch.tensor([self.length], device=self._device)
            answer: NDArray[np.float64] = self._answers(self._last[None], self._sum[None], length)[0]
        return answer

    def _answers(self, last: Tensor, sums: Tensor, lengths: Tensor) -> NDArray[np.float64]:
        mean = (sums / lengths[:, None]).float()
        parts = {"last": [last.float()], "mean": [mean], "both": [last.float(), mean]}[self._model.pooling]
        logits = self._model.head(torch.cat(parts, dim=-1)).to("cpu", torch.float64)
        if not bool(torch.isfinite(logits).all()):
            raise InputError("the model gives logits that are not finite; its weights are damaged or its input is")
        answers: NDArray[np.float64] = shares_of(self._model, logits).numpy()
        return answers


def _sums_up_to(hidden: Tensor, ends: list[int]) -> Tensor:
    """Add the first rows of a matrix up to each of the rising `ends`, in float64."""
    if len(ends) > len(hidden) // 16:
        return hidden.cumsum(0, dtype=torch.float64)[torch.tensor(ends, device=hidden.device) - 1]
    parts = [hidden[start:end].sum(0, dtype=torch.float64) for start, end in pairwise([0, *ends])]
    return torch.stack(parts).cumsum(0)


def stream(
    model: SequenceClassifier,
    inputs: Iterable[tuple[str, Iterable[tuple[str, Iterable[NDArray[Any]]]]]],
    output: Path | str = STDOUT,
    *,
    every: int,
    device: torch.device | str = "cpu",
    on_error: Literal["skip", "stop"] = "skip",
    progress: bool = True,
) -> PredictOutcome:
    r"""Write the class probabilities of each record's first `every` tokens, its first 2 `every`, and so on to its end.

    Parameters
    ----------
    model : SequenceClassifier
        In fp32.
    inputs : iterable of (str, iterable of (str, iterable of ndarray))
        Each input's name and its records: a name, and tokens in pieces of any size. Read one after the other, in a
        thread; no record is held.
    output : Path or str
        See `seqdomains.pipelines.tables.open_table`; a row's start is 0 and its end the number of tokens it speaks of.
    every : int
        Tokens from one row to the next.
    device : torch.device or str
        Where to compute; the model is back where it was afterwards.
    on_error : {"skip", "stop"}
        See `seqdomains.pipelines.predict.predict`.
    progress : bool
        Whether to tell the user how far it is.

    Returns
    -------
    PredictOutcome
        Number of rows, and what was skipped.

    Raises
    ------
    InputError
        As `predict`.
    StoppedError
        SIGTERM or Ctrl-C came; no file was written.

    Examples
    --------
    >>> from seqdomains.backbone import MambaConfig
    >>> model = SequenceClassifier(MambaConfig(d_model=16, n_layer=1), classes=("a", "b"))
    >>> record = ("chr1", [np.zeros(5, np.uint8), np.ones(4, np.uint8)])
    >>> outcome = stream(model, [("toy", [record])], "/dev/null", every=4, progress=False)
    >>> outcome.windows  # after 4, 8 and all 9 tokens
    3
    """
    model.config.require_causal("a stream", instead="Classify windows instead: predict reads them whole.")
    device = torch.device(device)
    with deterministic(), borrowed(model, device=device, training=False):
        found = ((name, answers(model, records, every, device)) for name, records in inputs)
        return write_answers(
            found, open_table(output, model.classes), name="stream", on_error=on_error, progress=progress
        )


def answers(
    model: SequenceClassifier,
    records: Iterable[tuple[str, Iterable[NDArray[Any]]]],
    every: int,
    device: torch.device,
) -> Answers:
    """Yield spans, without their tokens, from each record's beginning to every `every`-th token and to its end.

    The model is in evaluation mode on the device; what is wrong with the records is a BadInputError.
    """
    running = RunningClassifier(model, every=every, device=device)
    with prefetched(reading(in_chunks(records)), depth=2) as chunks:
        for record, tokens, ended in chunks:
            ends, shares = running.read(tokens)
            if ended and (not len(ends) or ends[-1] < running.length):
                ends, shares = np.append(ends, running.length), np.vstack([shares, running.now()])
            if len(ends):
                yield [Span(record, 0, int(end), _NO_TOKENS) for end in ends], shares
            if ended:
                running = RunningClassifier(model, every=every, device=device)


def in_chunks(records: Iterable[tuple[str, Iterable[NDArray[Any]]]]) -> Iterator[tuple[str, NDArray[Any], bool]]:
    """Cut records into chunks of `CHUNK` tokens; the last of a record, which may be shorter, says so.

    Examples
    --------
    >>> [(name, len(tokens), last) for name, tokens, last in in_chunks([("r", [np.zeros(CHUNK), np.zeros(3)])])]
    [('r', 65536, False), ('r', 3, True)]
    """
    for name, pieces in records:
        held: list[NDArray[Any]] = []
        count = 0
        for piece in pieces:
            held.append(piece)
            count += len(piece)
            if count <= CHUNK:
                continue
            tokens, first = np.concatenate(held), 0
            # One token at least is left for the last chunk.
            while count - first > CHUNK:
                yield name, tokens[first : first + CHUNK], False
                first += CHUNK
            held, count = [tokens[first:]], count - first
        if count:
            yield name, np.concatenate(held), True
