"""Training on hidden patches: one result however a batch is cut, equal bytes after a break, errors of test windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from seqdomains.backbone import MambaConfig, PatchReconstructor, SequenceClassifier
from seqdomains.errors import InputError
from seqdomains.pipelines.bits import BitsConfig
from seqdomains.pipelines.borrowed import seeded
from seqdomains.pipelines.metrics import read_metrics
from seqdomains.pipelines.objectives import Reconstruction
from seqdomains.pipelines.recipe import TrainConfig
from seqdomains.pipelines.reconstruction import evaluate_reconstruction
from seqdomains.pipelines.report import write_report
from seqdomains.pipelines.run_folder import RunFolder
from seqdomains.pipelines.train import train
from seqdomains.task import MaskedWindows

WINDOW, FEATURES = 24, 4


class Waves:
    """Sines of a pitch of their own, which a model of what came before can continue."""

    vocab_size, window, simulated = 256, WINDOW, True

    def __init__(self, *, broken_from=None, nothing_hidden=False):
        self.broken_from, self.nothing_hidden = broken_from, nothing_hidden

    def signature(self):
        return {"domain": "waves", "window": WINDOW}

    def training_batch(self, seed, first, count, *, window=None):
        if self.broken_from is not None and first >= self.broken_from:
            raise RuntimeError("the power is gone")
        return self._windows(seed, range(first, first + count), window or WINDOW)

    def test_batches(self, batch_size):
        for first in range(0, 10, batch_size):
            yield self._windows(1 << 40, range(first, min(first + batch_size, 10)), WINDOW)

    def write_test_windows(self, folder):
        (folder / "windows.json").write_text("10")

    def baselines(self):
        return [{"name": "a straight line & more", "error": 0.4}]

    def notes(self):
        return ("waves < noise",)

    def _windows(self, seed, indices, window):
        tokens = np.zeros((len(indices), window, FEATURES), np.float32)
        masked = np.zeros((len(indices), window), bool)
        lengths = np.empty(len(indices), np.int64)
        for row, index in enumerate(indices):
            random = np.random.Generator(np.random.Philox(key=seed, counter=index))
            lengths[row] = length = random.integers(window // 2, window + 1)
            phase = random.uniform(0, 6) + 0.3 * np.arange(length)[:, None] + np.arange(FEATURES)
            tokens[row, :length] = np.sqrt(2) * np.sin(phase)
            masked[row, :length] = (random.random(length) < 0.5) & (not self.nothing_hidden)
        return MaskedWindows(tokens, masked, lengths)


def small_config(**changes):
    return TrainConfig(
        **{"steps": 6, "batch": 8, "lr": 1e-2, "checkpoint_every": 2, "log_every": 1, "threads": 1} | changes
    )


def small_train(folder, config, task=None):
    with seeded(0):
        model = PatchReconstructor(MambaConfig(d_model=16, n_layer=1, features=FEATURES))
    run = RunFolder.prepare(folder, {})
    train(model, task or Waves(), config, run, objective=Reconstruction(), progress=False)
    return model


def losses(folder):
    return [row["loss"] for row in read_metrics(folder / "metrics.jsonl")]


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    """Those that need no compiling."""
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "reference")


def test_parts_of_a_batch_count_by_what_is_hidden(tmp_path):
    small_train(tmp_path / "whole", small_config())
    small_train(tmp_path / "parts", small_config(micro_batch=3, recompute=True))
    np.testing.assert_allclose(losses(tmp_path / "parts"), losses(tmp_path / "whole"), rtol=1e-5)
    for name, tensor in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "parts")[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


def test_a_broken_run_goes_on_to_the_same_bytes(tmp_path):
    config = small_config(steps=8, micro_batch=3)
    small_train(tmp_path / "whole", config)
    with pytest.raises(RuntimeError, match="the power is gone"):
        small_train(tmp_path / "broken", config, Waves(broken_from=40))
    assert not (tmp_path / "broken" / "model").exists()
    assert 2 <= len(losses(tmp_path / "broken")) < 8
    small_train(tmp_path / "broken", config)
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    one, other = (tmp_path / name / "model" / "model.safetensors" for name in ("broken", "whole"))
    assert one.read_bytes() == other.read_bytes()


def test_a_run_learns_and_its_report_shows_errors_beside_the_references(tmp_path):
    model = small_train(tmp_path / "run", small_config(steps=60))
    run = RunFolder(tmp_path / "run")
    result = evaluate_reconstruction(model, Waves(), BitsConfig(batch_size=4, tokens_at_once=50), run, progress=False)
    assert result == run.read_evaluation()
    assert (run.path / "windows.json").exists()
    (batch,) = Waves().test_batches(10)
    assert result["positions"] == batch.masked.sum()
    assert result["windows"] == 10
    with torch.no_grad():
        whole = model.eval().loss(torch.from_numpy(batch.tokens), torch.from_numpy(batch.masked)).item()
    assert result["error"] == pytest.approx(whole, rel=1e-5)
    # Their variance is 1.
    assert result["error"] < 0.6
    page = write_report(run).read_text()
    for words in (f"Squared error {result['error']:.3f} ± ", "a straight line &amp; more", "waves &lt; noise", "0.400"):
        assert words in page
    assert "Confusion" not in page


def test_what_has_no_answer_is_an_error(tmp_path):
    with pytest.raises(InputError, match="step 1: samples 0 to 7 of seed 0 hold"):
        small_train(tmp_path / "run", small_config(), Waves(nothing_hidden=True))
    model = PatchReconstructor(MambaConfig(d_model=16, n_layer=1, features=FEATURES))
    with pytest.raises(InputError, match="nothing is hidden in the test windows"):
        evaluate_reconstruction(model, Waves(nothing_hidden=True), BitsConfig(), progress=False)
    with torch.no_grad():
        model.head.bias[0] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        evaluate_reconstruction(model, Waves(), BitsConfig(), progress=False)


def test_windows_without_a_mask_are_no_food_for_a_reconstructor(tmp_path):
    from seqdomains.pipelines.batch_tensors import BatchTensors

    with pytest.raises(ValueError, match="give a MaskedTask"):
        Reconstruction().count(BatchTensors(torch.zeros(1, 3, 2), None, None, 3))
    classifier = SequenceClassifier(MambaConfig(d_model=8, n_layer=1, features=FEATURES), classes=("a", "b"))
    with pytest.raises(ValueError, match="windows without targets"):
        train(classifier, Waves(), small_config(), RunFolder.prepare(tmp_path / "run", {}), progress=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("bidirectional", [False, True], ids=["causal", "both sides"])
def test_a_gpu_trains_to_the_same_bytes_again_and_errs_as_the_cpu_does(tmp_path, monkeypatch, bidirectional):
    monkeypatch.delenv("SEQDOMAINS_KERNELS")
    found = []
    for name in ("one", "other"):
        with seeded(0):
            config = MambaConfig(d_model=32, n_layer=2, features=FEATURES, bidirectional=bidirectional)
            model = PatchReconstructor(config)
        run = RunFolder.prepare(tmp_path / name, {})
        train(model, Waves(), small_config(), run, objective=Reconstruction(), device="cuda", progress=False)
        found.append((run.artefact / "model.safetensors").read_bytes())
    assert found[0] == found[1]
    gpu, cpu = (
        evaluate_reconstruction(model, Waves(), BitsConfig(), device=device, progress=False)["error"]
        for device in ("cuda", "cpu")
    )
    assert gpu == pytest.approx(cpu, rel=1e-3)
