"""The choice of an implementation, and the errors of a choice that cannot run."""

import pytest
import torch

from seqdomains.errors import ConfigError
from seqdomains.kernels import dispatch, implementation, rms_norm

OPS = ("selective_scan", "causal_conv1d", "rms_norm")


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.delenv("SEQDOMAINS_KERNELS", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [
        ("cpu", torch.float32, "cpu"),
        ("cpu", torch.bfloat16, "cpu"),
        ("cpu", torch.float64, "reference"),
        ("cuda", torch.bfloat16, "triton"),
        ("cuda", torch.float64, "reference"),
        ("mps", torch.float32, "reference"),
    ],
)
def test_choice_by_device_and_dtype(op, device, dtype, expected, monkeypatch):
    monkeypatch.setattr(dispatch, "find_spec", lambda name: object())
    assert implementation(op, device, dtype) == expected


def test_gpu_without_triton_runs_the_reference(monkeypatch):
    monkeypatch.setattr(dispatch, "find_spec", lambda name: None)
    assert implementation("rms_norm", "cuda", torch.float32) == "reference"


@pytest.mark.parametrize("choice", ["reference", "cpu"])
def test_variable_overrides(choice, monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", choice)
    assert implementation("selective_scan", "cpu", torch.float32) == choice


def test_variable_chooses_the_code_that_runs(monkeypatch):
    called = []
    original = dispatch.import_module
    monkeypatch.setattr(dispatch, "import_module", lambda name: called.append(name) or original(name))
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "reference")
    rms_norm(torch.ones(1, 1, 2), torch.ones(2))
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "cpu")
    rms_norm(torch.ones(1, 1, 2), torch.ones(2))
    assert called == ["seqdomains.kernels.rms_norm.reference", "seqdomains.kernels.rms_norm.cpu"]


@pytest.mark.parametrize(
    ("choice", "device", "dtype", "message"),
    [
        ("cuda", "cpu", torch.float32, "expected one of auto, reference, cpu, triton"),
        ("cpu", "cuda", torch.float32, "the tensors are on 'cuda'"),
        ("cpu", "cpu", torch.float64, "the tensors are float64"),
        ("triton", "cpu", torch.float32, "TRITON_INTERPRET=1"),
        ("triton", "cuda", torch.float64, "the tensors are float64"),
    ],
)
def test_impossible_choice_is_an_error(choice, device, dtype, message, monkeypatch):
    monkeypatch.setattr(dispatch, "find_spec", lambda name: object())
    monkeypatch.setenv("SEQDOMAINS_KERNELS", choice)
    with pytest.raises(ConfigError, match=message):
        implementation("selective_scan", device, dtype)


def test_triton_missing_is_an_error(monkeypatch):
    monkeypatch.setattr(dispatch, "find_spec", lambda name: None)
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "triton")
    with pytest.raises(ConfigError, match="triton is not installed"):
        implementation("selective_scan", "cuda", torch.float32)


def test_interpreter_takes_cpu_tensors(monkeypatch):
    monkeypatch.setattr(dispatch, "find_spec", lambda name: object())
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert implementation("selective_scan", "cpu", torch.float32) == "triton"


def test_the_op_raises_what_the_choice_raises(monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "cpu")
    with pytest.raises(ConfigError, match="float64"):
        rms_norm(torch.ones(1, 1, 2, dtype=torch.float64), torch.ones(2))


def test_unknown_op():
    with pytest.raises(ValueError, match="no op is named 'attention'"):
        implementation("attention", "cpu", torch.float32)
