"""Laws of both levels of the scan's GPU kernels, Gluon and portable, at real sizes, against float64 computed there."""

import itertools

import pytest
import torch

from seqdomains.errors import ConfigError
from seqdomains.kernels import raw, selective_scan, selective_scan_step
from seqdomains.kernels.selective_scan import fast_path, triton_complex_backward

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.usefixtures("poisoned"),
]
LOW, HALF, FULL = torch.bfloat16, torch.float16, torch.float32


@pytest.fixture(params=["gluon", "triton"])
def tested(request, monkeypatch):
    """Run a test on both levels."""
    monkeypatch.setenv("SEQDOMAINS_KERNELS", request.param)
    if request.param == "gluon" and (problem := fast_path.unavailable(0)):
        pytest.skip(problem)
    return request.param


@pytest.fixture
def floors():
    """Errors that are allowed whatever the reference's are.

    The gradient of the bias sums a walk that starts afresh every 16 steps: 0.3 to 2.1e-6 on an H100.
    """
    return {torch.float32: 3e-6}


def normal(seed):
    generator = torch.Generator("cuda").manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, device="cuda")


def inputs_of(B, L, D, N, *, dtypes=FULL, absent=(), strong=False):
    """Inputs of a scan; `strong` are decays that forget within a step or two, else those of a new block."""
    draw = normal(0)
    inputs = {
        "u": draw(B, L, D),
        "dt": draw(B, L, D),
        "A": -torch.exp(0.8 * draw(D, N)) if strong else -torch.arange(1.0, N + 1, device="cuda").repeat(D, 1),
        "B": draw(B, L, N),
        "C": draw(B, L, N),
        "D": draw(D),
        "z": draw(B, L, D),
        "bias": draw(D) - 1 if strong else 0.5 * draw(D) - 3,
        "h0": draw(B, D, N),
    }
    for name in ("u", "dt", "B", "C", "z"):
        inputs[name] = inputs[name].to(dtypes.get(name, LOW) if isinstance(dtypes, dict) else dtypes)
    return {name: None if name in absent else tensor for name, tensor in inputs.items()}


def cotangents_of(inputs):
    draw = normal(1)
    dy = draw(*inputs["u"].shape).to(inputs["u"].dtype)
    return dy, draw(dy.shape[0], *inputs["A"].shape)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((2, 600, 96, 16), {"dtypes": LOW}),
        ((2, 257, 80, 16), {"strong": True}),
        ((3, 333, 48, 16), {"dtypes": HALF}),
        ((2, 400, 96, 16), {"dtypes": {"dt": FULL, "B": FULL, "C": HALF, "z": HALF}}),
        ((2, 400, 96, 16), {"dtypes": {"u": FULL, "C": FULL}}),
        ((2, 100, 64, 16), {"dtypes": LOW, "absent": ("z", "D", "bias", "h0")}),
        ((2, 1, 64, 16), {}),
        ((1, 17, 16, 16), {"dtypes": LOW}),
        ((130, 400, 64, 16), {"dtypes": LOW}),
        ((300, 333, 64, 16), {"dtypes": LOW}),
        ((2, 600, 96, 64), {"dtypes": LOW}),
        ((2, 257, 80, 64), {"strong": True}),
        ((2, 1200, 96, 64), {"absent": ("h0",)}),
    ],
    ids=str,
)
def test_equals_float64(shape, options, reverse, tested, hold):
    inputs = inputs_of(*shape, **options)
    hold(selective_scan, inputs, cotangents_of(inputs), return_state=True, reverse=reverse)


@pytest.fixture
def small_slabs(tested, monkeypatch):
    """Let the backward's scratch memory be 400 kB; of the portable path's there is a test with more data."""
    if tested == "triton":
        yield
        return
    from seqdomains.kernels.selective_scan import gluon_plan

    monkeypatch.setattr(gluon_plan, "SCRATCH", 1)
    monkeypatch.setattr(gluon_plan, "_slab_bytes", lambda *_: 400_000)
    gluon_plan.plan_backward.cache_clear()
    yield
    gluon_plan.plan_backward.cache_clear()


@pytest.mark.usefixtures("small_slabs")
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("absent", [(), ("h0",)], ids=["h0", "no h0"])
@pytest.mark.parametrize("shape", [(4, 600, 64, 16), (1, 2500, 96, 16), (1, 2500, 96, 64)], ids=str)
def test_slabs(shape, absent, reverse, hold):
    """Scratch memory is bounded by cutting rows and time."""
    inputs = inputs_of(*shape, dtypes=LOW, absent=absent)
    hold(selective_scan, inputs, cotangents_of(inputs), return_state=True, reverse=reverse)


