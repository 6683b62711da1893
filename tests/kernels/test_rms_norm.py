"""Laws of the norm on a CPU: values and gradients of the reference and of the numba kernels."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqdomains.kernels import rms_norm
from seqdomains.kernels.rms_norm import reference

pytestmark = pytest.mark.usefixtures("poisoned")


def make(B, L, D, *, seed=0, dtype=torch.float32, absent=()):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"x": (B, L, D), "weight": (D,), "residual": (B, L, D)}
    return {
        name: None if name in absent else torch.randn(*shape, generator=generator, dtype=dtype)
        for name, shape in shapes.items()
    }


def cast(inputs, dtype):
    return {name: None if tensor is None else tensor.to(dtype) for name, tensor in inputs.items()}


def gradients(inputs, dy, dtotal):
    leaves = {name: None if x is None else x.detach().clone().requires_grad_() for name, x in inputs.items()}
    y, total = rms_norm(**leaves, return_residual=True)
    present = {name: leaf for name, leaf in leaves.items() if leaf is not None}
    found = torch.autograd.grad((y, total), list(present.values()), (dy.to(y.dtype), dtotal.to(total.dtype)))
    return {"y": y.detach(), "total": total.detach(), **dict(zip(present, found, strict=True))}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(1, 3),
    length=st.sampled_from([1, 2, 16, 17, 400]),
    channels=st.sampled_from([1, 15, 16, 17, 64, 65]),
    absent=st.sets(st.just("residual")),
    seed=st.integers(0, 2**16),
)
def test_equals_float64(batch, length, channels, absent, seed, assert_close, monkeypatch):
    inputs = make(batch, length, channels, seed=seed, absent=absent)
    generator = torch.Generator().manual_seed(seed + 1)
    dy, dtotal = (torch.randn(batch, length, channels, generator=generator) for _ in range(2))
    results = {}
    for name, dtype in (("cpu", torch.float32), ("reference", torch.float32), ("exact", torch.float64)):
        monkeypatch.setenv("SEQDOMAINS_KERNELS", "auto" if name == "exact" else name)
        results[name] = gradients(cast(inputs, dtype), dy, dtotal)
    for key, exact in results["exact"].items():
        assert_close(results["cpu"][key], results["reference"][key], exact, key, floor=1e-5)


def test_equals_torch_rms_norm(implementation_name):
    inputs = make(2, 9, 40, absent=("residual",))
    expected = torch.nn.functional.rms_norm(inputs["x"], (40,), inputs["weight"], eps=1e-5)
    torch.testing.assert_close(rms_norm(**inputs), expected)


def test_gradcheck_in_float64():
    leaves = [x.requires_grad_() for x in make(2, 3, 4, dtype=torch.float64).values()]
    assert torch.autograd.gradcheck(
        lambda x, weight, residual: rms_norm(x, weight, residual=residual, return_residual=True), leaves
    )
    assert torch.autograd.gradgradcheck(
        lambda x, weight, residual: reference.rms_norm(x, weight, residual=residual), leaves
    )


def test_residual_stream_is_never_rounded(implementation_name, assert_close):
    """bf16 input beside a float32 residual: the sum and its gradient stay float32, y and dx are rounded once."""
    inputs = make(2, 9, 40)
    inputs["x"] = inputs["x"].bfloat16()
    dy, dtotal = torch.randn(2, 9, 40).bfloat16(), torch.randn(2, 9, 40)
    found = gradients(inputs, dy, dtotal)
    wide = gradients(cast(inputs, torch.float32), dy.float(), dtotal)
    assert found["y"].dtype == found["x"].dtype == torch.bfloat16
    assert found["total"].dtype == found["residual"].dtype == torch.float32
    assert torch.equal(found["total"], wide["total"])
    assert_close(found["residual"], wide["residual"], wide["residual"], "residual")
    assert torch.equal(found["x"], found["residual"].bfloat16())
    assert_close(found["y"], wide["y"].bfloat16(), wide["y"], "y")
    alone = gradients({**inputs, "residual": None}, dy, dtotal)
    assert alone["x"].dtype == torch.bfloat16


@pytest.mark.parametrize("used", ["y", "total"])
def test_one_output_alone(used, implementation_name, assert_close):
    inputs = make(2, 5, 17)
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    y, total = rms_norm(**leaves, return_residual=True)
    ones, zeros = torch.ones(2, 5, 17), torch.zeros(2, 5, 17)
    expected = gradients(inputs, *((ones, zeros) if used == "y" else (zeros, ones)))
    found = torch.autograd.grad((y if used == "y" else total).sum(), list(leaves.values()))
    for name, gradient in zip(leaves, found, strict=True):
        assert_close(gradient, expected[name], expected[name], name)


def test_row_of_zeros_is_finite(implementation_name):
    inputs = {**make(1, 2, 5, absent=("residual",)), "x": torch.zeros(1, 2, 5)}
    found = gradients(inputs, torch.ones(1, 2, 5), torch.ones(1, 2, 5))
    assert not found["y"].any()
    assert torch.isfinite(found["x"]).all()


@pytest.mark.parametrize("shape", [(2, 0, 3), (0, 5, 3)])
def test_nothing_to_normalise(shape, implementation_name):
    inputs = make(*shape)
    y, total = rms_norm(**inputs, return_residual=True)
    assert y.shape == total.shape == shape


def test_two_runs_and_any_threads_are_bit_equal(threads, monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "cpu")
    inputs, dy, dtotal = make(3, 500, 50), torch.randn(3, 500, 50), torch.randn(3, 500, 50)
    results = []
    for count in (1, 1, 2, 3):
        threads(count)
        results.append(gradients(inputs, dy, dtotal))
    for other in results[1:]:
        for key, tensor in results[0].items():
            assert torch.equal(tensor, other[key]), key


def test_strided_and_autocast(implementation_name):
    inputs = make(2, 9, 17)
    expected = rms_norm(**inputs)
    strided = {
        "x": inputs["x"].transpose(0, 1).contiguous().transpose(0, 1),
        "weight": inputs["weight"].repeat_interleave(2)[::2],
        "residual": torch.cat([inputs["residual"], inputs["x"]], -1)[..., :17],
    }
    assert torch.equal(rms_norm(**strided), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rms_norm(**inputs), expected)


def test_opcheck(implementation_name):
    for absent in ((), ("residual",)):
        args = [None if name in absent else x.requires_grad_() for name, x in make(2, 3, 5).items()]
        torch.library.opcheck(torch.ops.seqdomains.rms_norm.default, (*args, 1e-5))
        args[0] = args[0].detach().bfloat16().requires_grad_()
        torch.library.opcheck(torch.ops.seqdomains.rms_norm.default, (*args, 1e-5))


def test_compiles_to_one_graph(implementation_name):
    torch._dynamo.reset()
    inputs = make(1, 5, 3)
    dy, dtotal = torch.randn(1, 5, 3), torch.randn(1, 5, 3)
    expected = gradients(inputs, dy, dtotal)
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    outputs = torch.compile(rms_norm, fullgraph=True, backend="aot_eager")(**leaves, return_residual=True)
    found = torch.autograd.grad(outputs, list(leaves.values()), (dy, dtotal))
    assert torch.equal(outputs[0], expected["y"])
    for name, gradient in zip(leaves, found, strict=True):
        assert torch.equal(gradient, expected[name]), name


def test_second_derivative_is_refused(implementation_name):
    leaves = {name: x.requires_grad_() for name, x in make(1, 3, 2).items()}
    (gradient,) = torch.autograd.grad(rms_norm(**leaves).sum(), leaves["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="has no second derivative"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("x", torch.zeros(2, 3), "expected x of shape"),
        ("weight", torch.zeros(4), "weight has shape"),
        ("residual", torch.zeros(1, 5, 3, dtype=torch.bfloat16), "never rounded"),
    ],
)
def test_wrong_arguments(name, wrong, message):
    with pytest.raises(ValueError, match=message):
        rms_norm(**{**make(1, 5, 3), name: wrong})
