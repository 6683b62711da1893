from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from seqdomains.cli.app import app

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line (or the one list of problems) that a user error leaves."""
        assert "Traceback" not in self.err
        errors = [line for line in self.err.splitlines() if line.startswith("seqdomains:")]
        assert len(errors) == 1, self.err
        return errors[0]


def run_in_process(*arguments: object) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as done:
        app([str(argument) for argument in arguments], prog_name="seqdomains")
    return Outcome(done.value.code or 0, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def seqdomains():
    """The command line in this process: quick, but without signals and stdin."""
    return run_in_process


@pytest.fixture(scope="session")
def start():
    """The command line in a process of its own; lines are counted in it unless `covered` is false."""

    def popen(*arguments, covered=True, **options):
        command = [sys.executable, "-m", "seqdomains", *map(str, arguments)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        if not covered:
            counting = ("COVERAGE_PROCESS", "NUMBA_JIT_COVERAGE")
            environment = {name: value for name, value in environment.items() if not name.startswith(counting)}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, env=environment, text=True, **(pipes | options))

    return popen


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """A cache of the tests' own, so that nothing on the machine helps them."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEQDOMAINS_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def tiny_run(seqdomains, tmp_path_factory):
    """A run of the preset tiny on simulated great apes, trained and evaluated by the command."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    outcome = seqdomains("genomics", "train", "--species", "great-apes", "--preset", "tiny", "--out", folder)
    assert outcome.code == 0, outcome.err
    return folder, outcome


@pytest.fixture(scope="session")
def run(tiny_run):
    """The folder of that run; tests leave it as it is."""
    return tiny_run[0]


@pytest.fixture(scope="session")
def artefact(tmp_path_factory):
    """An untrained classifier of windows of 256 bp with answers that differ: enough where only the machinery counts."""
    import torch

    from seqdomains.backbone import MambaConfig, SequenceClassifier
    from seqdomains.genomics.alphabet import SIGNATURE

    generator = torch.Generator().manual_seed(0)
    model = SequenceClassifier(MambaConfig(d_model=16, n_layer=1), classes=("a", "b", "c"), generator=generator)
    with torch.no_grad():
        model.head.weight.mul_(30)
    folder = tmp_path_factory.mktemp("artefacts") / "untrained"
    model.save_pretrained(folder, signature={**SIGNATURE, "window": 256})
    return folder


@pytest.fixture(scope="session")
def genomes(tmp_path_factory):
    """Return the folder of 200 small FASTA files, 2 Mb in all; tests leave them as they are."""
    import numpy as np

    folder = tmp_path_factory.mktemp("genomes")
    random = np.random.default_rng(0)
    lengths = random.integers(4_000, 16_000, 200)
    letters = random.choice(np.frombuffer(b"ACGT", np.uint8), lengths.sum()).tobytes().decode()
    first = 0
    for number, length in enumerate(lengths):
        text = letters[first : first + length]
        lines = "".join(f"{text[at : at + 80]}\n" for at in range(0, length, 80))
        (folder / f"{number:03}.fa").write_text(f">r{number}\n{lines}")
        first += length
    return folder


@pytest.fixture
def fasta(tmp_path):
    """Write records of random bases, each `name=length`, and return the file."""
    import numpy as np

    def write(name="reads.fa", **lengths):
        letters = np.random.default_rng(len(lengths)).choice(list("ACGT"), size=max(lengths.values()))
        path = tmp_path / name
        path.write_text("".join(f">{record}\n{''.join(letters[:length])}\n" for record, length in lengths.items()))
        return path

    return write
