from __future__ import annotations

import io

import numpy as np
import pytest

from seqdomains.audio.figures import prediction_figure

TONE = np.sin(np.arange(8000, dtype=np.float32)) / 2


def even(rows, classes):
    return np.full((rows, classes), 1 / classes)


def named(figure):
    return [text.get_text() for text in figure.axes[2].get_legend().get_texts()]


def test_panels_show_what_was_given():
    shares = np.array([[0.75, 0.25], [0.5, 0.5], [0.1, 0.9]])
    figure = prediction_figure(TONE, 8000, [0.25, 0.5, 1.0], shares, ["a", "b"])
    wave, spectrum, steps, _ = figure.axes
    assert wave.get_xlim() == spectrum.get_xlim() == steps.get_xlim() == (0, 1)
    first, second = (patch.get_data() for patch in steps.patches)
    assert first.edges.tolist() == second.edges.tolist() == [0, 0.25, 0.5, 1]
    np.testing.assert_array_equal(np.stack([first.values, second.values], axis=1), shares)
    assert named(figure) == ["a", "b"]


def test_levels_are_those_of_the_sound():
    tone = 0.1 * np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000)
    levels = prediction_figure(tone, 8000, [1], even(1, 2), "ab").axes[1].collections[0].get_array()
    np.testing.assert_allclose(levels.max(), -20, atol=0.1)
    silent = prediction_figure(0 * tone, 8000, [1], even(1, 2), "ab").axes[1].collections[0].get_array()
    assert silent.max() == pytest.approx(-120)


@pytest.mark.parametrize("frames", [1, 7, 400_001])
def test_any_length_is_drawn(frames):
    figure = prediction_figure(np.resize(TONE, frames), 8000, [frames / 8000], even(1, 2), "ab")
    image = io.BytesIO()
    figure.savefig(image)
    assert image.getvalue().startswith(b"\x89PNG")
    assert figure.axes[1].collections[0].get_array().shape[-1] <= 1002


def test_many_classes_and_odd_names():
    shares = np.array([[0.01, 0.02, *(0.97 / 8,) * 8]])
    figure = prediction_figure(TONE, 8000, [1], shares, [f"$c_{place}$" for place in range(10)])
    assert named(figure) == [f"$c_{place}$" for place in range(2, 9)]
    assert len(figure.axes[2].patches) == 10
    figure.savefig(io.BytesIO(), format="svg")


def test_no_figure_is_left_with_pyplot():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    prediction_figure(TONE, 8000, [1], even(1, 2), "ab")
    assert pyplot.get_fignums() == before


@pytest.mark.parametrize(
    ("samples", "ends", "shape", "words"),
    [
        (TONE[:0], [1], (1, 2), "samples"),
        (TONE[None], [1], (1, 2), "samples"),
        (TONE, [1], (2, 2), "a row for each of 1 ends"),
        (TONE, [1], (1, 3), "each of 2 classes"),
        (TONE, [0.5, 0.5], (2, 2), "rise"),
        (TONE, [0], (1, 2), "rise"),
    ],
)
def test_what_does_not_go_together_is_refused(samples, ends, shape, words):
    with pytest.raises(ValueError, match=words):
        prediction_figure(samples, 8000, ends, even(*shape), "ab")
