"""Laws of a block's step: of the CPU's kernel, or run by test_triton_interpreter.py, of Triton's in its interpreter."""

import os

import pytest
import torch

from seqdomains.kernels.block_step import BlockStep, BlockWeights

pytestmark = pytest.mark.usefixtures("poisoned")
INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
# d, D, N, R, W, and whether there are biases.
SIZES = [(8, 16, 3, 1, 4, False), (20, 37, 16, 5, 3, True), (5, 9, 33, 2, 2, True), (33, 66, 8, 3, 4, True)]
ROWS, STEPS = 3, 5


def normal(generator, *shape, paired=False):
    return torch.randn(*shape, generator=generator, dtype=torch.complex128 if paired else torch.float64)


def make(d, D, N, R, W, biased, *, paired, selective, seed=0):
    """Return weights, a state (conv, states), inputs of each step, and a residual, in double precision."""
    g = torch.Generator().manual_seed(seed)
    A = -torch.exp(normal(g, D, N) / 2)
    numbers = 2 * N if paired else N
    weights = {
        "norm": 1 + normal(g, d) / 10,
        "eps": 1e-5,
        "to_inner": normal(g, 2 * D, d) / d**0.5,
        "inner_bias": normal(g, 2 * D) if biased else None,
        "taps": normal(g, D, W),
        "taps_bias": normal(g, D) if biased else None,
        "to_scan": normal(g, R + 2 * numbers, D) / D**0.5 if selective else None,
        "to_step": normal(g, D, R) if selective else None,
        "step_bias": normal(g, D) - 2,
        "A": torch.complex(A, 3 * normal(g, D, N)) if paired else A,
        "B": None if selective else normal(g, D, N, paired=paired),
        "C": None if selective else normal(g, D, N, paired=paired),
        "skip": normal(g, D),
        "out": normal(g, d, D) / D**0.5,
        "out_bias": normal(g, d) if biased else None,
    }
    state = normal(g, ROWS, W - 1, D), normal(g, ROWS, D, N, paired=paired)
    return weights, state, normal(g, STEPS, ROWS, d), normal(g, ROWS, d)


def cast(value, dtype, device="cpu"):
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(device, dtype.to_complex() if value.is_complex() else dtype)


def bound(weights, state, dtype, device="cpu"):
    step = BlockStep(BlockWeights(**{name: cast(one, dtype, device) for name, one in weights.items()}), rows=ROWS)
    step.memory.load(*(cast(one, dtype, device) for one in state))
    return step


def run(weights, state, inputs, residual, dtype, device="cpu"):
    """Return by name what the steps say and leave; the third one has no residual."""
    step = bound(weights, state, dtype, device)
    found = {}
    for t, hidden in enumerate(inputs):
        out, stream = step(cast(hidden, dtype, device), None if t == 2 else cast(residual, dtype, device))
        found |= {f"out {t}": out.clone(), f"stream {t}": stream.clone()}
    return found | {"conv": step.memory.conv, "states": step.memory.states}


every_kind = pytest.mark.parametrize(
    ("paired", "selective"),
    [(False, True), (True, True), (False, False), (True, False)],
    ids=["real", "complex", "constant", "complex-constant"],
)


def hold(monkeypatch, assert_close, arguments, name, device="cpu"):
    results = {}
    for kind, dtype, where in (
        (name, torch.float32, device), ("reference", torch.float32, "cpu"), ("auto", torch.float64, "cpu")
    ):  # fmt: skip
        monkeypatch.setenv("SEQDOMAINS_KERNELS", kind)
        results[len(results)] = run(*arguments, dtype, where)
    for what, exact in results[2].items():
        assert_close(results[0][what].cpu(), results[1][what], exact, what, floor=2e-6)


@every_kind
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_step_equals_float64(sizes, paired, selective, monkeypatch, assert_close):
    name = "triton" if INTERPRETING else "cpu"
    hold(monkeypatch, assert_close, make(*sizes, paired=paired, selective=selective), name)


if INTERPRETING:
    from seqdomains.kernels import block_step
    from seqdomains.kernels.block_step import triton_forward
    from seqdomains.kernels.row_product import triton_forward as row_product

    def test_products_longer_than_a_tile_and_rows_of_programs(monkeypatch, assert_close):
        monkeypatch.setattr(row_product, "AT_ONCE", 16)
        monkeypatch.setattr(row_product, "OUTPUTS", 8)
        hold(monkeypatch, assert_close, make(*SIZES[3], paired=True, selective=True), "triton")

    def test_wide_blocks_go_through_plain_torch(monkeypatch, assert_close):
        monkeypatch.setattr(block_step, "WIDEST", 16)
        monkeypatch.setattr(triton_forward, "bind", None)
        hold(monkeypatch, assert_close, make(*SIZES[3], paired=False, selective=True), "triton")


@every_kind
@pytest.mark.gpu
@pytest.mark.parametrize("sizes", [*SIZES, (64, 128, 8, 4, 4, False), (256, 512, 16, 16, 4, False)], ids=str)
def test_step_equals_float64_on_a_gpu(sizes, paired, selective, monkeypatch, assert_close):
    hold(monkeypatch, assert_close, make(*sizes, paired=paired, selective=selective), "triton", "cuda")


@pytest.mark.gpu
def test_a_recorded_step_says_what_a_launched_one_says():
    weights, state, inputs, residual = make(64, 128, 16, 4, 4, False, paired=False, selective=True)
    expected = run(weights, state, inputs, residual, torch.float32, "cuda")
    step = bound(weights, state, torch.float32, "cuda")
    hidden, given = (cast(one, torch.float32, "cuda").clone() for one in (inputs[0], residual))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step(hidden, given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, _ = step(hidden, given)
    step.memory.load(*(cast(one, torch.float32, "cuda") for one in state))
    for t in (0, 1):
        hidden.copy_(inputs[t])
        graph.replay()
        assert torch.equal(out, expected[f"out {t}"])


@every_kind
def test_rows_do_not_see_each_other(paired, selective, implementation_name):
    weights, state, inputs, residual = make(*SIZES[1], paired=paired, selective=selective)
    alone = run(weights, state, inputs, residual, torch.float32)
    inputs, residual = inputs.clone(), residual.clone()
    inputs[:, 1], residual[1] = torch.nan, torch.nan
    found = run(weights, state, inputs, residual, torch.float32)
    for what, values in found.items():
        rows, others = (x.transpose(0, 1) if what == "states" else x for x in (values, alone[what]))
        assert torch.equal(rows[[0, 2]], others[[0, 2]]), what
        assert rows[1].isnan().any(), what


def test_one_row_is_put_into_all(implementation_name):
    weights, (conv, states), inputs, residual = make(*SIZES[0], paired=True, selective=True)
    step = bound(weights, (conv[:1], states[:1]), torch.float32)
    out, _ = step(
        inputs[0, :1].float().expand(ROWS, -1).contiguous(), residual[:1].float().expand(ROWS, -1).contiguous()
    )
    assert torch.equal(out[0], out[1])
    assert torch.equal(out[0], out[2])


def test_half_precision_is_refused():
    weights, *_ = make(*SIZES[0], paired=False, selective=True)
    half = BlockWeights(**{name: cast(one, torch.bfloat16) for name, one in weights.items()})
    with pytest.raises(ValueError, match="expected one of these"):
        BlockStep(half, rows=1)
