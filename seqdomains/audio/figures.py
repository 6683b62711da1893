"""A figure of a sound and of what a model says along it, in colours that colour-blind readers tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

# Okabe & Ito 2008, https://jfly.uni-koeln.de/color/, but for its yellow, which white swallows.
_COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
_GREY: Final = "#666666"
# A dollar in a class name is no mathematics.
_STYLE: Final[Any] = {"text.parse_math": False, "svg.fonttype": "none", "font.size": 10}
_SPAN: Final = 0.032  # s, as is usual for speech
_COLUMNS: Final = 1000  # of a spectrogram at most: a screen shows no more
_QUIETEST: Final = -100.0  # dB of full scale: below the noise of 16 bits


@mpl.rc_context(_STYLE)
def prediction_figure(
    samples: NDArray[np.floating[Any]],
    rate: int,
    ends: Sequence[float] | NDArray[np.floating[Any]],
    probabilities: NDArray[np.floating[Any]],
    classes: Sequence[str],
) -> Figure:
    """Draw the waveform of a sound, its spectrogram, and the class probabilities over time.

    Levels are those of the sound, in dB of full scale: a quiet sound looks quiet.

    Parameters
    ----------
    samples : ndarray of float, shape (frames,)
        Full scale is 1.
    rate : int
        Samples per second, in Hz.
    ends : sequence of float, shape (rows,)
        Where that which a row of `probabilities` speaks of ends, s, rising: one for a sound as a whole, or one for each
        window. A row is drawn from the end before it, the first one from 0.
    probabilities : ndarray of float, shape (rows, classes)
    classes : sequence of str
        The seven with the highest probability are named, others grey.

    Returns
    -------
    Figure
        With four axes: the three panels and the scale of the levels.

    Raises
    ------
    ValueError
        There is no sound, or the shapes do not go together, or the ends do not rise.

    Examples
    --------
    >>> time = np.arange(8000, dtype=np.float32) / 8000
    >>> shares = np.array([[0.9, 0.1], [0.2, 0.8]])
    >>> figure = prediction_figure(np.sin(800 * time), 8000, [0.5, 1.0], shares, ["low", "high"])
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['sample', 'frequency (Hz)', 'probability', 'level (dB of full scale)']
    """
    edges = np.concatenate([[0.0], np.asarray(ends, float)])
    probabilities = np.asarray(probabilities)
    if np.ndim(samples) != 1 or not len(samples):
        raise ValueError(f"samples of shape {np.shape(samples)}: expected (frames,), one or more")
    if probabilities.shape != (len(edges) - 1, len(classes)):
        raise ValueError(
            f"probabilities of shape {probabilities.shape}: expected a row for each of {len(edges) - 1} ends and a "
            f"column for each of {len(classes)} classes"
        )
    if not (np.diff(edges) > 0).all():
        raise ValueError(f"ends {edges[1:].tolist()}: expected them to rise from above 0")
    figure = Figure(figsize=(9, 6), layout="constrained")
    wave, spectrum, shares = figure.subplots(3, sharex=True, height_ratios=(1, 2, 1.5))
    _draw_wave(wave, samples, rate)
    image = _draw_spectrum(spectrum, samples, rate)
    _draw_shares(shares, edges, probabilities, classes)
    for axes in (wave, spectrum, shares):
        axes.set_xlabel("time (s)" if axes is shares else "")
        axes.label_outer()
    shares.set_xlim(0, max(len(samples) / rate, edges[-1]))
    shares.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.colorbar(image, ax=spectrum, label="level (dB of full scale)")
    return figure


def _draw_wave(axes: Axes, samples: NDArray[np.floating[Any]], rate: int) -> None:
    from librosa.display import waveshow

    waveshow(np.asarray(samples, np.float32), sr=rate, ax=axes, color=_COLOURS[0], axis="s")
    axes.set_ylabel("sample")
    _tidy(axes)


def _draw_spectrum(axes: Axes, samples: NDArray[np.floating[Any]], rate: int) -> Any:
    from librosa import amplitude_to_db, stft
    from librosa.display import specshow

    span = 1 << max(4, round(np.log2(_SPAN * rate)))
    hop = max(span // 4, -(-len(samples) // _COLUMNS))
    filled = np.pad(np.asarray(samples, np.float32), (0, max(0, span - len(samples))))
    # A sine of full scale has half the window's sum, which is half the span of a Hann window.
    levels = amplitude_to_db(
        np.abs(stft(filled, n_fft=span, hop_length=hop)) * 4 / span, ref=1.0, amin=1e-6, top_db=None
    )
    image = specshow(
        levels,
        sr=rate,
        n_fft=span,
        hop_length=hop,
        x_axis="s",
        y_axis="linear",
        ax=axes,
        cmap="cividis",
        vmin=_QUIETEST,
        vmax=0,
    )
    axes.set_ylabel("frequency (Hz)")
    return image


def _draw_shares(
    axes: Axes, edges: NDArray[np.float64], probabilities: NDArray[np.floating[Any]], classes: Sequence[str]
) -> None:
    named = sorted(np.argsort(-probabilities.max(axis=0), kind="stable")[: len(_COLOURS)].tolist())
    colours = dict(zip(named, _COLOURS, strict=False))
    for place, name in enumerate(classes):
        axes.stairs(
            probabilities[:, place],
            edges,
            baseline=None,
            color=colours.get(place, _GREY),
            label=name if place in colours else None,
            linewidth=1.8 if place in colours else 0.8,
        )
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("probability")
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
