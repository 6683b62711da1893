"""Windows of sound files: as many as are counted, each where it says, whatever the window and the stride."""

from __future__ import annotations

import numpy as np
import pytest

from seqdomains.audio.files import write_wav
from seqdomains.audio.front_end import SoundInput
from seqdomains.audio.sources import SoundRecords, SoundWindows, count_windows, measure
from seqdomains.errors import InputError

CODES = SoundInput(rate=8000)


@pytest.fixture(scope="module")
def ramp(tmp_path_factory):
    """Return a file of so many frames whose samples rise, so that a window tells where it lies."""
    folder = tmp_path_factory.mktemp("ramps")

    def make(frames):
        path = folder / f"{frames}.wav"
        if not path.exists():
            write_wav(path, np.arange(frames, dtype=np.float32) / 1000, 8000, subtype="FLOAT")
        return str(path)

    return make


@pytest.mark.parametrize("frames", [1, 3, 7, 8, 9, 11, 12, 13, 20, 33])
@pytest.mark.parametrize(("window", "stride"), [(8, 8), (8, 3), (8, 1), (8, 20), (5, 5), (1, 1), (40, 40)])
def test_there_are_as_many_windows_as_are_counted(ramp, frames, window, stride):
    given = SoundInput(rate=8000, codec="waveform", scale=1.0)
    found = list(SoundWindows(given, window, stride).spans(ramp(frames), 0, 1000))
    assert len(found) == count_windows(frames, window=window, stride=stride)
    for number, span in enumerate(found):
        assert span.start == number * stride
        assert span.end == min(span.start + window, frames)
        np.testing.assert_allclose(span.tokens[:, 0], np.arange(span.start, span.end) / 1000, atol=1e-6)
        assert number == 0 or span.end - span.start >= window / 2


def test_some_windows_are_those_of_all(ramp):
    source = SoundWindows(CODES, 8, 4)
    whole = list(source.spans(ramp(33), 0, 100))
    part = list(source.spans(ramp(33), 2, 3))
    assert [(one.start, one.end) for one in part] == [(one.start, one.end) for one in whole[2:5]]


def test_each_channel_is_a_record(tmp_path):
    path = tmp_path / "two.wav"
    write_wav(path, np.stack([np.zeros(900), np.full(900, 0.5)]).astype(np.float32), 8000)
    given = SoundInput(rate=8000, channels="each")
    found = {name: np.concatenate(list(pieces)) for name, pieces in SoundRecords(given).records(str(path), 0, 9)}
    assert list(found) == ["1", "2"]
    assert (found["1"] == 128).all()
    assert (found["2"] > 200).all()
    assert measure(str(path), given) == [900, 900]


def test_what_has_no_sample_at_the_rate_is_refused(tmp_path):
    path = tmp_path / "short.wav"
    write_wav(path, np.zeros(1, np.float32), 48_000)
    with pytest.raises(InputError, match="no sample at the model's 8000 Hz"):
        measure(str(path), CODES)
