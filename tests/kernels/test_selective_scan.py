"""Laws of the selective scan on a CPU: values and gradients of the reference and of the numba kernels."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqdomains.kernels import selective_scan
from seqdomains.kernels.selective_scan import cpu, reference
from seqdomains.kernels.selective_scan.plan import CPU_CHUNK

pytestmark = pytest.mark.usefixtures("poisoned")
NAMES = ("u", "dt", "A", "B", "C", "D", "z", "bias", "h0")


def make(B, L, D, N, *, seed=0, dtype=torch.float32, absent=()):
    """Inputs as a trained block has them: steps of 0.001 to 1, decays from slow to fast."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    inputs = {
        "u": normal(B, L, D),
        "dt": normal(B, L, D),
        "A": -torch.arange(1, N + 1, dtype=dtype).repeat(D, 1) * (1 + 0.1 * normal(D, N)).abs(),
        "B": normal(B, L, N),
        "C": normal(B, L, N),
        "D": normal(D),
        "z": normal(B, L, D),
        "bias": normal(D) - 3,
        "h0": normal(B, D, N),
    }
    return {name: None if name in absent else tensor for name, tensor in inputs.items()}


def cast(inputs, dtype):
    return {name: None if tensor is None else tensor.to(dtype) for name, tensor in inputs.items()}


def run(inputs, *, softplus=True):
    """The public function on tensors that require gradients; returns y, h_last and the leaves."""
    leaves = {name: None if x is None else x.detach().clone().requires_grad_() for name, x in inputs.items()}
    y, h_last = selective_scan(**leaves, softplus=softplus, return_state=True)
    return y, h_last, leaves


def gradients(inputs, dy, dh, *, softplus=True):
    y, h_last, leaves = run(inputs, softplus=softplus)
    present = {name: leaf for name, leaf in leaves.items() if leaf is not None}
    found = torch.autograd.grad((y, h_last), list(present.values()), (dy.to(y.dtype), dh.to(h_last.dtype)))
    return {"y": y.detach(), "h_last": h_last.detach(), **dict(zip(present, found, strict=True))}


def compare(inputs, assert_close, monkeypatch, *, softplus=True, seed=1, floor=1e-6):
    """Hold the CPU kernels to float64 with the float32 reference as the yardstick."""
    batch, length, channels = inputs["u"].shape
    generator = torch.Generator().manual_seed(seed)
    dy = torch.randn(batch, length, channels, generator=generator)
    dh = torch.randn(batch, channels, inputs["A"].shape[1], generator=generator)
    results = {}
    for name, dtype in (("cpu", torch.float32), ("reference", torch.float32), ("exact", torch.float64)):
        monkeypatch.setenv("SEQDOMAINS_KERNELS", "auto" if name == "exact" else name)
        results[name] = gradients(cast(inputs, dtype), dy, dh, softplus=softplus)
    for key, exact in results["exact"].items():
        assert_close(results["cpu"][key], results["reference"][key], exact, key, floor=floor)


@pytest.mark.parametrize(
    ("shape", "absent", "softplus"),
    [
        ((2, 2 * CPU_CHUNK + 3, 37, 16), (), True),
        ((1, CPU_CHUNK, 64, 16), ("D", "z", "bias", "h0"), True),
        ((3, 5, 130, 3), ("z",), True),
        ((2, CPU_CHUNK + 1, 17, 1), ("D", "h0"), True),
        ((1, 7, 5, 40), ("bias", "z"), True),
        ((2, CPU_CHUNK - 1, 1, 16), (), True),
    ],
    ids=str,
)
def test_equals_float64(shape, absent, softplus, assert_close, monkeypatch):
    compare(make(*shape, absent=absent), assert_close, monkeypatch, softplus=softplus)


