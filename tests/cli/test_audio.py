"""The audio commands end to end on synthesized words, and 200 files of mixed formats of which five are bad."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from seqdomains.backbone import from_pretrained, save_pretrained

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
QUICK = [
    *("--set", "train.steps=4", "--set", "train.batch=4", "--set", "model.d_model=16", "--set", "model.n_layer=1"),
    *("--set", "data.synthesis={kind: words, clips: 6, rate: 8000, speakers: 3}", "--device", "cpu"),
]


@pytest.fixture(scope="module")
def trained(seqdomains, tmp_path_factory):
    """A run on a few synthesized words: it has learned nothing, and has every file that a run has."""
    folder = tmp_path_factory.mktemp("runs") / "words"
    outcome = seqdomains("audio", "train", *QUICK, "--out", folder)
    assert outcome.code == 0, outcome.err
    return folder, outcome


@pytest.fixture(scope="module")
def run(trained):
    return trained[0]


@pytest.fixture(scope="module")
def coder(tmp_path_factory):
    """An untrained classifier of mu-law codes at 8 kHz with answers that differ."""
    import torch

    from seqdomains.audio.front_end import SoundInput
    from seqdomains.backbone import MambaConfig, SequenceClassifier

    config = MambaConfig(d_model=16, n_layer=2, vocab_size=256)
    generator = torch.Generator().manual_seed(0)
    model = SequenceClassifier(config, classes=("a", "b", "c"), pooling="both", generator=generator)
    with torch.no_grad():
        model.head.weight.mul_(30)
    folder = tmp_path_factory.mktemp("artefacts") / "coder"
    model.save_pretrained(folder, signature={**SoundInput(rate=8000).signature(), "window": 8000})
    return folder


def sound(frames, seed, channels=1):
    random = np.random.default_rng(seed)
    tones = [np.sin(np.arange(frames) * random.uniform(0.02, 0.5)) for _ in range(channels)]
    return (np.stack(tones) * 0.3 + random.normal(size=(channels, frames)) * 0.01).astype(np.float32)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """200 files of mixed formats, rates, depths and channels, five of them bad; and which."""
    import soundfile

    folder = tmp_path_factory.mktemp("mixed")
    forms = [
        ("wav", "PCM_16", 8000, 1),
        ("flac", "PCM_24", 44_100, 2),
        ("ogg", "VORBIS", 16_000, 1),
        ("wav", "FLOAT", 22_050, 1),
        ("mp3", "MPEG_LAYER_III", 32_000, 2),
        ("wav", "PCM_24", 96_000, 1),
        ("wav", "PCM_U8", 8000, 8),
        ("wav", "ULAW", 8000, 1),
    ]
    for number in range(200):
        kind, subtype, rate, channels = forms[number % len(forms)]
        frames = rate // 10 + 37 * number
        soundfile.write(
            folder / f"{number:03}.{kind}", sound(frames, number, channels).T, rate, format=kind, subtype=subtype
        )
    (folder / "000.wav").write_bytes(b"")
    (folder / "008.wav").write_bytes((folder / "016.wav").read_bytes()[:44])
    whole = (folder / "040.wav").read_bytes()
    (folder / "040.wav").write_bytes(whole[: len(whole) // 2])
    (folder / "065.flac").write_text("this is no sound at all, but a text that somebody renamed\n")
    nothing = np.full((800, 1), np.nan)
    soundfile.write(folder / "075.wav", nothing, 8000, subtype="FLOAT")
    return folder, ["000.wav", "008.wav", "040.wav", "065.flac", "075.wav"]


def table(path):
    return pq.read_table(path).to_pylist()


def test_training_without_data_says_that_the_sound_is_synthesized(trained):
    folder, outcome = trained
    assert "SYNTHESIZED" in outcome.err
    assert "SIMULATED data" in outcome.out
    assert "MFCC baseline" in outcome.out
    result = json.loads((folder / "evaluation.json").read_text())
    assert result["simulated"] is True
    assert result["baseline"]["name"] == "MFCC + SVM"
    assert (folder / "test_clips.jsonl").exists()
    assert json.loads((folder / "model" / "config.json").read_text())["signature"]["domain"] == "audio"


def test_a_repeated_command_computes_nothing_anew(seqdomains, trained):
    folder, outcome = trained
    again = seqdomains("audio", "train", *QUICK, "--out", folder)
    assert again.code == 0
    assert again.out == outcome.out


def test_evaluate_a_run_and_other_clips(seqdomains, trained, tmp_path):
    folder, outcome = trained
    again = seqdomains("audio", "evaluate", folder)
    assert again.code == 0, again.err
    assert again.out.splitlines()[1] == outcome.out.splitlines()[1]
    made = seqdomains("audio", "synthesize", "--kind", "words", "--out", tmp_path / "w", "--set",
                      "data.synthesis={clips: 2, rate: 8000}")  # fmt: skip
    assert made.code == 0, made.err
    other = seqdomains("audio", "evaluate", folder, "--data", tmp_path / "w")
    assert other.code == 0, other.err
    assert "20 test clips" in other.out


def test_report_of_a_run(seqdomains, run):
    outcome = seqdomains("report", run)
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(
    ("command", "preset", "window", "parameters"),
    [
        ("train", "audio-small", "32 windows of 8: ", "279,554 (with 2 classes)"),
        ("train", "digits", "64 windows of 100: ", "274,178 (with 2 classes)"),
        ("train", "words", "64 windows of 100: ", "98,882 (with 2 classes)"),
        ("pretrain", "codes", "64 windows of 800: ", "1,432,192"),
        ("pretrain", "codes-small", "4 windows of 800: ", "114,560"),
        ("pretrain", "spectrogram-small", "32 windows of 8: ", "337,088"),
        ("pretrain", "piano-small", "4 windows of 800: ", "290,080"),
        ("pretrain", "piano-3m", "8 windows of 1,600: ", "3,509,824"),
        ("pretrain", "speech-6m", "16 windows of 1,600: ", "6,238,400"),
        ("pretrain", "speech-24m", "16 windows of 1,600: ", "24,826,080"),
    ],
)
def test_what_each_preset_would_take(seqdomains, command, preset, window, parameters):
    short = ("--set", "data.seconds=0.1", "--set", "train.micro_batch=2", "--device", "cpu")
    outcome = seqdomains("audio", command, "--preset", preset, *short, "--dry-run")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith(f"parameters  {parameters}\n")
    assert window in outcome.out


@pytest.mark.parametrize("preset", ["codes", "spectrogram-small"])
def test_presets_without_classes_are_not_for_classifiers(seqdomains, run, preset, tmp_path):
    cpu = ("--device", "cpu")
    for given in (("train", *cpu), ("finetune", run, *cpu), ("synthesize", "--out", tmp_path / "clips")):
        outcome = seqdomains("audio", *given, "--preset", preset)
        assert outcome.code == 2
        assert f"--preset {preset}: is for `seqdomains audio pretrain`; here there are activity, " in outcome.err


def test_dry_run(seqdomains):
    outcome = seqdomains("audio", "train", *QUICK, "--dry-run")
    assert outcome.code == 0, outcome.err
    assert "parameters" in outcome.out


def test_pretraining_needs_no_data_and_no_label(seqdomains, tmp_path):
    given = ("audio", "pretrain", *QUICK, "--set", "data.seconds=0.1")
    estimate = seqdomains(*given, "--dry-run")
    assert estimate.code == 0, estimate.err
    assert "windows of 800: 3,200 tokens" in estimate.out
    outcome = seqdomains(*given, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert "SYNTHESIZED" in outcome.err
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    first, bits, *references = outcome.out.splitlines()
    assert first == f"{result['windows']} test clips, {result['positions']:,} samples, SIMULATED data"
    assert bits.startswith("bits per sample ")
    assert [line.split("  ")[0] for line in references[:2]] == ["order-1 Markov chain", "adaptive LPC-32"]
    again = seqdomains(*given, "--out", tmp_path / "run")
    assert again.out == outcome.out
    report = seqdomains("report", tmp_path / "run")
    assert report.code == 0, report.err
    refused = seqdomains("audio", "train", *QUICK, "--out", tmp_path / "run")
    assert refused.code == 2
    assert "objective: (unset) differs from" in refused.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--set", "input.codec=waveform"), "input.codec: waveform gives real numbers"),
        (("--preset", "words"), "--preset words: is for `seqdomains audio train`; here there are codes, "),
    ],
)
def test_what_is_no_language_model_is_refused(seqdomains, options, words):
    outcome = seqdomains("audio", "pretrain", *options, "--device", "cpu", "--dry-run")
    assert outcome.code == 2
    assert words in outcome.err


def test_200_files_of_mixed_formats_with_five_bad_ones(seqdomains, coder, mixed, tmp_path):
    folder, bad = mixed
    outcome = seqdomains("audio", "predict", coder, folder, "--out", tmp_path / "all", "--device", "cpu")
    assert outcome.code == 3, outcome.err
    assert "RTF" in outcome.err
    rows = table(tmp_path / "all" / "predictions.parquet")
    names = [row["file"].rsplit("/", 1)[1] for row in rows]
    assert names == sorted(path.name for path in folder.iterdir() if path.name not in bad)
    errors = [json.loads(line) for line in (tmp_path / "all" / "errors.jsonl").read_text().splitlines()]
    assert [error["input"].rsplit("/", 1)[1] for error in errors] == bad
    assert {row["channel"] for row in rows} == {"mean"}
    shares = np.array([[row["p_a"], row["p_b"], row["p_c"]] for row in rows])
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)
    assert np.ptp(shares, axis=0).max() > 0.01
    number = {name: place for place, name in enumerate(names)}
    assert rows[number["005.wav"]]["end"] == pytest.approx((9600 + 37 * 5) / 96_000, abs=2e-4)
    report = seqdomains("report", tmp_path / "all")
    assert report.code == 0, report.err


def test_each_file_alone_gives_the_same(seqdomains, coder, mixed, tmp_path):
    folder, _ = mixed
    names = ["001.flac", "004.mp3", "006.wav", "195.wav"]
    outcome = seqdomains("audio", "predict", coder, *(folder / name for name in names), "--device", "cpu")
    assert outcome.code == 0, outcome.err
    together = [line.split("\t") for line in outcome.out.splitlines()[1:]]
    for name, row in zip(names, together, strict=True):
        alone = seqdomains("audio", "predict", coder, folder / name, "-o", tmp_path / "one.tsv", "--device", "cpu")
        assert alone.code == 0
        own = (tmp_path / "one.tsv").read_text().splitlines()[1].split("\t")
        assert own[:5] == row[:5]
        np.testing.assert_allclose([float(one) for one in own[5:]], [float(one) for one in row[5:]], atol=1e-4)


def test_two_workers_give_the_same_bytes(seqdomains, coder, mixed, tmp_path):
    folder, _ = mixed
    paths = sorted(folder.glob("*.wav"))[:40]
    for workers in (1, 2):
        outcome = seqdomains(
            "audio", "predict", coder, *paths, "--out", tmp_path / str(workers), "--workers", workers, "--threads", 1,
            "--device", "cpu", "--shard-size", 20_000, "--format", "tsv",
        )  # fmt: skip
        assert outcome.code == 3, outcome.err
    one, two = (tmp_path / name / "predictions.tsv" for name in ("1", "2"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("seconds", [0.4, 30])
def test_a_long_file_with_carried_state_is_the_whole_file(seqdomains, coder, tmp_path, seconds):
    import soundfile
    import torch

    from seqdomains.audio.files import read
    from seqdomains.audio.front_end import SoundInput
    from seqdomains.backbone import SequenceClassifier

    soundfile.write(tmp_path / "long.wav", sound(int(44_100 * seconds), 1, 2).T, 44_100)
    outcome = seqdomains("audio", "predict", coder, tmp_path / "long.wav", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    row = outcome.out.splitlines()[1].split("\t")
    codes = SoundInput(rate=8000).encode(read(tmp_path / "long.wav", rate=8000)[0])
    model = SequenceClassifier.from_pretrained(coder).eval()
    with torch.no_grad():
        whole = model(torch.from_numpy(codes)[None]).softmax(-1)[0]
    np.testing.assert_allclose([float(one) for one in row[5:]], whole.numpy(), atol=1e-4)
    assert float(row[3]) == pytest.approx(seconds, abs=1e-3)


def test_a_log_shows_how_far_a_long_file_is(seqdomains, coder, tmp_path, monkeypatch):
    import re

    import soundfile

    soundfile.write(tmp_path / "long.wav", sound(8000 * 9, 1).T, 8000)
    given = ("audio", "predict", coder, tmp_path / "long.wav", "--device", "cpu")
    quiet = seqdomains(*given)
    assert "files, " not in quiet.err.replace("1 of 1 files, ", "")
    monkeypatch.setattr("seqdomains.pipelines.progress._QUIET", 0.0)
    monkeypatch.setattr("seqdomains.pipelines.batch.pace._LOOKS", 0.0)
    told = seqdomains(*given)
    assert told.code == 0, told.err
    assert told.out == quiet.out
    lines = re.findall(
        r"^records 0/1  0 of 1 files, ([0-9]+) s of 9 s, .* M positions/s, [0-9]+ s left$", told.err, re.M
    )
    assert lines
    assert list(map(int, lines)) == sorted(map(int, lines))


def test_windows(seqdomains, coder, tmp_path):
    import soundfile

    soundfile.write(tmp_path / "a.wav", sound(20_000, 1).T, 8000)
    outcome = seqdomains("audio", "predict", coder, tmp_path / "a.wav", "--window", 1, "--stride", 0.5)
    assert outcome.code == 0, outcome.err
    places = [tuple(map(float, line.split("\t")[2:4])) for line in outcome.out.splitlines()[1:]]
    assert places == [(0, 1), (0.5, 1.5), (1, 2), (1.5, 2.5)]
    assert outcome.out.splitlines()[0].split("\t")[:5] == ["#file", "channel", "start", "end", "predicted"]


@pytest.mark.parametrize("pool", ["mean", "max", "last"])
@pytest.mark.parametrize("layer", [None, 1])
def test_embeddings_of_files_and_of_one_window_agree(seqdomains, coder, mixed, tmp_path, pool, layer):
    folder, _ = mixed
    paths = [folder / "001.flac", folder / "003.wav"]
    more = () if layer is None else ("--layer", layer)
    for name, options in (("whole", ()), ("window", ("--window", 100))):
        outcome = seqdomains(
            "audio", "embed", coder, *paths, "--out", tmp_path / name, "--pool", pool, "--device", "cpu",
            *options, *more,
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
    whole, window = (table(tmp_path / name / "embeddings.parquet") for name in ("whole", "window"))
    for one, other in zip(whole, window, strict=True):
        np.testing.assert_allclose(one["embedding"], other["embedding"], atol=1e-4)


def test_a_position_each(seqdomains, coder, mixed, tmp_path):
    folder, _ = mixed
    given = ("audio", "embed", coder, folder / "016.wav", "--pool", "position", "--device", "cpu")
    refused = seqdomains(*given, "--out", tmp_path / "no")
    assert refused.code == 2
    assert "--window" in refused.error
    outcome = seqdomains(*given, "--out", tmp_path / "yes", "--window", 0.1)
    assert outcome.code == 0, outcome.err
    rows = table(tmp_path / "yes" / "embeddings.parquet")
    assert len(rows) == 800 + 37 * 16
    assert rows[1]["start"] == pytest.approx(1 / 8000)


def test_models_of_another_domain_are_refused(seqdomains, coder, artefact, mixed, tmp_path):
    folder, _ = mixed
    outcome = seqdomains("audio", "predict", artefact, folder / "016.wav")
    assert outcome.code == 1
    assert "'genomics'" in outcome.error
    (tmp_path / "a.fa").write_text(">a\nACGT\n")
    outcome = seqdomains("genomics", "predict", coder, tmp_path / "a.fa")
    assert outcome.code == 1
    assert "'audio'" in outcome.error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "no input"),
        (("-",), "read from files"),
        (("x.wav", "--stride", "1"), "--stride"),
        (("x.wav", "--window", "-1"), "--window"),
        (("x.wav", "--workers", "2"), "--workers: goes with --out"),
    ],
)
def test_what_cannot_be_is_refused(seqdomains, coder, options, words):
    outcome = seqdomains("audio", "predict", coder, *options)
    assert outcome.code == 2, outcome.err
    assert words in outcome.error


def test_an_input_is_never_written_over(seqdomains, coder, tmp_path):
    import soundfile

    path = tmp_path / "a.wav"
    soundfile.write(path, sound(800, 1).T, 8000)
    before = path.read_bytes()
    outcome = seqdomains("audio", "predict", coder, path, "-o", path)
    assert outcome.code == 2
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "x"])
def test_a_table_under_the_name_of_another_format_is_refused(seqdomains, coder, tmp_path, name):
    import soundfile

    soundfile.write(tmp_path / "a.wav", sound(800, 1).T, 8000)
    outcome = seqdomains("audio", "predict", coder, tmp_path / "a.wav", "-o", tmp_path / name)
    assert outcome.code == 2
    assert f"{name}: expected a name that ends in .tsv, or - for TSV on stdout" in outcome.error
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_no_readable_file_is_an_error(seqdomains, coder, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"")
    outcome = seqdomains("audio", "predict", coder, tmp_path / "a.wav")
    assert outcome.code == 1
    assert "a.wav" in outcome.error


QUICK_DATA = ("--set", "data.synthesis={kind: words, clips: 6, rate: 8000, speakers: 3}", "--device", "cpu")


@pytest.mark.parametrize("head_only", [False, True], ids=["all of it", "its head"])
def test_a_classifier_is_fine_tuned(seqdomains, run, tmp_path, head_only):
    from safetensors.torch import load_file

    more = ("--head-only",) if head_only else ()
    given = ("audio", "finetune", run, *QUICK_DATA, "--set", "train.steps=3", "--set", "train.batch=4", *more)
    outcome = seqdomains(*given, "--out", tmp_path / "tuned")
    assert outcome.code == 0, outcome.err
    before, after = (load_file(folder / "model" / "model.safetensors") for folder in (run, tmp_path / "tuned"))
    backbone = [name for name in before if name.startswith("backbone.")]
    assert backbone
    assert all((before[name] == after[name]).all() for name in backbone) == head_only
    again = seqdomains(*given, "--out", tmp_path / "tuned")
    assert again.code == 0, again.err
    assert again.out == outcome.out


def test_what_a_model_is_and_reads_is_fixed(seqdomains, run, tmp_path):
    given = ("audio", "finetune", run, *QUICK_DATA, "--out", tmp_path / "tuned")
    outcome = seqdomains(*given, "--set", "model.d_model=8", "--set", "input.rate=16000")
    assert outcome.code == 2
    assert "model.d_model is that of the model" in outcome.err
    outcome = seqdomains(*given, "--head-only", "--set", "train.backbone_lr_scale=0.1")
    assert outcome.code == 2
    assert "train.backbone_lr_scale: 0.1 is for a backbone that learns" in outcome.error
    assert not (tmp_path / "tuned").exists()


def test_a_model_that_changed_is_not_gone_on_from(seqdomains, run, tmp_path):
    import shutil

    shutil.copytree(run / "model", tmp_path / "model")
    given = ("audio", "finetune", tmp_path / "model", *QUICK_DATA, "--set", "train.steps=2", "--set", "train.batch=2")
    outcome = seqdomains(*given, "--out", tmp_path / "tuned")
    assert outcome.code == 0, outcome.err
    other = from_pretrained(tmp_path / "model")
    with torch.no_grad():
        next(other.model.parameters()).add_(1.0)
    save_pretrained(other.model, tmp_path / "model", signature=other.signature)
    again = seqdomains(*given, "--out", tmp_path / "tuned")
    assert again.code == 2, again.err
    assert "finetune" in again.error


def test_a_model_of_samples_is_scored_at_half_the_rate(seqdomains, run, coder, tmp_path):
    made = seqdomains("audio", "synthesize", "--out", tmp_path / "w", "--set",
                      "data.synthesis={kind: words, clips: 2, rate: 8000}")  # fmt: skip
    assert made.code == 0, made.err
    for path in (tmp_path / "w").iterdir():  # the classes of the model
        if path.is_dir() and path.name not in ("one", "two", "three"):
            for one in path.iterdir():
                one.unlink()
            path.rmdir()
    for name, label in (("one", "a"), ("two", "b"), ("three", "c")):
        (tmp_path / "w" / name).rename(tmp_path / "w" / label)
    (tmp_path / "w" / "manifest.jsonl").unlink()
    given = ("audio", "evaluate", coder, "--data", tmp_path / "w", "--device", "cpu")
    whole, half = seqdomains(*given), seqdomains(*given, "--rate", 4000)
    assert half.code == 0, half.err
    assert "Read at 4000 Hz with steps 2 times as long" in half.out
    assert whole.out.splitlines()[0] == half.out.splitlines()[0] == "6 test clips, SIMULATED data"
    refused = seqdomains("audio", "evaluate", run, "--data", tmp_path / "w", "--rate", 4000)
    assert refused.code == 2
    assert "sample by sample" in refused.error


def test_own_data_need_no_speaker(seqdomains, tmp_path):
    made = seqdomains("audio", "synthesize", "--out", tmp_path / "w", "--set",
                      "data.synthesis={clips: 3, rate: 8000}")  # fmt: skip
    assert made.code == 0, made.err
    (tmp_path / "w" / "manifest.jsonl").unlink()
    outcome = seqdomains(
        "audio", "train", "--data", tmp_path / "w", *QUICK[:8], "--device", "cpu", "--out", tmp_path / "r"
    )
    assert outcome.code == 0, outcome.err
    assert "preset digits" in outcome.err


def test_without_a_folder_all_reasons_are_told(seqdomains, coder, tmp_path):
    import soundfile

    for number in range(8):
        (tmp_path / f"{number}.wav").write_bytes(b"")
    nothing = seqdomains("audio", "predict", coder, tmp_path)
    assert nothing.code == 1
    assert all(f"{number}.wav is empty" in nothing.err for number in range(8))
    assert "errors.jsonl" not in nothing.err
    soundfile.write(tmp_path / "good.wav", sound(800, 1).T, 8000)
    some = seqdomains("audio", "predict", coder, tmp_path)
    assert some.code == 3
    assert all(f"{number}.wav is empty" in some.err for number in range(8))


def test_an_out_that_cannot_be_made_is_said(seqdomains, run, tmp_path):
    made = seqdomains("audio", "synthesize", "--out", tmp_path / "w", "--set",
                      "data.synthesis={clips: 1, rate: 8000}")  # fmt: skip
    assert made.code == 0, made.err
    (tmp_path / "file").touch()
    outcome = seqdomains("audio", "evaluate", run, "--data", tmp_path / "w", "--out", tmp_path / "file" / "below")
    assert outcome.code == 1
    assert "choose another --out" in outcome.error
