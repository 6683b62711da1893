"""The notebooks run from their first cell to their last, as scripts."""

from __future__ import annotations

import runpy
from pathlib import Path

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
    assert [path.name for path in NOTEBOOKS.iterdir() if path.suffix in (".py", ".ipynb")] == ["classify_a_folder.py"]


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
