from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from seqdomains.backbone import MambaConfig, MambaLM
from seqdomains.cli import models, simulated, species
from seqdomains.cli.config import preset_names, resolve
from seqdomains.cli.run_config import RunConfig
from seqdomains.cli.sound_config import schema_of
from seqdomains.errors import ConfigError
from seqdomains.genomics.alphabet import SIGNATURE
from seqdomains.genomics.simulate import SimulationConfig


@pytest.mark.parametrize("name", preset_names())
def test_config_show_tells_where_values_come_from(seqdomains, name):
    outcome = seqdomains("config", "show", name, "--set", "train.seed=7")
    assert outcome.code == 0, outcome.err
    section, lines = "", {}
    for line in outcome.out.splitlines():
        key = line.split(":")[0]
        section = key if not key.startswith(" ") else section
        lines[f"{section}.{key.strip()}"] = line
    assert lines["train.seed"].split() == ["seed:", "7", "#", "--set"]
    sized = "model.size" in lines and not lines["model.size"].endswith("# default")
    assert lines["model.n_layer"].endswith("# follows from others" if sized else f"# preset {name}")
    assert not sized or lines["model.size"].endswith(f"# preset {name}")
    assert lines["model.d_conv"].endswith("# default")


@pytest.mark.parametrize("name", preset_names())
def test_presets_hold_only_differences_from_the_defaults(name):
    schema = schema_of(name)
    defaults, resolved = schema(), resolve(schema, preset=name)
    settings = {key: source for key, source in resolved.sources.items() if source.startswith("preset")}
    assert settings
    for key in settings:
        value, default = resolved.config, defaults
        for part in key.split("."):
            value, default = getattr(value, part), getattr(default, part, None)
        # These name the model and its job; a reader looks for them in the preset.
        if key not in ("objective", "model.d_model", "model.n_layer", "model.pooling", "data.window"):
            assert value != default, key


@pytest.mark.parametrize("name", preset_names())
def test_readme_tells_each_presets_size(name):
    config = resolve(schema_of(name), preset=name).config
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (row,) = [line for line in readme.splitlines() if line.startswith(f"| `{name}` |")]
    assert f"| {config.model.d_model} x {config.model.n_layer}" in row
    length = f"{config.data.window:,} bp" if hasattr(config.data, "window") else f"{config.data.seconds:g} s"
    assert f"{length} |" in row


def test_great_apes_gpu_is_the_papers_model():
    from seqdomains.backbone import MambaLM

    model = MambaLM(resolve(RunConfig, preset="great-apes-gpu").config.model.backbone())
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_401_472


def test_preset_follows_the_machine_and_the_job(monkeypatch):
    assert species.choose_preset(great_apes=True, gpu=True) == "great-apes-gpu"
    assert species.choose_preset(great_apes=True, gpu=False) == "laptop"
    assert species.choose_preset(great_apes=False, gpu=True) == "barcode"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert models.choose_device(None) == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:77", "meta", "tpu", ""])
def test_devices_that_are_not_here(name):
    with pytest.raises(ConfigError, match="not usable here"):
        models.choose_device(name)


