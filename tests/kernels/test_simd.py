"""The vector functions against float64 over their whole range, and partial vectors at every count."""

import numpy as np
import pytest
from numba import njit

from seqdomains.kernels import simd


@njit
def _exp2(x, y):
    for at in range(0, x.size, 16):
        simd.store(y, at, simd.exp2(simd.load(x, at)))


@njit
def _softplus(x, y, slope):
    for at in range(0, x.size, 16):
        value, derivative = simd.softplus(simd.load(x, at))
        simd.store(y, at, value)
        simd.store(slope, at, derivative)


@njit
def _sigmoid(x, y):
    for at in range(0, x.size, 16):
        simd.store(y, at, simd.sigmoid(simd.load(x, at)))


@njit
def _copy(x, y, start, count):
    simd.store_part(y, start, simd.load_part(x, start, count) + simd.splat(np.float32(1)), count)


@njit
def _totals(x, at, y):
    simd.store(y, 0, simd.totals(x, at))


@njit
def _total(x):
    return simd.total(simd.load(x, 0))


def test_exp2_is_accurate():
    x = np.linspace(-125.9, 127.4, 16 * 20000, dtype=np.float32)
    y = np.empty_like(x)
    _exp2(x, y)
    exact = np.exp2(x.astype(np.float64))
    assert np.abs(y / exact - 1).max() <= 1.3e-7


def test_exp2_at_its_ends():
    x = np.zeros(16, np.float32)
    x[:8] = [0, -0.0, -127, -1e30, -np.inf, 128, np.inf, np.nan]
    y = np.empty_like(x)
    _exp2(x, y)
    np.testing.assert_array_equal(y[:8], np.array([1, 1, 0, 0, 0, np.inf, np.inf, np.nan], np.float32))


def test_softplus_and_its_slope_are_accurate_relative_to_their_size():
    x = np.linspace(-85, 100, 16 * 20000, dtype=np.float32)
    y, slope = np.empty_like(x), np.empty_like(x)
    _softplus(x, y, slope)
    wide = x.astype(np.float64)
    exact = np.logaddexp(0, wide)
    assert np.abs(y / exact - 1).max() <= 4e-7
    assert np.abs(slope * (1 + np.exp(-wide)) - 1).max() <= 4e-7


def test_softplus_and_sigmoid_at_their_ends():
    x = np.zeros(16, np.float32)
    x[:6] = [-1e30, -np.inf, 1e30, np.inf, np.nan, -100]
    y, slope, gate = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    _softplus(x, y, slope)
    _sigmoid(x, gate)
    np.testing.assert_array_equal(y[:6], np.array([0, 0, 1e30, np.inf, np.nan, 0], np.float32))
    np.testing.assert_array_equal(slope[:6], np.array([0, 0, 1, 1, np.nan, 0], np.float32))
    np.testing.assert_array_equal(gate[:6], np.array([0, 0, 1, 1, np.nan, 0], np.float32))


def test_sigmoid_is_accurate():
    x = np.linspace(-85, 100, 16 * 20000, dtype=np.float32)
    y = np.empty_like(x)
    _sigmoid(x, y)
    assert np.abs(y * (1 + np.exp(-x.astype(np.float64))) - 1).max() <= 4e-7


@pytest.mark.parametrize("count", range(1, 18))
def test_partial_vectors_touch_what_they_may(count):
    x = np.arange(64, dtype=np.float32)
    y = np.full(64, -1, np.float32)
    _copy(x, y, 8, count)
    expected = np.full(64, -1, np.float32)
    width = min(count, 16)
    expected[8 : 8 + width] = x[8 : 8 + width] + 1
    np.testing.assert_array_equal(y, expected)


def test_total_adds_all_lanes():
    assert _total(np.arange(16, dtype=np.float32)) == 120


def test_totals_adds_sixteen_vectors_at_once():
    x = np.random.default_rng(0).integers(0, 100, 300).astype(np.float32)
    y = np.zeros(16, np.float32)
    _totals(x, 5, y)
    np.testing.assert_array_equal(y, x[5 : 5 + 256].reshape(16, 16).sum(1))
