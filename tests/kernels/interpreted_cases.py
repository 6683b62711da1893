"""Laws of the scan's Triton kernels in Triton's interpreter, which takes CPU tensors.

Run by test_triton_interpreter.py: the interpreter is chosen when Triton is imported, which needs a process of its own.
"""

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1 before Triton is imported", allow_module_level=True)

from seqdomains.kernels import selective_scan
from seqdomains.kernels.selective_scan import (
    triton_backward,
    triton_complex_backward,
    triton_complex_forward,
    triton_forward,
)

pytestmark = pytest.mark.usefixtures("poisoned", "one_thread")


@pytest.fixture
def floors():
    """The interpreter cuts float32 off to bfloat16 where a GPU rounds: up to 2^-7 of a value, half on the average.

    The scan's gradients of dt and bias come from a walk that starts afresh every 16 steps: up to 2e-6 over few steps.
    """
    return {torch.float16: 4e-4, torch.bfloat16: 5e-3, torch.float32: 3e-6}


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator)


def scan_inputs(B, L, D, N, absent=(), seed=0):
    g = torch.Generator().manual_seed(seed)
    inputs = {
        "u": normal(g, B, L, D),
        "dt": normal(g, B, L, D),
        "A": -torch.exp(0.8 * normal(g, D, N)),
        "B": normal(g, B, L, N),
        "C": normal(g, B, L, N),
        "D": normal(g, D),
        "z": normal(g, B, L, D),
        "bias": normal(g, D) - 1,
        "h0": normal(g, B, D, N),
    }
    return {name: None if name in absent else tensor for name, tensor in inputs.items()}


def scan_cotangents(inputs, seed=1):
    g = torch.Generator().manual_seed(seed)
    return normal(g, *inputs["u"].shape), normal(g, inputs["u"].shape[0], *inputs["A"].shape)


@pytest.fixture
def short_chunks(monkeypatch):
    """Chunks of 16 steps, so that a short sequence has many."""
    for module in (triton_forward, triton_backward):
        monkeypatch.setattr(module, "portable_chunk", lambda *_: 16)
    for module in (triton_complex_forward, triton_complex_backward):
        monkeypatch.setattr(module, "gpu_chunk", lambda *_: 16)


@pytest.mark.parametrize(
    ("shape", "absent", "softplus"),
    [
        ((2, 37, 5, 16), (), True),
        ((1, 1, 3, 1), ("D", "z"), True),
        ((2, 9, 40, 3), ("z", "h0"), True),
        ((1, 16, 17, 20), ("bias", "D"), True),
        ((1, 6, 3, 130), (), True),
        ((1, 25, 4, 5), ("D", "z", "bias", "h0"), True),
    ],
    ids=str,
)
def test_scan_equals_float64(shape, absent, softplus, hold, short_chunks):
    inputs = scan_inputs(*shape, absent=absent)
    hold(selective_scan, inputs, scan_cotangents(inputs), softplus=softplus, return_state=True)


def test_scan_without_softplus(hold, short_chunks):
    inputs = scan_inputs(2, 12, 5, 4)
    inputs["dt"], inputs["bias"] = 0.3 * inputs["dt"].abs(), 0.1 * inputs["bias"].abs()
    hold(selective_scan, inputs, scan_cotangents(inputs), softplus=False, return_state=True)


def test_scan_of_whole_chunks_and_a_tail(hold):
    inputs = scan_inputs(1, 35, 3, 2)
    hold(selective_scan, inputs, scan_cotangents(inputs), return_state=True)


def test_scan_passes_states_over_many_chunks(hold, short_chunks):
    """More than the sixteen chunks that `pass_states` reads at once, with memory that reaches over all of them."""
    inputs = scan_inputs(1, 300, 3, 2)
    inputs["dt"] = inputs["dt"] - 5
    hold(selective_scan, inputs, scan_cotangents(inputs), return_state=True)


