"""The Triton kernels on a CPU, in Triton's interpreter: runs the files of cases in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton has no wheel for this platform")


@pytest.mark.parametrize(
    "name",
    [
        "interpreted_cases.py",
        "interpreted_neighbour_cases.py",
        "test_block_step.py",
        "test_row_product.py",
        "test_token_draw.py",
    ],
)
def test_triton_kernels_in_the_interpreter(name):
    cases = Path(__file__).with_name(name)
    # The interpreter runs the kernels as Python, of which counting lines would take several times as long.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS")}
    environment = plain | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-W", "ignore::RuntimeWarning", cases],
        cwd=cases.parents[2],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
