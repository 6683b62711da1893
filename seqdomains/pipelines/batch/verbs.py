"""What a batch computes of its windows: class probabilities, or embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqdomains.backbone import (
    FrameClassifier,
    InferenceState,
    MambaBackbone,
    MambaLM,
    PatchReconstructor,
    SequenceClassifier,
    SequenceTagger,
)
from seqdomains.backbone.heads import shares_of
from seqdomains.backbone.pooling import pool
from seqdomains.backbone.strands import MeanOfStrands
from seqdomains.errors import ConfigError, InputError
from seqdomains.pipelines.batch.columns import class_columns, class_fields, tag_columns, tag_fields

EmbeddingPooling = Literal["mean", "last", "max", "position"]
# Who a row speaks of, before what is said.
PLACE: Final = [("file", pa.string()), ("record", pa.string()), ("start", pa.int64()), ("end", pa.int64())]
# Tokens of a long window at once on a CPU: at 96 x 4 chunks of 2^16 take 5 to 8 times the memory and no less of the
# processor's time, since they leave its caches.
ON_CPU: Final = 1 << 13


class Verb(Protocol):
    """Computes what a row says of a window."""

    @property
    def fields(self) -> list[pa.Field]:
        """Columns behind the window's place."""

    @property
    def positions(self) -> bool:
        """Whether a window gives a row for each of its positions."""

    @property
    def causal(self) -> bool:
        """Whether a window can be read in chunks."""

    def blank(self, windows: int, length: int) -> Tensor:
        """Return windows that say nothing, to try the model on; see `MambaBackbone.blank`."""

    def launch(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Compute a batch of windows on the model's device, one row each; nothing waits for it.

        Where `lengths` are given, on the CPU, what lies behind them in a window changes nothing.
        """

    def read(self, tokens: Tensor, state: InferenceState | None) -> tuple[Tensor, InferenceState]:
        """Return the hidden vectors of a window's next chunk, and the state behind it."""

    def of_whole(self, pooled: Pooled) -> Tensor:
        """Return what `launch` would have, to rounding, from the hidden vectors of all chunks."""

    def columns(self, values: NDArray[Any]) -> list[pa.Array]:
        """Turn the rows of `launch`, on the CPU, into the columns of `fields`."""


@dataclass(frozen=True)
class Pooled:
    """The hidden vectors of a window over its positions: the last one, their mean and their maximum, shape (1, d)."""

    last: Tensor
    mean: Tensor
    most: Tensor


class Predict:
    """Class probabilities of each window.

    Parameters
    ----------
    model : SequenceClassifier
        In evaluation mode.
    complement : sequence of int, optional
        The partner of each code: probabilities are then the mean over both strands; see `MeanOfStrands`.

    Examples
    --------
    >>> from seqdomains.backbone import MambaConfig
    >>> verb = Predict(SequenceClassifier(MambaConfig(d_model=16, n_layer=1), classes=("a", "b")).eval())
    >>> [field.name for field in verb.fields]
    ['predicted', 'p_a', 'p_b']
    >>> predicted, *_ = verb.columns(np.array([[0.0, 2.0]]))
    >>> predicted.to_pylist()
    ['b']
    """

    positions = False

    def __init__(self, model: SequenceClassifier, *, complement: Sequence[int] | None = None) -> None:
        self._model = model
        self._tags = isinstance(model, SequenceTagger)
        self._complement = complement

    @property
    def causal(self) -> bool:
        """See `Verb`."""
        return self._complement is None and self._model.config.causal

    @property
    def fields(self) -> list[pa.Field]:
        """See `Verb`."""
        return tag_fields(self._model.classes) if self._tags else class_fields(self._model.classes)

    def blank(self, windows: int, length: int) -> Tensor:
        """See `Verb`."""
        return self._model.backbone.blank(windows, length)

    def launch(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return logits; see `Verb`."""
        model = self._model if self._complement is None else MeanOfStrands(self._model, complement=self._complement)
        logits: Tensor = model(tokens, lengths)
        return logits.double()

    def read(self, tokens: Tensor, state: InferenceState | None) -> tuple[Tensor, InferenceState]:
        """See `Verb`."""
        found: tuple[Tensor, InferenceState] = self._model.backbone(tokens, state=state, return_state=True)
        return found

    def of_whole(self, pooled: Pooled) -> Tensor:
        """See `Verb`."""
        parts = {"last": [pooled.last], "mean": [pooled.mean], "both": [pooled.last, pooled.mean]}[self._model.pooling]
        with torch.autocast(pooled.last.device.type, enabled=False):
            logits: Tensor = self._model.head(torch.cat(parts, dim=-1))
        return logits.double()

    def columns(self, values: NDArray[Any]) -> list[pa.Array]:
        """See `Verb`; probabilities are taken in float64."""
        _refuse_infinite(values, "logits")
        columns = tag_columns if self._tags else class_columns
        return columns(self._model.classes, shares_of(self._model, torch.from_numpy(values)).numpy())


class Embed:
    """Hidden vectors of a layer, pooled over each window or one for each position.

    Parameters
    ----------
    model : SequenceClassifier, FrameClassifier, MambaLM, PatchReconstructor or MambaBackbone
        In evaluation mode.
    pooling : {"mean", "last", "max", "position"}
        Over a window's positions. A causal model's last position has seen all of the window.
    layer : int or None
        After which block, from 1; 0 is the embedding of the tokens. None is the last one with the final norm.

    Raises
    ------
    ConfigError
        The model has no such layer.

    Examples
    --------
    >>> from seqdomains.backbone import MambaConfig
    >>> model = MambaBackbone(MambaConfig(d_model=16, n_layer=2)).eval()
    >>> tokens = torch.randint(4, (3, 10))
    >>> with torch.no_grad():
    ...     last = Embed(model, pooling="last", layer=None).launch(tokens)
    ...     whole = model(tokens)[:, -1]
    >>> tuple(last.shape), torch.equal(last, whole)
    ((3, 16), True)
    """

    def __init__(
        self,
        model: SequenceClassifier | FrameClassifier | MambaLM | PatchReconstructor | MambaBackbone,
        *,
        pooling: EmbeddingPooling,
        layer: int | None,
    ) -> None:
        self._backbone = model if isinstance(model, MambaBackbone) else model.backbone
        blocks = len(self._backbone.layers)
        if layer is not None and self._backbone.config.pool:
            raise ConfigError(
                "--layer: the model has stages, whose vectors have widths and rates of their own; leave it out"
            )
        if layer is not None and not 0 <= layer <= blocks:
            raise ConfigError(f"--layer {layer}: the model has blocks 1 to {blocks}, and 0 is the tokens' embedding")
        self._pooling = pooling
        self._layer = layer
        self.width = self._backbone.config.d_hidden

    @property
    def causal(self) -> bool:
        """See `Verb`."""
        return self._backbone.config.causal

    @property
    def positions(self) -> bool:
        """See `Verb`."""
        return self._pooling == "position"

    @property
    def fields(self) -> list[pa.Field]:
        """See `Verb`."""
        return [pa.field("embedding", pa.list_(pa.float32(), self.width))]

    def blank(self, windows: int, length: int) -> Tensor:
        """See `Verb`."""
        return self._backbone.blank(windows, length)

    def launch(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return vectors of shape (windows, width), or (windows, positions, width); see `Verb`."""
        hidden: Tensor = self._backbone(tokens, lengths=lengths, blocks=self._layer).float()
        if self._pooling == "position":
            return hidden
        if lengths is not None and self._pooling == "max":
            lengths = lengths.to(hidden.device, non_blocking=True)
            behind = torch.arange(hidden.shape[1], device=hidden.device) >= lengths[:, None]
            return hidden.masked_fill(behind[:, :, None], -torch.inf).amax(dim=1)
        if self._pooling == "max":
            return hidden.amax(dim=1)
        lengths = None if lengths is None else lengths.to(hidden.device, torch.int64, non_blocking=True)
        return pool(hidden, lengths, pooling=self._pooling)

    def read(self, tokens: Tensor, state: InferenceState | None) -> tuple[Tensor, InferenceState]:
        """See `Verb`."""
        found: tuple[Tensor, InferenceState] = self._backbone(
            tokens, state=state, return_state=True, blocks=self._layer
        )
        return found

    def of_whole(self, pooled: Pooled) -> Tensor:
        """See `Verb`."""
        if self._pooling == "position":
            raise ValueError("positions are not pooled")
        return {"last": pooled.last, "mean": pooled.mean, "max": pooled.most}[self._pooling]

    def columns(self, values: NDArray[Any]) -> list[pa.Array]:
        """See `Verb`."""
        _refuse_infinite(values, "embeddings")
        flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).reshape(-1), pa.float32())
        return [pa.FixedSizeListArray.from_arrays(flat, self.width)]