@pytest.mark.usefixtures("small_slabs")
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("dtype", [FULL, LOW], ids=str)
@pytest.mark.parametrize("shape", [(4, 600, 64, 16), (1, 2500, 96, 16), (1, 2500, 96, 64)], ids=str)
def test_the_backward_pass_makes_the_output_again(shape, dtype, reverse, tested):
    """And the gradients are, bit for bit, those without."""
    inputs = inputs_of(*shape, dtypes=dtype)
    dy, dh_last = cotangents_of(inputs)
    repeated = raw.scan_repeats_output(inputs["u"], inputs["A"], inputs["B"], inputs["C"], inputs["z"])
    assert repeated == (tested == "gluon")
    y, _, states = raw.scan(*inputs.values(), None, True, reverse)
    arguments = dy, dh_last, *inputs.values(), None, states, True, reverse
    *gradients, again = raw.scan_backward_with_output(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(gradients, raw.scan_backward(*arguments), strict=True))
    assert again.dtype == y.dtype
    assert (again.double() - y.double()).norm() <= (2e-3 if dtype == LOW else 1e-6) * y.double().norm()


@pytest.mark.parametrize("small", [False, True], ids=["", "little scratch"])
@pytest.mark.parametrize("dtype", [FULL, LOW], ids=str)
@pytest.mark.parametrize(
    ("shape", "cuts", "absent"),
    [
        ((1, 2500, 96, 16), (0, 1250, 2500), ()),
        ((3, 1001, 64, 16), (0, 100, 997, 1001), ("h0",)),
        ((2, 700, 48, 16), (0, 350, 700), ("z", "D", "bias", "h0")),
        ((300, 333, 64, 16), (0, 170, 333), ()),
        ((2, 1200, 96, 64), (0, 601, 1200), ()),
    ],
    ids=str,
)
def test_parts_that_are_told_what_enters_them(shape, cuts, absent, dtype, small, tested, hold, in_parts, request):
    """One device does one part after another, as if each had one of its own; slabs of scratch are never cut."""
    if small:
        request.getfixturevalue("small_slabs")
    inputs = inputs_of(*shape, dtypes=dtype, absent=absent)
    hold(in_parts, inputs, cotangents_of(inputs), cuts=cuts)


@pytest.mark.usefixtures("tested")
def test_parts_on_a_gpu_are_the_whole(run, in_parts):
    inputs = inputs_of(2, 2500, 96, 16)
    whole = run(selective_scan, inputs, cotangents_of(inputs), return_state=True)
    found = run(in_parts, inputs, cotangents_of(inputs), cuts=(0, 900, 2500))
    for key, expected in whole.items():
        assert (found[key] - expected).norm() <= 1e-5 * expected.norm(), key


def test_the_output_is_made_again_of_a_part_too(tested):
    inputs = inputs_of(2, 1100, 96, 16, dtypes=LOW)
    if not raw.scan_repeats_output(*(inputs[name] for name in ("u", "A", "B", "C", "z"))):
        pytest.skip("the portable kernels don't")
    dy, dh_last = cotangents_of(inputs)
    h0 = inputs.pop("h0")
    y, _, states = raw.scan(*inputs.values(), None, None, True, False, enter=lambda *_: h0)
    arguments = dy, None, *inputs.values(), h0, None, states, True, False
    *gradients, again = raw.scan_backward_with_output(*arguments, enter=lambda _: dh_last)
    assert all(
        torch.equal(a, b)
        for a, b in zip(gradients, raw.scan_backward(*arguments, enter=lambda _: dh_last), strict=True)
    )
    assert (again.double() - y.double()).norm() <= 2e-3 * y.double().norm()


