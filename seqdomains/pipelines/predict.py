"""Classify the windows of a user's files: one row per window, in input order, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from seqdomains.pipelines.answers import Answers, PredictOutcome, reading, write_answers
from seqdomains.pipelines.borrowed import borrowed, deterministic
from seqdomains.pipelines.gather import gather
from seqdomains.pipelines.inference import Classifier
from seqdomains.pipelines.prefetch import prefetched
from seqdomains.pipelines.tables import STDOUT, open_table
from seqdomains.task import Span


def predict(
    model: nn.Module,
    classes: Sequence[str],
    inputs: Iterable[tuple[str, Iterable[Span]]],
    output: Path | str = STDOUT,
    *,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    on_error: Literal["skip", "stop"] = "skip",
    total: int | None = None,
    progress: bool = True,
) -> PredictOutcome:
    r"""Write the class probabilities of every span.

    Parameters
    ----------
    model : Module
        Called as ``model(tokens)``, in fp32; gives logits of shape (B, n_classes).
    classes : sequence of str
        Names in the order of the logits.
    inputs : iterable of (str, iterable of Span)
        Each input's name and spans; read one after the other, in a thread.
    output : Path or str
        See `seqdomains.pipelines.tables.open_table`; ``-`` is stdout.
    batch_size : int
        Windows at once; halved when the memory runs out. Spans of equal length share a batch.
    device : torch.device or str
        Where to compute; the model is back where it was afterwards.
    on_error : {"skip", "stop"}
        Whether a bad input is left out, with a warning and `PredictOutcome.failures`, or ends the prediction. A file
        has no row of an input that was left out; on stdout the rows before the error are out already.
    total : int, optional
        Number of spans, for the progress bar.
    progress : bool
        Whether to tell the user how far it is.

    Returns
    -------
    PredictOutcome
        Number of rows, and what was skipped.

    Raises
    ------
    InputError
        `on_error` is "stop" and an input is bad, no input could be read, or the output cannot be written.
    StoppedError
        SIGTERM or Ctrl-C came; no file was written.

    Examples
    --------
    >>> class Counter(nn.Module):
    ...     def forward(self, tokens, lengths=None):
    ...         return torch.stack([(tokens == code).sum(1).float() for code in (0, 1)], dim=1)
    >>> spans = [Span("r", 0, 3, np.array([0, 0, 1])), Span("r", 3, 5, np.array([1, 1]))]
    >>> outcome = predict(
    ...     Counter(), ("zeros", "ones"), [("toy", spans)], progress=False
    ... )  # doctest: +NORMALIZE_WHITESPACE
    #record	start	end	predicted	p_zeros	p_ones
    r	0	3	zeros	0.731059	0.268941
    r	3	5	ones	0.119203	0.880797
    >>> outcome.windows
    2
    """
    device = torch.device(device)
    with deterministic(), borrowed(model, device=device, training=False):
        classifier = Classifier(model, device=device, batch_size=batch_size)
        answers = ((name, _answers(classifier, spans, batch_size)) for name, spans in inputs)
        return write_answers(
            answers, open_table(output, classes), name="predict", on_error=on_error, total=total, progress=progress
        )


def _answers(classifier: Classifier, spans: Iterable[Span], batch_size: int) -> Answers:
    """Yield spans in order with their probabilities; those of equal length are computed together."""
    gathered = gather(reading(spans), batch_size=batch_size, tokens=lambda span: len(span.tokens))
    with prefetched(gathered, depth=1) as chunks:
        for chunk in chunks:
            places: dict[int, list[int]] = {}
            for place, span in enumerate(chunk):
                places.setdefault(len(span.tokens), []).append(place)
            found: dict[int, NDArray[np.float64]] = {}
            for alike in places.values():
                tokens = torch.from_numpy(np.stack([chunk[place].tokens for place in alike]))
                found |= zip(alike, classifier.probabilities(tokens), strict=True)
            yield chunk, np.stack([found[place] for place in range(len(chunk))])
