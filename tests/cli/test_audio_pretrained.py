"""`audio pretrain` with hidden patches, and what it made: scored on its run's clips and on others, tuned, embedded."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import soundfile
import torch

from seqdomains.audio.files import read
from seqdomains.audio.front_end import SoundInput
from seqdomains.backbone import MambaLM

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SYNTHESIZED = ("--set", "data.synthesis={kind: words, clips: 6, rate: 8000, speakers: 3}", "--device", "cpu")
QUICK = [
    *("--set", "train.steps=3", "--set", "train.batch=4", "--set", "model.d_model=16", "--set", "model.n_layer=1"),
    *("--set", "data.seconds=0.1", *SYNTHESIZED),
]


@pytest.fixture(scope="module")
def coder(seqdomains, tmp_path_factory):
    """A run of a language model of codes, and what the command said."""
    folder = tmp_path_factory.mktemp("runs") / "codes"
    outcome = seqdomains("audio", "pretrain", *QUICK, "--out", folder)
    assert outcome.code == 0, outcome.err
    return folder, outcome


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Six files of tones of 0.1 to 0.35 s, at another rate than the model's."""
    folder = tmp_path_factory.mktemp("clips")
    for take in range(6):
        time = np.arange(1600 + 800 * take) / 16_000
        soundfile.write(folder / f"{take}.wav", np.sin(2 * np.pi * (200 + 50 * take) * time) / 3, 16_000)
    return folder


def test_a_run_is_scored_on_its_own_clips_again(seqdomains, coder):
    folder, outcome = coder
    before = json.loads((folder / "evaluation.json").read_text())
    again = seqdomains("audio", "evaluate", folder, "--device", "cpu")
    assert again.code == 0, again.err
    assert again.out == "".join(outcome.out.splitlines(keepends=True)[:-1])
    assert json.loads((folder / "evaluation.json").read_text()) == before


def test_a_language_model_is_scored_on_other_clips(seqdomains, coder, clips, tmp_path):
    folder, _ = coder
    outcome = seqdomains(
        "audio", "evaluate", folder / "model", "--data", clips, "--out", tmp_path / "scored", "--device", "cpu"
    )
    assert outcome.code == 0, outcome.err
    result = json.loads((tmp_path / "scored" / "evaluation.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "scored" / "test_clips.jsonl").read_text().splitlines()]
    assert sorted(row["audio_filepath"] for row in rows) == [str(path) for path in sorted(clips.iterdir())]
    model = MambaLM.from_pretrained(folder / "model").eval()
    nats, positions = 0.0, 0
    for path in clips.iterdir():
        codes = np.append(np.uint8(128), SoundInput(rate=8000).encode(read(path, rate=8000)[0]))
        with torch.no_grad():
            nats += model.loss(torch.from_numpy(codes)[None], reduction="sum").item()
        positions += len(codes) - 1
    assert result["positions"] == positions
    assert result["bits"] == pytest.approx(nats / math.log(2) / positions, rel=1e-4)
    assert 0 < result["standard_error"] < 1
    assert [one["name"] for one in result["baselines"]] == ["order-1 Markov chain", "adaptive LPC-32"]
    # A chain that had seen the clip would know nearly all of a tone.
    assert result["baselines"][0]["bits"] > 4
    assert result["simulated"] is False
    first, bits, *_ = outcome.out.splitlines()
    assert first == f"6 test clips, {positions:,} samples"
    assert bits.startswith("bits per sample ")
    assert " ± " in bits
    assert f"note: Scored on {clips}." in outcome.out
    assert "fitted on clips of other files than those they are scored on, in 5 parts" in outcome.out
    assert "trained on" not in outcome.out


def test_one_clip_has_no_other_for_references(seqdomains, coder, clips):
    outcome = seqdomains("audio", "evaluate", coder[0], "--data", clips / "3.wav", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    assert "Markov" not in outcome.out
    assert "note: One file alone has no other to fit references on." in outcome.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--labels", "x.tsv"), "--labels, --rate: are for a classifier; this model has no classes"),
        (("--rate", "4000"), "--labels, --rate: are for a classifier"),
        (("--set", "model.d_model=8"), "--set model.d_model: a model is scored as it is; only keys of data and"),
        (("--set", "input.rate=16000"), "--set input.rate: a model is scored as it is"),
        (("--set", "data.secnds=1"), "data.secnds: unknown key; did you mean data.seconds?"),
    ],
)
def test_options_that_do_not_go_with_a_language_model(seqdomains, coder, clips, options, words):
    outcome = seqdomains("audio", "evaluate", coder[0], "--data", clips, *options)
    assert outcome.code == 2
    assert outcome.out == ""
    assert words in outcome.error


def test_a_result_is_not_written_over_and_a_model_alone_has_no_clips(seqdomains, coder, clips):
    folder, _ = coder
    given = ("audio", "evaluate", folder)
    into = seqdomains(*given, "--data", clips, "--out", folder)
    assert into.code == 2
    assert "is a run folder, which keeps its own result; choose another folder" in into.error
    alone = seqdomains("audio", "evaluate", folder / "model")
    assert alone.code == 2
    assert "is an artefact without test clips of its own: give --data" in alone.error
    more = seqdomains(*given, "--set", "data.seconds=2")
    assert more.code == 2
    assert "--out, --label-from and --set go with --data; a run's own result is its own" in more.error


def test_a_bad_clip_among_those_to_score(seqdomains, coder, clips, tmp_path):
    for path in clips.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "3.wav").write_bytes(b"")
    given = ("audio", "evaluate", coder[0], "--data", tmp_path, "--device", "cpu")
    stopped = seqdomains(*given)
    assert stopped.code == 1
    assert "1 of 6 clips cannot be read" in stopped.error
    assert "3.wav is empty (0 bytes)" in stopped.err
    skipped = seqdomains(*given, "--set", "data.on_error=skip")
    assert skipped.code == 0, skipped.err
    assert skipped.out.startswith("5 test clips")
    assert "note: 1 clips could not be read and are left out." in skipped.out


