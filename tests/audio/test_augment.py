"""Augmentation changes what it says, by what it says."""

from __future__ import annotations

import numpy as np
import pytest

from seqdomains.audio.augment import louder, masked, mixed, mixing_shares, played_faster, with_noise


def test_a_faster_tone_is_higher_and_shorter():
    tone = np.sin(2 * np.pi * 400 * np.arange(8000) / 8000).astype(np.float32)
    faster = played_faster(tone, 1.25)
    assert len(faster) == 6400
    peak = np.argmax(np.abs(np.fft.rfft(faster * np.hanning(len(faster))))) * 8000 / len(faster)
    assert peak == pytest.approx(500, abs=2)
    assert played_faster(tone, 1.0) is tone


def test_masks_are_where_they_are_drawn_and_take_at_most_half():
    spectra = np.ones((10, 8), np.float32)
    found = masked(spectra, times=(0.99, 0.5), bands=(0.0, 0.5), most=(100, 100))
    assert (found == 0).all(1).sum() == 5
    assert (found[(found != 0).any(1)] == 1).all()
    assert (spectra == 1).all()
    np.testing.assert_array_equal(masked(spectra, times=(0.99, 0.0), bands=(0.99, 0.0), most=(0, 0)), spectra)


def test_level():
    assert louder(np.array([0.5], np.float32), -6.0206)[0] == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize("snr", [0.0, 20.0])
def test_noise_has_its_ratio_and_its_name(snr):
    tone = np.sin(np.arange(100_000) / 7).astype(np.float32)
    noisy = with_noise(tone, snr, key=(3, 4))
    ratio = 10 * np.log10(np.mean(tone**2) / np.mean((noisy - tone) ** 2))
    assert ratio == pytest.approx(snr, abs=0.1)
    np.testing.assert_array_equal(noisy, with_noise(tone, snr, key=(3, 4)))
    assert not np.array_equal(noisy, with_noise(tone, snr, key=(3, 5)))
    np.testing.assert_array_equal(with_noise(np.zeros(5, np.float32), snr, key=(0, 0)), np.zeros(5))


def test_a_mixture_has_its_proportions():
    low, high = (np.sin(np.arange(1000) * step).astype(np.float32) for step in (0.1, 0.7))
    found = mixed(low, high[:600], 0.7)
    np.testing.assert_allclose(found[:600], 0.7 * low[:600] + 0.3 * high[:600], atol=1e-6)
    np.testing.assert_allclose(found[600:], 0.7 * low[600:], atol=1e-6)
    np.testing.assert_array_equal(mixed(low, high, 1.0), low)


@pytest.mark.parametrize("alpha", [0.4, 10.0])
def test_shares_have_the_moments_of_their_distribution(alpha):
    shares = mixing_shares((np.arange(10_000) + 0.5) / 10_000, alpha)
    assert shares.mean() == pytest.approx(0.5, abs=1e-3)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=1e-2)
