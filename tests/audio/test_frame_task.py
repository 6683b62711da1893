"""A class for each position: targets in time, augmentation that moves them along, a model that learns them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from seqdomains.audio.data_config import ClipData
from seqdomains.audio.files import write_wav
from seqdomains.audio.frame_task import FrameTask
from seqdomains.audio.front_end import SoundInput
from seqdomains.backbone import FrameClassifier, MambaConfig, from_pretrained
from seqdomains.errors import InputError
from seqdomains.pipelines.batch.segments import AlongFrames
from seqdomains.pipelines.bits import BitsConfig
from seqdomains.pipelines.borrowed import seeded
from seqdomains.pipelines.frames import evaluate_frames
from seqdomains.pipelines.objectives import Frames
from seqdomains.pipelines.recipe import TrainConfig
from seqdomains.pipelines.run_folder import RunFolder
from seqdomains.pipelines.train import train

RATE = 8000
PATCHES = SoundInput(rate=RATE, codec="waveform", patch=80, scale=1.0)
SPECTRA = SoundInput(rate=RATE, codec="log-mel", patch=80, span=240, mels=8)
PITCHES = {"low": 300, "high": 2000}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten sounds of 1 s in which a tone of 0.2 s is low and another is high, in noise."""
    folder = tmp_path_factory.mktemp("frames")
    random, time = np.random.default_rng(0), np.arange(RATE) / RATE
    for number in range(10):
        starts = {"low": random.uniform(0, 0.3), "high": random.uniform(0.5, 0.8)}
        sound, lines = random.normal(size=RATE) / 200, []
        for name, start in starts.items():
            inside = (time >= start) & (time < start + 0.2)
            sound += inside * np.sin(2 * np.pi * PITCHES[name] * time) / 4
            lines.append(f"{start}\t{start + 0.2}\t{name}\n")
        write_wav(folder / f"{number}.wav", sound.astype(np.float32), RATE)
        (folder / f"{number}.txt").write_text("".join(lines))
    return folder


def task(folder, given=PATCHES, **options):
    return FrameTask(ClipData(paths=(folder,), frames=True, **{"seconds": 0.4, **options}), given)


def loud(tokens):
    return np.sqrt(np.square(tokens).mean(axis=-1)) > 0.1


@pytest.mark.parametrize("speed", [0.0, 0.3])
def test_targets_lie_where_the_sound_does(folder, speed):
    found = task(folder, speed=speed)
    assert found.classes == ("background", "high", "low")
    batch = found.training_batch(3, 0, 60)
    assert batch.targets.shape == batch.tokens.shape[:2] == (60, 40)
    real = batch.targets >= 0
    np.testing.assert_array_equal(real.sum(axis=1), batch.lengths)
    # A border lies within a position, whose energy may say either.
    assert (loud(batch.tokens) == (batch.targets > 0))[real].mean() > 0.95
    again = np.concatenate([found.training_batch(3, first, 20).targets for first in (0, 20, 40)])
    np.testing.assert_array_equal(again, batch.targets)


def test_the_middle_of_a_spectrum_decides(folder):
    (test,) = task(folder, SPECTRA, held={}, test_fraction=0.1).test_batches(8)
    row = test.targets[0]
    assert test.lengths.tolist() == [98]
    (first, last) = np.flatnonzero(row == row[row > 0][0])[[0, -1]]
    assert last + 1 - first == pytest.approx(20, abs=1)


def test_test_clips_can_be_scored_again(folder, tmp_path):
    found = task(folder)
    found.write_test_windows(tmp_path)
    again = FrameTask(ClipData(paths=(tmp_path / "test_clips.jsonl",), frames=True, split="none"), PATCHES)
    for one, other in zip(found.test_batches(8), again.test_batches(8), strict=True):
        np.testing.assert_array_equal(one.targets, other.targets)


def test_a_part_of_a_file_has_its_segments(folder, tmp_path):
    start = float((folder / "0.txt").read_text().split("\t")[0])
    segments = [[start, start + 0.2, "low"]]
    row = {"path": str(folder / "0.wav"), "offset": start + 0.1, "duration": 0.2, "segments": segments}
    (tmp_path / "m.jsonl").write_text(json.dumps(row))
    (test,) = FrameTask(ClipData(paths=(tmp_path / "m.jsonl",), frames=True, split="none"), PATCHES).test_batches(2)
    assert test.targets.tolist() == [[1] * 10 + [0] * 10]