def test_a_language_model_tells_no_classes(seqdomains, coder, clips):
    outcome = seqdomains("audio", "predict", coder[0], clips / "3.wav", "--device", "cpu")
    assert outcome.code == 1
    assert "MambaLM" in outcome.error
    assert "`seqdomains audio finetune MODEL --data LABELLED --out RUN` trains one on it" in outcome.error
    assert "as it is it serves generate, evaluate and embed" in outcome.error


MASKED = [
    *("--preset", "spectrogram-small", "--set", "input={rate: 8000, codec: log-mel, patch: 80, span: 200, mels: 32}"),
    *("--set", "model.d_model=32", "--set", "model.n_layer=1", "--set", "train.steps=120", "--set", "train.lr=5e-3"),
    *("--set", "data.seconds=0.8", "--set", "data.synthesis={kind: words, clips: 12, rate: 8000, speakers: 3}"),
    *("--device", "cpu"),
]


@pytest.fixture(scope="module")
def reconstructor(seqdomains, tmp_path_factory):
    """A run on hidden patches of a few synthesized words, and what the command said."""
    folder = tmp_path_factory.mktemp("runs") / "masked"
    outcome = seqdomains("audio", "pretrain", *MASKED, "--out", folder)
    assert outcome.code == 0, outcome.err
    return folder, outcome


def test_hidden_patches_are_learned_without_labels(seqdomains, reconstructor, tmp_path):
    folder, outcome = reconstructor
    result = json.loads((folder / "evaluation.json").read_text())
    assert result["kind"] == "reconstruction"
    mean, line, last = result["baselines"]
    assert result["error"] < 0.9 * mean["error"]
    assert result["error"] < last["error"]
    assert json.loads((folder / "model" / "config.json").read_text())["model"]["bidirectional"] is True
    assert mean["name"] == "mean of the training patches"
    assert line["error"] < mean["error"]
    first, error, *rest = outcome.out.splitlines()
    assert first == f"{result['windows']} test windows, {result['positions']:,} hidden patches, SIMULATED data"
    assert error.startswith("squared error ")
    assert " ± " in error
    assert any("50% of each window is hidden, in spans of 0.2 s" in line for line in rest)
    assert any("drawn from all files" in line for line in rest)
    estimate = seqdomains("audio", "pretrain", *MASKED, "--dry-run")
    assert estimate.code == 0, estimate.err
    assert "windows of 78: 2,496 tokens" in estimate.out
    report = seqdomains("report", folder)
    assert report.code == 0, report.err


