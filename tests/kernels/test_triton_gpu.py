"""Laws of the Triton kernels on a GPU, at real sizes, against float64 computed there by the plain references."""

import pytest
import torch

from seqdomains.kernels import causal_conv1d, rms_norm, selective_scan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.usefixtures("poisoned"),
]
LOW = (torch.bfloat16, torch.float16)


@pytest.fixture
def floors():
    """The scan's gradients of dt and bias come from a walk that starts afresh every 16 steps."""
    return {torch.float32: 2e-6}


def normal(seed):
    """A source of normal numbers that are the same on every machine of one kind."""
    generator = torch.Generator("cuda").manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, device="cuda")


def scan_inputs(B, L, D, N, *, absent=(), low=None, forget=0.0):
    """Inputs as a trained block has them: steps around 0.05, decays from slow to fast; `forget` moves the steps."""
    draw = normal(0)
    inputs = {
        "u": draw(B, L, D),
        "dt": draw(B, L, D),
        "A": -torch.arange(1.0, N + 1, device="cuda").repeat(D, 1) * (1 + 0.1 * draw(D, N)).abs(),
        "B": draw(B, L, N),
        "C": draw(B, L, N),
        "D": draw(D),
        "z": draw(B, L, D),
        "bias": draw(D) - 3 + forget,
        "h0": draw(B, D, N),
    }
    if low is not None:
        inputs |= {name: inputs[name].to(low) for name in ("u", "dt", "B", "C", "z")}
    return {name: None if name in absent else tensor for name, tensor in inputs.items()}


def scan_cotangents(inputs):
    draw = normal(1)
    dy = draw(*inputs["u"].shape).to(inputs["u"].dtype)
    return dy, draw(dy.shape[0], *inputs["A"].shape)


@pytest.mark.parametrize(
    ("shape", "low", "absent"),
    [
        ((2, 1000, 384, 16), None, ()),
        ((2, 1000, 384, 16), torch.bfloat16, ()),
        ((1, 16384, 256, 16), None, ("h0",)),
        ((4, 2049, 100, 64), None, ()),
        ((4, 2049, 100, 5), torch.float16, ("z",)),
        ((4, 2049, 100, 16), torch.bfloat16, ("D", "bias", "h0")),
        ((3, 130, 33, 32), None, ("D",)),
        ((2, 70, 17, 256), None, ()),
        ((5, 1, 3, 1), None, ()),
    ],
    ids=str,
)
def test_scan_equals_float64(shape, low, absent, hold):
    inputs = scan_inputs(*shape, low=low, absent=absent)
    hold(selective_scan, inputs, scan_cotangents(inputs), return_state=True)


@pytest.mark.parametrize("forget", [-6.0, 5.0], ids=["nearly never", "at once"])
def test_scan_forgets(forget, hold):
    inputs = scan_inputs(2, 3000, 64, 16, forget=forget)
    hold(selective_scan, inputs, scan_cotangents(inputs), return_state=True)


def test_scan_of_mixed_dtypes(hold):
    inputs = scan_inputs(2, 500, 96, 16)
    low = {"u": torch.bfloat16, "dt": torch.float32, "B": torch.float16, "C": torch.bfloat16, "z": torch.float16}
    inputs |= {name: inputs[name].to(dtype) for name, dtype in low.items()}
    found = hold(selective_scan, inputs, scan_cotangents(inputs), return_state=True)
    assert all(found[f"gradient of {name}"].dtype == x.dtype for name, x in inputs.items())


def test_scan_without_softplus(hold):
    inputs = scan_inputs(2, 300, 64, 16)
    inputs["dt"], inputs["bias"] = 0.1 * inputs["dt"].abs(), 0.01 * inputs["bias"].abs()
    hold(selective_scan, inputs, scan_cotangents(inputs), softplus=False, return_state=True)


@pytest.mark.parametrize("cut", [1, 128, 999])
def test_scan_split_with_carried_state(cut, assert_close, run):
    def split(u, dt, A, B, C, D, z, bias, h0):
        first = selective_scan(
            u[:, :cut], dt[:, :cut], A, B[:, :cut], C[:, :cut], D, z[:, :cut], bias, h0=h0, return_state=True
        )
        second = selective_scan(
            u[:, cut:], dt[:, cut:], A, B[:, cut:], C[:, cut:], D, z[:, cut:], bias, h0=first[1], return_state=True
        )
        return torch.cat([first[0], second[0]], 1), second[1]

    inputs = scan_inputs(2, 1000, 384, 16)
    whole = run(selective_scan, inputs, scan_cotangents(inputs), return_state=True)
    for name, value in run(split, inputs, scan_cotangents(inputs)).items():
        assert_close(value, whole[name], whole[name], name)