def test_what_cannot_be_is_refused(folder, tmp_path):
    write_wav(tmp_path / "a.wav", np.zeros(RATE, np.float32), RATE)
    write_wav(tmp_path / "b.wav", np.zeros(RATE, np.float32), RATE)
    (tmp_path / "b.txt").touch()
    (tmp_path / "a.txt").write_text("0.5\t1.5\tlow\n")
    with pytest.raises(InputError, match=r"a\.wav: 'low' ends at 1\.5 s and the file at 1 s; mend its segments"):
        task(tmp_path)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(InputError, match="2 clips have no segment at all"):
        task(tmp_path)
    (tmp_path / "a.txt").write_text("0.5\t1.0\tlow\n")
    with pytest.raises(InputError, match="class 'low' has no segment to train on"):
        FrameTask(
            ClipData(paths=(tmp_path,), label_from="name:{take}", frames=True, held={"take": ("a",)}, seconds=0.4),
            PATCHES,
        )
    with pytest.raises(InputError, match=r"not among the wanted classes: 'high' \(did you mean 'higher'\?\)"):
        task(folder, classes=("low", "higher"))
    with pytest.raises(ValueError, match="a frame has one class; choose one of the two"):
        ClipData(frames=True, tagging=True)
    with pytest.raises(ValueError, match="is of frames; set frames: true beside it"):
        ClipData(activity="speech")


def test_the_energy_tells_tones_from_noise(folder):
    found = task(folder, activity="tone")
    baseline = found.baseline()
    assert found.classes == ("background", "tone")
    assert baseline["auc"] > 0.95
    assert np.trace(baseline["confusion"]) / baseline["confusion"].sum() > 0.9
    assert found.signature()["activity"] == "tone"


def test_a_model_learns_when_and_is_scored_in_pieces_alike(folder, tmp_path):
    found = task(folder, SPECTRA)
    config = TrainConfig(steps=60, batch=8, lr=1e-2, log_every=60, time_chunk=15)
    with seeded(0):
        model = FrameClassifier(MambaConfig(d_model=16, n_layer=1, features=8, vocab_size=256), classes=found.classes)
    run = RunFolder.prepare(tmp_path / "run", {"train": config.model_dump(mode="json")})
    train(model, found, config, run, objective=Frames(), progress=False)
    whole = evaluate_frames(model, found, BitsConfig(), run, progress=False)
    parts = evaluate_frames(model, found, BitsConfig(tokens_at_once=13), progress=False)
    assert whole["accuracy"] > max(0.8, whole["majority"] + 0.1)
    assert parts["cross_entropy"] == pytest.approx(whole["cross_entropy"], rel=1e-4)
    assert whole["frames"] == sum(batch.lengths.sum() for batch in found.test_batches(8))
    assert whole["baseline"]["accuracy"] < whole["accuracy"]
    assert type(from_pretrained(run.artefact).model) is FrameClassifier


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("chunk", [None, 15])
def test_a_gpu_trains_to_the_same_bytes_again_and_says_what_the_cpu_does(folder, tmp_path, monkeypatch, chunk):
    monkeypatch.delenv("SEQDOMAINS_KERNELS", raising=False)
    found, config = task(folder, SPECTRA), TrainConfig(steps=4, batch=8, lr=1e-2, time_chunk=chunk)
    written = []
    for name in ("one", "other"):
        with seeded(0):
            sizes = MambaConfig(d_model=32, n_layer=2, features=8, vocab_size=256)
            model = FrameClassifier(sizes, classes=found.classes)
        run = RunFolder.prepare(tmp_path / name, {})
        train(model, found, config, run, objective=Frames(), device="cuda", progress=False)
        written.append((run.artefact / "model.safetensors").read_bytes())
    assert written[0] == written[1]
    gpu, cpu = (
        evaluate_frames(model, found, BitsConfig(tokens_at_once=50), device=device, progress=False)["cross_entropy"]
        for device in ("cuda", "cpu")
    )
    assert gpu == pytest.approx(cpu, rel=1e-3)
    records = [("r", [np.asarray(next(iter(found.test_batches(1))).tokens[0])])]
    shares = []
    for device in ("cuda", "cpu"):
        along = AlongFrames(model.eval().to(device), device=torch.device(device))
        shares.append(np.concatenate([rows[3] for rows in along.rows(records)]))
    np.testing.assert_allclose(shares[0], shares[1], atol=1e-4)