def test_a_repeated_command_and_an_evaluation_say_the_same(seqdomains, reconstructor):
    folder, outcome = reconstructor
    assert seqdomains("audio", "pretrain", *MASKED, "--out", folder).out == outcome.out
    again = seqdomains("audio", "evaluate", folder, "--device", "cpu")
    assert again.code == 0, again.err
    assert again.out == "".join(outcome.out.splitlines(keepends=True)[:-1])


def test_a_reconstructor_is_scored_on_other_clips_as_it_was_trained(seqdomains, reconstructor, clips, tmp_path):
    given = ("audio", "evaluate", reconstructor[0] / "model", "--data", clips, "--device", "cpu")
    outcome = seqdomains(*given, "--out", tmp_path / "scored")
    assert outcome.code == 0, outcome.err
    result = json.loads((tmp_path / "scored" / "evaluation.json").read_text())
    lengths = [
        SoundInput(rate=8000, codec="log-mel", patch=80, span=200).positions(800 + 400 * take) for take in range(6)
    ]
    assert result["positions"] == sum(round(length / 2) for length in lengths)
    assert len(result["baselines"]) == 3
    assert "note: 50% of each window is hidden, in spans of 0.2 s" in outcome.out
    less = seqdomains(*given, "--set", "mask.share=0.1")
    assert less.code == 0, less.err
    assert "note: 10% of each window is hidden" in less.out
    refused = seqdomains(*given, "--set", "input.mels=8")
    assert refused.code == 2
    assert "only keys of data, mask and evaluate can be set" in refused.error


def test_a_causal_model_is_pretrained_tuned_and_embeds(seqdomains, clips, tmp_path):
    few = ("--set", "train.steps=2", "--set", "train.batch=4")
    outcome = seqdomains(
        "audio",
        "pretrain",
        *MASKED,
        *SYNTHESIZED,
        *few,
        "--set",
        "model.bidirectional=false",
        "--out",
        tmp_path / "run",
    )
    assert outcome.code == 0, outcome.err
    tuned = seqdomains("audio", "finetune", tmp_path / "run", *SYNTHESIZED, *few, "--out", tmp_path / "tuned")
    assert tuned.code == 0, tuned.err
    embedded = seqdomains("audio", "embed", tmp_path / "run", clips, "--out", tmp_path / "vectors", "--device", "cpu")
    assert embedded.code == 0, embedded.err


def test_a_reconstructor_is_fine_tuned_and_embeds(seqdomains, reconstructor, clips, tmp_path):
    import pyarrow.parquet as pq
    from safetensors.torch import load_file

    folder, _ = reconstructor
    tuned = seqdomains("audio", "finetune", folder, *SYNTHESIZED, "--set", "train.steps=2", "--set", "train.batch=4",
                       "--head-only", "--out", tmp_path / "tuned")  # fmt: skip
    assert tuned.code == 0, tuned.err
    before, after = (load_file(one / "model" / "model.safetensors") for one in (folder, tmp_path / "tuned"))
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("backbone."))
    assert "mask" in before
    assert "mask" not in after
    embedded = seqdomains("audio", "embed", folder, clips, "--out", tmp_path / "vectors", "--device", "cpu")
    assert embedded.code == 0, embedded.err
    rows = pq.read_table(tmp_path / "vectors" / "embeddings.parquet").to_pylist()
    assert [len(row["embedding"]) for row in rows] == [32] * 6
    refused = seqdomains("audio", "predict", folder, clips, "--device", "cpu")
    assert refused.code == 1
    assert "PatchReconstructor" in refused.error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("--set", "objective=masked"),
            "mu-law gives codes, and what is hidden are patches of real numbers; choose log",
        ),
        (("--preset", "spectrogram-small", "--set", "objective=next-token"), "log-mel gives real numbers"),
        (("--preset", "spectrogram-small", "--set", "mask.share=1"), "mask.share: input should be less than 1"),
        (("--preset", "spectrogram-small", "--set", "train.time_chunk=8"), "windows of objective masked are computed"),
        (("--preset", "spectrogram-small", "--set", "objective=mask"), "objective: input should be 'next-token' or"),
    ],
)
def test_settings_that_do_not_go_with_hidden_patches(seqdomains, options, words):
    outcome = seqdomains("audio", "pretrain", *options, "--device", "cpu", "--dry-run")
    assert outcome.code == 2
    assert words in outcome.error
