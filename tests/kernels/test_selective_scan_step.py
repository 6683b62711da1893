"""Laws of the scan's single step on a CPU, and its Triton kernel in the interpreter and compiled for an H100."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from seqdomains.kernels import selective_scan, selective_scan_step

pytestmark = pytest.mark.usefixtures("poisoned")
FORMS = ("varying", "grouped", "constant")


def make(B, D, N, *, L=None, B_form="varying", C_form="varying", groups=2, paired=False, real=(), seed=0):
    """Inputs of one step, or of L of them."""
    generator = torch.Generator().manual_seed(seed)
    time = () if L is None else (L,)

    def normal(*shape, complex_=False):
        return torch.randn(*shape, generator=generator, dtype=torch.complex64 if complex_ else torch.float32)

    def projection(name, form):
        shape = {"varying": (B, *time, N), "grouped": (B, *time, groups, N), "constant": (D, N)}[form]
        return normal(*shape, complex_=paired and name not in real)

    decay = -torch.arange(1.0, N + 1).repeat(D, 1)
    return {
        "u": normal(B, *time, D),
        "dt": normal(B, *time, D),
        "A": torch.complex(decay, 3 * normal(D, N)) if paired else decay,
        "B": projection("B", B_form),
        "C": projection("C", C_form),
        "D": normal(D),
        "z": normal(B, *time, D),
        "bias": normal(D) - 2,
        "state": normal(B, D, N, complex_=paired),
    }


def steps(inputs, **options):
    """y of all steps and the state after them, one step at a time."""
    state, rows = inputs["state"].clone(), []
    for t in range(inputs["u"].shape[1]):
        now = {n: x[:, t] for n, x in inputs.items() if n in ("u", "dt", "z") or (n in "BC" and x.dim() > 2)}
        rows.append(selective_scan_step(**inputs | now | {"state": state}, **options))
    return torch.stack(rows, 1), state


def parts(tensor):
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


@pytest.mark.parametrize("paired", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("C_form", FORMS)
@pytest.mark.parametrize("B_form", FORMS)
@pytest.mark.parametrize(("B", "D", "N"), [(2, 6, 5), (3, 70, 16), (1, 20, 33), (2, 4, 1)])
def test_loop_of_steps_is_the_scan(B, D, N, B_form, C_form, paired, implementation_name, assert_close):
    real = ("C",) if B_form == "constant" else ()
    inputs = make(B, D, N, L=4, B_form=B_form, C_form=C_form, paired=paired, real=real)
    y, state = steps(inputs)
    h0 = inputs.pop("state")
    expected, h_last = selective_scan(**inputs, h0=h0, return_state=True)
    assert_close(y, expected, expected, "y")
    assert_close(parts(state), parts(h_last), parts(h_last), "state")


@pytest.mark.parametrize("absent", [("D",), ("z", "bias"), ("D", "z", "bias")])
@pytest.mark.parametrize("softplus", [True, False])
def test_without_optional_tensors(absent, softplus, implementation_name, assert_close):
    inputs = make(2, 20, 3, L=3) | dict.fromkeys(absent)
    if not softplus:
        inputs["dt"] = 0.1 * inputs["dt"].abs()
        inputs["bias"] = None
    inputs = {n: x for n, x in inputs.items() if x is not None}
    y, state = steps(inputs, softplus=softplus)
    h0 = inputs.pop("state")
    expected, h = selective_scan(**inputs, h0=h0, softplus=softplus, return_state=True)
    assert_close(y, expected, expected, "y")
    assert_close(state, h, h, "state")


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_mixed_dtypes(low, implementation_name, assert_close):
    inputs = make(2, 20, 3)
    inputs |= {name: inputs[name].to(low) for name in ("u", "B", "z", "D")}
    wide = {n: x.float() for n, x in inputs.items()} | {"state": inputs["state"].clone()}
    y = selective_scan_step(**inputs)
    expected = selective_scan_step(**wide)
    assert y.dtype == low
    assert_close(y, expected.to(low), expected, "y")
    assert_close(inputs["state"], wide["state"], wide["state"], "state")


def test_float64_runs_the_reference():
    inputs = {n: x.double() for n, x in make(2, 5, 3, L=3).items()}
    y, state = steps(inputs)
    h0 = inputs.pop("state")
    expected, h = selective_scan(**inputs, h0=h0, return_state=True)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(state, h)


@pytest.mark.parametrize("paired", [False, True], ids=["real", "complex"])
def test_zero_step_is_identity(paired, implementation_name):
    inputs = make(2, 20, 5, paired=paired) | {"bias": None, "dt": torch.zeros(2, 20)}
    before = inputs["state"].clone()
    selective_scan_step(**inputs, softplus=False)
    assert torch.equal(inputs["state"], before)


def test_strided_state_and_inputs(implementation_name):
    plain = make(3, 20, 4)
    memory = torch.randn(3, 4, 20)
    memory.transpose(1, 2).copy_(plain["state"])
    strided = plain | {"state": memory.transpose(1, 2), "u": torch.stack([plain["u"]] * 2, -1)[..., 0]}
    expected = selective_scan_step(**plain)
    assert torch.equal(selective_scan_step(**strided), expected)
    assert torch.equal(strided["state"], plain["state"])


def test_the_state_knows_that_it_changed(implementation_name):
    inputs = make(2, 6, 3)
    before = inputs["state"]._version
    selective_scan_step(**inputs)
    assert inputs["state"]._version > before
    with torch.inference_mode():
        selective_scan_step(**make(2, 6, 3))


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3)])
def test_nothing_to_step(shape, implementation_name):
    assert selective_scan_step(**make(*shape)).shape == shape[:2]


def test_any_threads_are_bit_equal(threads, monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "cpu")
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(steps(make(3, 150, 4, L=2, paired=True)))
    assert all(torch.equal(one, other) for result in results for one, other in zip(results[0], result, strict=True))


@pytest.mark.parametrize("paired", [False, True], ids=["real", "complex"])
def test_opcheck(paired, implementation_name):
    inputs = make(2, 4, 3, C_form="constant", paired=paired)
    inputs["B"] = inputs["B"][:, None]
    args = (inputs.pop("state"), *inputs.values(), True)
    torch.library.opcheck(torch.ops.seqdomains.selective_scan_step.default, args)


def test_compiles_to_one_graph(implementation_name):
    torch._dynamo.reset()
    inputs, other = make(2, 4, 3), make(2, 4, 3)
    compiled = torch.compile(selective_scan_step, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(**inputs), selective_scan_step(**other))
    assert torch.equal(inputs["state"], other["state"])


@pytest.mark.parametrize(
    ("case", "wrong", "message"),
    [
        ({}, {"u": torch.zeros(2, 1, 4)}, "expected u of shape"),
        ({}, {"state": torch.zeros(2, 4, 1)}, "state has shape"),
        (
            {},
            {"state": torch.zeros(2, 4, 3, dtype=torch.bfloat16)},
            "state has dtype torch.bfloat16, expected torch.float32",
        ),
        ({}, {"dt": torch.zeros(2, 4, dtype=torch.float64)}, "expected torch.float64"),
        ({}, {"B": torch.zeros(2, 3, dtype=torch.complex64)}, "B is complex and A is real"),
        ({"paired": True}, {"state": torch.zeros(2, 4, 3)}, "expected complex64"),
        ({}, {"B": torch.zeros(2, 3, 3)}, "3 groups, which do not divide the 4 channels"),
        ({"C_form": "grouped"}, {"B": torch.zeros(2, 4, 3)}, "B has 4 groups and C has 2"),
        ({}, {"C": torch.zeros(3)}, r"expected \(B, N\), \(B, G, N\) or \(D, N\)"),
        ({}, {"z": torch.zeros(2, 4, device="meta")}, "z is on meta"),
    ],
)
def test_refusals(case, wrong, message):
    with pytest.raises(ValueError, match=message):
        selective_scan_step(**make(2, 4, 3, **case) | wrong)


def test_equal_numbers_of_rows_and_channels_must_be_told_apart(implementation_name, assert_close):
    inputs = make(4, 4, 3, L=2, C_form="constant")
    with pytest.raises(ValueError, match=r"may be \(B, N\) or \(D, N\) here"):
        steps(inputs)
    told = inputs | {"B": inputs["B"][:, :, None], "C": inputs["C"].expand(4, 2, 4, 3)}
    y, _ = steps(told)
    h0 = inputs.pop("state")
    expected = selective_scan(**inputs, h0=h0)
    assert_close(y, expected, expected, "y")


def test_gradients_are_refused():
    inputs = make(2, 4, 3)
    inputs["u"].requires_grad_()
    with pytest.raises(RuntimeError, match="has no gradient; call it under"):
        selective_scan_step(**inputs)
    with torch.no_grad():
        selective_scan_step(**inputs)


needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton has no wheel for this platform")


@needs_triton
def test_triton_kernel_in_the_interpreter():
    cases = Path(__file__).with_name("interpreted_step_cases.py")
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-W", "ignore::RuntimeWarning", cases],
        cwd=cases.parents[2],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]


POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}


@needs_triton
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="kernels of the interpreter are not compiled")
@pytest.mark.parametrize("paired", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize(("dtype", "N"), [(torch.bfloat16, 16), (torch.float32, 256), (torch.float16, 1)], ids=str)
def test_triton_kernel_compiles_for_sm90(dtype, N, paired, monkeypatch):
    """The launch is recorded on meta tensors: one alone, whose code keeps all in registers whatever the sizes."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.jit import JITFunction

    from seqdomains.kernels.selective_scan_step import triton_forward

    def meta(*shape, dtype=torch.float32):
        return torch.zeros(*shape, dtype=dtype, device="meta")

    launches = []
    monkeypatch.setattr(
        JITFunction, "run", lambda kernel, *values, grid, warmup, **named: launches.append((values, named))
    )
    of_states = torch.complex64 if paired else torch.float32
    rows, channel, state = meta(2, 24, dtype=dtype), meta(24), meta(2, 24, N, dtype=of_states)
    grouped, constant = meta(2, 3, N, dtype=dtype), meta(24, N, dtype=of_states)
    triton_forward.forward(state, rows, rows, constant, grouped, constant, channel, rows, channel, True)
    (values, named), kernel = *launches, triton_forward.step
    values = dict(zip(kernel.arg_names, values, strict=False)) | named
    signature, constants, attributes = {}, {}, {}
    for place, parameter in enumerate(kernel.params):
        value = values.pop(parameter.name)
        if parameter.is_constexpr:
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = POINTERS[value.dtype]
            attributes[(place,)] = [["tt.divisibility", 16]]
        else:
            # A new batch or width must not compile again in the midst of a generation.
            assert parameter.do_not_specialize
            signature[parameter.name] = "i32"
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=values)
    assert compiled.metadata.shared <= 16384
    assert ".local" not in compiled.asm["ptx"] or paired  # sin and cos of huge angles may use local memory
