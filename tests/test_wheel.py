"""The wheel holds the package alone, and predicts from outside the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from seqdomains.backbone import MambaConfig, SequenceClassifier
from seqdomains.genomics.alphabet import SIGNATURE

ROOT = Path(__file__).parents[1]
ROOMS = ("kernels", "genomics", "audio", "pipelines", "configs")


def run(*command, cwd, **environment):
    # Coverage would count the installed copy as other files.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "PYTHONPATH"))}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=kept | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build from a copy, because a build leaves folders behind; root links included, because they must not get in."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "seqdomains", source / "seqdomains", ignore=shutil.ignore_patterns("__pycache__"))
    for room in ROOMS:
        (source / room).symlink_to((ROOT / room).readlink())
    out = tmp_path_factory.mktemp("wheel")
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", out, cwd=source)
    (path,) = out.iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed")
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder, wheel, cwd=folder)
    return folder


def test_wheel_holds_the_package_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
        assert "seqdomains = seqdomains.cli:main" in archive.read(entry_points).decode()
    inside = {name for name in names if name.startswith("seqdomains/")}
    assert all(".dist-info/" in name for name in names - inside)
    tracked = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "seqdomains").rglob("*")
        if path.suffix in (".py", ".yaml", ".jinja", ".typed", ".md")
    }
    assert inside == tracked
    assert {
        "seqdomains/py.typed",
        "seqdomains/configs/laptop.yaml",
        "seqdomains/genomics/great-apes.yaml",
        "seqdomains/pipelines/report.html.jinja",
    } <= inside


def test_predicts_from_outside_the_checkout(installed, tmp_path):
    signature = {**SIGNATURE, "window": 32}
    model = SequenceClassifier(MambaConfig(d_model=16, n_layer=1), classes=("oak", "elm"), pooling="mean")
    model.save_pretrained(tmp_path / "model", signature=signature)
    (tmp_path / "reads.fa").write_text(">r\n" + "ACGTTGCA" * 8 + "\n")
    where = {"PYTHONPATH": str(installed)}

    origin = run("-c", "import seqdomains; print(seqdomains.__file__)", cwd=tmp_path, **where)
    assert Path(origin.strip()).is_relative_to(installed)
    table = run("-m", "seqdomains", "genomics", "predict", "model", "reads.fa", cwd=tmp_path, **where)
    rows = [line.split("\t") for line in table.splitlines()]
    assert rows[0] == ["#record", "start", "end", "predicted", "p_oak", "p_elm"]
    assert [row[:3] for row in rows[1:]] == [["r", "0", "32"], ["r", "32", "64"]]


def test_presets_and_script_are_installed(installed, tmp_path):
    script = installed / "bin" / "seqdomains"
    shown = run(script, "config", "show", "laptop", cwd=tmp_path, PYTHONPATH=str(installed))
    assert "# preset laptop" in shown
