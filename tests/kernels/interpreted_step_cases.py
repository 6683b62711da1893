"""Laws of the step's Triton kernel in Triton's interpreter, which takes CPU tensors.

Run by test_selective_scan_step.py: the interpreter is chosen when Triton is imported, which needs a process of its own.
"""

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1 before Triton is imported", allow_module_level=True)

from seqdomains.kernels import selective_scan_step

pytestmark = pytest.mark.usefixtures("poisoned", "one_thread")
FORMS = ("varying", "grouped", "constant")


@pytest.fixture
def one_thread(threads):
    threads(1)


def make(B, D, N, B_form="varying", C_form="varying", groups=2, paired=False, real=(), seed=0):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape, complex_=False):
        return torch.randn(*shape, generator=g, dtype=torch.complex64 if complex_ else torch.float32)

    def projection(name, form):
        shape = {"varying": (B, N), "grouped": (B, groups, N), "constant": (D, N)}[form]
        return normal(*shape, complex_=paired and name not in real)

    decay = -torch.exp(0.8 * normal(D, N))
    return {
        "u": normal(B, D),
        "dt": normal(B, D),
        "A": torch.complex(decay, 3 * normal(D, N)) if paired else decay,
        "B": projection("B", B_form),
        "C": projection("C", C_form),
        "D": normal(D),
        "z": normal(B, D),
        "bias": normal(D) - 2,
        "state": normal(B, D, N, complex_=paired),
    }


@pytest.fixture
def hold(monkeypatch, assert_close):
    """Hold the kernel to float64, with the float32 reference as the yardstick."""

    def check(inputs, floor=1e-6, **options):
        results = {}
        for name in ("triton", "reference", "auto"):
            monkeypatch.setenv("SEQDOMAINS_KERNELS", name)
            tensors = {n: x if x is None else x.clone() for n, x in inputs.items()}
            if name != "triton":
                to = torch.float64 if name == "auto" else torch.float32
                tensors = {n: x if x is None else x.to(torch.promote_types(x.dtype, to)) for n, x in tensors.items()}
            results[name] = selective_scan_step(**tensors, **options), tensors["state"]
        for found, yardstick, exact, what in zip(*(results[n] for n in results), ("y", "state"), strict=True):
            parts = (torch.view_as_real(x) if x.is_complex() else x for x in (found, yardstick, exact))
            assert_close(*parts, what, floor=floor)
        return results["triton"][0]

    return check


@pytest.mark.parametrize("paired", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("C_form", FORMS)
@pytest.mark.parametrize("B_form", FORMS)
def test_step_equals_float64(B_form, C_form, paired, hold):
    real = ("B",) if C_form == "grouped" else ()
    hold(make(2, 70, 16, B_form, C_form, paired=paired, real=real))
    hold(make(3, 4, 3, B_form, C_form, paired=paired, real=real))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 256), (2, 3, 130), (1, 600, 1)], ids=str)
@pytest.mark.parametrize("paired", [False, True], ids=["real", "complex"])
def test_step_of_any_size(shape, paired, hold):
    inputs = make(*shape, paired=paired)
    if shape[0] == shape[1]:
        inputs |= {name: inputs[name][:, None] for name in "BC"}
    hold(inputs)


@pytest.mark.parametrize("absent", [("D",), ("z", "bias"), ("D", "z", "bias")], ids=str)
def test_step_without_optional_tensors(absent, hold):
    hold(make(2, 9, 4) | dict.fromkeys(absent))


def test_step_without_softplus(hold):
    inputs = make(2, 9, 4)
    hold(inputs | {"dt": 0.1 * inputs["dt"].abs(), "bias": None}, softplus=False)


def test_step_of_small_and_large_steps(hold):
    inputs = make(1, 8, 2) | {"bias": None, "D": None}
    inputs["dt"] = torch.tensor([[-100.0, -20.0, -7.0, 0.0, 19.99, 20.0, 20.01, 88.8]])
    hold(inputs)


def test_step_of_mixed_dtypes(hold):
    inputs = make(2, 40, 4)
    inputs |= {
        "u": inputs["u"].bfloat16(),
        "z": inputs["z"].half(),
        "B": inputs["B"].half(),
        "D": inputs["D"].bfloat16(),
    }
    # The interpreter cuts float32 off to bfloat16 where a GPU rounds: up to 2^-7 of a value, half on the average.
    assert hold(inputs, floor=5e-3).dtype == torch.bfloat16


def test_zero_step_is_identity(monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "triton")
    inputs = make(2, 9, 4, paired=True) | {"bias": None, "dt": torch.zeros(2, 9)}
    before = inputs["state"].clone()
    selective_scan_step(**inputs, softplus=False)
    assert torch.equal(inputs["state"], before)


def test_nan_stays_in_its_channel(monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "triton")
    inputs = make(2, 9, 4)
    inputs["dt"][1, 3] = torch.nan
    hit = torch.zeros(2, 9, dtype=torch.bool)
    hit[1, 3] = True
    assert torch.equal(selective_scan_step(**inputs).isnan(), hit)
    assert torch.equal(inputs["state"].isnan().all(-1), hit)