@pytest.mark.parametrize(
    ("shape", "cuts", "absent"),
    [
        ((2, 301, 3, 2), (0, 270, 301), ()),
        ((2, 37, 5, 16), (0, 1, 20, 37), ("D", "z", "bias", "h0")),
        ((1, 64, 17, 5), (0, 32, 64), ("z",)),
    ],
    ids=str,
)
def test_scan_of_parts(shape, cuts, absent, hold, in_parts, short_chunks, monkeypatch):
    """Scratch memory is taken whole, however little of it shall be."""
    monkeypatch.setattr(triton_backward, "SCRATCH", 1)
    inputs = scan_inputs(*shape, absent=absent)
    inputs["dt"] = inputs["dt"] - 3
    hold(in_parts, inputs, scan_cotangents(inputs), cuts=cuts)


def test_scan_in_segments_of_one_chunk(hold, short_chunks, monkeypatch):
    inputs = scan_inputs(2, 37, 5, 4)
    whole = hold(selective_scan, inputs, scan_cotangents(inputs), return_state=True)
    monkeypatch.setattr(triton_backward, "SCRATCH", 1)
    pieces = hold(selective_scan, inputs, scan_cotangents(inputs), return_state=True)
    # Only sums over all of time are added in another order.
    assert torch.equal(whole["gradient of B"], pieces["gradient of B"])


@pytest.mark.parametrize(
    "dtypes",
    [
        {"u": torch.bfloat16, "z": torch.bfloat16, "dt": torch.float32, "B": torch.float16, "C": torch.bfloat16},
        {"u": torch.float32, "z": torch.float16, "dt": torch.bfloat16, "B": torch.bfloat16, "C": torch.float32},
        {"u": torch.float16, "D": torch.bfloat16, "bias": torch.float16},
    ],
    ids=["bfloat16", "float32", "float16"],
)
def test_scan_of_mixed_dtypes(dtypes, hold, short_chunks):
    inputs = {name: x.to(dtypes.get(name, x.dtype)) for name, x in scan_inputs(2, 19, 35, 4).items()}
    g = torch.Generator().manual_seed(1)
    dy = normal(g, *inputs["u"].shape).to(inputs["u"].dtype).float()
    found = hold(selective_scan, inputs, (dy, normal(g, 2, 35, 4)), return_state=True)
    assert all(found[f"gradient of {name}"].dtype == x.dtype for name, x in inputs.items())


@pytest.mark.parametrize("cut", [1, 8, 13])
def test_scan_split_with_carried_state(cut, assert_close, short_chunks, monkeypatch, run):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "triton")

    def split(u, dt, A, B, C, D, z, bias, h0):
        first = selective_scan(
            u[:, :cut], dt[:, :cut], A, B[:, :cut], C[:, :cut], D, z[:, :cut], bias, h0=h0, return_state=True
        )
        second = selective_scan(
            u[:, cut:], dt[:, cut:], A, B[:, cut:], C[:, cut:], D, z[:, cut:], bias, h0=first[1], return_state=True
        )
        return torch.cat([first[0], second[0]], 1), second[1]

    inputs = scan_inputs(2, 21, 5, 3)
    whole = run(selective_scan, inputs, scan_cotangents(inputs), return_state=True)
    for name, value in run(split, inputs, scan_cotangents(inputs)).items():
        assert_close(value, whole[name], whole[name], name)


def test_scan_of_zero_steps_is_the_identity(monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "triton")
    inputs = scan_inputs(2, 11, 3, 4, absent=("bias",))
    inputs["dt"] = torch.zeros_like(inputs["dt"])
    _, h_last = selective_scan(**inputs, softplus=False, return_state=True)
    assert torch.equal(h_last, inputs["h0"])


def test_scan_around_the_threshold_of_softplus(hold):
    inputs = scan_inputs(1, 8, 3, 2, absent=("bias", "D", "z"))
    steps = torch.tensor([-100.0, -20.0, -7.0, 0.0, 19.99, 20.0, 20.01, 88.8])
    inputs["dt"] = steps[None, :, None].expand(1, 8, 3).contiguous()
    hold(selective_scan, inputs, scan_cotangents(inputs), return_state=True)


@pytest.mark.parametrize("name", ["u", "dt", "z"])
def test_nan_stays_in_its_channel_and_after_its_step(name, short_chunks, monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "triton")
    inputs = scan_inputs(2, 20, 5, 3)
    inputs[name][1, 9, 2] = torch.nan
    expected = torch.zeros(2, 20, 5, dtype=torch.bool)
    expected[1, 9 : 10 if name == "z" else 20, 2] = True
    assert torch.equal(selective_scan(**inputs).isnan(), expected)


