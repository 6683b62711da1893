"""`genomics pretrain` as users call it: both objectives, own files, what is refused, sizes and presets."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.torch import load_file

from seqdomains.backbone import MambaConfig, MambaLM
from seqdomains.cli.config import resolve
from seqdomains.cli.language_config import SIZES, LanguageConfig, LanguageModelConfig
from seqdomains.errors import ConfigError
from seqdomains.pipelines.recipe import plan_steps

# Counted from the shapes of the official code, with 16 codes and the head tied: `notes` of the paper's figure 5.
COUNTS = {
    "250K": 262_720,
    "700K": 684_192,
    "1.4M": 1_401_472,
    "3.5M": 3_527_232,
    "7M": 7_012_608,
    "19.3M": 19_291_008,
    "40.7M": 40_694_272,
}
TINY = ("--preset", "pretrain-tiny", "--device", "cpu")


def evaluation(run):
    return json.loads((run / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def repeats(tmp_path_factory):
    """Two contigs, the second held out, in which every base is one of two that follow from those before it."""
    path = tmp_path_factory.mktemp("dna") / "steps.fa"
    random = np.random.default_rng(0)
    with path.open("w") as handle:
        for name, length in (("chr1", 20_000), ("chr2", 3_000)):
            steps = np.cumsum(random.choice([1, 2], length)) % 4
            handle.write(f">{name}\n{''.join(np.array(list('ACGT'))[steps])}\n")
    return path


def test_a_run_on_own_files_learns_and_names_what_was_held_out(seqdomains, repeats, tmp_path):
    run = tmp_path / "run"
    given = ("--data", repeats, "--set", "data.held=[chr2]", "--set", "train.steps=60", "--set", "data.window=64")
    outcome = seqdomains("genomics", "pretrain", *TINY, *given, "--out", run)
    assert outcome.code == 0, outcome.err
    result = evaluation(run)
    assert not result["simulated"]
    assert "SIMULATED" not in outcome.out
    assert result["uniform"] == 2
    assert result["bits"] < 1.7
    markov, frequencies = (baseline["bits"] for baseline in result["baselines"])
    assert markov == pytest.approx(1, abs=0.15)
    assert frequencies == pytest.approx(2, abs=0.01)
    assert "note: Held out by held.\n" in outcome.out
    rows = [line.split("\t") for line in (run / "test_windows.bed").read_text().splitlines()[1:]]
    assert {row[0] for row in rows} == {"chr2"}
    assert result["windows"] == len(rows) == 16
    assert result["positions"] == 16 * 64
    again = seqdomains("genomics", "pretrain", *TINY, *given, "--out", run)
    assert again.out == outcome.out


def test_masked_training_on_simulated_genomes_says_what_is_read(seqdomains, tmp_path):
    run = tmp_path / "run"
    outcome = seqdomains("genomics", "pretrain", *TINY, "--set", "objective=masked", "--out", run)
    assert outcome.code == 0, outcome.err
    assert "masked bases, SIMULATED data" in outcome.out
    assert "one side of a hidden base alone; --set model.bidirectional=true adds the other" in outcome.err
    assert "The model reads what stands before a base alone, 15% of the bases hidden; the Markov" in outcome.out
    result = evaluation(run)
    assert 0.12 < result["positions"] / (16 * 256) < 0.18
    signature = json.loads((run / "model" / "config.json").read_text())["signature"]
    assert signature["objective"] == "masked"


def test_a_model_of_both_sides_and_both_strands_is_trained_on_hidden_bases_alone(seqdomains, fasta, tmp_path):
    sides = ("--set", "model.bidirectional=true", "--set", "model.reverse_complement=equivariant")
    outcome = seqdomains("genomics", "pretrain", *TINY, *sides, "--out", tmp_path / "next")
    assert outcome.code == 2
    assert "has seen the next token, which it would be asked; train it on masked tokens" in outcome.err
    run = tmp_path / "masked"
    outcome = seqdomains("genomics", "pretrain", *TINY, *sides, "--set", "objective=masked", "--out", run)
    assert outcome.code == 0, outcome.err
    assert "The model reads both sides as far as it can, 15% of the bases hidden" in outcome.out
    assert "one side" not in outcome.err
    for command in ("likelihood", "generate"):
        given = (fasta(a=50),) if command == "likelihood" else ()
        assert "the artefact's objective is 'masked'" in seqdomains("genomics", command, run, *given).error


def test_a_model_of_both_sides_knows_what_the_bases_behind_tell(seqdomains, tmp_path):
    """Each base stands twice, so that one of its neighbours gives it away: before it that is so of every second one."""
    path, random = tmp_path / "twice.fa", np.random.default_rng(0)
    with path.open("w") as handle:
        for name, length in (("chr1", 20_000), ("chr2", 3_000)):
            handle.write(f">{name}\n{''.join(np.repeat(random.choice(list('ACGT'), length // 2), 2))}\n")
    settings = ("objective=masked", "model.bidirectional=true", "data.held=[chr2]", "data.window=64", "train.steps=150")
    settings += ("train.batch=32", "data.test_windows=40")
    given = [word for setting in settings for word in ("--set", setting)]
    run = tmp_path / "run"
    outcome = seqdomains("genomics", "pretrain", *TINY, "--data", path, *given, "--out", run)
    assert outcome.code == 0, outcome.err
    result = evaluation(run)
    assert result["baselines"][0]["bits"] == pytest.approx(1.05, abs=0.1)
    assert result["bits"] < 0.85


def test_soft_mask_weight_changes_the_training_alone(seqdomains, tmp_path):
    for name, weight in (("one", 1), ("less", 0.1)):
        setting = f"data.soft_mask_weight={weight}"
        outcome = seqdomains("genomics", "pretrain", *TINY, "--set", setting, "--out", tmp_path / name)
        assert outcome.code == 0, outcome.err
    one, less = (evaluation(tmp_path / name) for name in ("one", "less"))
    assert one["positions"] == less["positions"]
    assert one["baselines"] == less["baselines"]
    assert one["bits"] != less["bits"]


def test_a_stopped_run_goes_on_to_the_same_bytes(seqdomains, tmp_path, monkeypatch):
    from seqdomains.pipelines import train as training

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert seqdomains("genomics", "pretrain", *TINY, "--set", "objective=masked", "--out", whole).code == 0
    with monkeypatch.context() as patch:
        rate, calls = training.learning_rate, []

        def failing(step, config):
            calls.append(step)
            if step == 13:
                raise OSError("the machine went away")
            return rate(step, config)

        patch.setattr(training, "learning_rate", failing)
        with pytest.raises(OSError, match="went away"):
            seqdomains("genomics", "pretrain", *TINY, "--set", "objective=masked", "--out", broken)
    assert seqdomains("genomics", "pretrain", *TINY, "--set", "objective=masked", "--out", broken).code == 0
    one, other = (load_file(path / "model" / "model.safetensors") for path in (whole, broken))
    assert all((one[name] == other[name]).all() for name in one)


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes_have_the_published_parameters(size):
    config = LanguageConfig(model=LanguageModelConfig(size=size))
    sizes = config.backbone()
    width, state, rank = sizes.d_inner, sizes.d_state, sizes.rank
    block = (
        sizes.d_model  # norm
        + 2 * width * sizes.d_model  # in_proj
        + (sizes.d_conv + 1) * width  # conv1d
        + (rank + 2 * state) * width  # x_proj
        + (rank + 1) * width  # dt_proj
        + (state + 1) * width  # A_log, D
        + width * sizes.d_model  # out_proj
    )
    assert 16 * sizes.d_model + sizes.n_layer * block + sizes.d_model == COUNTS[size]
    if sizes.d_model <= 192:
        assert sum(one.numel() for one in MambaLM(sizes).parameters()) == COUNTS[size]


def test_a_size_and_a_width_that_differ_are_refused():
    with pytest.raises(ConfigError, match=r"model: d_model 64: size 7M has 256; leave d_model out, or set model.size"):
        resolve(LanguageConfig, settings=["model.size=7M", "model.d_model=64"])
    assert resolve(LanguageConfig, settings=["model.size=7M"]).config.backbone() == MambaConfig(d_model=256, n_layer=16)


def test_published_schedules():
    of_size = resolve(LanguageConfig, preset="hg38").config
    (plan,) = {(one.windows, one.window) for one in plan_steps(of_size.train, of_size.data.window)}
    assert plan == (1024, 1024)
    assert (of_size.train.steps, of_size.train.lr, of_size.train.betas) == (10_000, 8e-3, (0.9, 0.95))
    of_length = resolve(LanguageConfig, preset="hg38-long").config
    plans = plan_steps(of_length.train, of_length.data.window)
    assert {one.windows * one.window for one in plans} == {1 << 24}
    lengths = [one.window for one in plans]
    assert lengths == sorted(lengths)
    assert [lengths.count(1 << power) for power in range(10, 17)] == [532] * 7


def test_a_dry_run_of_masked_training(seqdomains):
    outcome = seqdomains("genomics", "pretrain", *TINY, "--set", "objective=masked", "--dry-run")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("parameters  ")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--data", "none.fa"), 1, "none.fa does not exist: give the path of a FASTA file or of a folder of them"),
        (("--data", "{dna}", "--regions", "none.bed"), 1, "cannot be read as BED"),
        (("--data", "{dna}", "--set", "data.held=[chr9]"), 1, "steps.fa has no contig 'chr9'"),
        (
            ("--data", "{dna}", "--set", "data.held=[chr2:0-9]"),
            1,
            "data.held: region 'chr2:0-9': positions are 1-based",
        ),
        (("--set", "objective=both"), 2, "objective: "),
        (("--set", "data.soft_mask_weight=2"), 2, "data.soft_mask_weight: "),
        (("--set", "data.masking.hiden=1"), 2, "data.masking.hiden: unknown key; did you mean data.masking.hidden?"),
        (("--set", "data.split=held"), 2, "split is held but neither held nor held_regions says what is"),
        (("--preset", "words"), 2, "--preset words: is for `seqdomains audio train`; here there are encode"),
        (("--preset", "laptop"), 2, "--preset laptop: is for `seqdomains genomics train`; here there are encode"),
    ],
)
def test_bad_input_is_one_sentence(seqdomains, repeats, tmp_path, arguments, code, sentence):
    given = [str(repeats) if one == "{dna}" else one for one in arguments]
    preset = () if "--preset" in given else ("--preset", "pretrain-tiny")
    outcome = seqdomains("genomics", "pretrain", *preset, *given, "--device", "cpu", "--out", tmp_path / "run")
    assert outcome.code == code
    assert sentence in outcome.err
    assert "Traceback" not in outcome.err
