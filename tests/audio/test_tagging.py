"""Clips of several labels: targets, split, baseline, and a model that learns each class by itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from seqdomains.audio.clip_task import ClipTask
from seqdomains.audio.data_config import ClipData
from seqdomains.audio.files import write_wav
from seqdomains.audio.front_end import SoundInput
from seqdomains.backbone import MambaConfig, SequenceClassifier, SequenceTagger, from_pretrained
from seqdomains.errors import InputError
from seqdomains.pipelines.borrowed import seeded
from seqdomains.pipelines.evaluate import EvaluateConfig
from seqdomains.pipelines.objectives import CLASSIFICATION, Tagging
from seqdomains.pipelines.recipe import TrainConfig
from seqdomains.pipelines.run_folder import RunFolder
from seqdomains.pipelines.tags import evaluate_tags
from seqdomains.pipelines.train import train

RATE = 8000
PITCHES = {"low": 300, "mid": 1100, "high": 2600}
SPECTRA = SoundInput(rate=RATE, codec="log-mel", patch=80, span=256, mels=16)


def written(folder, rows):
    """Write a clip of 0.25 s for each row of labels, and a manifest."""
    random, lines = np.random.default_rng(0), []
    time = np.arange(RATE // 4) / RATE
    for number, labels in enumerate(rows):
        tones = [np.sin(2 * np.pi * PITCHES[name] * time + random.uniform(0, 6)) for name in labels]
        sound = sum(tones) / 4 + random.normal(size=len(time)) / 200
        write_wav(folder / f"{number}.wav", sound.astype(np.float32), RATE)
        lines.append({"audio_filepath": f"{number}.wav", "label": list(labels)})
    path = folder / "clips.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    subsets = [("low",), ("mid",), ("high",), ("low", "mid"), ("low", "high"), ("mid", "high")]
    return written(tmp_path_factory.mktemp("tags"), subsets * 5)


def task(manifest, **options):
    return ClipTask(ClipData(paths=(manifest,), **{"seconds": 0.25, **options}), SPECTRA)


def test_targets_say_each_class(manifest):
    found = task(manifest)
    assert found.tagging
    assert "each class is judged by itself" in found.notes()[0]
    batch = found.training_batch(3, 0, 40)
    assert batch.targets.shape == (40, 3)
    assert batch.targets.dtype == np.float32
    assert set(batch.targets.sum(axis=1).tolist()) == {1.0, 2.0}
    assert (batch.targets.sum(axis=0) >= 40 / 3 - 8).all()
    tests = [row for test in found.test_batches(4) for row in test.targets]
    assert all(np.stack(tests).any(axis=0))


def test_held_out_clips_keep_their_labels(manifest, tmp_path):
    found = task(manifest)
    found.write_test_windows(tmp_path)
    again = task(tmp_path / "test_clips.jsonl", split="none")
    expected = np.concatenate([batch.targets for batch in found.test_batches(4)])
    np.testing.assert_array_equal(np.concatenate([batch.targets for batch in again.test_batches(4)]), expected)


def test_what_is_asked_may_be_said(manifest, tmp_path):
    with pytest.raises(InputError, match=r"15 of 30 clips have several labels, first '3\.wav' \('low' with 'mid'\)"):
        task(manifest, tagging=False)
    single = written(tmp_path, [("low",), ("high",)] * 2)
    assert not task(single).tagging
    targets = task(single, tagging=True).training_batch(0, 0, 4).targets
    assert targets.shape == (4, 2)
    assert (targets.sum(axis=1) == 1).all()


def test_a_label_of_one_clip_is_trained_on_and_told(tmp_path):
    found = task(written(tmp_path, [("low",), ("low",), ("low", "mid"), ("high",), ("high",), ("high",)]))
    assert "No clip held out: mid." in found.notes()
    assert found.training_batch(0, 0, 40).targets[:, found.classes.index("mid")].any()


def test_the_baseline_tells_tones_apart(manifest):
    name, scores = task(manifest).baseline_scores()
    truth = np.concatenate([batch.targets for batch in task(manifest).test_batches(8)])
    assert name == "MFCC + SVM"
    assert ((scores > 0) == (truth > 0)).mean() > 0.9


def test_a_tagger_learns_and_its_artefact_says_what_it_is(manifest, tmp_path):
    found = task(manifest)
    config = TrainConfig(steps=60, batch=16, lr=1e-2, log_every=60)
    with seeded(0):
        model = SequenceTagger(
            MambaConfig(d_model=16, n_layer=1, features=16, vocab_size=256), classes=found.classes, pooling="mean"
        )
    run = RunFolder.prepare(tmp_path / "run", {"train": config.model_dump(mode="json")})
    before = evaluate_tags(model, found, EvaluateConfig(), progress=False)
    train(model, found, config, run, objective=Tagging(3), progress=False)
    after = evaluate_tags(model, found, EvaluateConfig(), run, progress=False)
    assert after["cross_entropy"] < 0.7 * before["cross_entropy"]
    assert after["mean_average_precision"] > 0.9 > after["chance"]
    assert after["micro_f1"] > 0.7
    loaded = from_pretrained(run.artefact)
    assert type(loaded.model) is SequenceTagger
    assert json.loads((run.artefact / "config.json").read_text())["architecture"] == "SequenceTagger"
    assert json.loads(run.evaluation.read_text())["kind"] == "tags"


def test_mixtures_have_shares_of_each_class_and_are_learnt(manifest, tmp_path):
    found = task(manifest, mixup=1.0)
    batch = found.training_batch(0, 0, 60)
    assert ((batch.targets > 0) & (batch.targets < 1)).any(axis=1).mean() > 0.5
    assert (batch.targets.sum(axis=1) <= 2).all()
    config = TrainConfig(steps=2, batch=4)
    for tagging, kind in ((None, SequenceTagger), (False, SequenceClassifier)):
        data = found if tagging is None else task(written(tmp_path, [("low",), ("high",)] * 3), mixup=0.5)
        model = kind(MambaConfig(d_model=8, n_layer=1, features=16, vocab_size=256), classes=data.classes)
        run = RunFolder.prepare(tmp_path / kind.__name__, {"train": config.model_dump(mode="json")})
        objective = CLASSIFICATION if tagging is False else Tagging(3)
        assert train(model, data, config, run, objective=objective, progress=False).step == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_trains_to_the_same_bytes_again_and_says_what_the_cpu_does(manifest, tmp_path, monkeypatch):
    monkeypatch.delenv("SEQDOMAINS_KERNELS", raising=False)
    found, config = task(manifest, mixup=0.5), TrainConfig(steps=4, batch=8, lr=1e-2)
    saved = []
    for name in ("one", "other"):
        with seeded(0):
            sizes = MambaConfig(d_model=32, n_layer=2, features=16, vocab_size=256)
            model = SequenceTagger(sizes, classes=found.classes, pooling="mean")
        run = RunFolder.prepare(tmp_path / name, {})
        train(model, found, config, run, objective=Tagging(3), device="cuda", progress=False)
        saved.append((run.artefact / "model.safetensors").read_bytes())
    assert saved[0] == saved[1]
    gpu, cpu = (
        evaluate_tags(model, found, EvaluateConfig(), device=device, progress=False)["cross_entropy"]
        for device in ("cuda", "cpu")
    )
    assert gpu == pytest.approx(cpu, rel=1e-3)