def test_scan_of_extreme_steps(monkeypatch, run):
    """A step of any size gives the state that the formula has: none below, all of it gone above."""
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "triton")
    inputs = scan_inputs(1, 6, 2, 2, absent=("D", "z", "bias"))
    inputs["dt"] = torch.tensor([-torch.inf, -200.0, -100.0, 30.0, 200.0, 1e4]).repeat(2, 1).t()[None].contiguous()
    found = run(selective_scan, inputs, scan_cotangents(inputs), return_state=True)
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "auto")
    exact = {name: None if x is None else x.double() for name, x in inputs.items()}
    for name, value in run(selective_scan, exact, scan_cotangents(inputs), return_state=True).items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=1e-6)


def test_scan_twice_is_bit_equal(short_chunks, monkeypatch, run):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "triton")
    inputs = scan_inputs(2, 19, 35, 3)
    first, second = (run(selective_scan, inputs, scan_cotangents(inputs), return_state=True) for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_scan_in_reverse(hold, short_chunks):
    inputs = scan_inputs(2, 37, 5, 4)
    hold(selective_scan, inputs, scan_cotangents(inputs), return_state=True, reverse=True)


@pytest.mark.parametrize("form", ["grouped", "constant B", "constant C"])
def test_scan_with_other_projections(form, hold, short_chunks):
    inputs = scan_inputs(2, 21, 6, 4)
    g = torch.Generator().manual_seed(7)
    if form == "grouped":
        inputs |= {"B": normal(g, 2, 21, 3, 4), "C": normal(g, 2, 21, 3, 4)}
    else:
        inputs[form[-1]] = normal(g, 6, 4)
    hold(selective_scan, inputs, scan_cotangents(inputs), return_state=True)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_scan_of_packed_sequences(reverse, hold, short_chunks):
    inputs = scan_inputs(1, 60, 5, 3)
    g = torch.Generator().manual_seed(7)
    inputs["h0"] = normal(g, 4, 5, 3)
    borders = torch.tensor([0, 17, 17, 18, 60])
    cotangents = normal(g, 1, 60, 5), normal(g, 4, 5, 3)
    hold(selective_scan, inputs, cotangents, return_state=True, reverse=reverse, cu_seqlens=borders)


def paired_inputs(B, L, D, N, *, absent=(), real=(), forms=("varying", "varying"), states=None, turns=3.0):
    """Inputs with complex states that turn by up to some radians per step; B and C are complex unless in `real`."""
    g = torch.Generator().manual_seed(3)
    inputs = scan_inputs(B, L, D, N)
    inputs["A"] = torch.complex(inputs["A"], turns * normal(g, D, N))
    for name, form in zip("BC", forms, strict=True):
        shape = {"varying": (B, L, N), "grouped": (B, L, 2, N), "constant": (D, N)}[form]
        inputs[name] = torch.randn(shape, generator=g, dtype=torch.float32 if name in real else torch.complex64)
    inputs["h0"] = torch.randn(states or B, D, N, generator=g, dtype=torch.complex64)
    return inputs | dict.fromkeys(absent)


def paired_cotangents(inputs, states=None):
    g = torch.Generator().manual_seed(1)
    shape = states or inputs["u"].shape[0], *inputs["A"].shape
    return normal(g, *inputs["u"].shape), torch.randn(shape, generator=g, dtype=torch.complex64)


@pytest.mark.parametrize(
    ("shape", "options", "reverse"),
    [
        ((2, 37, 5, 16), {}, False),
        ((1, 1, 3, 1), {"absent": ("D", "z"), "real": ("C",)}, True),
        ((2, 21, 6, 3), {"real": ("B", "C"), "absent": ("h0",)}, False),
        ((1, 6, 3, 130), {"real": ("B",)}, True),
        ((2, 21, 6, 4), {"forms": ("grouped", "grouped"), "real": ("B",)}, False),
        ((1, 35, 18, 5), {"forms": ("constant", "varying"), "absent": ("bias",)}, True),
        ((2, 19, 6, 20), {"forms": ("constant", "constant"), "real": ("B",)}, False),
        ((1, 19, 6, 2), {"forms": ("grouped", "constant"), "real": ("C",)}, True),
    ],
    ids=str,
)
def test_scan_of_complex_states(shape, options, reverse, hold, short_chunks):
    inputs = paired_inputs(*shape, **options)
    hold(selective_scan, inputs, paired_cotangents(inputs), return_state=True, reverse=reverse)


@pytest.mark.parametrize("turns", [3.0, 100.0])
def test_scan_of_complex_states_without_softplus(turns, hold, short_chunks):
    """Angles of many turns, which the interpreter takes from a rounded product, a GPU from the exact one."""
    inputs = paired_inputs(2, 20, 5, 4, turns=turns)
    inputs["dt"], inputs["bias"] = 0.3 * inputs["dt"].abs(), 0.1 * inputs["bias"].abs()
    hold(selective_scan, inputs, paired_cotangents(inputs), softplus=False, return_state=True)


def test_scan_of_complex_states_over_many_chunks(hold, short_chunks, monkeypatch):
    """Memory that reaches over all chunks, in slabs of one chunk."""
    monkeypatch.setattr(triton_complex_backward, "SCRATCH", 1)
    inputs = paired_inputs(1, 100, 3, 2)
    inputs["dt"] = inputs["dt"] - 5
    hold(selective_scan, inputs, paired_cotangents(inputs), return_state=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_scan_of_complex_states_in_16_bits(dtype, hold, short_chunks):
    inputs = paired_inputs(2, 19, 35, 4, real=("C",))
    inputs |= {name: inputs[name].to(dtype) for name in ("u", "dt", "z", "C", "D")}
    dy, dh = paired_cotangents(inputs)
    hold(selective_scan, inputs, (dy.to(dtype).float(), dh), return_state=True)


@pytest.mark.parametrize("forms", [("varying", "varying"), ("grouped", "constant")], ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_scan_of_packed_complex_states(reverse, forms, hold, short_chunks):
    inputs = paired_inputs(1, 60, 6, 3, forms=forms, states=4, real=("B",))
    borders = torch.tensor([0, 17, 17, 18, 60])
    cotangents = paired_cotangents(inputs, states=4)
    hold(selective_scan, inputs, cotangents, return_state=True, reverse=reverse, cu_seqlens=borders)


def test_zero_steps_leave_complex_states_as_they_are(monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "triton")
    inputs = paired_inputs(2, 11, 3, 4, absent=("bias",))
    inputs["dt"] = torch.zeros_like(inputs["dt"])
    _, h_last = selective_scan(**inputs, softplus=False, return_state=True)
    assert torch.equal(h_last, inputs["h0"])


def test_scan_of_complex_states_twice_is_bit_equal(short_chunks, monkeypatch, run):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "triton")
    inputs = paired_inputs(2, 19, 35, 3)
    first, second = (run(selective_scan, inputs, paired_cotangents(inputs), return_state=True) for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_scan_of_extreme_steps_of_complex_states(monkeypatch, run):
    """No step is so large that a decay is more than one."""
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "triton")
    inputs = paired_inputs(1, 6, 2, 2, absent=("D", "z", "bias"))
    inputs["dt"] = torch.tensor([-torch.inf, -200.0, -100.0, 30.0, 200.0, 1e8]).repeat(2, 1).t()[None].contiguous()
    found = run(selective_scan, inputs, paired_cotangents(inputs), return_state=True)
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "auto")
    kept = ("A", "B", "C", "h0")
    exact = {
        name: x if x is None else x.to(torch.complex128 if name in kept else torch.float64)
        for name, x in inputs.items()
    }
    for name, value in run(selective_scan, exact, paired_cotangents(inputs), return_state=True).items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=1e-5)


def test_lengths_share_a_graph():
    """How many states are stored is not known while a graph is traced."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(selective_scan, dynamic=True, fullgraph=True, backend="aot_eager")
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).requires_grad_()

    for length in (40, 100, 130):
        inputs = draw(1, length, 8), draw(1, length, 8), -torch.ones(8, 4), draw(1, length, 4), draw(1, length, 4)
        leaves = [x for x in inputs if x.requires_grad]
        expected, found = (
            (y.detach(), *torch.autograd.grad(y.square().sum(), leaves))
            for y in (selective_scan(*inputs), compiled(*inputs))
        )
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True)), length
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
