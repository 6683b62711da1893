"""How much likelier a next-token model finds one window than another, for any number of pairs, in constant memory."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqdomains.backbone import MambaLM
from seqdomains.backbone.lengths import counted_positions
from seqdomains.errors import InputError
from seqdomains.pipelines.answers import PredictOutcome, reading, write_answers
from seqdomains.pipelines.batch.verbs import Launched, Runner, Verb
from seqdomains.pipelines.borrowed import borrowed, deterministic
from seqdomains.pipelines.gather import gather
from seqdomains.pipelines.tables import Table

Pair = tuple[NDArray[Any], NDArray[Any]]


class Compared(Protocol):
    """What a row speaks of: as many pairs of windows as the row has values, or none where it has no values."""

    @property
    def pairs(self) -> Sequence[Pair]:
        """Windows of tokens, each of any length from 1."""


Row = TypeVar("Row", bound=Compared)


class WindowLikelihood:
    """Log-likelihood of each window: the sum over its tokens, each given all before it.

    Parameters
    ----------
    model : MambaLM
        In evaluation mode.
    ignored : int, optional
        A code whose positions are left out of the sum, such as one that stands for an unknown token.
    before : int, optional
        Code that the model reads before a window. Without it a window's first token is given and not in the sum.

    Examples
    --------
    >>> from seqdomains.backbone import MambaConfig
    >>> model = MambaLM(MambaConfig(d_model=16, n_layer=1)).eval()
    >>> tokens = torch.tensor([[0, 1, 2, 3], [0, 1, 0, 0]], dtype=torch.uint8)
    >>> with torch.no_grad():
    ...     found = WindowLikelihood(model).launch(tokens, torch.tensor([4, 2]))
    ...     exact = -model.loss(tokens[:1], reduction="sum")
    >>> tuple(found.shape), torch.allclose(found[0], exact.double())
    ((2,), True)
    """

    def __init__(self, model: MambaLM, *, ignored: int | None = None, before: int | None = None) -> None:
        self._model = model
        self._ignored = ignored
        self._before = before

    def launch(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Compute a batch of windows, shape (B, L); where `lengths` are given, what lies behind them counts nothing.

        Returns
        -------
        Tensor of float64, shape (B,)
            Natural logarithms.
        """
        if self._before is not None:
            tokens = torch.cat([tokens.new_full((len(tokens), 1), self._before), tokens], dim=1)
            lengths = None if lengths is None else lengths + 1
        given: Tensor = self._model(tokens[:, :-1]).log_softmax(-1)
        found = given.gather(-1, tokens[:, 1:, None].long())[..., 0]
        counted = counted_positions(tokens, lengths, self._ignored)
        return found.masked_fill(~counted, 0).sum(1, dtype=torch.float64)


def score_pairs(
    model: MambaLM,
    inputs: Iterable[tuple[str, Iterable[Row]]],
    opened: AbstractContextManager[Table[Sequence[Row]]],
    *,
    values: int,
    batch_size: int = 32,
    precision: Literal["float32", "bfloat16"] = "float32",
    ignored: int | None = None,
    before: int | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> PredictOutcome:
    """Write, for each pair of windows, log P(second) - log P(first), the natural log-likelihood ratio.

    Tokens that both windows begin with are as likely in both, since a causal model has seen no difference there, and
    cancel. Exchanging the windows of every pair negates every ratio exactly, since both give the same batches.

    Parameters
    ----------
    model : MambaLM
        With fp32 weights.
    inputs : iterable of (str, iterable of Compared)
        Each input's name and rows, read one after the other.
    opened : context manager
        Gives the table. It takes rows in input order with values of shape (rows, values), NaN where there are no pairs.
    values : int
        Pairs of a row that has any.
    batch_size : int
        Windows at once; halved when the memory runs out. Windows of similar length share a batch.
    precision : {"float32", "bfloat16"}
        Of matrix products and what lies between them.
    ignored, before : int, optional
        See `WindowLikelihood`.
    device : torch.device or str
        Where to compute; the model is back where it was afterwards.
    progress : bool
        Whether to tell the user how far it is.

    Returns
    -------
    PredictOutcome
        Number of rows.

    Raises
    ------
    InputError
        An input is bad, the logits are not finite, one window does not fit into the memory, or the output cannot be
        written.
    StoppedError
        SIGTERM or Ctrl-C came; no file was written.

    Examples
    --------
    >>> from contextlib import nullcontext
    >>> from types import SimpleNamespace
    >>> from seqdomains.backbone import MambaConfig
    >>> class Shown:
    ...     def begin_input(self): ...
    ...     def write(self, rows, values): print(values.tolist())
    >>> same = np.array([0, 1, 2], np.uint8)
    >>> rows = [SimpleNamespace(pairs=[(same, same)]), SimpleNamespace(pairs=[])]
    >>> model = MambaLM(MambaConfig(d_model=16, n_layer=1))
    >>> outcome = score_pairs(model, [("toy", rows)], nullcontext(Shown()), values=1, progress=False)
    [[0.0], [nan]]
    """
    model.config.require_causal("a likelihood ratio", instead="Give a model that was trained on each next token.")
    device = torch.device(device)
    with deterministic(), borrowed(model, device=device, training=False):
        # `launch` is all that a runner asks of a verb for `launch` and `fetch`.
        verb = cast(Verb, WindowLikelihood(model, ignored=ignored, before=before))
        runner = Runner(verb, device=device, batch_size=batch_size, precision=precision)
        found = ((name, _answers(runner, rows, values)) for name, rows in inputs)
        return write_answers(found, opened, name="score", on_error="stop", progress=progress)


def _answers(runner: Runner, rows: Iterable[Row], values: int) -> Generator[tuple[list[Row], NDArray[np.float64]]]:
    """Yield rows in order with their ratios; one chunk is under way while the next is read."""
    # No thread of its own: a GPU computes while this one reads, and a CPU has no time to spare.
    chunks = gather(
        reading(rows),
        batch_size=max(1, runner.batch_size // (2 * values)),
        tokens=lambda row: sum(len(window) for pair in row.pairs for window in pair),
    )
    waiting: tuple[list[Row], list[bytes], Launched] | None = None
    for chunk in chunks:
        # Each window once, however many rows ask for it, and in an order that depends on the windows alone.
        windows = {window.tobytes(): window for row in chunk for pair in row.pairs for window in pair}
        keys = sorted(windows, key=lambda key: (len(key), key))
        launched = runner.launch([windows[key] for key in keys])
        if waiting is not None:
            yield _taken(runner, *waiting, values)
        waiting = chunk, keys, launched
    if waiting is not None:
        yield _taken(runner, *waiting, values)


def _taken(
    runner: Runner, chunk: list[Row], keys: list[bytes], launched: Launched, values: int
) -> tuple[list[Row], NDArray[np.float64]]:
    ratios = np.full((len(chunk), values), np.nan)
    if keys:
        likelihoods = runner.fetch(launched)
        if not np.isfinite(likelihoods).all():
            raise InputError("the model gives logits that are not finite; its weights are damaged or its input is")
        found = dict(zip(keys, likelihoods.tolist(), strict=True))
        for place, row in enumerate(chunk):
            if row.pairs:
                ratios[place] = [found[second.tobytes()] - found[first.tobytes()] for first, second in row.pairs]
    return chunk, ratios