@pytest.mark.parametrize("dtype", [FULL, LOW], ids=str)
@pytest.mark.parametrize("states", [16, 64])
def test_runs_are_bit_equal(states, dtype, tested, run):
    inputs = inputs_of(4, 2049, 416, states, dtypes=dtype)
    first, second = (run(selective_scan, inputs, cotangents_of(inputs), return_state=True) for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("cut", [1, 128, 999])
def test_split_with_carried_state(cut, tested, assert_close, run):
    def split(u, dt, A, B, C, D, z, bias, h0):
        first = selective_scan(
            u[:, :cut], dt[:, :cut], A, B[:, :cut], C[:, :cut], D, z[:, :cut], bias, h0=h0, return_state=True
        )
        second = selective_scan(
            u[:, cut:], dt[:, cut:], A, B[:, cut:], C[:, cut:], D, z[:, cut:], bias, h0=first[1], return_state=True
        )
        return torch.cat([first[0], second[0]], 1), second[1]

    inputs = inputs_of(2, 1000, 384, 16)
    whole = run(selective_scan, inputs, cotangents_of(inputs), return_state=True)
    for name, value in run(split, inputs, cotangents_of(inputs)).items():
        assert_close(value, whole[name], whole[name], name, floor=2e-6)


@pytest.mark.large
@pytest.mark.parametrize("length", [1 << 20])
@pytest.mark.parametrize("step", [1e-7, 50.0], ids=["nearly never forgets", "forgets at once"])
def test_a_million_steps(step, length, tested):
    """Against sums in float64: of all steps so far with their decays, or of the step alone."""
    draw, channels, N = normal(0), 16, 16
    u, B, C = draw(1, length, channels), draw(1, length, N), draw(1, length, N)
    dt = (step * (1 + 0.5 * draw(1, length, channels).clamp(-1, 1))).contiguous()
    A = -torch.arange(1.0, N + 1, device="cuda").repeat(channels, 1)
    y, h = selective_scan(u, dt, A, B, C, softplus=False, return_state=True)
    d, drive = dt.double(), (dt.double() * u.double())[..., None] * B.double()[:, :, None]
    if step < 1:
        decays = d.cumsum(1)[..., None] * A.double()
        states = torch.exp(decays) * (torch.exp(-decays) * drive).cumsum(1)
    else:
        states = drive
    expected = (states * C.double()[:, :, None]).sum(-1)
    assert (y.double() - expected).norm() <= 1e-4 * expected.norm()
    assert (h.double() - states[:, -1]).norm() <= 1e-4 * states[:, -1].norm()


def test_a_view_that_begins_between_16_bytes(tested, run):
    inputs = inputs_of(2, 100, 64, 16, dtypes=LOW)
    whole = run(selective_scan, inputs, cotangents_of(inputs), return_state=True)
    for name in ("u", "dt", "z", "B", "C", "D", "bias", "h0"):
        tensor = inputs[name]
        shifted = torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device="cuda")[1:].view(tensor.shape)
        found = run(selective_scan, inputs | {name: shifted.copy_(tensor)}, cotangents_of(inputs), return_state=True)
        assert all(torch.equal(value, whole[key]) for key, value in found.items())


def test_a_lazily_negative_input(tested):
    inputs = inputs_of(2, 100, 64, 16)
    expected = selective_scan(**inputs)
    inputs["z"] = (-inputs["z"] * 1j).conj().imag
    assert inputs["z"].is_neg()
    assert torch.equal(selective_scan(**inputs), expected)


def test_the_fast_kernels_refuse_what_they_do_not_cover(monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "gluon")
    inputs = inputs_of(1, 20, 64, 5)
    with pytest.raises(ConfigError, match="N is 5, expected 16 or 64"):
        selective_scan(**inputs)


