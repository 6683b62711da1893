"""Products of rows: of the CPU's kernel, or run by test_triton_interpreter.py, of Triton's in its interpreter."""

import os

import pytest
import torch

from seqdomains.kernels.row_product import RowProduct, RowWeights

pytestmark = pytest.mark.usefixtures("poisoned")
INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
NAME = "triton" if INTERPRETING else "cpu"
# Outputs and numbers that are added up.
SIZES = [(1, 1), (5, 3), (37, 16), (33, 150), (70, 300)]
ROWS = 5
every_size = pytest.mark.parametrize("sizes", SIZES, ids=str)
every_kind = pytest.mark.parametrize(
    ("biased", "normed", "residual"), [(False, False, False), (True, False, True), (False, True, False), (True,) * 3]
)


def make(outputs, count, *, biased, normed, residual):
    """Return weights, rows and what is added to them, or None, in double precision."""
    g = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    weights = {
        "matrix": normal(outputs, count),
        "bias": normal(outputs) if biased else None,
        "norm": normal(count) if normed else None,
        "eps": 1e-5,
    }
    return weights, 3 * normal(ROWS, count), normal(ROWS, count) if residual else None


def multiplied(arguments, dtype, device="cpu", rows=slice(None)):
    weights, *vectors = arguments

    def cast(value):
        return value.to(device, dtype) if isinstance(value, torch.Tensor) else value

    product = RowProduct(RowWeights(**{name: cast(value) for name, value in weights.items()}))
    return product(*(None if one is None else cast(one)[rows] for one in vectors)).clone()


def hold(monkeypatch, assert_close, arguments, name, device="cpu"):
    results = []
    for kind, dtype, where in (
        (name, torch.float32, device), ("reference", torch.float32, "cpu"), ("auto", torch.float64, "cpu")
    ):  # fmt: skip
        monkeypatch.setenv("SEQDOMAINS_KERNELS", kind)
        results.append(multiplied(arguments, dtype, where))
    assert_close(results[0].cpu(), *results[1:], "product")


def hold_rows(monkeypatch, arguments, name, device="cpu"):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", name)
    whole = multiplied(arguments, torch.float32, device)
    for row in range(ROWS):
        assert torch.equal(multiplied(arguments, torch.float32, device, slice(row, row + 1))[0], whole[row])


@every_kind
@every_size
def test_products_equal_float64(sizes, biased, normed, residual, monkeypatch, assert_close):
    hold(monkeypatch, assert_close, make(*sizes, biased=biased, normed=normed, residual=residual), NAME)


@pytest.mark.parametrize("sizes", SIZES[2:], ids=str)
def test_a_row_is_the_same_however_many_there_are(sizes, monkeypatch):
    hold_rows(monkeypatch, make(*sizes, biased=True, normed=True, residual=True), NAME)


@pytest.mark.gpu
@every_kind
@pytest.mark.parametrize("sizes", [*SIZES, (256, 1024), (4096, 64)], ids=str)
def test_products_on_a_gpu_equal_float64(sizes, biased, normed, residual, monkeypatch, assert_close):
    arguments = make(*sizes, biased=biased, normed=normed, residual=residual)
    hold(monkeypatch, assert_close, arguments, "triton", "cuda")
    hold_rows(monkeypatch, arguments, "triton", "cuda")


def test_rows_with_gaps_and_of_other_numbers(monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", NAME)
    matrix, values = torch.randn(4, 6), torch.randn(3, 12)
    product = RowProduct(RowWeights(matrix))
    for rows in (values[:, ::2], values[1:, :6], values[:0, :6]):
        torch.testing.assert_close(product(rows), rows @ matrix.T)


def test_half_precision_is_refused():
    with pytest.raises(ValueError, match="expected one of these"):
        RowProduct(RowWeights(torch.zeros(2, 2, dtype=torch.bfloat16)))