def test_equals_float64_without_softplus(assert_close, monkeypatch):
    inputs = make(2, 50, 20, 4)
    inputs["dt"] = inputs["dt"].abs() * 0.1
    inputs["bias"] = inputs["bias"].abs() * 0.01
    compare(inputs, assert_close, monkeypatch, softplus=False)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    length=st.sampled_from([1, 2, CPU_CHUNK - 1, CPU_CHUNK, CPU_CHUNK + 1, 2 * CPU_CHUNK, 2 * CPU_CHUNK + 1]),
    channels=st.sampled_from([15, 16, 17, 63, 64, 65]),
    states=st.integers(1, 5),
    batch=st.integers(1, 3),
    absent=st.sets(st.sampled_from(["D", "z", "bias", "h0"])),
    seed=st.integers(0, 2**16),
)
def test_equals_float64_around_edges(length, channels, states, batch, absent, seed, assert_close, monkeypatch):
    inputs = make(batch, length, channels, states, seed=seed, absent=absent)
    # A few numbers may be what a cancellation left: here the shapes are tested, above the accuracy.
    compare(inputs, assert_close, monkeypatch, seed=seed + 1, floor=1e-4)


@pytest.mark.parametrize("cut", [0, 1, CPU_CHUNK - 1, CPU_CHUNK, 50, 70])
def test_split_with_carried_state(cut, implementation_name, assert_close):
    torch.manual_seed(cut)
    inputs = make(2, 70, 19, 4)
    dy, dh = torch.randn(2, 70, 19), torch.randn(2, 19, 4)
    whole = gradients(inputs, dy, dh)
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    timed = ("u", "dt", "B", "C", "z")
    left, right = (
        {name: (x[:, part] if name in timed else x) for name, x in leaves.items()}
        for part in (slice(0, cut), slice(cut, None))
    )
    y1, h = selective_scan(**left, return_state=True)
    y2, h_last = selective_scan(**{**right, "h0": h}, return_state=True)
    found = torch.autograd.grad((torch.cat([y1, y2], 1), h_last), list(leaves.values()), (dy, dh))
    assert_close(torch.cat([y1, y2], 1), whole["y"], whole["y"], "y")
    assert_close(h_last, whole["h_last"], whole["h_last"], "h_last")
    for name, gradient in zip(leaves, found, strict=True):
        assert_close(gradient, whole[name], whole[name], name, floor=2e-6)


def test_step_by_step(implementation_name, assert_close):
    inputs = make(2, 9, 18, 3)
    y, h_last = selective_scan(**inputs, return_state=True)
    h, rows = inputs["h0"], []
    for t in range(9):
        now = {name: inputs[name][:, t : t + 1] for name in ("u", "dt", "B", "C", "z")}
        row, h = selective_scan(**{**inputs, **now, "h0": h}, return_state=True)
        rows.append(row)
    assert_close(torch.cat(rows, 1), y, y, "y")
    assert_close(h, h_last, h_last, "h_last")


def test_zero_step_is_identity(implementation_name):
    inputs = make(2, 40, 20, 5, absent=("bias", "z", "D"))
    inputs["dt"] = torch.zeros_like(inputs["dt"])
    y, h_last = selective_scan(**inputs, softplus=False, return_state=True)
    assert torch.equal(h_last, inputs["h0"])
    torch.testing.assert_close(y, torch.einsum("bln,bdn->bld", inputs["C"], inputs["h0"]))


@pytest.mark.parametrize("shape", [(2, 0, 3, 4), (0, 5, 3, 4), (2, 5, 0, 4)])
def test_nothing_to_scan(shape, implementation_name):
    inputs = make(*shape)
    y, h_last, leaves = run(inputs)
    assert y.shape == inputs["u"].shape
    assert torch.equal(h_last.detach(), inputs["h0"])
    (through,) = torch.autograd.grad(h_last.sum(), leaves["h0"])
    assert torch.equal(through, torch.ones_like(inputs["h0"]))
    assert not selective_scan(**{**inputs, "h0": None}, return_state=True)[1].any()


def test_two_runs_and_any_threads_are_bit_equal(threads, monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "cpu")
    inputs, dy, dh = make(3, 70, 150, 4), torch.randn(3, 70, 150), torch.randn(3, 150, 4)
    results = []
    for count in (1, 1, 2, 3):
        threads(count)
        results.append(gradients(inputs, dy, dh))
    for other in results[1:]:
        for key, tensor in results[0].items():
            assert torch.equal(tensor, other[key]), key


