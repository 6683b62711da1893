"""The notebooks run from their first cell to their last, as scripts."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run a notebook in an empty folder; returns its names."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)

    def run(name):
        from matplotlib import pyplot

        pyplot.switch_backend("Agg")
        try:
            return runpy.run_path(str(NOTEBOOKS / name))
        finally:
            pyplot.close("all")
            assert list(tmp_path.iterdir()) == []

    return run


def test_each_notebook_has_a_test():
    names = sorted(path.name for path in NOTEBOOKS.iterdir() if path.suffix in (".py", ".ipynb"))
    assert names == ["classify_a_folder.py", "piano.py", "species.py"]


@pytest.mark.slow
def test_classify_a_folder(run):
    names = run("classify_a_folder.py")
    assert len(names["clips"]) == 80
    assert names["confusion"].sum() == 80
    assert names["accuracy"] > 0.5
    first = names["by_surprise"][0]
    assert names["found"][first] != names["truth"][first]
    shown = names["along"](first)
    assert names["model"].classes[names["found"][first]] in shown.get_suptitle()
    assert names["places"].shape == (80, 2)
    assert not names["folder"].exists()


@pytest.mark.slow
def test_species(run):
    names = run("species.py")
    assert len(names["truth"]) == 300
    assert np.sum(names["result"]["confusion"]) == 300
    assert names["result"]["simulated"]
    assert names["result"]["accuracy"] > 0.4
    assert names["by_reader"] > 0.4
    assert names["places"].shape == (300, 2)
    assert names["recovered"]["average_precision"] > 0.55 > names["recovered"]["chance"]
    assert sum(bool(families) for _, _, families in names["met_apart"]) >= 4
    assert not names["folder"].exists()


@pytest.mark.slow
def test_piano(run, tmp_path):
    names = run("piano.py")
    assert names["result"]["simulated"]
    chain = next(one["bits"] for one in names["result"]["baselines"] if "Markov" in one["name"])
    assert names["result"]["bits"] < chain
    assert len(names["played"]) == 4 * 4000
    assert [second.end for second in names["seconds"]] == [4000, 8000, 12000, 16000]
    assert len(names["before"]) == 4
    # What it writes is drawn with about as many bits as it expects a melody with, where noise has nearly 8.
    assert 2 < min(second.entropy for second in names["seconds"]) <= 6
    assert len(names["figure"].axes) == 3
    (tmp_path / "a.wav").write_bytes(b"abc")
    assert 'src="data:audio/wav;base64,YWJj"' in names["Player"](tmp_path / "a.wav")._repr_html_()
    assert not names["folder"].exists()
