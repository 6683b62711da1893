from __future__ import annotations

import pytest

from seqdomains.cli import doctor
from seqdomains.kernels.dispatch import OPS, STEPS

CHECKED = (*OPS, *STEPS)


@pytest.fixture(autouse=True)
def no_choice(monkeypatch):
    monkeypatch.delenv("SEQDOMAINS_KERNELS", raising=False)


def lines_of(outcome, op):
    return [line for line in outcome.out.splitlines() if line.split()[:1] == [op]]


def test_doctor_tells_versions_devices_and_kernels(seqdomains):
    outcome = seqdomains("doctor")
    assert outcome.code == 0, outcome.out
    assert "torch 2" in outcome.out
    assert "pysam" in outcome.out
    for op in CHECKED:
        on_cpu = [line for line in lines_of(outcome, op) if line.split()[1] == "cpu"]
        assert len(on_cpu) == 1
        assert on_cpu[0].split()[2] == "cpu"
        assert "ok (numba kernels" in on_cpu[0]
    assert "all well" in outcome.out


def test_doctor_follows_the_environment_variable(seqdomains, monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "reference")
    outcome = seqdomains("doctor")
    assert outcome.code == 0
    for op in CHECKED:
        assert all(line.split()[2] == "reference" for line in lines_of(outcome, op))
        assert all("SEQDOMAINS_KERNELS asks for it" in line for line in lines_of(outcome, op))


@pytest.mark.parametrize("choice", ["triton", "numba"])
def test_doctor_reports_a_choice_that_cannot_run(seqdomains, monkeypatch, choice):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", choice)
    outcome = seqdomains("doctor")
    assert outcome.code == 1
    assert outcome.out.count("FAILED") > len(OPS)


@pytest.mark.parametrize("op", CHECKED)
def test_doctor_notices_a_wrong_kernel(seqdomains, monkeypatch, op):
    """An output that is a hundredth off, and only one, is an illness."""
    healthy = getattr(doctor, op)

    def wrong(*inputs, **options):
        result = healthy(*inputs, **options)
        return (result[0] * 1.01, *result[1:]) if isinstance(result, tuple) else result * 1.01

    monkeypatch.setattr(doctor, op, wrong)
    outcome = seqdomains("doctor")
    assert outcome.code == 1
    assert "FAILED" in lines_of(outcome, op)[0]
    assert all("ok" in line for other in CHECKED if other != op for line in lines_of(outcome, other))


def test_doctor_notices_a_gradient_that_is_not_finite(seqdomains, monkeypatch):
    healthy = doctor.rms_norm

    def wrong(x, *inputs, **options):
        # Adds nothing to the output; the derivative of |x|**0.5 at 0 is infinite.
        y, total = healthy(x, *inputs, **options)
        return y + (x - x.detach()).abs().sqrt().sum(), total

    monkeypatch.setattr(doctor, "rms_norm", wrong)
    outcome = seqdomains("doctor")
    assert outcome.code == 1
    assert "error inf" in lines_of(outcome, "rms_norm")[0]


def test_doctor_goes_on_when_a_kernel_breaks(seqdomains, monkeypatch):
    def broken(*inputs, **options):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(doctor, "causal_conv1d", broken)
    outcome = seqdomains("doctor")
    assert outcome.code == 1
    assert "RuntimeError: no such instruction" in lines_of(outcome, "causal_conv1d")[0]
    assert "ok" in lines_of(outcome, "rms_norm")[0]
