from __future__ import annotations

from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from seqdomains.cli.config import preset_names, read_preset, resolve
from seqdomains.errors import ConfigError
from seqdomains.strict_yaml import load_yaml


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Model(Section):
    d_model: int = Field(64, ge=1)
    rank: int | Literal["auto"] = "auto"


class Simulation(Section):
    density: float = 1.0


class Data(Section):
    window: int = Field(128, ge=1)
    files: tuple[str, ...] = ()
    simulation: Simulation | None = None


class Stage(Section):
    until: float
    window: int


class Train(Section):
    stages: tuple[Stage, ...] = ()
    steps: int = Field(100, ge=1)
    rate: float = 1e-3
    warm_up: int = 10
    resume: bool = True

    @model_validator(mode="after")
    def _warm_up_fits(self):
        if self.warm_up > self.steps:
            raise ValueError(f"warm_up {self.warm_up} is longer than the {self.steps} steps; lower it")
        return self


class Run(Section):
    model: Model = Model()
    data: Data = Data()
    train: Train = Train()


@pytest.fixture
def preset(tmp_path):
    def write(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return str(path)

    return write


def problems(**arguments):
    with pytest.raises(ConfigError) as caught:
        resolve(Run, **arguments)
    return list(caught.value.problems)


def test_set_wins_over_given_over_preset_over_default(preset):
    file = preset("train:\n  steps: 50\n  rate: 1e-2\ndata:\n  window: 16\n")
    resolved = resolve(
        Run,
        preset=file,
        settings=["train.steps=20", "train.steps=30"],
        given={"data.window": (32, "--window"), "train.steps": (40, "--steps")},
    )
    assert (resolved.config.train.steps, resolved.config.data.window, resolved.config.train.rate) == (30, 32, 0.01)
    assert resolved.sources["train.steps"] == "--set"
    assert resolved.sources["data.window"] == "--window"
    assert resolved.sources["train.rate"] == f"preset {file}"
    assert "model.d_model" not in resolved.sources


def test_all_problems_are_gathered(preset):
    file = preset("train:\n  stps: 50\n  rate: fast\nmodle: {}\n")
    found = problems(preset=file, settings=["data.window=0", "model.rank=some", "steps", "data.window.x=1"])
    assert found == [
        "--set steps: expected KEY=VALUE with a dotted key, such as train.steps=100",
        "data.window.x: data.window is a single value, it has no keys of its own",
        "model.rank: input should be a valid integer, unable to parse string as an integer; found 'some' or "
        "input should be 'auto'; found 'some'",
        "data.window: input should be greater than or equal to 1; found 0",
        "train.rate: input should be a valid number, unable to parse string as a number; found 'fast'",
        "train.stps: unknown key; did you mean train.steps?",
        "modle: unknown key; did you mean model?",
    ]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["window=3"], "window: unknown key; did you mean data.window?"),
        (["zebra=3"], "zebra: unknown key"),
        (["train=3"], "train: is a section with keys such as train.stages; found 3"),
        (["train.steps=3"], "train: warm_up 10 is longer than the 3 steps; lower it"),
        (["data.window=true"], "data.window: expected a number; found true"),
        (["train.rate=nan"], "train.rate: expected a finite number; found 'nan'"),
        (["train.steps=012"], "--set train.steps: number 012 begins with a zero"),
        (["=3"], "--set =3: expected KEY=VALUE"),
        (["train..steps=3"], "--set train..steps=3: expected KEY=VALUE"),
        (["data.simulation.densty=3"], "data.simulation.densty: unknown key; did you mean data.simulation.density?"),
        (["data.simulation=3"], "data.simulation: is a section with keys such as data.simulation.density; found 3"),
        (["train.stages=[{until: 1}]"], "train.stages[0].window: no value given and there is no default"),
        (["train.stages=[{until: 1, window: 2, size: 3}]"], "train.stages[0].size: unknown key"),
        (["data.files=[1]"], "data.files[0]: input should be a valid string; found 1"),
    ],
)
def test_each_problem_is_one_clear_line(settings, expected):
    (line,) = problems(settings=settings)
    assert line.startswith(expected)


def test_optional_section_is_made_by_its_first_key():
    resolved = resolve(Run, settings=["data.simulation.density=64"])
    assert resolved.config.data.simulation == Simulation(density=64)
    assert "    density: 64.0                        # --set" in resolved.as_yaml(sources=True)
    assert "  simulation: null                       # default" in resolve(Run).as_yaml(sources=True)


def test_words_for_truth_are_read_where_truth_is_expected():
    assert resolve(Run, settings=["train.resume=no"]).config.train.resume is False


def test_shown_configuration_is_a_preset_with_the_same_values(tmp_path):
    resolved = resolve(
        Run,
        settings=["train.rate=1e-5", "data.files=['012', no]", "model.rank=8", "train.stages=[{until: 1, window: 2}]"],
    )
    text = resolved.as_yaml(sources=True)
    assert "  steps: 100                             # default" in text
    assert "  rate: 1.0e-05                          # --set" in text
    path = tmp_path / "shown.yaml"
    path.write_text(text)
    assert resolve(Run, preset=str(path)).config == resolved.config
    assert load_yaml(resolved.as_yaml(), origin="shown") == resolved.config.model_dump(mode="json")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("laptpo", ["unknown preset", "did you mean laptop?", "great-apes-gpu"]),
        ("absent.yaml", ["cannot be read (No such file or directory)"]),
        ("../laptop", ["cannot be read"]),
    ],
)
def test_unknown_presets(name, words):
    with pytest.raises(ConfigError) as caught:
        read_preset(name)
    for word in words:
        assert word in str(caught.value)


def test_preset_must_be_sections(preset):
    with pytest.raises(ConfigError, match="expected sections"):
        read_preset(preset("- 1\n"))
    assert read_preset(preset("# nothing\n")) == {}


def test_shipped_presets_read_strictly():
    assert set(preset_names()) >= {"laptop", "great-apes-gpu", "barcode", "tiny"}
    for name in preset_names():
        assert isinstance(read_preset(name), dict)


def test_an_empty_key_is_named(tmp_path):
    (tmp_path / "x.yaml").write_text('"": 1\n')
    with pytest.raises(ConfigError, match=r"^'': unknown key"):
        resolve(Run, preset=str(tmp_path / "x.yaml"))
