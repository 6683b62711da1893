"""A scan whose parts in time are told what enters them when they ask equals the scan of the whole."""

from __future__ import annotations

import pytest
import torch

from seqdomains.kernels import raw, selective_scan

CUTS = (0, 1, 38, 70, 101)


def inputs_of(B=2, L=101, D=40, N=5, *, dtype=torch.float32, absent=()):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    inputs = {
        "u": draw(B, L, D),
        "dt": draw(B, L, D) - 2,
        "A": -torch.exp(0.8 * draw(D, N)),
        "B": draw(B, L, N),
        "C": draw(B, L, N),
        "D": draw(D),
        "z": draw(B, L, D),
        "bias": draw(D) - 1,
        "h0": draw(B, D, N),
    }
    return {name: None if name in absent else tensor for name, tensor in inputs.items()}


def cotangents_of(inputs):
    generator = torch.Generator().manual_seed(1)
    dtype = inputs["u"].dtype
    shapes = inputs["u"].shape, (inputs["u"].shape[0], *inputs["A"].shape)
    return tuple(torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("absent", [(), ("h0",), ("D", "z", "bias", "h0")], ids=str)
@pytest.mark.parametrize(("name", "dtype"), [("reference", torch.float64), ("cpu", torch.float32)])
def test_values_and_gradients_are_those_of_the_whole(name, dtype, absent, run, in_parts, monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", name)
    inputs = inputs_of(dtype=dtype, absent=absent)
    whole = run(selective_scan, inputs, cotangents_of(inputs), return_state=True)
    found = run(in_parts, inputs, cotangents_of(inputs), cuts=CUTS)
    assert found.keys() == whole.keys()
    for key, expected in whole.items():
        error = (found[key] - expected).abs().max() / expected.abs().max()
        assert error <= (1e-13 if dtype == torch.float64 else 2e-6), (key, error)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("shape", [(1, 70, 1, 1), (3, 33, 64, 16), (2, 101, 130, 17)], ids=str)
def test_the_cpu_kernels_of_parts_equal_float64(shape, hold, in_parts, tested):
    inputs = inputs_of(*shape)
    hold(in_parts, inputs, cotangents_of(inputs), cuts=(0, 32, shape[1]))


@pytest.fixture
def tested():
    return "cpu"


def test_steps_without_softplus(hold, in_parts):
    inputs = inputs_of()
    inputs["dt"], inputs["bias"] = 0.3 * inputs["dt"].abs(), 0.1 * inputs["bias"].abs()
    hold(in_parts, inputs, cotangents_of(inputs), cuts=CUTS, softplus=False)


def test_threads_do_not_change_a_bit(run, in_parts, threads):
    inputs = inputs_of(D=200)
    found = []
    for count in (1, 3):
        threads(count)
        found.append(run(in_parts, inputs, cotangents_of(inputs), cuts=CUTS))
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.parametrize("kind", ["complex", "grouped", "packed", "reversed"])
def test_what_has_no_parts_is_refused(kind):
    inputs = inputs_of(B=1, absent=("h0",))
    if kind == "complex":
        inputs["A"] = torch.complex(inputs["A"], inputs["A"])
    if kind == "grouped":
        inputs["B"] = inputs["B"][:, :, None]
    packed = torch.tensor([0, 101]) if kind == "packed" else None
    asked = []
    with pytest.raises(ValueError, match="a part of a scan needs real A, B and C"):
        raw.scan(*inputs.values(), packed, True, kind == "reversed", enter=lambda *found: asked.append(found))
    assert not asked
