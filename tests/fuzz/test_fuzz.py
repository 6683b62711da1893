"""Each reader on files that are nearly right: a result or an error of the house, within its bounds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
READERS = (
    "fasta",
    "fasta by position",
    "genbank",
    "bed",
    "labels",
    "labelled table",
    "aliases",
    "preset",
    "run folder",
    "config.json",
    "safetensors",
    "saved estimator",
    "official checkpoint",
    "checkpoint",
    "batch plan",
    "batch shards",
    "batch report",
    "sound",
    "variants",
    "registry",
)
EXAMPLES = 40  # 50 s for all on one core; `make fuzz` goes on as long as it is told


@pytest.fixture(scope="module")
def outcome():
    # Without coverage's hook: it writes files, and what it takes is not the reader's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    command = [sys.executable, "tests/fuzz/run.py", "--examples", str(EXAMPLES)]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=600,
    )


@pytest.mark.parametrize("reader", READERS)
def test_nothing_but_a_result_or_an_error_of_the_house(outcome, reader):
    line = re.search(rf"^{re.escape(reader)}: (\d+) examples.*$", outcome.stdout, re.MULTILINE)
    assert line, outcome.stdout[-10_000:]
    assert not line[0].endswith("FAILED"), outcome.stdout[-20_000:]
    assert int(line[1]) > EXAMPLES // 2


def test_every_reader_was_tried(outcome):
    assert outcome.returncode == 0, outcome.stdout[-10_000:]
    assert tuple(re.findall(r"^([a-z. ]+): \d+ examples", outcome.stdout, re.MULTILINE)) == READERS
