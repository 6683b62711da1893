"""The same promises on a GPU: equal bytes after a stop, named bad batches, the CPU's probabilities."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch

from seqdomains.backbone import MambaConfig, SequenceClassifier
from seqdomains.pipelines.borrowed import seeded
from seqdomains.pipelines.evaluate import EvaluateConfig, evaluate
from seqdomains.pipelines.inference import Classifier
from seqdomains.pipelines.interrupts import StoppedError
from seqdomains.pipelines.run_folder import RunFolder
from seqdomains.pipelines.stream import stream
from seqdomains.pipelines.train import NonFiniteError, train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def train_mamba(toy, folder, task, **changes):
    config = toy.toy_config(steps=12, micro_batch=5, **changes)
    run = RunFolder.prepare(folder, {"train": config.model_dump(mode="json")})
    with seeded(config.seed):
        model = SequenceClassifier(MambaConfig(d_model=32, n_layer=2), classes=toy.CLASSES, pooling="both")
    train(model, task, config, run, device="cuda", progress=False)
    assert next(model.parameters()).device.type == "cpu"
    return model


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stopped_run_ends_with_the_same_bytes(toy, tmp_path, precision):
    train_mamba(toy, tmp_path / "whole", toy.ToyTask(window=300), precision=precision)

    def stop_at_step_6(first: int) -> None:
        if first == 6 * 8:
            os.kill(os.getpid(), signal.SIGTERM)

    task = toy.ToyTask(window=300, hook=stop_at_step_6, delay=0.2)
    with pytest.raises(StoppedError):
        train_mamba(toy, tmp_path / "cut", task, precision=precision)
    train_mamba(toy, tmp_path / "cut", toy.ToyTask(window=300), precision=precision)
    assert toy.weights(tmp_path / "cut") == toy.weights(tmp_path / "whole")


def test_non_finite_batch_is_named(toy, tmp_path):
    config = toy.toy_config(micro_batch=3)
    run = RunFolder.prepare(tmp_path / "run", {})
    model = toy.ToyClassifier(poison=lambda logits: logits * float("inf"))
    with pytest.raises(NonFiniteError, match=r"step 4: the loss is .*, in samples 27 to 29"):
        train(model, toy.ToyTask(poison=28), config, run, device="cuda", progress=False)


def test_probabilities_are_those_of_the_cpu(toy, tmp_path):
    model = train_mamba(toy, tmp_path / "run", toy.ToyTask(window=300), precision="fp32", lr=1e-2)
    batch = next(toy.ToyTask(window=300).test_batches(16))
    tokens, lengths = torch.from_numpy(batch.tokens), torch.from_numpy(batch.lengths)
    found = {}
    for device in ("cpu", "cuda"):
        classifier = Classifier(model.to(device).eval(), device=torch.device(device), batch_size=7)
        found[device] = classifier.probabilities(tokens, lengths)
    np.testing.assert_allclose(found["cuda"], found["cpu"], atol=1e-3)


def test_evaluation_repeats_itself(toy, tmp_path):
    model = train_mamba(toy, tmp_path / "run", toy.ToyTask(window=300))
    first, second = (
        evaluate(model, toy.ToyTask(window=300), EvaluateConfig(), device="cuda", progress=False) for _ in range(2)
    )
    assert first == second


def test_stream_is_one_pass_and_its_memory_does_not_grow(tmp_path):
    model = SequenceClassifier(
        MambaConfig(d_model=32, n_layer=2), classes=("a", "b"), generator=torch.Generator().manual_seed(0)
    )
    codes = np.random.default_rng(0).integers(0, 4, 1 << 20).astype(np.uint8)

    def streamed(pieces, name):
        torch.cuda.reset_peak_memory_stats()
        stream(
            model, [(name, [(name, pieces)])], tmp_path / f"{name}.tsv", every=1 << 18, device="cuda", progress=False
        )
        return torch.cuda.max_memory_allocated()

    small = streamed(np.array_split(codes, 7), "small")
    whole = Classifier(model.cuda().eval(), device=torch.device("cuda"), batch_size=1).probabilities(
        torch.from_numpy(codes)[None]
    )
    model.cpu()
    last = (tmp_path / "small.tsv").read_text().splitlines()[-1].split("\t")
    np.testing.assert_allclose([float(share) for share in last[4:]], whole[0], atol=1e-5)
    large = streamed((codes for _ in range(100)), "large")  # 100 Mb
    assert large < small * 1.05, (small, large)
