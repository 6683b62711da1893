"""Ops that run past torch's dispatcher: who looks on still sees them, and gradients are those of the ops."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from seqdomains.kernels import causal_conv1d, rms_norm, selective_scan


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


ROWS, WEIGHT, TAPS, RATES = draw(2, 5, 8), draw(8), draw(8, 3), -torch.ones(8, 4)
CALLS = {
    "selective_scan": lambda x: selective_scan(x, x, RATES, ROWS[..., :4], ROWS[..., 4:]),
    "causal_conv1d": lambda x: causal_conv1d(x, TAPS, activation="silu"),
    "rms_norm": lambda x: rms_norm(x, WEIGHT),
}
ops = pytest.mark.parametrize("op", CALLS)


class Seen(TorchDispatchMode):
    def __init__(self):
        self.names = []
        super().__init__()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@ops
def test_a_mode_sees_the_op_and_its_gradient(op):
    x = ROWS.clone().requires_grad_()
    with Seen() as seen:
        CALLS[op](x).sum().backward()
    own = [name for name in seen.names if name.startswith("seqdomains.")]
    assert own == [f"seqdomains.{op}.default", f"seqdomains.{op}_backward.default"]


@ops
def test_the_dispatcher_changes_nothing(op):
    results = []
    for mode in (None, Seen()):
        x = ROWS.clone().requires_grad_()
        if mode is None:
            y = CALLS[op](x)
        else:
            with mode:
                y = CALLS[op](x)
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
        results.append((y.detach(), gradient))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@ops
def test_in_eager_mode_the_dispatcher_is_passed_by(op):
    x = ROWS.clone().requires_grad_()
    assert "Direct" in type(CALLS[op](x).grad_fn).__name__
    with torch.no_grad():
        assert CALLS[op](x).grad_fn is None


@ops
def test_transforms_are_refused(op):
    """torch.func knows no gradients of ops that are written in Python; a wrong one would be worse."""
    with pytest.raises(RuntimeError, match="functorch transforms"):
        torch.func.grad(lambda x: CALLS[op](x).sum())(ROWS)


@ops
def test_fake_tensors_have_shapes_alone(op):
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        y = CALLS[op](mode.from_tensor(ROWS))
    assert y.shape == ROWS.shape
    assert type(y).__name__ == "FakeTensor"


@ops
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_trace_holds_the_op(op):
    # torch.jit.trace has been deprecated, but still records what runs.
    with torch.no_grad():
        traced = torch.jit.trace(CALLS[op], ROWS, check_trace=False)
    assert f"seqdomains::{op}" in str(traced.graph)


@ops
def test_autocast_changes_nothing(op, monkeypatch):
    for name in ("auto", "reference"):
        monkeypatch.setenv("SEQDOMAINS_KERNELS", name)
        expected = CALLS[op](ROWS)
        with torch.autocast("cpu", torch.bfloat16):
            found = CALLS[op](ROWS)
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)


@ops
def test_no_second_derivative(op):
    x = ROWS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(CALLS[op](x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=f"seqdomains::{op} has no second derivative"):
        torch.autograd.grad(gradient.sum(), x)


@ops
def test_forward_mode_is_refused(op):
    """A tangent that is silently zero would be a wrong derivative."""
    with pytest.raises(RuntimeError, match=f"{op} has no forward-mode derivative"):
        torch.func.jvp(CALLS[op], (ROWS,), (ROWS,))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(ROWS, ROWS)
        with pytest.raises(RuntimeError, match=f"{op} has no forward-mode derivative"):
            CALLS[op](dual)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@ops
def test_the_default_dtype_changes_nothing(op, dtype):
    def results():
        x = ROWS.clone().requires_grad_()
        y = CALLS[op](x)
        return y.detach(), torch.autograd.grad(y.square().sum(), x)[0]

    expected = results()
    torch.set_default_dtype(dtype)
    try:
        found = results()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@ops
def test_the_default_device_changes_nothing(op):
    expected = CALLS[op](ROWS)
    with torch.device("meta"):
        assert torch.equal(CALLS[op](ROWS), expected)


@ops
def test_dtypes_of_eight_bits_are_refused(op):
    with pytest.raises(ValueError, match="expected float16, bfloat16, float32 or float64"):
        CALLS[op](ROWS.to(torch.float8_e5m2))
