"""Where the Gluon kernels of a part of a scan are told to read and write, found out without a GPU.

Launches are recorded with the addresses of CPU tensors: what one kernel leaves, the next one has to be given.
"""
# ruff: noqa: E402  (the imports below need what is checked above them)

from __future__ import annotations

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton has no wheel for this platform")
if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 6):
    pytest.skip("the Gluon kernels need Triton 3.6 or later to be imported for sure", allow_module_level=True)

from triton.runtime.jit import JITFunction

from seqdomains.kernels import triton_launch
from seqdomains.kernels.selective_scan import gluon, gluon_plan

L, D, N = 5000, 64, 16


@pytest.fixture
def recorded(monkeypatch):
    """What is launched: (name, arguments by name)."""
    found = []

    class Compiled:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            def start(*values, stream):
                found.append((self.kernel.__name__, dict(zip(self.kernel.arg_names, values, strict=True))))

            return start

    monkeypatch.setattr(JITFunction, "run", lambda kernel, *_, **__: Compiled(kernel))
    monkeypatch.setattr(triton_launch, "_compiled", {})
    monkeypatch.setattr(gluon_plan, "SCRATCH", 1)
    plans = gluon_plan.plan_forward, gluon_plan.plan_backward
    for plan in plans:
        plan.cache_clear()
    yield found
    for plan in plans:
        plan.cache_clear()


def inputs_of(batch):
    rows, low = torch.zeros(batch, L, D, dtype=torch.bfloat16), torch.zeros(batch, L, N, dtype=torch.bfloat16)
    return rows, rows.clone(), -torch.ones(D, N), low, low.clone(), torch.ones(D), rows.clone(), torch.zeros(D)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_forward_reads_the_state_that_enters(batch, recorded):
    told, h0 = [], torch.ones(batch, D, N)

    def enter(end, total):
        told.append((end, total, len(recorded)))
        return h0

    y, h_last, states = gluon.forward(*inputs_of(batch), None, True, False, enter=enter)
    assert [name for name, _ in recorded] == ["chunk_ends", "pass_through", "pass_forward", "outputs"]
    ends, through, forward, outputs = (values for _, values in recorded)
    (end, total, before) = told[0]
    assert before == 2
    assert (end.shape, total.shape) == ((batch, D, N), (batch, D))
    chunks = -(-L // ends["chunk"])
    assert through["known"] == ends["chunks"] - 1 == chunks > 2
    assert forward["known"] == chunks - 1 == states.shape[1]
    assert outputs["chunks"] == chunks
    assert through["ends_ptr"] == ends["states_ptr"]
    assert through["sums_ptr"] == ends["sums_ptr"]
    assert through["end_ptr"] == end.data_ptr()
    assert forward["states_ptr"] == outputs["states_ptr"] == states.data_ptr()
    # Each batch row has one chunk's end more than states are kept; a single row's are not copied.
    assert (forward["states_ptr"] == ends["states_ptr"]) == (forward["sums_ptr"] == ends["sums_ptr"]) == (batch == 1)
    assert states.is_contiguous()
    assert forward["start_ptr"] == outputs["start_ptr"] == h0.data_ptr()
    assert forward["HAS_START"]
    assert outputs["HAS_START"]
    assert outputs["y_ptr"] == y.data_ptr()
    assert outputs["h_last_ptr"] == h_last.data_ptr() != end.data_ptr()


@pytest.mark.parametrize("batch", [1, 3])
def test_the_backward_reads_the_gradient_that_enters(batch, recorded):
    inputs, h0, dh = inputs_of(batch), torch.ones(batch, D, N), torch.ones(batch, D, N)
    chunks = -(-L // gluon_plan.gpu_chunk(batch, L, D, N))
    states, y = torch.zeros(batch, chunks - 1, D, N), torch.zeros_like(inputs[0])
    told = []

    def enter(start):
        told.append((start, len(recorded)))
        return dh

    gradients = gluon.backward(inputs[0], None, *inputs, h0, states, True, False, y=y, enter=enter)
    names = [name for name, _ in recorded]
    assert names == ["sweep_forward", "pass_through", "pass_and_add", "sweep_backward", "add_all"]
    forward, through, passing, back, _ = (values for _, values in recorded)
    ((start, before),) = told
    assert before == 2
    assert start.shape == (batch, D, N)
    assert through["end_ptr"] == start.data_ptr()
    assert through["BACK"]
    assert through["known"] == forward["segment"] == chunks
    assert through["ends_ptr"] == forward["added_ptr"] == passing["q_ptr"] == back["q_ptr"]
    assert through["sums_ptr"] == forward["sums_ptr"] == passing["sums_ptr"]
    assert forward["y_ptr"] == y.data_ptr()
    assert passing["entering_ptr"] == dh.data_ptr()
    assert passing["ENTERS"]
    assert not passing["ADD"]
    assert passing["leaving_ptr"] == gradients[8].data_ptr()
    assert forward["start_ptr"] == back["start_ptr"] == h0.data_ptr()
