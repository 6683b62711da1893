"""Laws of the Triton kernels of the convolution and the norm in Triton's interpreter, which takes CPU tensors.

Run by test_triton_interpreter.py: the interpreter is chosen when Triton is imported, which needs a process of its own.
"""

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1 before Triton is imported", allow_module_level=True)

from seqdomains.kernels import causal_conv1d, rms_norm
from seqdomains.kernels.causal_conv1d import triton_walk
from seqdomains.kernels.rms_norm import triton_backward as norm_back
from seqdomains.kernels.rms_norm import triton_forward as norm_forth

pytestmark = pytest.mark.usefixtures("poisoned", "one_thread")


@pytest.fixture
def floors():
    """The interpreter cuts float32 off to bfloat16 where a GPU rounds: up to 2^-7 of a value, half on the average."""
    return {torch.float16: 4e-4, torch.bfloat16: 5e-3}


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def short_chunks(monkeypatch):
    """Chunks of 8 steps, so that a short sequence has many."""
    monkeypatch.setattr(triton_walk, "FEWEST_STEPS", 8)


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator)


def conv_inputs(B, L, D, W, absent=(), sequences=None, seed=0):
    g = torch.Generator().manual_seed(seed)
    inputs = {
        "x": normal(g, B, L, D),
        "weight": normal(g, D, W),
        "bias": normal(g, D),
        "state": normal(g, sequences or B, W - 1, D),
    }
    return {name: None if name in absent else tensor for name, tensor in inputs.items()}


def conv_cotangents(inputs, sequences=None):
    g = torch.Generator().manual_seed(1)
    batch, _, channels = inputs["x"].shape
    return normal(g, *inputs["x"].shape), normal(g, sequences or batch, inputs["weight"].shape[1] - 1, channels)


@pytest.mark.parametrize("reverse", [False, True], ids=["forth", "reverse"])
@pytest.mark.parametrize(
    ("shape", "absent", "activation"),
    [
        ((2, 37, 5, 4), (), "silu"),
        ((1, 1, 3, 2), ("bias",), "silu"),
        ((1, 1, 3, 4), (), "silu"),
        ((2, 2, 130, 3), (), None),
        ((2, 130, 3, 4), ("state",), "silu"),
        ((1, 131, 3, 2), ("bias", "state"), None),
        ((1, 129, 2, 3), (), "silu"),
    ],
    ids=str,
)
def test_convolution_equals_float64(shape, absent, activation, reverse, hold):
    inputs = conv_inputs(*shape, absent=absent)
    hold(causal_conv1d, inputs, conv_cotangents(inputs), activation=activation, return_state=True, reverse=reverse)


# Empty ones at both ends and in a row, shorter than the filter, of whole chunks of 8 steps, and across several.
BORDERS = [0, 0, 1, 3, 3, 3, 6, 14, 30, 55, 56, 56]


@pytest.mark.parametrize("reverse", [False, True], ids=["forth", "reverse"])
@pytest.mark.parametrize(
    ("borders", "channels", "width", "absent"),
    [
        (BORDERS, 5, 4, ()),
        (BORDERS, 130, 3, ("bias",)),
        (BORDERS, 9, 2, ("state",)),
        ([0, 40], 3, 4, ()),
        ([0, 0, 2], 3, 4, ()),
        (list(range(30)), 70, 4, ("bias", "state")),
    ],
    ids=str,
)
def test_packed_convolution_equals_float64(borders, channels, width, absent, reverse, hold, short_chunks):
    sequences = len(borders) - 1
    inputs = conv_inputs(1, borders[-1], channels, width, absent, sequences)
    for dtype in (torch.int32, torch.int64):
        hold(
            causal_conv1d,
            inputs,
            conv_cotangents(inputs, sequences),
            activation="silu",
            return_state=True,
            reverse=reverse,
            cu_seqlens=torch.tensor(borders, dtype=dtype),
        )


def test_convolution_of_mixed_dtypes(hold):
    inputs = conv_inputs(2, 20, 5, 4)
    inputs["x"], inputs["state"] = inputs["x"].bfloat16(), inputs["state"].bfloat16()
    inputs["weight"] = inputs["weight"].half()
    dy, dstate = conv_cotangents(inputs)
    hold(
        causal_conv1d,
        inputs,
        (dy.bfloat16().float(), dstate.bfloat16().float()),
        activation="silu",
        return_state=True,
    )


def test_convolution_twice_is_bit_equal(monkeypatch, run, short_chunks):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "triton")
    inputs = conv_inputs(2, 100, 35, 4)
    first, second = (run(causal_conv1d, inputs, conv_cotangents(inputs), return_state=True) for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_nan_stays_in_its_channel_and_its_window(monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "triton")
    inputs = conv_inputs(2, 40, 5, 4)
    inputs["x"][1, 33, 2] = torch.nan
    for reverse, steps in ((False, slice(33, 37)), (True, slice(30, 34))):
        expected = torch.zeros(2, 40, 5, dtype=torch.bool)
        expected[1, steps, 2] = True
        assert torch.equal(causal_conv1d(**inputs, activation="silu", reverse=reverse).isnan(), expected)


@pytest.mark.parametrize("shape", [(2, 37, 5), (1, 1, 1), (3, 400, 20), (2, 9, 300), (1, 3, 2500)], ids=str)
@pytest.mark.parametrize("given", [True, False], ids=["residual", "alone"])
def test_norm_equals_float64(shape, given, hold):
    g = torch.Generator().manual_seed(0)
    inputs = {
        "x": normal(g, *shape),
        "weight": normal(g, shape[-1]),
        "residual": normal(g, *shape) if given else None,
    }
    hold(rms_norm, inputs, (normal(g, *shape), normal(g, *shape)), return_residual=True)
    hold(rms_norm, inputs, (normal(g, *shape),))


def test_norm_of_many_tiles_per_program(hold, monkeypatch):
    """Four programs for 150 rows: the last tiles of the last program have no rows."""
    for module in (norm_forth, norm_back):
        monkeypatch.setattr(module, "TILE", norm_forth.Tile(per_lane=16, warps=4))
    monkeypatch.setattr(norm_forth, "multiprocessors", lambda device: 1)
    g = torch.Generator().manual_seed(0)
    inputs = {"x": normal(g, 3, 50, 33), "weight": normal(g, 33), "residual": normal(g, 3, 50, 33)}
    hold(rms_norm, inputs, (normal(g, 3, 50, 33), normal(g, 3, 50, 33)), return_residual=True)


@pytest.mark.parametrize("given", [True, False], ids=["residual", "alone"])
def test_norm_in_bfloat16(given, hold):
    g = torch.Generator().manual_seed(0)
    inputs = {"x": normal(g, 2, 9, 33).bfloat16(), "weight": normal(g, 33), "residual": normal(g, 2, 9, 33)}
    inputs["residual"] = inputs["residual"] if given else None
    dy = normal(g, 2, 9, 33).bfloat16().float()
    found = hold(rms_norm, inputs, (dy, normal(g, 2, 9, 33)), return_residual=True)
    assert found["output 1"].dtype == torch.float32
    assert all(found[f"gradient of {name}"].dtype == x.dtype for name, x in inputs.items() if x is not None)