def test_scan_in_segments(monkeypatch, assert_close, run):
    """The backward's memory is bounded by cutting time; the cuts change nothing but the order of the sums over time."""
    from seqdomains.kernels.selective_scan import triton_backward

    inputs = scan_inputs(2, 3000, 384, 16)
    whole = run(selective_scan, inputs, scan_cotangents(inputs), return_state=True)
    monkeypatch.setattr(triton_backward, "SCRATCH", 1 << 22)
    for name, value in run(selective_scan, inputs, scan_cotangents(inputs), return_state=True).items():
        assert_close(value, whole[name], whole[name], name)


@pytest.mark.parametrize("low", [None, *LOW], ids=str)
def test_runs_are_bit_equal(low, run):
    inputs = scan_inputs(4, 2049, 416, 16, low=low)
    first, second = (run(selective_scan, inputs, scan_cotangents(inputs), return_state=True) for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    x, draw = inputs["u"], normal(2)
    conv = {"x": x, "weight": draw(416, 4), "bias": draw(416), "state": draw(4, 3, 416).to(x.dtype)}
    first, second = (run(causal_conv1d, conv, (x,), activation="silu") for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    norm = {"x": x, "weight": draw(416), "residual": draw(4, 2049, 416)}
    first, second = (run(rms_norm, norm, (x, norm["residual"]), return_residual=True) for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.large
def test_scan_beyond_two_to_the_31_elements():
    """Two equal rows of 1.09e9 elements, as a strided view: the second, whose offsets pass 2^31, equals the first."""
    length, channels = 1 << 19, 2080
    if torch.cuda.mem_get_info()[0] < 60 << 30:
        pytest.skip("needs 60 GB of free GPU memory")
    draw = normal(0)
    row = {name: draw(1, length, channels).bfloat16() for name in ("u", "dt")}
    row |= {name: draw(1, length, 16).bfloat16() for name in ("B", "C")}
    fixed = {"A": -torch.exp(draw(channels, 16)), "D": draw(channels), "bias": draw(channels) - 3}
    dy = row["u"].flip(1)

    def gradients(rows):
        leaves = {name: x.expand(rows, -1, -1).requires_grad_() for name, x in row.items()}
        y = selective_scan(**leaves, **fixed)
        return dict(zip(leaves, torch.autograd.grad(y, list(leaves.values()), dy.expand(rows, -1, -1)), strict=True)), y

    found, y = gradients(2)
    assert y.numel() > 1 << 31
    # Chunks depend on the number of rows, so the rows agree to the rounding of bfloat16 and no further.
    kept = {name: tensor[1].clone() for name, tensor in found.items()} | {"y": y[1].detach().clone()}
    del found, y
    expected, y = gradients(1)
    for name, tensor in (expected | {"y": y}).items():
        assert torch.isfinite(tensor).all(), name
        difference = (kept[name].float() - tensor[0].float()).norm() / tensor[0].float().norm()
        assert difference <= 4e-3, (name, difference)


@pytest.mark.large
def test_neighbours_beyond_two_to_the_31_elements():
    length, channels = 1 << 19, 2080
    if torch.cuda.mem_get_info()[0] < 60 << 30:
        pytest.skip("needs 60 GB of free GPU memory")
    draw = normal(0)
    row, weight = draw(1, length, channels).bfloat16(), draw(channels, 4)

    def gradient(op, weight, rows, **options):
        x = row.expand(rows, -1, -1).requires_grad_()
        y = op(x, weight, **options)
        return torch.autograd.grad(y, x, row.flip(1).expand(rows, -1, -1))[0][-1].clone(), y[-1].detach().clone()

    for op, w, options in ((causal_conv1d, weight, {"activation": "silu"}), (rms_norm, weight[:, 0], {})):
        for long, short in zip(gradient(op, w, 2, **options), gradient(op, w, 1, **options), strict=True):
            assert torch.equal(long, short), op


@pytest.mark.parametrize(
    ("shape", "width", "low", "absent", "activation"),
    [
        ((2, 1000, 384), 4, None, (), "silu"),
        ((2, 1000, 384), 4, torch.bfloat16, (), "silu"),
        ((4, 2049, 100), 3, torch.float16, ("bias",), "silu"),
        ((1, 16384, 257), 2, None, ("state",), None),
        ((70000, 2, 8), 4, None, (), "silu"),
    ],
    ids=str,
)
def test_convolution_equals_float64(shape, width, low, absent, activation, hold):
    draw = normal(0)
    batch, _, channels = shape
    inputs = {
        "x": draw(*shape),
        "weight": draw(channels, width),
        "bias": draw(channels),
        "state": draw(batch, width - 1, channels),
    }
    if low is not None:
        inputs |= {name: inputs[name].to(low) for name in ("x", "state")}
    inputs = {name: None if name in absent else tensor for name, tensor in inputs.items()}
    cotangents = [draw(*shape).to(inputs["x"].dtype), draw(batch, width - 1, channels).to(inputs["x"].dtype)]
    hold(causal_conv1d, inputs, cotangents, activation=activation, return_state=True)


@pytest.mark.parametrize(
    "shape", [(2, 1000, 128), (4, 2049, 100), (1, 300, 5000), (70000, 2, 8), (8, 2048, 768)], ids=str
)
@pytest.mark.parametrize("low", [None, torch.bfloat16], ids=str)
def test_norm_equals_float64(shape, low, hold):
    draw = normal(0)
    inputs = {"x": draw(*shape), "weight": draw(shape[-1]), "residual": draw(*shape)}
    if low is not None:
        inputs["x"] = inputs["x"].to(low)
    hold(rms_norm, inputs, (draw(*shape).to(inputs["x"].dtype), draw(*shape)), return_residual=True)
    inputs["residual"] = None
    hold(rms_norm, inputs, (draw(*shape).to(inputs["x"].dtype),))


def test_opcheck():
    inputs = scan_inputs(2, 70, 5, 3)
    for absent in ((), ("D", "z", "bias", "h0")):
        args = [None if name in absent else x.clone().requires_grad_() for name, x in inputs.items()]
        torch.library.opcheck(torch.ops.seqdomains.selective_scan.default, (*args, None, True, False))
    draw = normal(0)
    x, weight, state = (draw(*shape).requires_grad_() for shape in ((2, 70, 5), (5, 4), (2, 3, 5)))
    torch.library.opcheck(torch.ops.seqdomains.causal_conv1d.default, (x, weight, weight[:, 0], state, True))
    torch.library.opcheck(torch.ops.seqdomains.rms_norm.default, (x, weight[:, 0], x.detach(), 1e-5))


def test_compiles_to_one_graph(run):
    torch._dynamo.reset()
    inputs = scan_inputs(2, 70, 5, 3)
    expected = run(selective_scan, inputs, scan_cotangents(inputs), return_state=True)
    compiled = torch.compile(selective_scan, fullgraph=True, backend="aot_eager")
    found = run(compiled, inputs, scan_cotangents(inputs), return_state=True)
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_runs_on_the_tensors_device(run):
    inputs = scan_inputs(1, 100, 32, 16)
    expected = run(selective_scan, inputs, scan_cotangents(inputs), return_state=True)
    moved = {name: x.to("cuda:1") for name, x in inputs.items()}
    found = run(selective_scan, moved, [c.to("cuda:1") for c in scan_cotangents(inputs)], return_state=True)
    assert all(torch.equal(value, found[name].to("cuda:0")) for name, value in expected.items())


def test_peak_memory_of_the_backward(monkeypatch, run):
    """Beside inputs and gradients the backward takes at most a segment and a state per chunk."""
    from seqdomains.kernels.selective_scan import triton_backward

    inputs = scan_inputs(1, 1 << 17, 256, 16, low=torch.bfloat16, absent=("h0",))
    cotangents = scan_cotangents(inputs)
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "triton")
    given = sum(x.numel() * x.element_size() for x in inputs.values() if x is not None)
    elements = inputs["u"].numel()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run(selective_scan, inputs, cotangents, return_state=True)
    # The leaves are copies, the gradients are as large, y is 2 bytes; a state per 64 steps or more is at most 1 byte.
    allowed = 2 * given + 2 * elements + elements + triton_backward.SCRATCH + elements
    assert torch.cuda.max_memory_allocated() - before <= 1.1 * allowed
