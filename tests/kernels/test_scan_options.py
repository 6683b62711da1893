"""Laws of the scan's options on a CPU: reverse, packed sequences, grouped and constant B and C, complex states."""

from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqdomains.kernels import selective_scan
from seqdomains.kernels.selective_scan import reference
from seqdomains.kernels.selective_scan.cpu import _RUNS
from seqdomains.kernels.selective_scan.plan import CPU_CHUNK

pytestmark = pytest.mark.usefixtures("poisoned")
TIMED = ("u", "dt", "z")
FORMS = ("varying", "grouped", "constant")
# Lengths of packed sequences: empty ones at both ends and between, and ends before, at and after those of chunks.
LENGTHS = (0, 1, CPU_CHUNK, 0, 0, CPU_CHUNK - 1, CPU_CHUNK + 1, 3, 0)


def borders(lengths, dtype=torch.int64):
    return torch.tensor([0, *lengths]).cumsum(0).to(dtype)


def make(B, L, D, N, *, B_form="varying", C_form="varying", groups=2, paired=False, real=(), states=None, seed=0):
    """Inputs as a trained block has them; complex states turn by up to some radians per step."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, complex_=False):
        dtype = torch.complex64 if complex_ else torch.float32
        return torch.randn(*shape, generator=generator, dtype=dtype)

    def projection(name, form):
        shape = {"varying": (B, L, N), "grouped": (B, L, groups, N), "constant": (D, N)}[form]
        return normal(*shape, complex_=paired and name not in real)

    decay = -torch.arange(1.0, N + 1).repeat(D, 1) * (1 + 0.1 * normal(D, N)).abs()
    return {
        "u": normal(B, L, D),
        "dt": normal(B, L, D),
        "A": torch.complex(decay, 3 * normal(D, N)) if paired else decay,
        "B": projection("B", B_form),
        "C": projection("C", C_form),
        "D": normal(D),
        "z": normal(B, L, D),
        "bias": normal(D) - 2,
        "h0": normal(states or B, D, N, complex_=paired),
    }


def cotangents(inputs, seed=1):
    generator = torch.Generator().manual_seed(seed)
    state = inputs["A"].new_zeros(1) if inputs["h0"] is None else inputs["h0"]
    shape = (inputs["u"].shape[0], *inputs["A"].shape) if inputs["h0"] is None else state.shape
    return (
        torch.randn(inputs["u"].shape, generator=generator),
        torch.randn(shape, generator=generator, dtype=state.dtype),
    )


def doubled(inputs):
    return {name: x if x is None else x.to(torch.promote_types(x.dtype, torch.float64)) for name, x in inputs.items()}


def gradients(inputs, seeds, scan=selective_scan, **options):
    """Values and gradients by name, complex ones as pairs of real numbers."""
    leaves = {name: None if x is None else x.detach().clone().requires_grad_() for name, x in inputs.items()}
    outputs = scan(**leaves, return_state=True, **options)
    present = {name: leaf for name, leaf in leaves.items() if leaf is not None}
    seeds = [seed.to(output.dtype) for seed, output in zip(seeds, outputs, strict=True)]
    found = torch.autograd.grad(outputs, list(present.values()), seeds)
    assert all(gradient.dtype == leaf.dtype for gradient, leaf in zip(found, present.values(), strict=True))
    named = {"y": outputs[0].detach(), "h_last": outputs[1].detach(), **dict(zip(present, found, strict=True))}
    return {name: torch.view_as_real(x.resolve_conj()) if x.is_complex() else x for name, x in named.items()}


def compare(inputs, assert_close, monkeypatch, floor=1e-6, **options):
    """Hold the CPU kernels to float64 with the float32 reference as the yardstick."""
    results = {}
    for name in ("cpu", "reference", "auto"):
        monkeypatch.setenv("SEQDOMAINS_KERNELS", name)
        tensors = doubled(inputs) if name == "auto" else inputs
        results[name] = gradients(tensors, cotangents(inputs), **options)
    for key, exact in results["auto"].items():
        assert_close(results["cpu"][key], results["reference"][key], exact, key, floor=floor)


def same(found, expected, assert_close, floor=2e-6):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert_close(value, expected[name], expected[name], name, floor=floor)


@pytest.mark.parametrize("paired", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("C_form", FORMS)
@pytest.mark.parametrize("B_form", FORMS)
def test_equals_float64(B_form, C_form, paired, assert_close, monkeypatch):
    real = ("B",) if C_form == "grouped" else ()
    forms = {"B_form": B_form, "C_form": C_form, "paired": paired, "real": real}
    compare(make(2, CPU_CHUNK + 3, 150, 5, **forms), assert_close, monkeypatch)
    packed = {"reverse": True, "cu_seqlens": borders(LENGTHS, torch.int32)}
    compare(make(1, sum(LENGTHS), 34, 3, states=len(LENGTHS), **forms), assert_close, monkeypatch, **packed)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.sampled_from([0, 1, 2, CPU_CHUNK - 1, CPU_CHUNK, CPU_CHUNK + 1]), min_size=1, max_size=4),
    packed=st.booleans(),
    reverse=st.booleans(),
    paired=st.booleans(),
    forms=st.tuples(st.sampled_from(FORMS), st.sampled_from(FORMS)),
    width=st.sampled_from([1, 15, 16, 17, 33, 65]),
    states=st.integers(1, 9),
    softplus=st.booleans(),
    absent=st.sets(st.sampled_from(["D", "z", "bias", "h0"])),
    seed=st.integers(0, 2**16),
)
def test_equals_float64_whatever_is_chosen(
    lengths, packed, reverse, paired, forms, width, states, softplus, absent, seed, assert_close, monkeypatch
):
    length, D = sum(lengths), width * (2 if "grouped" in forms else 1)
    rows = 1 if packed else len(lengths)
    inputs = make(
        rows, length, D, states, B_form=forms[0], C_form=forms[1], paired=paired, states=len(lengths), seed=seed
    )
    if not softplus:
        inputs["dt"], inputs["bias"] = 0.1 * inputs["dt"].abs(), 0.01 * inputs["bias"].abs()
    absent = absent - {"h0"} if packed else absent
    inputs |= dict.fromkeys(absent)
    cut = borders(lengths) if packed else None
    if length == 0:
        assert selective_scan(**inputs, reverse=reverse, cu_seqlens=cut).shape == inputs["u"].shape
        return
    # A few numbers may be what a cancellation left: here the shapes are tested, above the accuracy.
    options = {"softplus": softplus, "reverse": reverse, "cu_seqlens": cut}
    compare(inputs, assert_close, monkeypatch, floor=1e-4, **options)


def flipped(**tensors):
    """flip, scan, flip."""
    options = {name: tensors.pop(name) for name in ("return_state",)}
    timed = {name: x.flip(1) for name, x in tensors.items() if name in TIMED or (name in "BC" and x.dim() > 2)}
    y, h_last = selective_scan(**{**tensors, **timed}, **options)
    return y.flip(1), h_last


@pytest.mark.parametrize("paired", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("forms", [("varying", "varying"), ("grouped", "constant")], ids=str)
def test_reverse_is_flip_scan_flip(forms, paired, implementation_name, assert_close):
    inputs = make(2, CPU_CHUNK + 5, 20, 3, B_form=forms[0], C_form=forms[1], paired=paired)
    seeds = cotangents(inputs)
    expected = gradients(inputs, seeds, scan=flipped)
    same(gradients(inputs, seeds, reverse=True), expected, assert_close)


def separate(lengths, reverse):
    def scan(return_state, **tensors):
        ys, ends = [], []
        for i, (start, stop) in enumerate(pairwise(borders(lengths).tolist())):
            timed = {n: x[:, start:stop] for n, x in tensors.items() if n in TIMED or (n in "BC" and x.dim() > 2)}
            now = {**tensors, **timed, "h0": tensors["h0"][i : i + 1]}
            y, h = selective_scan(**now, reverse=reverse, return_state=True)
            ys.append(y)
            ends.append(h)
        return torch.cat(ys, 1), torch.cat(ends)

    return scan


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("paired", [False, True], ids=["real", "complex"])
def test_packed_is_separate(paired, reverse, implementation_name, assert_close):
    forms = {"B_form": "grouped", "C_form": "constant"} if reverse else {}
    inputs = make(1, sum(LENGTHS), 20, 3, paired=paired, states=len(LENGTHS), **forms)
    seeds = cotangents(inputs)
    expected = gradients(inputs, seeds, scan=separate(LENGTHS, reverse))
    found = gradients(inputs, seeds, reverse=reverse, cu_seqlens=borders(LENGTHS))
    same(found, expected, assert_close)
    empty = [i for i, length in enumerate(LENGTHS) if length == 0]
    assert torch.equal(
        selective_scan(**inputs, cu_seqlens=borders(LENGTHS), return_state=True)[1][empty], inputs["h0"][empty]
    )


def test_packed_without_states_starts_from_zero(implementation_name, assert_close):
    lengths = (5, 0, 40)
    inputs = make(1, 45, 20, 3) | {"h0": None}
    y, h_last = selective_scan(**inputs, cu_seqlens=borders(lengths), return_state=True)
    inputs["h0"] = torch.zeros(3, 20, 3)
    expected = separate(lengths, False)(return_state=True, **inputs)
    assert_close(y, *[expected[0]] * 2, "y")
    assert_close(h_last, *[expected[1]] * 2, "h_last")
    assert not h_last[1].any()


def test_more_sequences_than_tasks(assert_close, monkeypatch):
    lengths = [(7 * i) % 5 for i in range(2 * _RUNS + 3)]
    inputs = make(1, sum(lengths), 20, 3, C_form="constant", states=len(lengths))
    compare(inputs, assert_close, monkeypatch, cu_seqlens=borders(lengths))


def per_group(groups, **options):
    def scan(return_state, **tensors):
        width = tensors["u"].shape[-1] // groups
        parts = []
        for g in range(groups):
            own = {
                n: x[..., g * width : (g + 1) * width] for n, x in tensors.items() if n in ("u", "dt", "z", "D", "bias")
            }
            own |= {"A": tensors["A"][g * width : (g + 1) * width], "h0": tensors["h0"][:, g * width : (g + 1) * width]}
            own |= {n: tensors[n][:, :, g] for n in "BC"}
            parts.append(selective_scan(**own, return_state=True, **options))
        return torch.cat([y for y, _ in parts], -1), torch.cat([h for _, h in parts], 1)

    return scan


@pytest.mark.parametrize(("groups", "D"), [(1, 20), (3, 51), (5, 5), (2, 140)])
def test_grouped_is_a_scan_per_group(groups, D, implementation_name, assert_close):
    inputs = make(2, CPU_CHUNK + 2, D, 3, B_form="grouped", C_form="grouped", groups=groups, paired=groups == 3)
    seeds = cotangents(inputs)
    same(gradients(inputs, seeds), gradients(inputs, seeds, scan=per_group(groups)), assert_close)


def expanded(**tensors):
    batch, length, _ = tensors["u"].shape
    wide = {n: tensors[n].expand(batch, length, -1, -1) for n in "BC"}
    return selective_scan(**{**tensors, **wide})


@pytest.mark.parametrize("paired", [False, True], ids=["real", "complex"])
def test_constant_is_expanded(paired, implementation_name, assert_close):
    inputs = make(2, CPU_CHUNK + 2, 19, 3, B_form="constant", C_form="constant", paired=paired)
    seeds = cotangents(inputs)
    same(gradients(inputs, seeds), gradients(inputs, seeds, scan=expanded), assert_close)


def rotated(return_state, u, dt, A, B, C, D, z, bias, h0):
    """The scan of conjugate pairs by real numbers: a rotation and a decay of two numbers, in a loop over time."""
    d = torch.nn.functional.softplus(dt + bias)
    x, v = h0.real, h0.imag
    rows = []
    for t in range(u.shape[1]):
        size = torch.exp(d[:, t, :, None] * A.real)
        angle = d[:, t, :, None] * A.imag
        entered = (d[:, t] * u[:, t])[..., None]
        b, c = B[:, t, None], C[:, t, None]
        x, v = (
            size * (torch.cos(angle) * x - torch.sin(angle) * v) + entered * b.real,
            size * (torch.sin(angle) * x + torch.cos(angle) * v) + entered * b.imag,
        )
        rows.append(2 * (c.real * x - c.imag * v).sum(-1))
    y = (torch.stack(rows, 1) + D * u) * torch.nn.functional.silu(z)
    return y, torch.complex(x, v)


def test_complex_states_are_rotations(implementation_name, assert_close):
    inputs = make(2, CPU_CHUNK + 5, 20, 3, paired=True)
    seeds = cotangents(inputs)
    plain = gradients(inputs, seeds, scan=rotated)
    exact = gradients(doubled(inputs), seeds, scan=rotated)
    for name, value in gradients(inputs, seeds).items():
        assert_close(value, plain[name], exact[name], name)


def test_complex_states_of_no_imaginary_part_are_twice_the_real_scan(implementation_name, assert_close):
    inputs = make(2, CPU_CHUNK + 5, 20, 3) | {"D": None, "z": None}
    h0 = inputs["h0"]
    paired = inputs | {
        "A": torch.complex(inputs["A"], torch.zeros(20, 3)),
        "h0": torch.complex(h0, torch.zeros_like(h0)),
    }
    y, h = selective_scan(**inputs, return_state=True)
    y_paired, h_paired = selective_scan(**paired, return_state=True)
    assert_close(y_paired, 2 * y, 2 * y, "y")
    assert_close(h_paired.real, h, h, "h")
    assert not h_paired.imag.any()


@pytest.mark.parametrize("turns", [1.0, 1e3, 1e5])
def test_angles_of_many_turns(turns, assert_close, monkeypatch):
    """The error is that of the product d A in float32, as in the reference: what whole turns leave is exact."""
    inputs = make(1, 40, 40, 2, paired=True)
    inputs["A"] = torch.complex(inputs["A"].real, turns * inputs["A"].imag)
    compare(inputs, assert_close, monkeypatch)


def test_zero_step_is_identity_for_complex_states(implementation_name):
    inputs = make(2, 40, 20, 5, paired=True) | {"bias": None}
    inputs["dt"] = torch.zeros_like(inputs["dt"])
    assert torch.equal(selective_scan(**inputs, softplus=False, return_state=True)[1], inputs["h0"])


def in_pieces(cut, reverse):
    def scan(return_state, **tensors):
        order = (slice(cut, None), slice(0, cut)) if reverse else (slice(0, cut), slice(cut, None))
        h, ys = tensors["h0"], []
        for part in order:
            timed = {n: x[:, part] for n, x in tensors.items() if n in TIMED or (n in "BC" and x.dim() > 2)}
            y, h = selective_scan(**{**tensors, **timed, "h0": h}, reverse=reverse, return_state=True)
            ys.append(y)
        return torch.cat(ys[::-1] if reverse else ys, 1), h

    return scan


@pytest.mark.parametrize("cut", [0, 1, CPU_CHUNK, 41])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("paired", [False, True], ids=["real", "complex"])
def test_split_with_carried_state(paired, reverse, cut, implementation_name, assert_close):
    inputs = make(2, 41, 20, 3, B_form="constant", paired=paired)
    seeds = cotangents(inputs)
    expected = gradients(inputs, seeds, reverse=reverse)
    same(gradients(inputs, seeds, scan=in_pieces(cut, reverse)), expected, assert_close, floor=4e-6)


@pytest.mark.parametrize("paired", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("lengths", [(0,), (0, 0, 0)])
def test_nothing_to_scan(lengths, paired, implementation_name):
    inputs = make(1, 0, 3, 2, C_form="constant", paired=paired, states=len(lengths))
    h0 = inputs["h0"].requires_grad_()
    y, h_last = selective_scan(**inputs, reverse=True, cu_seqlens=borders(lengths), return_state=True)
    assert y.shape == (1, 0, 3)
    assert torch.equal(h_last, h0)
    (through,) = torch.autograd.grad(h_last, h0, torch.ones_like(h_last))
    assert torch.equal(through, torch.ones_like(h0))
    _, h_last = selective_scan(**inputs | {"h0": None}, cu_seqlens=borders(lengths), return_state=True)
    assert torch.equal(h_last, torch.zeros_like(h0))
    assert h_last.dtype == h0.dtype


def test_two_runs_and_any_threads_are_bit_equal(threads, monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "cpu")
    inputs = make(1, sum(LENGTHS), 150, 4, B_form="grouped", C_form="constant", paired=True, states=len(LENGTHS))
    results = []
    for count in (1, 1, 2, 3):
        threads(count)
        results.append(gradients(inputs, cotangents(inputs), reverse=True, cu_seqlens=borders(LENGTHS)))
    for other in results[1:]:
        for key, tensor in results[0].items():
            assert torch.equal(tensor, other[key]), key


CASES = [
    {},
    {"paired": True},
    {"paired": True, "real": ("B",), "B_form": "constant", "C_form": "grouped"},
    {"B_form": "grouped", "C_form": "constant"},
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("packed", [False, True])
def test_gradcheck_in_double_precision(case, packed):
    inputs = doubled(make(1 if packed else 2, 4, 4, 2, states=3 if packed else 2, **case))
    options = {"reverse": True, "cu_seqlens": torch.tensor([0, 1, 1, 4]) if packed else None}
    leaves = [x.requires_grad_() for x in inputs.values()]

    def scan(*tensors):
        return selective_scan(**dict(zip(inputs, tensors, strict=True)), return_state=True, **options)

    assert torch.autograd.gradcheck(scan, leaves)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("packed", [False, True])
def test_adjoint_of_the_reference_is_its_derivative(case, packed, assert_close, monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "reference")
    inputs = make(1 if packed else 2, 30, 6, 3, states=3 if packed else 2, **case)
    options = {"reverse": True, "cu_seqlens": torch.tensor([0, 11, 11, 30]) if packed else None}

    def plain(return_state, **tensors):
        return reference.selective_scan(**tensors)

    seeds = cotangents(inputs)
    same(gradients(inputs, seeds, **options), gradients(inputs, seeds, scan=plain, **options), assert_close)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_mixed_dtypes(low, implementation_name, assert_close):
    inputs = make(2, 40, 20, 4, B_form="constant", C_form="grouped", paired=True, real=("B", "C"))
    for name in ("u", "B", "C", "z"):
        inputs[name] = inputs[name].to(low)
    dy, dh = cotangents(inputs)
    dy = dy.to(low).float()
    found = gradients(inputs, (dy, dh))
    wide = gradients({n: x if x.is_complex() else x.float() for n, x in inputs.items()}, (dy, dh))
    for name, tensor in found.items():
        assert_close(tensor, wide[name].to(tensor.dtype), wide[name], name)


def test_strided_and_conjugated_inputs(implementation_name):
    inputs = make(2, 40, 20, 4, C_form="constant", paired=True)
    expected = selective_scan(**inputs)
    strided = inputs | {
        "A": inputs["A"].conj().resolve_conj().conj(),
        "B": torch.cat([inputs["B"], inputs["B"]], -1)[..., :4],
        "C": inputs["C"].t().contiguous().t(),
        "h0": inputs["h0"].conj().resolve_conj().conj(),
        "z": (-inputs["z"] * 1j).conj().imag,
    }
    assert strided["A"].is_conj()
    assert strided["z"].is_neg()
    assert torch.equal(selective_scan(**strided), expected)


OPTIONS = [
    ({"paired": True}, False),
    ({"B_form": "grouped", "C_form": "constant"}, True),
]


@pytest.mark.parametrize(("case", "packed"), OPTIONS, ids=str)
def test_opcheck(case, packed, implementation_name):
    inputs = make(1, 5, 4, 2, states=2 if packed else 1, **case)
    args = [x.requires_grad_() for x in inputs.values()]
    cut = torch.tensor([0, 2, 5]) if packed else None
    torch.library.opcheck(torch.ops.seqdomains.selective_scan.default, (*args, cut, True, True))


@pytest.mark.parametrize(("case", "packed"), OPTIONS, ids=str)
def test_compiles_to_one_graph(case, packed, implementation_name):
    torch._dynamo.reset()
    inputs = make(1, 5, 4, 2, states=2 if packed else 1, **case)
    options = {"reverse": True, "cu_seqlens": torch.tensor([0, 2, 5]) if packed else None}
    compiled = torch.compile(selective_scan, fullgraph=True, backend="aot_eager")
    expected = gradients(inputs, cotangents(inputs), **options)
    for name, value in gradients(inputs, cotangents(inputs), scan=compiled, **options).items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    ("case", "wrong", "message"),
    [
        ({}, {"B": torch.zeros(1, 5, 2, dtype=torch.complex64)}, "B is complex and A is real"),
        ({}, {"h0": torch.zeros(1, 4, 2, dtype=torch.complex64)}, "h0 has dtype torch.complex64, expected float16"),
        ({"paired": True}, {"h0": torch.zeros(1, 4, 2)}, "h0 has dtype torch.float32, expected complex64"),
        ({"paired": True}, {"u": torch.zeros(1, 5, 4, dtype=torch.complex64)}, "u has dtype torch.complex64"),
        ({}, {"B": torch.zeros(1, 5, 3, 2)}, "3 groups, which do not divide the 4 channels"),
        ({"C_form": "grouped"}, {"B": torch.zeros(1, 5, 4, 2)}, "B has 4 groups and C has 2"),
        ({}, {"C": torch.zeros(5, 2)}, r"C has shape \(5, 2\), expected \(4, 2\)"),
        ({}, {"C": torch.zeros(2)}, r"expected \(B, L, N\), \(B, L, G, N\) or \(D, N\)"),
        ({}, {"cu_seqlens": torch.tensor([0, 2, 5]), "h0": torch.zeros(1, 4, 2)}, "h0 has shape"),
        ({}, {"cu_seqlens": torch.tensor([0.0, 5.0])}, "int32 or int64"),
        ({}, {"cu_seqlens": torch.tensor([0])}, "S at least 1"),
        ({}, {"cu_seqlens": torch.tensor([0, 5], device="meta")}, "cu_seqlens is on meta"),
        ({}, {"cu_seqlens": torch.tensor([1, 5])}, "must rise from 0 to L = 5"),
        ({}, {"cu_seqlens": torch.tensor([0, 4])}, "must rise from 0 to L = 5"),
        ({}, {"cu_seqlens": torch.tensor([0, 3, 2, 5]), "h0": None}, "must rise from 0 to L = 5"),
    ],
)
def test_refusals(case, wrong, message):
    with pytest.raises(ValueError, match=message):
        selective_scan(**make(1, 5, 4, 2, **case) | wrong)


def test_packed_batch_rows_are_refused():
    with pytest.raises(ValueError, match="B is 2, expected 1"):
        selective_scan(**make(2, 5, 4, 2), cu_seqlens=torch.tensor([0, 5]))
