"""Ratios of pairs of windows: those of single windows, whatever shares their batch; negated exactly when swapped."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from seqdomains.backbone import MambaConfig, MambaLM
from seqdomains.errors import InputError
from seqdomains.pipelines.ratio import score_pairs


@dataclass(frozen=True)
class Row:
    pairs: list = field(default_factory=list)


class Kept:
    """A table that keeps what it is told."""

    def __init__(self):
        self.rows, self.values = [], []

    def begin_input(self): ...

    def drop_input(self):
        return False

    def write(self, rows, values):
        self.rows += rows
        self.values.append(values)


def model():
    built = MambaLM(MambaConfig(d_model=16, n_layer=2), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # answers that differ
        built.lm_head.weight.mul_(10)
    return built


def rows(count=16, seed=0):
    """Substitutions, insertions and deletions in windows of many lengths, and rows without windows."""
    random = np.random.default_rng(seed)
    made = []
    for number in range(count):
        left, right = (random.integers(0, 4, random.integers(0, 40)).astype(np.uint8) for _ in range(2))
        alleles = [random.integers(0, 4, random.integers(0, 5)).astype(np.uint8) for _ in range(4)]
        anchor = np.zeros(1, np.uint8)
        windows = [np.concatenate([anchor, left, allele, right]) for allele in alleles]
        made.append(Row([] if number % 7 == 3 else [tuple(windows[:2]), tuple(windows[2:])]))
    return made


def scored(asked, lm=None, **options):
    table = Kept()
    outcome = score_pairs(lm or model(), [("toy", asked)], nullcontext(table), values=2, progress=False, **options)
    assert table.rows == asked
    assert outcome.windows == len(asked)
    return np.concatenate(table.values)


def likelihood(lm, window, ignored=None, before=None):
    if before is not None:
        window = np.concatenate([np.array([before], np.uint8), window])
    with torch.inference_mode():
        logits = lm.eval()(torch.from_numpy(window)[None].long())[0, :-1].double()
    found = logits.log_softmax(-1).numpy()[np.arange(len(window) - 1), window[1:]]
    return found[window[1:] != ignored].sum()


@pytest.mark.parametrize("before", [None, 5])
@pytest.mark.parametrize("ignored", [None, 2])
def test_ratios_are_those_of_windows_alone(ignored, before):
    lm, asked = model(), rows()
    wanted = [
        [
            likelihood(lm, second, ignored, before) - likelihood(lm, first, ignored, before)
            for first, second in row.pairs
        ]
        or [np.nan, np.nan]
        for row in asked
    ]
    np.testing.assert_allclose(scored(asked, ignored=ignored, before=before), wanted, atol=1e-5)


def test_first_token_is_asked_behind_what_is_read_before_it():
    lm = model()
    one, other = np.zeros(1, np.uint8), np.ones(1, np.uint8)
    wanted = likelihood(lm, other, before=5) - likelihood(lm, one, before=5)
    assert abs(wanted) > 0.01
    found = scored([Row([(one, other), (other, one)])], lm, before=5)
    np.testing.assert_allclose(found, [[wanted, -wanted]], atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 1000])
@pytest.mark.parametrize("before", [None, 5])
def test_batch_size_changes_nothing(batch_size, before):
    one, other = (scored(rows(), batch_size=size, before=before) for size in (batch_size, 32))
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("before", [None, 5])
def test_exchanged_windows_negate_the_ratio_exactly(precision, before):
    asked = rows()
    exchanged = [Row([(second, first) for first, second in row.pairs]) for row in asked]
    one, other = (scored(each, precision=precision, before=before) for each in (asked, exchanged))
    np.testing.assert_array_equal(other, -one)


def test_equal_windows_have_a_ratio_of_zero():
    window = np.arange(4, dtype=np.uint8)
    assert scored([Row([(window, window.copy())] * 2)]).tolist() == [[0, 0]]


def test_bfloat16_is_near():
    exact, rough = scored(rows()), scored(rows(), precision="bfloat16")
    assert 0 < np.nanmax(abs(rough - exact)) < 0.05 * np.nanmax(abs(exact))


def test_logits_that_are_not_finite_are_refused():
    lm = model()
    with torch.no_grad():
        lm.lm_head.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="not finite"):
        scored(rows(), lm)


def test_batch_is_halved_when_the_memory_runs_out(monkeypatch):
    wanted, forward = scored(rows()), MambaLM.forward

    def tight(self, tokens, **options):
        if len(tokens) > 5:
            raise torch.OutOfMemoryError("pretended")
        return forward(self, tokens, **options)

    monkeypatch.setattr(MambaLM, "forward", tight)
    np.testing.assert_allclose(scored(rows()), wanted, atol=1e-5)


def test_model_is_back_as_it_was():
    lm = model().train()
    scored(rows(), lm)
    assert lm.training


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_100_000_substitutions_on_a_gpu_in_flat_memory():
    lm = MambaLM(MambaConfig(d_model=64, n_layer=4), generator=torch.Generator().manual_seed(0))
    genome = np.random.default_rng(0).integers(0, 4, 120_000).astype(np.uint8)

    def substitution(place):
        window = genome[place : place + 1023]
        other = window.copy()
        other[511] = 3 - other[511]
        return window, other

    peaks, table = [], Kept()
    for count in (2_000, 100_000):
        torch.cuda.reset_peak_memory_stats()
        table.values = []
        asked = (Row([substitution(place)]) for place in range(count))
        score_pairs(lm, [("toy", asked)], nullcontext(table), values=1, batch_size=512, device="cuda", progress=False)
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] <= peaks[0] * 1.01
    found = np.concatenate(table.values)
    assert found.shape == (100_000, 1)
    first, second = substitution(50_000)
    assert found[50_000, 0] == pytest.approx(likelihood(lm, second) - likelihood(lm, first), abs=1e-3)
