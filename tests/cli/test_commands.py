from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from seqdomains.cli import simulated, species
from seqdomains.cli.config import preset_names, resolve
from seqdomains.cli.run_config import RunConfig
from seqdomains.errors import ConfigError
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
    assert lines["model.n_layer"].endswith(f"# preset {name}")
    assert lines["model.d_state"].endswith("# default")


@pytest.mark.parametrize("name", preset_names())
def test_presets_hold_only_differences_from_the_defaults(name):
    defaults, resolved = RunConfig(), resolve(RunConfig, preset=name)
    settings = {key: source for key, source in resolved.sources.items() if source.startswith("preset")}
    assert settings
    for key in settings:
        value, default = resolved.config, defaults
        for part in key.split("."):
            value, default = getattr(value, part), getattr(default, part, None)
        # These name the model and its job; a reader looks for them in the preset.
        if key not in ("model.d_model", "model.n_layer", "model.pooling", "data.window"):
            assert value != default, key


@pytest.mark.parametrize("name", preset_names())
def test_readme_tells_each_presets_size(name):
    config = resolve(RunConfig, preset=name).config
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (row,) = [line for line in readme.splitlines() if line.startswith(f"| `{name}` |")]
    assert f"| {config.model.d_model} x {config.model.n_layer}" in row
    assert f"{config.data.window:,} bp |" in row


def test_great_apes_gpu_is_the_papers_model():
    from seqdomains.backbone import MambaLM

    model = MambaLM(resolve(RunConfig, preset="great-apes-gpu").config.model.backbone())
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_401_472


def test_preset_follows_the_machine_and_the_job(monkeypatch):
    assert species.choose_preset(great_apes=True, gpu=True) == "great-apes-gpu"
    assert species.choose_preset(great_apes=True, gpu=False) == "laptop"
    assert species.choose_preset(great_apes=False, gpu=True) == "barcode"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert species.choose_device(None) == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:77", "meta", "tpu", ""])
def test_devices_that_are_not_here(name):
    with pytest.raises(ConfigError, match="not usable here"):
        species.choose_device(name)


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