def test_default_run_folder_is_named_and_told(seqdomains, tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    outcome = seqdomains(
        *("genomics", "train", "--species", "great-apes", "--preset", "tiny"), "--set", "train.steps=1"
    )
    assert outcome.code == 0, outcome.err
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("tiny-2")
    assert f"--out runs/{folder.name}" in outcome.err


def test_simulations_are_made_once_per_configuration(monkeypatch, tmp_path):
    monkeypatch.setenv("SEQDOMAINS_CACHE", str(tmp_path))
    config = SimulationConfig(chromosomes=(5,), chromosome_length=10_000)
    first = simulated.simulated_genomes(config, progress=False)
    made = {path: path.stat().st_mtime_ns for path in first.iterdir()}
    assert simulated.simulated_genomes(config, progress=False) == first
    assert {path: path.stat().st_mtime_ns for path in first.iterdir()} == made
    assert simulated.simulated_genomes(config.model_copy(update={"seed": 1}), progress=False) != first


def test_log_goes_to_stderr_and_is_given_back(seqdomains):
    logger = logging.getLogger("seqdomains")
    before = (logger.level, list(logger.handlers))
    seqdomains("config", "show", "tiny")
    assert (logger.level, list(logger.handlers)) == before


def test_evaluate_of_an_artefact_needs_data(seqdomains, run):
    outcome = seqdomains("genomics", "evaluate", run / "model")
    assert outcome.code == 2
    assert "--data" in outcome.error


def test_options_that_go_with_data_are_refused_without(seqdomains, run, tmp_path):
    outcome = seqdomains("genomics", "evaluate", run, "--out", tmp_path / "x")
    assert outcome.code == 2
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("output", ["reads.fa", "regions.bed"])
def test_predict_does_not_write_over_its_input(seqdomains, run, fasta, tmp_path, output):
    reads, bed = fasta(x=300), tmp_path / "regions.bed"
    bed.write_text("x\t0\t300\n")
    before = (tmp_path / output).read_bytes()
    outcome = seqdomains("genomics", "predict", run, reads, "--regions", bed, "-o", tmp_path / output)
    assert outcome.code == 2
    assert "is also an input" in outcome.error
    assert (tmp_path / output).read_bytes() == before


@pytest.mark.parametrize("name", ["x.csv", "x"])
def test_a_name_that_says_no_format_is_refused(seqdomains, run, fasta, tmp_path, name):
    reads, lm = fasta(x=300), tmp_path / "lm"
    MambaLM(MambaConfig(d_model=8, n_layer=1)).save_pretrained(lm, signature={**SIGNATURE, "window": 64})
    of_tables = f"{name}: expected a name that ends in .tsv, .parquet or .pq, or - for TSV on stdout"
    of_tracks = (
        f"{name}: expected a name that ends in .bedgraph, .bg, .bw, .bigwig, .tsv, .parquet or .pq, or - for bedGraph "
        "on stdout"
    )
    for command, said in ((("predict", run), of_tables), (("stream", run), of_tables), (("stream", lm), of_tracks)):
        outcome = seqdomains("genomics", *command, reads, "-o", tmp_path / name)
        assert outcome.code == 2
        assert said in outcome.error
        assert not (tmp_path / name).exists()
    assert seqdomains("genomics", "stream", lm, reads, "-o", tmp_path / "x.BEDGRAPH").code == 0
    assert seqdomains("genomics", "stream", lm, reads, "-o", "/dev/null").code == 0


def test_stdin_named_twice(seqdomains, run):
    outcome = seqdomains("genomics", "predict", run, "-", "-")
    assert (outcome.code, "stands twice" in outcome.error) == (2, True)


def test_predict_reads_gaps_where_the_policy_lets_them_through(seqdomains, run, tmp_path):
    reads = tmp_path / "gaps.fa"
    reads.write_text(f">x\n{'ACGT' * 40}----{'ACGT' * 40}\n")
    masked = ("--window", "64", "--set", "data.gap_policy=mask")
    outcome = seqdomains("genomics", "predict", run, reads, *masked)
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[-1].startswith("x\t256\t320\t")
    outcome = seqdomains("genomics", "predict", run, reads, "--set", "train.steps=3")
    assert (outcome.code, "train: unknown key" in outcome.error) == (2, True)


def test_windows_of_n_are_predicted_with_a_warning(seqdomains, run, tmp_path):
    reads = tmp_path / "n.fa"
    reads.write_text(f">x\n{'ACGT' * 16}{'N' * 128}{'ACGT' * 8}{'N' * 32}{'N' * 33}{'ACG' * 10}A\n")
    outcome = seqdomains("genomics", "predict", run, reads, "--window", "64")
    assert (outcome.code, len(outcome.out.splitlines())) == (0, 1 + 5)
    assert "3 windows are N or masked for more than half" in outcome.err


def test_a_folder_a_pattern_and_a_list_stand_for_their_files(seqdomains, run, tmp_path):
    folder = tmp_path / "reads"
    folder.mkdir()
    for name, record in (("b.fa", "x"), ("a.fa.txt", "no"), ("a.fa", "y")):
        (folder / name).write_text(f">{record}\n{'ACGT' * 40}\n")
    names = tmp_path / "names.txt"
    names.write_text(f"# both\n{folder / 'a.fa'}\n{folder}/b.*\n")
    expected = seqdomains("genomics", "predict", run, folder / "a.fa", folder / "b.fa", "--window", "64")
    assert (expected.code, expected.out.count("\n")) == (0, 1 + 2 * 3)
    for given in ([folder], [f"{folder}/?.fa"], ["--from-file", names], [folder / "a.fa", folder]):
        outcome = seqdomains("genomics", "predict", run, *given, "--window", "64")
        assert (outcome.code, outcome.out) == (0, expected.out), given


def test_stream_ends_with_what_one_window_over_the_record_says(seqdomains, run, tmp_path):
    reads = tmp_path / "reads.fa"
    reads.write_text(f">x\n{'ACGTTGCA' * 50}\n>y\n{'GGC' * 30}\n")
    streamed = seqdomains("genomics", "stream", run, reads, "--every", "150")
    assert streamed.code == 0, streamed.err
    found = [line.split("\t") for line in streamed.out.splitlines()]
    assert [row[:3] for row in found[1:]] == [["x", "0", end] for end in ("150", "300", "400")] + [["y", "0", "90"]]
    whole = seqdomains("genomics", "predict", run, reads, "--window", "400")
    (row,) = [line.split("\t") for line in whole.out.splitlines()[1:]]
    assert found[0] == whole.out.splitlines()[0].split("\t")
    assert [float(p) for p in found[3][4:]] == pytest.approx([float(p) for p in row[4:]], abs=1e-5)


def test_predict_of_nothing(seqdomains, run, tmp_path):
    assert seqdomains("genomics", "predict", run).code == 2
    assert seqdomains("genomics", "stream", run).code == 2
    (tmp_path / "empty").mkdir()
    outcome = seqdomains("genomics", "predict", run, tmp_path / "empty")
    assert (outcome.code, "holds no FASTA or GenBank file" in outcome.error) == (1, True)


def test_skipped_input_is_told_once(seqdomains, run, fasta, tmp_path):
    bad = tmp_path / "bad.fa"
    bad.write_text(">y\nAC!\n")
    outcome = seqdomains("genomics", "predict", run, fasta(x=300), bad)
    assert outcome.code == 3
    (line,) = [line for line in outcome.err.splitlines() if "bad.fa" in line]
    assert line.count("bad.fa") == 1


@pytest.mark.parametrize("setting", ["data.window=64", "train.steps=3"])
def test_evaluate_keeps_a_runs_result_to_its_own_configuration(seqdomains, run, setting):
    before = (run / "evaluation.json").read_bytes()
    outcome = seqdomains("genomics", "evaluate", run, "--set", setting)
    assert outcome.code == 2
    assert setting.split("=")[0] in outcome.error
    assert (run / "evaluation.json").read_bytes() == before


def test_evaluate_does_not_write_over_a_run(seqdomains, run, fasta, tmp_path):
    before = (run / "evaluation.json").read_bytes()
    (tmp_path / "labels.tsv").write_text("x\tgorilla\n")
    data = ("--data", fasta(x=300), "--labels", tmp_path / "labels.tsv")
    outcome = seqdomains("genomics", "evaluate", run, *data, "--out", run)
    assert (outcome.code, "is a run folder" in outcome.error) == (2, True)
    outcome = seqdomains("genomics", "evaluate", run, *data, "--set", "train.steps=3")
    assert (outcome.code, "train.steps" in outcome.error) == (2, True)
    assert (run / "evaluation.json").read_bytes() == before


@pytest.mark.parametrize(("config", "words"), [("", "expected a mapping"), ("data:\n  windw: 3\n", "data.windw")])
def test_evaluate_of_a_run_with_a_damaged_configuration(seqdomains, run, tmp_path, config, words):
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    (copy / "config.yaml").write_text(config)
    outcome = seqdomains("genomics", "evaluate", copy)
    assert outcome.code == 1
    assert words in outcome.error
    assert "config.yaml" in outcome.error


def test_devices_are_refused_in_few_words():
    with pytest.raises(ConfigError) as refused:
        models.choose_device("mps" if not torch.backends.mps.is_available() else "xpu")
    assert len(str(refused.value)) < 400


def test_stream_of_a_language_model_writes_tracks(seqdomains, fasta, tmp_path):
    lm, reads = tmp_path / "lm", fasta(x=160, y=1)
    model = MambaLM(MambaConfig(d_model=8, n_layer=1))
    model.save_pretrained(lm, signature={**SIGNATURE, "window": 64})
    outcome = seqdomains("genomics", "stream", lm, reads)
    places = [*(("x", place) for place in range(160)), ("y", 0)]
    rows = [line.split("\t") for line in outcome.out.splitlines()]
    assert (outcome.code, [row[:3] for row in rows]) == (0, [[n, str(i), str(i + 1)] for n, i in places])
    pytest.importorskip("pyBigWig", reason="pyBigWig is not installed")
    for name in ("a.parquet", "a.bw"):
        assert seqdomains("genomics", "stream", lm, reads, "--every", 10, "-o", tmp_path / name).code == 0
    table = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert (len(table), table[0]["start"], table[-2]["end"]) == (17, 0, 160)
    assert table[1]["log_likelihood"] == pytest.approx(np.mean([float(row[3]) for row in rows[10:20]]), abs=1e-5)


def test_bigwig_is_refused_where_it_cannot_be(seqdomains, run, fasta, tmp_path):
    reads = fasta(x=400)
    outcome = seqdomains("genomics", "stream", run, reads, "-o", tmp_path / "a.bw")
    assert (outcome.code, "language model" in outcome.error) == (2, True)
    lm = tmp_path / "lm"
    MambaLM(MambaConfig(d_model=8, n_layer=1)).save_pretrained(lm, signature={**SIGNATURE, "window": 64})
    twin = tmp_path / "twin.fa"
    twin.write_text(">x\nACGT\n")
    outcome = seqdomains("genomics", "stream", lm, reads, twin, "-o", tmp_path / "a.bw")
    assert (outcome.code, "stands twice" in outcome.error) == (1, True)
    assert seqdomains("genomics", "stream", lm, "-", "-o", tmp_path / "a.bw").code == 2
    assert not (tmp_path / "a.bw").exists()