def test_gradcheck_in_float64():
    inputs = make(2, 4, 3, 2, dtype=torch.float64)
    leaves = [x.requires_grad_() for x in inputs.values()]

    def scan(*tensors):
        return selective_scan(**dict(zip(NAMES, tensors, strict=True)), return_state=True)

    def plain(*tensors):
        return reference.selective_scan(**dict(zip(NAMES, tensors, strict=True)))

    assert torch.autograd.gradcheck(scan, leaves)
    assert torch.autograd.gradgradcheck(plain, leaves)


def test_adjoint_of_the_reference_is_its_derivative(assert_close, monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "reference")
    inputs = make(2, 30, 6, 3)
    dy, dh = torch.randn(2, 30, 6), torch.randn(2, 6, 3)
    found = gradients(inputs, dy, dh)
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    outputs = reference.selective_scan(**leaves)
    for name, expected in zip(leaves, torch.autograd.grad(outputs, list(leaves.values()), (dy, dh)), strict=True):
        assert_close(found[name], expected, expected, name)


@pytest.mark.parametrize("used", ["y", "h_last"])
def test_one_output_alone(used, implementation_name, assert_close):
    inputs = make(2, 40, 5, 3)
    y, h_last, leaves = run(inputs)
    seeds = (torch.ones_like(y) * (used == "y"), torch.ones_like(h_last) * (used == "h_last"))
    expected = gradients(inputs, *seeds)
    found = torch.autograd.grad({"y": y, "h_last": h_last}[used].sum(), list(leaves.values()), allow_unused=True)
    for name, gradient in zip(leaves, found, strict=True):
        assert_close(gradient, expected[name], expected[name], name)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_mixed_dtypes(low, implementation_name, assert_close):
    inputs = make(2, 40, 20, 4)
    for name in ("u", "B", "z"):
        inputs[name] = inputs[name].to(low)
    dy, dh = torch.randn(2, 40, 20), torch.randn(2, 20, 4)
    found = gradients(inputs, dy, dh)
    wide = gradients(cast(inputs, torch.float32), dy.to(low).float(), dh)
    assert found["y"].dtype == low
    assert found["h_last"].dtype == torch.float32
    for name, tensor in inputs.items():
        assert found[name].dtype == tensor.dtype
        # The arithmetic is that of float32: only the results are rounded, once.
        assert_close(found[name], wide[name].to(tensor.dtype), wide[name], name)


def test_autocast_keeps_dtypes(implementation_name):
    inputs = make(1, 9, 5, 3)
    dy, dh = torch.randn(1, 9, 5), torch.randn(1, 5, 3)
    plain = gradients(inputs, dy, dh)
    with torch.autocast("cpu", torch.bfloat16):
        cast_down = gradients(inputs, dy, dh)
    for key, tensor in plain.items():
        assert cast_down[key].dtype == torch.float32
        assert torch.equal(tensor, cast_down[key]), key


def test_strided_inputs(implementation_name):
    inputs = make(2, 40, 20, 4)
    dy, dh = torch.randn(2, 40, 20), torch.randn(2, 20, 4)
    plain = gradients(inputs, dy, dh)
    strided = {
        **inputs,
        "u": torch.stack([inputs["u"], inputs["u"]], -1)[..., 0],
        "z": inputs["z"].transpose(1, 2).contiguous().transpose(1, 2),
        "B": torch.cat([inputs["B"], inputs["C"]], -1)[..., :4],
        "A": inputs["A"].t().contiguous().t(),
        "D": inputs["D"].repeat_interleave(2)[::2],
    }
    y, h_last = selective_scan(**strided, return_state=True)
    assert torch.equal(y, plain["y"])
    assert torch.equal(h_last, plain["h_last"])
    leaves = [x.requires_grad_() for x in strided.values()]
    y, h_last = selective_scan(**strided, return_state=True)
    for name, gradient in zip(strided, torch.autograd.grad((y, h_last), leaves, (dy, dh)), strict=True):
        assert torch.equal(gradient, plain[name]), name


def test_expanded_gradient_is_read_right():
    inputs = make(1, 5, 3, 2)
    y, _, leaves = run(inputs)
    (summed,) = torch.autograd.grad(y.sum(), leaves["u"], retain_graph=True)
    (ones,) = torch.autograd.grad(y, leaves["u"], torch.ones(1, 5, 3))
    assert torch.equal(summed, ones)