def test_in_a_graph(tested):
    inputs = {name: None if x is None else x.detach() for name, x in inputs_of(2, 300, 64, 16, dtypes=LOW).items()}
    expected = selective_scan(**inputs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = selective_scan(**inputs)
    graph.replay()
    assert torch.equal(found, expected)


def packed_pieces(inputs, borders, cotangents, run, **options):
    """Scan each sequence alone and put the results together as the packed scan has them."""
    results = []
    for place, (start, end) in enumerate(itertools.pairwise(borders)):
        own = dict(inputs)
        for name in ("u", "dt", "B", "C", "z"):
            own[name] = inputs[name][:, start:end]
        own["h0"] = inputs["h0"][place : place + 1]
        dy, dh = cotangents[0][:, start:end], cotangents[1][place : place + 1]
        results.append(run(selective_scan, own, (dy, dh), return_state=True, **options))
    joined = {}
    for name in results[0]:
        values = [result[name] for result in results]
        if name in ("gradient of A", "gradient of D", "gradient of bias"):
            joined[name] = torch.stack(values).sum(0)
        else:
            joined[name] = torch.cat(values, 0 if name in ("output 1", "gradient of h0") else 1)
    return joined


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_packed_equals_separate(reverse, run, assert_close):
    borders = [0, 1, 700, 701, 1500, 2048]
    inputs = inputs_of(1, 2048, 96, 16)
    draw = normal(3)
    inputs["h0"] = draw(len(borders) - 1, 96, 16)
    cotangents = draw(1, 2048, 96), draw(len(borders) - 1, 96, 16)
    cu = torch.tensor(borders, dtype=torch.int32, device="cuda")
    found = run(selective_scan, inputs, cotangents, return_state=True, reverse=reverse, cu_seqlens=cu)
    for name, expected in packed_pieces(inputs, borders, cotangents, run, reverse=reverse).items():
        assert_close(found[name], expected, expected, name, floor=3e-6)


@pytest.mark.parametrize("form", ["grouped", "constant B", "constant C"])
def test_other_forms_equal_float64(form, tested, hold):
    if tested == "gluon":
        pytest.skip("these forms run on the portable kernels")
    inputs = inputs_of(2, 500, 96, 16)
    draw = normal(4)
    if form == "grouped":
        inputs |= {"B": draw(2, 500, 3, 16), "C": draw(2, 500, 3, 16)}
    else:
        inputs[form[-1]] = draw(96, 16)
    hold(selective_scan, inputs, cotangents_of(inputs), return_state=True)


def paired_inputs(B, L, D, N, *, dtypes=FULL, real=(), forms=("varying", "varying"), states=None, turns=3.0):
    """Inputs with complex states that turn by up to some radians per step; B and C are complex unless in `real`."""
    inputs, draw = inputs_of(B, L, D, N, dtypes=dtypes), normal(5)

    def pairs(*shape):
        return torch.complex(draw(*shape), draw(*shape))

    inputs["A"] = torch.complex(inputs["A"], turns * draw(D, N))
    for name, form in zip("BC", forms, strict=True):
        shape = {"varying": (B, L, N), "grouped": (B, L, 2, N), "constant": (D, N)}[form]
        inputs[name] = draw(*shape).to(dtypes) if name in real else pairs(*shape)
    inputs["h0"] = pairs(states or B, D, N)
    return inputs, (draw(B, L, D).to(dtypes), pairs(states or B, D, N))


@pytest.mark.parametrize("tested", ["triton"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((2, 600, 96, 16), {}),
        ((2, 400, 80, 16), {"dtypes": LOW, "real": ("B", "C")}),
        ((2, 257, 33, 5), {"real": ("B",), "forms": ("varying", "constant")}),
        ((1, 300, 48, 64), {"real": ("C",), "forms": ("grouped", "grouped")}),
        ((2, 1, 64, 16), {"forms": ("constant", "constant")}),
        ((1, 2500, 64, 16), {}),
        ((1, 100, 16, 256), {}),
    ],
    ids=str,
)
def test_complex_states_equal_float64(shape, options, reverse, tested, hold, monkeypatch):
    if shape[1] > 2000:  # in slabs
        monkeypatch.setattr(triton_complex_backward, "SCRATCH", 1)
    inputs, cotangents = paired_inputs(*shape, **options)
    hold(selective_scan, inputs, cotangents, return_state=True, reverse=reverse)


@pytest.mark.parametrize("tested", ["triton"])
def test_complex_states_of_many_turns_per_step(tested, hold):
    """The angle's error is that of d Im A in float32: what whole turns leave of the product is exact."""
    inputs, cotangents = paired_inputs(1, 500, 64, 16, turns=300.0)
    inputs["dt"], inputs["bias"] = 0.3 * inputs["dt"].abs(), 0.1 * inputs["bias"].abs()
    hold(selective_scan, inputs, cotangents, softplus=False, return_state=True)


def test_complex_runs_are_bit_equal(run):
    inputs, cotangents = paired_inputs(2, 2049, 416, 16)
    first, second = (run(selective_scan, inputs, cotangents, return_state=True) for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_packed_complex_states_equal_separate_ones(reverse, run, assert_close):
    borders = [0, 1, 700, 701, 1500, 2048]
    inputs, cotangents = paired_inputs(1, 2048, 96, 16, states=len(borders) - 1)
    cu = torch.tensor(borders, dtype=torch.int32, device="cuda")
    found = run(selective_scan, inputs, cotangents, return_state=True, reverse=reverse, cu_seqlens=cu)
    for name, expected in packed_pieces(inputs, borders, cotangents, run, reverse=reverse).items():
        assert_close(found[name], expected, expected, name, floor=3e-6)


@pytest.mark.parametrize("dtype", [FULL, LOW], ids=str)
def test_step_in_a_graph_equals_the_scan(dtype):
    inputs = inputs_of(3, 20, 96, 16, dtypes=dtype)
    y, h = selective_scan(**inputs, return_state=True)
    state = inputs["h0"].clone()
    now = {name: inputs[name][:, 0].clone() for name in ("u", "dt", "B", "C", "z")}
    fixed = {name: inputs[name] for name in ("A", "D", "bias")}
    selective_scan_step(state.clone(), **now, **fixed)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        row = selective_scan_step(state, **now, **fixed)
    for t in range(20):
        for name, tensor in now.items():
            tensor.copy_(inputs[name][:, t])
        graph.replay()
        allowed = 1e-5 if dtype == FULL else 5e-3
        assert (row.double() - y[:, t].double()).norm() <= allowed * y[:, t].double().norm()
    assert (state - h).norm() <= 1e-5 * h.norm()