def _refuse_infinite(values: NDArray[Any], what: str) -> None:
    if not np.isfinite(values).all():
        raise InputError(f"the model gives {what} that are not finite; its weights are damaged or its input is")


@dataclass(frozen=True)
class Launched:
    """Answers that are on their way to the CPU; they are there when `done` is, and at once where that is None."""

    rows: list[Tensor]
    done: torch.cuda.Event | None


class Runner:
    """Answers any number of windows of one length, halving its batch when the memory runs out.

    Nothing waits for the device before `fetch`, so that a GPU computes while the next windows are made ready.

    Parameters
    ----------
    verb : Verb
        What is computed.
    device : torch.device
        Where the model lies.
    batch_size : int
        Windows at once to begin with; after memory ran out it stays at what fitted.
    precision : {"float32", "bfloat16"}
        Of matrix products and what lies between them; weights and the answer are float32.

    Examples
    --------
    >>> from seqdomains.backbone import MambaConfig
    >>> model = SequenceClassifier(MambaConfig(d_model=16, n_layer=1), classes=("a", "b")).eval()
    >>> runner = Runner(Predict(model), device=torch.device("cpu"), batch_size=2, precision="float32")
    >>> runner.fetch(runner.launch([np.zeros(5, np.uint8)] * 3)).shape
    (3, 2)
    """

    def __init__(
        self, verb: Verb, *, device: torch.device, batch_size: int, precision: Literal["float32", "bfloat16"]
    ) -> None:
        self.verb = verb
        self.batch_size = batch_size
        self.halved = 0
        self._device = device
        self._autocast: Callable[[], Any] = lambda: torch.autocast(
            device.type, torch.bfloat16, enabled=precision == "bfloat16"
        )

    def fit(self, length: int) -> int:
        """Try one batch of windows and return how many fit into the memory, at most `batch_size`.

        Raises
        ------
        InputError
            Not even one does.
        """
        self.fetch(self.launch(list(self.verb.blank(1, length).numpy()) * self.batch_size))
        return self.batch_size

    def launch(self, windows: Sequence[NDArray[Any]]) -> Launched:
        """Begin to compute windows, best of one length; returns what `fetch` takes.

        Raises
        ------
        InputError
            One window alone does not fit into the memory.
        """
        rows: list[Tensor] = []
        first = 0
        while first < len(windows):
            part = windows[first : first + self.batch_size]
            try:
                rows.append(self._answer(part))
            except RuntimeError as error:
                # torch has a class of its own for a GPU's memory alone.
                if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
                    raise
                self._halve(max(map(len, part)), error)
                continue
            first += len(part)
        done = None
        if self._device.type == "cuda":
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(torch.cuda.current_stream(self._device))
        return Launched(rows, done)

    def fetch(self, launched: Launched) -> NDArray[Any]:
        """Wait for what was launched, and for nothing after it, and return it."""
        if launched.done is not None:
            launched.done.synchronize()
        found: NDArray[Any] = torch.cat(launched.rows).numpy()
        return found

    def along(self, chunks: Iterable[NDArray[Any]]) -> NDArray[Any]:
        """Return what `launch` and `fetch` would of one window that comes in chunks, however long it is."""
        state: InferenceState | None = None
        total, most, length = torch.zeros(()), torch.full((), -torch.inf), 0
        with torch.inference_mode():
            for part in self._parts(chunks):
                tokens = part[None].to(self._device)
                with self._autocast():
                    hidden, state = self.verb.read(tokens, state)
                hidden = hidden.float()
                # A sum of a hundred million terms needs more than fp32 has.
                total = total.to(hidden.device) + hidden.sum(1, dtype=torch.float64)
                most = torch.maximum(most.to(hidden.device), hidden.amax(1))
                last = hidden[:, -1].clone()
                length += len(part)
            answer: NDArray[Any] = self.verb.of_whole(Pooled(last, (total / length).float(), most)).cpu().numpy()
        return answer

    def _parts(self, chunks: Iterable[NDArray[Any]]) -> Iterator[Tensor]:
        for chunk in chunks:
            at_once = ON_CPU if self._device.type == "cpu" else len(chunk)
            for first in range(0, len(chunk), at_once):
                yield torch.from_numpy(np.ascontiguousarray(chunk[first : first + at_once]))

    def _answer(self, windows: Sequence[NDArray[Any]]) -> Tensor:
        counts = [len(window) for window in windows]
        longest = max(counts)
        if alike := min(counts) == longest:
            tokens = torch.from_numpy(np.stack(windows))
        else:
            padded = np.zeros((len(windows), longest, *windows[0].shape[1:]), windows[0].dtype)
            for row, window in zip(padded, windows, strict=True):
                row[: len(window)] = window
            tokens = torch.from_numpy(padded)
        on_gpu = self._device.type == "cuda"
        if on_gpu:
            tokens = tokens.pin_memory().to(self._device, non_blocking=True)
        with torch.inference_mode(), self._autocast():
            answer = self.verb.launch(tokens, None if alike else torch.tensor(counts))
        if not on_gpu:
            return answer
        waiting = torch.empty(answer.shape, dtype=answer.dtype, pin_memory=True)
        waiting.copy_(answer, non_blocking=True)
        return waiting

    def _halve(self, length: int, error: Exception) -> None:
        if self.batch_size == 1:
            raise InputError(
                f"one window of {length} tokens does not fit into the memory; use a shorter window"
            ) from error
        self.batch_size //= 2
        self.halved += 1
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
