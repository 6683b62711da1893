"""Inputs, tolerances and poison shared by the tests of all ops."""

from functools import cache
from itertools import pairwise

import numba
import numpy as np
import pytest
import torch
from torch.nn.functional import softplus as softplus_of

from seqdomains.kernels import raw


def relative_error(found, expected):
    """Root-mean-square error relative to the expected values; 0 for two tensors without elements."""
    difference = (found.double() - expected.double()).norm()
    return (difference / expected.double().norm().clamp_min(1e-30)).item() if expected.numel() else 0.0


@pytest.fixture
def assert_close():
    """Check a result against float64 within twice the error of the float32 reference, or 1e-6 where that is more."""

    def check(found, reference, exact, what, floor=1e-6):
        assert found.shape == exact.shape, what
        assert torch.isfinite(found).all(), f"{what} is not finite"
        allowed = max(2 * relative_error(reference, exact), floor)
        assert relative_error(found, exact) <= allowed, f"{what}: {relative_error(found, exact):.2e} > {allowed:.2e}"

    return check


@pytest.fixture
def run():
    """Call an op; return its outputs and the gradients of its tensors, in their dtypes, complex ones as pairs."""

    def call(op, inputs, cotangents, **options):
        leaves = {name: None if x is None else x.detach().clone().requires_grad_() for name, x in inputs.items()}
        outputs = op(**leaves, **options)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        present = {name: leaf for name, leaf in leaves.items() if leaf is not None}
        seeds = [c.to(o.dtype) for c, o in zip(cotangents, outputs, strict=True)]
        found = torch.autograd.grad(outputs, list(present.values()), seeds)
        named = {f"output {i}": output.detach() for i, output in enumerate(outputs)}
        named |= {f"gradient of {name}": gradient for name, gradient in zip(present, found, strict=True)}
        return {name: torch.view_as_real(x.resolve_conj()) if x.is_complex() else x for name, x in named.items()}

    return call


class Parts(torch.autograd.Function):
    """A scan cut in time, whose parts are told what enters them when they ask, as if each ran somewhere else."""

    @staticmethod
    def forward(ctx, cuts, softplus, u, dt, A, B, C, D, z, bias, h0):
        state = u.new_zeros(u.shape[0], *A.shape, dtype=torch.promote_types(A.dtype, torch.float32))
        state = state if h0 is None else h0.to(state.dtype)
        found, ctx.held = [], []
        for start, stop in pairwise(cuts):
            rows = [None if x is None else x[:, start:stop] for x in (u, dt, B, C, z)]
            inputs = rows[0], rows[1], A, rows[2], rows[3], D, rows[4], bias
            ends = []

            def enter(end, total, state=state, ends=ends):
                ends.append(torch.exp(A * total[..., None]) * state + end)
                return state

            y, h_last, states = raw.scan(*inputs, None, None, softplus, False, enter=enter)
            torch.testing.assert_close(h_last, *ends, rtol=1e-4, atol=1e-4)
            found.append(y)
            ctx.held.append((start, stop, (*inputs, state, None, states, softplus, False)))
            state = h_last
        ctx.present = [x is not None for x in (u, dt, A, B, C, D, z, bias, h0)]
        return torch.cat(found, 1), state

    @staticmethod
    def backward(ctx, dy, dh_last):
        found = []
        for start, stop, arguments in reversed(ctx.held):
            dt, A, bias, softplus = arguments[1], arguments[2], arguments[7], arguments[-2]
            starts = []

            def enter(start, dh_last=dh_last, starts=starts):
                starts.append(start)
                return dh_last

            gradients = raw.scan_backward(dy[:, start:stop], None, *arguments, enter=enter)
            x = dt.float() if bias is None else dt.float() + bias.float()
            total = (softplus_of(x) if softplus else x).sum(1)
            through = torch.exp(A * total[..., None]) * dh_last
            torch.testing.assert_close(gradients[8], through + starts[0], rtol=1e-4, atol=1e-3, check_dtype=False)
            found.insert(0, gradients)
            dh_last = gradients[8]
        u, dt, A, B, C, D, z, bias, h0 = zip(*found, strict=True)
        rows = {0: u, 1: dt, 3: B, 4: C, 6: z}
        joined = [torch.cat(rows[place], 1) if place in rows else sum(each) for place, each in enumerate(
            (u, dt, A, B, C, D, z, bias))]  # fmt: skip
        joined.append(h0[0])
        return None, None, *(one if there else None for one, there in zip(joined, ctx.present, strict=True))


@pytest.fixture
def in_parts():
    """Return a scan that is cut at places in time."""

    def scan(u, dt, A, B, C, D=None, z=None, bias=None, h0=None, *, cuts, softplus=True):
        return Parts.apply(cuts, softplus, u, dt, A, B, C, D, z, bias, h0)

    return scan


@pytest.fixture
def floors():
    """Errors by dtype that are allowed whatever the float32 reference's is, where they exceed 1e-6."""
    return {}


@pytest.fixture
def tested():
    """The kernels that `hold` looks at."""
    return "triton"


@pytest.fixture
def hold(monkeypatch, assert_close, run, floors, tested):
    """Hold the Triton kernels to float64, with the float32 reference as the yardstick."""

    def cast_to(dtype, x):
        return x if x is None or dtype is None else x.to(dtype.to_complex() if x.is_complex() else dtype)

    def check(op, inputs, cotangents, **options):
        results = {}
        for name, dtype in ((tested, None), ("reference", torch.float32), ("auto", torch.float64)):
            monkeypatch.setenv("SEQDOMAINS_KERNELS", name)
            cast = {key: cast_to(dtype, x) for key, x in inputs.items()}
            results[name] = run(op, cast, cotangents, **options)
        for key, exact in results["auto"].items():
            found = results[tested][key]
            yardstick = results["reference"][key].to(found.dtype)
            assert_close(found, yardstick, exact, key, floor=floors.get(found.dtype, 1e-6))
        return results[tested]

    return check


@cache
def _let_numba_see_numpy():
    """Let numba compile: it learns numpy's functions the first time, and would refuse the true `empty` afterwards."""
    numba.njit(lambda count: np.empty(count).size)(1)


@pytest.fixture
def poisoned(monkeypatch):
    """Fill memory that is promised to nobody with NaN, so that reading what was never written shows."""
    _let_numba_see_numpy()
    torch_empty, torch_empty_like, numpy_empty = torch.empty, torch.empty_like, np.empty
    with torch.device("meta"):  # remembers which functions make tensors at its first use: not those below
        torch.empty(0)

    def fill(tensor):
        return tensor.fill_(float("nan")) if tensor.is_floating_point() or tensor.is_complex() else tensor

    def array(*args, **kwargs):
        memory = numpy_empty(*args, **kwargs)
        if memory.dtype.kind == "f":
            memory.fill(np.nan)
        return memory

    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: fill(torch_empty(*args, **kwargs)))
    monkeypatch.setattr(torch, "empty_like", lambda *args, **kwargs: fill(torch_empty_like(*args, **kwargs)))
    monkeypatch.setattr(np, "empty", array)


@pytest.fixture(params=["reference", "cpu"])
def implementation_name(request, monkeypatch):
    """Run a test once with each implementation that a CPU has."""
    monkeypatch.setenv("SEQDOMAINS_KERNELS", request.param)
    return request.param


@pytest.fixture
def threads():
    """Set torch's number of threads, and restore it."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
