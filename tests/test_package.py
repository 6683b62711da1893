"""The house: links at the root, import names that ruff bans, an import of the command that stays light."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from seqdomains.cli.app import app

ROOT = Path(__file__).parents[1]
ROOMS = ("kernels", "genomics", "audio", "pipelines", "configs")


def python(*arguments, cwd=ROOT):
    # Without coverage's hook, which would import more than the command does.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("room", ROOMS)
def test_root_links_are_relative_links_to_the_rooms(room):
    link = ROOT / room
    assert link.is_symlink()
    assert link.readlink() == Path("seqdomains") / room
    assert (link / "__init__.py").samefile(ROOT / "seqdomains" / room / "__init__.py")


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("form", ["import {}\n", "from {} import anything\n", "import {}.inner\n"])
def test_bare_imports_of_rooms_are_banned(room, form):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--select", "TID251", "--stdin-filename", "seqdomains/x.py", "-"],
        input=form.format(room),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "The root links are doors" in done.stdout


def test_help_is_quick_and_imports_nothing_heavy():
    program = (
        "import json, sys\n"
        "from seqdomains.cli import main\n"
        "sys.argv = ['seqdomains', 'genomics', 'train', '--help']\n"
        "try:\n    main()\nexcept SystemExit as done:\n    code = done.code\n"
        "print(json.dumps([code, sorted(sys.modules)]))\n"
    )
    # Processor time: what else the machine does is no concern of the bound.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = python("-c", program)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    assert not {"torch", "numpy", "numba", "triton", "sklearn", "pysam", "pyarrow", "yaml"} & set(modules)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_module_runs_as_the_command():
    assert python("-m", "seqdomains", "--version").stdout.startswith("seqdomains 0")


def options(command, path=""):
    """Every flag and argument of the command line, by subcommand."""
    found = {}
    for name, inner in getattr(command, "commands", {}).items():
        found |= options(inner, f"{path} {name}".strip())
    found[path] = sorted(name for parameter in command.params for name in (parameter.opts or [parameter.name]))
    return found


def test_flags_are_the_ones_we_promise():
    assert options(typer.main.get_command(app)) == {
        "": ["--version"],
        "audio": [],
        "audio embed": [
            "--device",
            "--engine",
            "--format",
            "--from-file",
            "--hash",
            "--layer",
            "--out",
            "--pool",
            "--precision",
            "--ray-address",
            "--shard",
            "--shard-size",
            "--stride",
            "--threads",
            "--window",
            "--workers",
            "model",
            "sounds",
        ],
        "audio evaluate": ["--data", "--device", "--label-from", "--labels", "--out", "--rate", "--set", "run"],
        "audio finetune": [
            "--data",
            "--device",
            "--head-only",
            "--label-from",
            "--labels",
            "--out",
            "--preset",
            "--set",
            "model",
        ],
        "audio generate": [
            "--count",
            "--device",
            "--keep-prompt",
            "--output",
            "--prompt",
            "--seconds",
            "--seed",
            "--table",
            "--temperature",
            "--top-k",
            "--top-p",
            "-o",
            "model",
        ],
        "audio predict": [
            "--device",
            "--engine",
            "--format",
            "--frames",
            "--from-file",
            "--hash",
            "--out",
            "--output",
            "--precision",
            "--ray-address",
            "--shard",
            "--shard-size",
            "--stride",
            "--threads",
            "--window",
            "--workers",
            "-o",
            "model",
            "sounds",
        ],
        "audio pretrain": ["--data", "--device", "--dry-run", "--label-from", "--out", "--preset", "--set"],
        "audio synthesize": ["--kind", "--out", "--preset", "--set"],
        "audio train": ["--data", "--device", "--dry-run", "--label-from", "--labels", "--out", "--preset", "--set"],
        "batch-worker": ["--device", "folder"],
        "config": [],
        "config show": ["--set", "preset"],
        "doctor": [],
        "genomics": [],
        "genomics evaluate": ["--data", "--device", "--label-from", "--labels", "--out", "--set", "--strand", "run"],
        "genomics embed": [
            "--device",
            "--engine",
            "--format",
            "--from-file",
            "--hash",
            "--layer",
            "--out",
            "--pool",
            "--precision",
            "--ray-address",
            "--regions",
            "--set",
            "--shard",
            "--shard-size",
            "--stride",
            "--threads",
            "--window",
            "--workers",
            "fasta",
            "model",
        ],
        "genomics explain": [
            "--class",
            "--device",
            "--figure",
            "--method",
            "--output",
            "--reference",
            "--region",
            "--regions",
            "--steps",
            "--strand",
            "--truth",
            "--window",
            "-o",
            "model",
        ],
        "genomics fetch": [
            "--assemblies",
            "--base-url",
            "--dry-run",
            "--only",
            "--out",
            "--registry",
            "--species",
        ],
        "genomics finetune": [
            "--data",
            "--device",
            "--dry-run",
            "--head-only",
            "--label-from",
            "--labels",
            "--out",
            "--preset",
            "--sequence-column",
            "--set",
            "--species",
            "--test",
            "model",
        ],
        "genomics generate": [
            "--any-code",
            "--count",
            "--device",
            "--length",
            "--output",
            "--prompt",
            "--seed",
            "--temperature",
            "--top-k",
            "--top-p",
            "-o",
            "model",
        ],
        "genomics likelihood": [
            "--device",
            "--every",
            "--from-file",
            "--output",
            "--set",
            "--strand",
            "-o",
            "fasta",
            "model",
        ],
        "genomics predict": [
            "--device",
            "--engine",
            "--format",
            "--from-file",
            "--hash",
            "--out",
            "--output",
            "--precision",
            "--ray-address",
            "--regions",
            "--set",
            "--shard",
            "--shard-size",
            "--strand",
            "--stride",
            "--threads",
            "--window",
            "--workers",
            "-o",
            "fasta",
            "model",
        ],
        "genomics pretrain": ["--data", "--device", "--dry-run", "--out", "--preset", "--regions", "--set"],
        "genomics score": [
            "--device",
            "--on-mismatch",
            "--output",
            "--precision",
            "--reference",
            "--strand",
            "--vcf",
            "--window",
            "-o",
            "model",
        ],
        "genomics simulate": ["--out", "--preset", "--set", "--species"],
        "genomics stream": [
            "--device",
            "--engine",
            "--every",
            "--format",
            "--from-file",
            "--hash",
            "--out",
            "--output",
            "--ray-address",
            "--set",
            "--shard",
            "--shard-size",
            "--threads",
            "--workers",
            "-o",
            "fasta",
            "model",
        ],
        "genomics train": [
            "--data",
            "--device",
            "--dry-run",
            "--label-from",
            "--labels",
            "--out",
            "--preset",
            "--set",
            "--species",
        ],
        "report": ["run"],
    }


def test_commands_in_the_readme_exist():
    known = options(typer.main.get_command(app))
    lines = re.findall(r"^seqdomains .*$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert len(lines) >= 5
    for line in lines:
        words = line.split("#")[0].split()[1:]
        command = max((path for path in known if words[: len(path.split())] == path.split()), key=len)
        assert command, line
        assert {word for word in words if word.startswith("-")} <= set(known[command]), line


def test_tracked_files_are_small():
    command = ["git", "ls-files", "-z"]
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in tracked.stdout.split("\0") if name]
    assert not [path for path in files if path.is_file() and path.stat().st_size > 500_000]
