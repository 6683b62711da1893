"""Changes to a training window that leave its class as it is; each is a function of its arguments alone."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

# A ratio of resampling in whole numbers, so that lengths are exact.
_STEPS = 1000


def played_faster(samples: NDArray[np.float32], speed: float) -> NDArray[np.float32]:
    """Play a sound `speed` times as fast, as a tape: pitch rises with it.

    Examples
    --------
    >>> len(played_faster(np.zeros(1100, np.float32), 1.1))
    1000
    """
    ratio = round(speed * _STEPS)
    if ratio == _STEPS or not len(samples):
        return samples
    changed: NDArray[np.float32] = soxr.resample(samples, ratio, _STEPS, quality="MQ")
    return changed


def louder(samples: NDArray[np.float32], decibels: float) -> NDArray[np.float32]:
    """Change a sound's level.

    Examples
    --------
    >>> louder(np.ones(1, np.float32), 20).tolist()
    [10.0]
    """
    return samples * np.float32(10 ** (decibels / 20))


def masked(
    spectra: NDArray[np.float32], *, times: tuple[float, float], bands: tuple[float, float], most: tuple[int, int]
) -> NDArray[np.float32]:
    """Set a stretch of time and a band of frequencies to 0, the mean of normalised spectra, as SpecAugment does.

    Parameters
    ----------
    spectra : ndarray of float32, shape (L, mels)
    times, bands : pair of float in [0, 1)
        How much of the largest mask is masked, and where.
    most : pair of int
        Largest mask, in positions and in bands; a mask takes at most half of what there is.

    References
    ----------
    Park et al., arXiv:1904.08779.

    Examples
    --------
    >>> masked(np.ones((4, 3), np.float32), times=(0.9, 0.0), bands=(0.9, 0.9), most=(1, 1)).tolist()
    [[0.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]
    """
    changed = spectra.copy()
    for axis, (width, place) in enumerate((times, bands)):
        length = spectra.shape[axis]
        taken = int(width * (min(most[axis], length // 2) + 1))
        start = int(place * (length - taken + 1))
        part = slice(start, start + taken)
        changed[(part, slice(None)) if axis == 0 else (slice(None), part)] = 0
    return changed


def mixed(one: NDArray[np.float32], other: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """Add two sounds, `share` of the first and the rest of the other; the shorter one is followed by silence.

    References
    ----------
    Mixup: Zhang et al., arXiv:1710.09412; of waveforms: Gong et al., arXiv:2104.01778.

    Examples
    --------
    >>> mixed(np.ones(2, np.float32), np.full(3, 2, np.float32), 0.75).tolist()
    [1.25, 1.25, 0.5]
    """
    found = np.zeros(max(len(one), len(other)), np.float32)
    found[: len(one)] += np.float32(share) * one
    found[: len(other)] += np.float32(1 - share) * other
    return found


def mixing_shares(fractions: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """Turn numbers in [0, 1) into shares of a Beta(alpha, alpha) distribution.

    Examples
    --------
    >>> mixing_shares(np.array([0.0, 0.25, 0.5]), 1.0).tolist()
    [0.0, 0.25, 0.5]
    """
    from scipy.special import betaincinv

    shares: NDArray[np.float64] = betaincinv(alpha, alpha, fractions)
    return shares


def with_noise(samples: NDArray[np.float32], snr: float, *, key: tuple[int, int]) -> NDArray[np.float32]:
    """Add white noise at a signal-to-noise ratio over the whole sound; digital silence stays silent.

    Parameters
    ----------
    samples : ndarray of float32, shape (frames,)
    snr : float
        In dB.
    key : pair of int
        Names the noise.

    Examples
    --------
    >>> noisy = with_noise(np.ones(100_000, np.float32), 20, key=(1, 2))
    >>> bool(abs(noisy.std() - 0.1) < 0.001)
    True
    """
    power = float(np.square(samples, dtype=np.float64).mean()) if len(samples) else 0.0
    generator = np.random.Generator(np.random.Philox(key=np.array(key, dtype=np.uint64)))
    noise = generator.standard_normal(len(samples), dtype=np.float32)
    return samples + noise * np.float32(np.sqrt(power) * 10 ** (-snr / 20))