def test_opcheck(implementation_name):
    inputs = make(2, 5, 3, 2)
    for absent in ((), ("D", "z", "bias", "h0")):
        args = [None if name in absent else x.clone().requires_grad_() for name, x in inputs.items()]
        torch.library.opcheck(torch.ops.seqdomains.selective_scan.default, (*args, None, True, False))


def test_compiles_to_one_graph(implementation_name):
    torch._dynamo.reset()
    inputs = make(1, 5, 3, 2)
    dy, dh = torch.randn(1, 5, 3), torch.randn(1, 3, 2)
    expected = gradients(inputs, dy, dh)
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    compiled = torch.compile(selective_scan, fullgraph=True, backend="aot_eager")
    y, h_last = compiled(**leaves, return_state=True)
    found = torch.autograd.grad((y, h_last), list(leaves.values()), (dy, dh))
    assert torch.equal(y, expected["y"])
    for name, gradient in zip(leaves, found, strict=True):
        assert torch.equal(gradient, expected[name]), name


def test_second_derivative_is_refused(implementation_name):
    y, _, leaves = run(make(1, 3, 2, 2))
    (gradient,) = torch.autograd.grad(y.sum(), leaves["u"], create_graph=True)
    with pytest.raises(RuntimeError, match="has no second derivative"):
        gradient.sum().backward()


def test_extreme_steps(implementation_name, monkeypatch):
    """A step of any size gives the state that the formula has: none below, all of it gone above."""
    inputs = make(1, 6, 2, 2, absent=("D", "z", "bias"))
    inputs["dt"] = torch.tensor([-200.0, -100.0, -30.0, 30.0, 200.0, 1e4]).repeat(2, 1).t()[None].contiguous()
    found = gradients(inputs, torch.ones(1, 6, 2), torch.ones(1, 2, 2))
    monkeypatch.delenv("SEQDOMAINS_KERNELS")
    exact = gradients(cast(inputs, torch.float64), torch.ones(1, 6, 2), torch.ones(1, 2, 2))
    for key, tensor in found.items():
        torch.testing.assert_close(tensor.double(), exact[key], rtol=1e-5, atol=1e-6)


def test_nan_stays_in_its_channel_and_after_its_step(implementation_name):
    inputs = make(1, 40, 20, 3, absent=("h0",))
    clean = selective_scan(**inputs)
    inputs["u"][0, 33, 7] = float("nan")
    y = selective_scan(**inputs)
    hit = torch.zeros(1, 40, 20, dtype=torch.bool)
    hit[0, 33:, 7] = True
    assert torch.equal(torch.isnan(y), hit)
    assert torch.equal(y[~hit], clean[~hit])


def test_growing_states_overflow_to_infinity(implementation_name):
    inputs = make(1, 200, 2, 2, absent=("z", "D", "bias"))
    inputs["A"] = torch.ones(2, 2)
    inputs["dt"] = torch.ones(1, 200, 2)
    _, h_last = selective_scan(**inputs, softplus=False, return_state=True)
    assert not torch.isfinite(h_last).any()


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("u", torch.zeros(2, 3), "expected u of shape"),
        ("A", torch.zeros(3, 0), "N > 0"),
        ("dt", torch.zeros(1, 5, 2), "dt has shape"),
        ("B", torch.zeros(1, 5, 3), "B has shape"),
        ("z", torch.zeros(1, 5, 3, dtype=torch.long), "z has dtype"),
        ("h0", torch.zeros(1, 3, 2, device="meta"), "h0 is on meta"),
    ],
)
def test_wrong_arguments(name, wrong, message):
    with pytest.raises(ValueError, match=message):
        selective_scan(**{**make(1, 5, 3, 2), name: wrong})


def test_memory_is_that_of_the_inputs():
    """The states that forward stores are N / CHUNK of a float per element, never N."""
    inputs = make(1, 4 * CPU_CHUNK, 16, 8)
    _, _, states = cpu.forward(*inputs.values(), None, softplus=True, reverse=False)
    assert states.numel() == inputs["u"].numel() * 8 // CPU_CHUNK
