"""Offsets beyond 2**31 elements, in arrays of which the machine only backs the pages that are touched."""

import mmap
import sys

import numpy as np
import pytest
import torch

from seqdomains.kernels.causal_conv1d import cpu as conv
from seqdomains.kernels.compilation import flat
from seqdomains.kernels.rms_norm import cpu as norm
from seqdomains.kernels.selective_scan import cpu as scan

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs memory that is reserved without being backed")
B, L, N, LAST = 2, 3, 2, 64
D = 2**29 + 64
NORESERVE = 0x4000  # mmap.h; Python 3.11's mmap does not name it


def sparse(*shape):
    """Zeros of which only touched pages exist."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE
    return np.frombuffer(mmap.mmap(-1, 4 * int(np.prod(shape)), flags=flags), np.float32).reshape(shape)


def widen(small, batch_axis=True):
    """The small tensor as the last row of the batch and the last channels of a wide array."""
    if small is None:
        return sparse(1)[:0]
    rows = small.shape[1:-1] if batch_axis else small.shape[:-1]
    wide = sparse(*((B,) if batch_axis else ()), *rows, D)
    (wide[-1] if batch_axis else wide)[..., -LAST:] = small[0] if batch_axis else small
    return wide


def narrow(wide):
    return torch.from_numpy(wide[-1, ..., -LAST:].copy())


def ravel(arrays):
    return tuple(array.ravel() for array in arrays)


def inputs():
    torch.manual_seed(0)
    wide = {name: torch.randn(1, L, LAST) for name in ("u", "dt", "z", "dy")}
    return wide, -torch.rand(LAST, N), torch.randn(1, L, N), torch.randn(1, L, N), torch.randn(LAST)


def test_scan():
    assert B * L * D > 2**31
    wide, A, Bs, Cs, bias = inputs()
    small = (wide["u"], wide["dt"], A, Bs, Cs, None, wide["z"], bias, None)
    y, h_last, states = scan.forward(*small, None, True, False)
    gradients = scan.backward(wide["dy"], None, *small, None, states, True, False)
    u, dt, z, dy = (widen(tensor) for tensor in wide.values())
    rates, shift = widen(scan._rates(A), batch_axis=False), widen(bias, batch_axis=False)
    Bw, Cw = (np.concatenate([np.zeros((1, L, N), np.float32), tensor.numpy()]).ravel() for tensor in (Bs, Cs))
    none = widen(None)
    y_wide, states_wide, h_wide = sparse(B, L, D), sparse(B, 1, N, D), sparse(B, N, D)
    task = B * -(-D // scan.BLOCK) - 1
    scratch = np.empty(scan.layout(N)[-1], np.float32)
    cuts = scan._even_cuts(B, L)
    steps = scan.Projection(none, False, 0, 0, N).steps
    call = (task, task + 1, scratch, (D, N, 1, B * L), cuts, (None, 1, True, False, True, True, False), steps, steps)
    given, written = (u, dt, rates, Bw, Cw, none, z, shift, none), (y_wide, h_wide, states_wide)
    scan.advance(*call, ravel(given), ravel(written))
    assert torch.equal(narrow(y_wide), y[0])
    assert torch.equal(narrow(h_wide).T, h_last[0])
    du, ddt, dz = sparse(B, L, D), sparse(B, L, D), sparse(B, L, D)
    dA, dh0, dD, dbias = sparse(B, N, D), sparse(B, N, D), sparse(B, D), sparse(B, D)
    dB, dC = sparse(D // scan.BLOCK, B, L, N), sparse(D // scan.BLOCK, B, L, N)
    given = (dy, none, u, dt, rates, Bw, Cw, none, z, shift, states_wide)
    written = (du, ddt, dA, dB, dC, dD, dz, dbias, dh0)
    scan.retreat(*call, ravel(given), ravel(written))
    found = (narrow(du), narrow(ddt), narrow(dA).T, torch.from_numpy(dB[-1, -1]), torch.from_numpy(dC[-1, -1]))
    expected = (gradients[0][0], gradients[1][0], gradients[2], gradients[3][0], gradients[4][0])
    for one, other in zip((*found, narrow(dz), narrow(dbias)), (*expected, gradients[6][0], gradients[7]), strict=True):
        assert torch.equal(one, other)


def test_convolution():
    wide, _, _, _, bias = inputs()
    weight = torch.randn(LAST, 4)
    y = conv.forward(wide["u"], weight, bias, None, True)
    dx = conv.backward(wide["dy"], wide["u"], weight, bias, None, True)[0]
    x, dy, none = widen(wide["u"]), widen(wide["dy"]), widen(None)
    taps, shift = widen(conv._taps(weight), batch_axis=False), widen(bias, batch_axis=False)
    y_wide, dx_wide, dtaps, dbias = sparse(B, L, D), sparse(B, L, D), sparse(B, 4, D), sparse(B, D)
    task = B * -(-D // conv.BLOCK) - 1
    scratch = np.empty(8 * conv.BLOCK, np.float32)
    arrays = [array.ravel() for array in (x, none, taps, shift)]
    shape, borders = (D, 4, 1, False), np.arange(B + 1) * L
    conv._convolve(task, task + 1, scratch, shape, True, borders, *arrays, y_wide.ravel())
    assert torch.equal(narrow(y_wide), y[0])
    outputs = [array.ravel() for array in (dx_wide, dtaps, dbias, none)]
    conv._adjoint(task, task + 1, scratch, shape, True, borders, dy.ravel(), *arrays, *outputs)
    assert torch.equal(narrow(dx_wide), dx[0])


def test_norm():
    """The last of so many rows that it begins beyond 2**31 elements."""
    rows = 2**25 + 3
    x, weight = torch.randn(1, 1, LAST), torch.randn(LAST)
    y, total, rstd = norm.forward(x, weight, None, 1e-5)
    dx, _, _ = norm.backward(x, None, total, weight, rstd, torch.float32, False)
    wide, y_wide, total_wide, dx_wide, rstd_wide = (*(sparse(rows, LAST) for _ in range(4)), sparse(rows))
    wide[-1] = x
    shape, none = (rows, LAST, 1), sparse(1)[:0]
    arrays = (wide, flat(weight), none, y_wide, total_wide, rstd_wide)
    norm._normalise(rows - 1, rows, none, shape, np.float32(1e-5), *(array.ravel() for array in arrays))
    assert torch.equal(torch.from_numpy(y_wide[-1].copy()), y[0, 0])
    arrays = (wide, none, total_wide, flat(weight), rstd_wide, dx_wide, sparse(rows, LAST))
    norm._adjoint(rows - 1, rows, none, shape, *(array.ravel() for array in arrays))
    assert torch.equal(torch.from_numpy(dx_wide[-1].copy()), dx[0, 0])
