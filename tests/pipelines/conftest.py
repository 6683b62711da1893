"""The toy task and model as a fixture; the same file is run as a script where a process has to be killed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def toy():
    """Module of the toy task and model."""
    name, path = "seqdomains_tests_toy", Path(__file__).with_name("toy.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    # dataclasses and pickling-free typing look modules up by name
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
