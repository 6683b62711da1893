"""Pretraining on next tokens: one result however a batch is cut, equal bytes after a kill, bits of held-out windows.

Run as a script this file trains a toy language model: what is killed, and what torchrun's processes would do.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import seqdomains
from seqdomains.backbone import MambaConfig, MambaLM, SequenceClassifier
from seqdomains.cli.summary import bits_as_text
from seqdomains.errors import InputError
from seqdomains.pipelines.batch_tensors import as_tensors
from seqdomains.pipelines.bits import BitsConfig, evaluate_bits, summarise_bits
from seqdomains.pipelines.borrowed import seeded
from seqdomains.pipelines.dry_run import dry_run
from seqdomains.pipelines.metrics import read_metrics
from seqdomains.pipelines.objectives import MaskedTokens, NextToken
from seqdomains.pipelines.ranks import joined
from seqdomains.pipelines.recipe import TrainConfig
from seqdomains.pipelines.run_folder import RunFolder
from seqdomains.pipelines.train import train
from seqdomains.task import HiddenTokens, Windows

WINDOW = 24
IGNORED = 7


class Walk:
    """Codes that go one up or down; windows of 2 to 25 tokens, and a code that does not count here and there."""

    ignored, vocab_size, codes, window, simulated = IGNORED, 8, 8, WINDOW, True

    def __init__(self, *, delay: float = 0.0, long: int = 0, blank: bool = False) -> None:
        self.delay, self.long, self.blank = delay, long, blank

    def signature(self):
        return {"domain": "walk", "window": WINDOW}

    def training_batch(self, seed, first, count, *, window=None):
        time.sleep(self.delay)
        return self._windows(seed, range(first, first + count), window or WINDOW)

    def test_batches(self, batch_size):
        for first in range(0, 10, batch_size):
            yield self._windows(9, range(first, min(first + batch_size, 10)), self.long or WINDOW)

    def write_test_windows(self, folder):
        (folder / "windows.json").write_text("10")

    def baselines(self):
        return [{"name": "a fair coin & more", "bits": 1.5}]

    def notes(self):
        return ("codes < 8",)

    def _windows(self, seed, indices, window):
        tokens = np.full((len(indices), window + 1), 0, np.uint8)
        lengths = np.empty(len(indices), np.int64)
        for row, index in enumerate(indices):
            random = np.random.Generator(np.random.Philox(key=seed, counter=index))
            lengths[row] = random.integers(2, window + 2)
            steps = np.cumsum(random.choice([-1, 1], window + 1)) % 7
            steps[random.random(window + 1) < (1 if self.blank else 0.1)] = IGNORED
            tokens[row, : lengths[row]] = steps[: lengths[row]]
        return Windows(tokens, lengths)


def small_config(**changes):
    return TrainConfig(
        **{"steps": 6, "batch": 8, "lr": 1e-2, "checkpoint_every": 2, "log_every": 1, "threads": 1} | changes
    )


def small_model(seed=0):
    with seeded(seed):
        return MambaLM(MambaConfig(d_model=16, n_layer=1, vocab_size=8))


def small_train(folder, config, task=None):
    model = small_model()
    with joined(per_sequence=config.sequence_ranks, device=torch.device("cpu")) as ranks:
        with ranks.first_alone():
            run = RunFolder.prepare(folder, {}) if ranks.first else RunFolder(folder)
        train(model, task or Walk(), config, run, objective=NextToken(IGNORED), ranks=ranks, progress=False)
    return model


def losses(folder):
    return [row["loss"] for row in read_metrics(folder / "metrics.jsonl")]


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def alike(one, other):
    np.testing.assert_allclose(losses(one), losses(other), rtol=1e-5)
    for name, tensor in weights(other).items():
        torch.testing.assert_close(weights(one)[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


def process(folder, *configs, delay=0.0, **variables):
    """Train with each of the configurations in turn, in `folder`/0, `folder`/1, ..."""
    path = os.pathsep.join(filter(None, [str(Path(seqdomains.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))
    given = json.dumps([config.model_dump(mode="json") for config in configs])
    return subprocess.Popen(
        [sys.executable, __file__, str(folder), "--configs", given, "--delay", str(delay)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    """Those that need no compiling, which each process would wait for."""
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "reference")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that takes each batch at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEQDOMAINS_KERNELS", "reference")
        folder = tmp_path_factory.mktemp("pretrain") / "whole"
        small_train(folder, small_config())
    return folder


def test_the_first_loss_is_the_mean_over_all_that_counts(whole):
    batch = Walk().training_batch(0, 0, 8)
    tokens, lengths = torch.from_numpy(batch.tokens), torch.from_numpy(batch.lengths)
    with torch.no_grad():
        expected = small_model().loss(tokens, lengths=lengths, ignored=IGNORED)
    assert losses(whole)[0] == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("changes", [{"micro_batch": 1}, {"micro_batch": 3}, {"time_chunk": 7}, {"recompute": True}])
def test_parts_of_a_batch_count_by_their_positions(whole, tmp_path, changes):
    small_train(tmp_path / "run", small_config(**changes))
    alike(tmp_path / "run", whole)


class Weighted(Walk):
    """The same with weights, some of them 0."""

    def _windows(self, seed, indices, window):
        batch = super()._windows(seed, indices, window)
        weights = (batch.tokens % 4 / 2).astype(np.float32)
        return Windows(batch.tokens, batch.lengths, weights)


class Hidden(Weighted):
    """The same with every third token hidden."""

    def _windows(self, seed, indices, window):
        batch = super()._windows(seed, indices, window)
        asked = (np.arange(window + 1) + np.array(indices)[:, None]) % 3 == 0
        targets = np.where(asked, batch.tokens, 255).astype(np.int8)
        return HiddenTokens(np.where(asked, 7, batch.tokens), batch.lengths, batch.weights, targets=targets)


@pytest.mark.parametrize(("task", "objective"), [(Weighted(), NextToken(IGNORED)), (Hidden(), MaskedTokens())])
def test_parts_of_a_batch_count_by_their_weights(tmp_path, task, objective):
    for name, changes in (("whole", {}), ("parts", {"micro_batch": 3}), ("chunks", {"time_chunk": 7})):
        run, model = RunFolder.prepare(tmp_path / name, {}), small_model()
        train(model, task, small_config(**changes), run, objective=objective, progress=False)
    alike(tmp_path / "parts", tmp_path / "whole")
    alike(tmp_path / "chunks", tmp_path / "whole")
    part = as_tensors(task.training_batch(0, 0, 8))
    with torch.no_grad():
        total = objective.total(small_model(), part, device=torch.device("cpu"))
    assert losses(tmp_path / "whole")[0] == pytest.approx(float(total) / objective.count(part), rel=1e-5)


def test_bits_are_of_what_has_a_weight():
    model = small_model().eval()
    found = evaluate_bits(model, Weighted(), BitsConfig(batch_size=3), progress=False)
    nats = positions = 0.0
    for batch in Weighted().test_batches(10):
        for row, length, weights in zip(batch.tokens, batch.lengths, batch.weights, strict=True):
            tokens = torch.from_numpy(row[None, :length])
            keep = torch.from_numpy((weights[None, :length] > 0).astype(np.float32))
            with torch.no_grad():
                nats += model.loss(tokens, ignored=IGNORED, weights=keep, reduction="sum").item()
            positions += int((keep[:, 1:] * (tokens[:, 1:] != IGNORED)).sum())
    assert found["positions"] == positions
    assert found["bits"] == pytest.approx(nats / math.log(2) / positions, rel=1e-5)


def test_bits_of_hidden_tokens_do_not_depend_on_how_many_windows_are_read_at_once():
    model = small_model().eval()
    one, other = (
        evaluate_bits(model, Hidden(), BitsConfig(batch_size=size, tokens_at_once=at_once), progress=False)
        for size, at_once in ((10, 1 << 14), (3, 30))
    )
    assert one["bits"] == pytest.approx(other["bits"], rel=1e-6)
    (batch,) = Hidden().test_batches(10)
    assert one["positions"] == other["positions"] == int(((batch.targets >= 0) & (batch.weights > 0)).sum())


def test_windows_without_hidden_tokens_are_no_food_for_masked_training(tmp_path):
    run = RunFolder.prepare(tmp_path / "run", {})
    with pytest.raises(ValueError, match="give HiddenTokens"):
        train(small_model(), Walk(), small_config(), run, objective=MaskedTokens(), progress=False)


def test_ranks_that_share_a_batch_or_its_windows_count_by_their_positions(whole, tmp_path):
    configs = [small_config(sequence_ranks=ranks, micro_batch=3) for ranks in (1, 2)]
    with socket.socket() as one, socket.socket() as other:
        for found in (one, other):
            found.bind(("127.0.0.1", 0))
        ports = " ".join(str(found.getsockname()[1]) for found in (one, other))
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "PORTS": ports}
    processes = [process(tmp_path, *configs, RANK=rank, LOCAL_RANK=rank, **together) for rank in "01"]
    said = [one.communicate(timeout=120)[1] for one in processes]
    assert [one.returncode for one in processes] == [0, 0], said
    for folder in ("0", "1"):
        alike(tmp_path / folder, whole)


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path):
    config = small_config(steps=30, micro_batch=3)
    small_train(tmp_path / "whole", config)
    killed = process(tmp_path, config, delay=0.05)
    deadline = time.monotonic() + 60
    while len(read_metrics(tmp_path / "0" / "metrics.jsonl")) < 7:
        assert killed.poll() is None, killed.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "0" / "model").exists()
    small_train(tmp_path / "0", config)
    assert losses(tmp_path / "0") == losses(tmp_path / "whole")
    one, other = (path / "model" / "model.safetensors" for path in (tmp_path / "0", tmp_path / "whole"))
    assert one.read_bytes() == other.read_bytes()


def test_a_batch_without_a_position_is_named(tmp_path):
    with pytest.raises(InputError, match=r"step 1: samples 0 to 7 of seed 0 hold nothing that counts"):
        small_train(tmp_path / "run", small_config(), Walk(blank=True))


def test_windows_without_classes_are_no_food_for_a_classifier(tmp_path):
    model = SequenceClassifier(MambaConfig(d_model=8, n_layer=1), classes=("a", "b"))
    with pytest.raises(ValueError, match="NextToken"):
        train(model, Walk(), small_config(), RunFolder.prepare(tmp_path / "run", {}), progress=False)


def test_a_long_window_is_scored_in_pieces_that_do_not_grow():
    model, pieces = small_model().eval(), []
    model.backbone.register_forward_pre_hook(lambda module, given: pieces.append(given[0].numel()))
    task, config = Walk(long=150), BitsConfig(batch_size=5, tokens_at_once=64)
    found = evaluate_bits(model, task, config, progress=False)
    assert max(pieces) <= 64
    (batch,) = task.test_batches(10)
    tokens, lengths = torch.from_numpy(batch.tokens), torch.from_numpy(batch.lengths)
    with torch.no_grad():
        nats = model.loss(tokens, lengths=lengths, ignored=IGNORED).item()
    asked = [row[1:length] for row, length in zip(batch.tokens, batch.lengths, strict=True)]
    assert found["positions"] == sum(int((row != IGNORED).sum()) for row in asked)
    assert found["bits"] == pytest.approx(nats / math.log(2), rel=1e-5)
    assert found["windows"] == 10
    assert found["uniform"] == 3.0


def test_the_standard_error_is_that_of_repeated_sampling():
    random = np.random.default_rng(0)

    def result(windows):
        counts = random.integers(50, 500, windows)
        nats = counts * random.normal(2, 0.3, windows)
        return summarise_bits(nats, counts, codes=4, baselines=(), simulated=False, notes=())

    repeated = [result(200) for _ in range(300)]
    spread = np.std([one["bits"] for one in repeated])
    assert np.mean([one["standard_error"] for one in repeated]) == pytest.approx(spread, rel=0.15)
    assert result(1)["standard_error"] is None


def test_damaged_weights_are_an_error_and_no_result():
    model = small_model()
    with torch.no_grad():
        model.backbone.embedding.weight[3] = math.nan
    with pytest.raises(InputError, match="not finite"):
        evaluate_bits(model, Walk(), BitsConfig(), progress=False)


def test_a_run_learns_and_its_report_shows_bits_beside_the_references(tmp_path):
    model = small_train(tmp_path / "run", small_config(steps=40))
    run = RunFolder(tmp_path / "run")
    result = evaluate_bits(model, Walk(), BitsConfig(), run, progress=False)
    assert result == run.read_evaluation()
    assert result["kind"] == "bits"
    assert (run.path / "windows.json").exists()
    assert 1.0 < result["bits"] < 2.2
    # Not above: it draws figures, and the processes of this file would all wait for that.
    from seqdomains.pipelines.report import write_report

    page = write_report(run).read_text()
    for words in (f"{result['bits']:.3f} ± ", "a fair coin &amp; more", "codes &lt; 8", "SIMULATED", "3.000"):
        assert words in page
    assert "Confusion" not in page
    text = bits_as_text(result, position="code")
    assert text.startswith(f"10 test windows, {result['positions']} codes, SIMULATED data\nbits per code       ")
    assert "a fair coin & more  1.500\n" in text


def test_a_dry_run_of_a_language_model():
    model, device = small_model(), torch.device("cpu")
    found = dry_run(model, small_config(), window=WINDOW, device=device, objective=NextToken())
    assert found.tried == 8 * WINDOW
    assert found.as_text().startswith(f"parameters  {found.parameters:,}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--configs", type=json.loads)
    parser.add_argument("--delay", type=float)
    given = parser.parse_args()
    for number, config in enumerate(given.configs):
        # A group of processes of its own for each, at a port of its own.
        os.environ["MASTER_PORT"] = [*os.environ.get("PORTS", "").split(), "0", "0"][number]
        small_train(given.folder / str(number), TrainConfig(**config), Walk(delay=given.delay))
