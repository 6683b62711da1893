"""A toy task and a toy model with dropout, small enough to train in a second; run as a script it trains them."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from seqdomains.backbone.heads import Artefact
from seqdomains.errors import SeqdomainsError
from seqdomains.files import atomic_folder
from seqdomains.pipelines.borrowed import seeded
from seqdomains.pipelines.recipe import TrainConfig
from seqdomains.pipelines.run_folder import RunFolder
from seqdomains.pipelines.train import TrainOutcome, train
from seqdomains.task import Batch

CLASSES = ("low", "middle", "high")
VOCAB = 16
POISON = 15


class ToyTask:
    """Three classes of windows over 15 codes, told apart by which codes are common; code 15 is never drawn."""

    classes = CLASSES
    vocab_size = VOCAB
    simulated = True

    def __init__(
        self,
        *,
        window: int = 24,
        delay: float = 0.0,
        poison: int | None = None,
        hook: Callable[[int], None] | None = None,
        test_windows: int = 50,
    ) -> None:
        self.window = window
        self.delay = delay
        self.poison = poison
        self.hook = hook
        self.test_windows = test_windows

    def signature(self) -> dict[str, object]:
        return {"domain": "toy", "window": self.window}

    def training_batch(self, seed: int, first: int, count: int, *, window: int | None = None) -> Batch:
        time.sleep(self.delay)
        if self.hook:
            self.hook(first)
        whole = self._batch(seed, range(first, first + count))
        short = window or self.window
        return Batch(whole.tokens[:, :short], whole.targets, np.minimum(whole.lengths, short))

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        for first in range(0, self.test_windows, batch_size):
            yield self._batch(12345, range(first, min(first + batch_size, self.test_windows)))

    def write_test_windows(self, folder: Path) -> None:
        (folder / "test_windows.json").write_text(json.dumps(list(range(self.test_windows))))

    def ceiling(self) -> float | None:
        return 0.95

    def baseline(self) -> dict[str, object] | None:
        return {"name": "code counts <1-mer>", "accuracy": 0.6}

    def notes(self) -> tuple[str, ...]:
        return ("windows < 30 codes & toys",)

    def _batch(self, seed: int, indices: range) -> Batch:
        tokens = np.full((len(indices), self.window), 0, dtype=np.uint8)
        targets = np.empty(len(indices), dtype=np.int64)
        lengths = np.empty(len(indices), dtype=np.int64)
        for row, index in enumerate(indices):
            random = np.random.Generator(np.random.Philox(key=seed, counter=index))
            targets[row] = random.integers(len(CLASSES))
            lengths[row] = self.window - random.integers(3)
            favoured = random.random(self.window) < 0.4
            codes = np.where(favoured, 5 * targets[row], 0) + random.integers(0, np.where(favoured, 5, 15))
            tokens[row, : lengths[row]] = codes[: lengths[row]]
            if index == self.poison:
                tokens[row, 0] = POISON
        return Batch(tokens, targets, lengths)


class ToyClassifier(Artefact):
    """Mean of embeddings, a hidden layer, dropout; a window with the poison code gives what `poison` does to it."""

    def __init__(
        self, *, width: int = 16, dropout: float = 0.1, poison: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> None:
        super().__init__()
        self.classes = CLASSES
        self.embedding = nn.Embedding(VOCAB, width)
        self.hidden = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, len(CLASSES))
        self.poison = poison

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        real = torch.arange(tokens.shape[1]) < (
            torch.tensor([[tokens.shape[1]]]) if lengths is None else lengths[:, None]
        )
        real = real.to(tokens.device)
        vectors = self.embedding(tokens.long()) * real[:, :, None]
        pooled = vectors.sum(1) / real.sum(1, keepdim=True)
        logits = self.out(self.dropout(torch.tanh(self.hidden(pooled))))
        poisoned = (tokens == POISON).any(1)
        if self.poison is not None and poisoned.any():
            logits = torch.where(poisoned[:, None], self.poison(logits), logits)
        return logits

    def save_pretrained(self, folder, *, signature) -> None:
        with atomic_folder(Path(folder)) as partial:
            save_file(self.state_dict(), partial / "model.safetensors")
            (partial / "config.json").write_text(json.dumps(dict(signature)))

    @classmethod
    def from_pretrained(cls, folder, *, device="cpu") -> ToyClassifier:
        weights = load_file(Path(folder) / "model.safetensors")
        model = cls(width=weights["hidden.weight"].shape[0])
        model.load_state_dict(weights)
        return model


def toy_config(**changes) -> TrainConfig:
    defaults = {"steps": 12, "batch": 8, "lr": 1e-2, "checkpoint_every": 5, "log_every": 2, "threads": 1}
    return TrainConfig(**(defaults | changes))


def toy_train(folder: Path, config: TrainConfig, task: ToyTask | None = None, **model) -> TrainOutcome:
    """Prepare the folder, build the model and train it: what a command does."""
    run = RunFolder.prepare(folder, {"train": config.model_dump(mode="json")})
    with seeded(config.seed):
        built = ToyClassifier(**model)
    return train(built, task or ToyTask(), config, run, progress=False)


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--config", default="{}")
    arguments = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    try:
        toy_train(arguments.folder, toy_config(**json.loads(arguments.config)), ToyTask(delay=arguments.delay))
    except SeqdomainsError as error:
        logging.error("%s", error)
        return error.exit_code
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
