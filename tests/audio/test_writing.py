"""Sound files that are written piece by piece: right at every moment, whole or absent, and refused in words."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
import soundfile

from seqdomains.audio.files import examine, read
from seqdomains.audio.writing import check_output, open_writer
from seqdomains.errors import ConfigError, InputError

PIECES = [np.linspace(-1, 1, 5001, dtype=np.float32), np.zeros(0, np.float32), np.full(77, 0.25, np.float32)]
WHOLE = np.concatenate(PIECES)


def write(path, pieces=PIECES, comment="made so"):
    with open_writer(path, rate=8000, frames=len(WHOLE), comment=comment) as writer:
        for piece in pieces:
            writer.write(piece)


@pytest.mark.parametrize("name", ["a.wav", "a.WAVE", "a.flac"])
@pytest.mark.parametrize("comment", ["", "made so", "made so and"])
def test_what_was_written_is_read_with_its_comment(tmp_path, name, comment):
    path = tmp_path / name
    write(path, comment=comment)
    np.testing.assert_allclose(read(path, rate=8000)[0], WHOLE, atol=2**-15)
    facts = examine(path)
    assert (facts.rate, facts.channels, facts.frames, facts.subtype) == (8000, 1, len(WHOLE), "PCM_16")
    with soundfile.SoundFile(path) as file:
        assert file.comment == comment
    assert list(tmp_path.iterdir()) == [path]


def test_full_scale_is_clipped_and_not_wrapped(tmp_path):
    write(tmp_path / "a.wav", [np.array([1, -1, 1.5, -1.5], np.float32)])
    samples, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert samples.tolist() == [32767, -32768, 32767, -32768]


def test_a_wav_file_is_whole_after_each_piece(tmp_path):
    with open_writer(tmp_path / "a.wav", rate=8000, frames=100) as writer:
        for count in (1, 2, 3):
            writer.write(np.full(10, 0.5, np.float32))
            (partial,) = tmp_path.iterdir()
            assert partial.name.startswith(".a.wav.")
            assert soundfile.info(partial).frames == 10 * count
            assert partial.stat().st_size == 44 + 20 * count


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_a_block_that_fails_leaves_the_file_before(tmp_path, name):
    path = tmp_path / name
    path.write_text("before")
    with pytest.raises(ZeroDivisionError):
        write(path, (WHOLE[: 100 // left] for left in (2, 1, 0)))
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_of_the_block_is_not_told_as_one_of_the_sound(tmp_path):
    with pytest.raises(OSError, match=r"^another file$"), open_writer(tmp_path / "a.wav", rate=8000, frames=10):
        raise OSError("another file")


def test_a_pipe_gets_wav_whose_header_states_what_will_come(tmp_path):
    path, found = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: found.append(path.read_bytes()))
    reader.start()
    write(path)
    reader.join()
    (tmp_path / "copy.wav").write_bytes(found[0])
    assert examine(tmp_path / "copy.wav").frames == len(WHOLE)
    np.testing.assert_allclose(read(tmp_path / "copy.wav", rate=8000)[0], WHOLE, atol=2**-15)


def test_a_device_without_room_is_told():
    with pytest.raises(InputError, match="cannot write /dev/full: No space left on device; choose another -o"):
        write("/dev/full")


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_a_folder_that_is_not_there_is_told(tmp_path, name):
    with pytest.raises(InputError, match="No such file or directory; choose another -o"):
        write(tmp_path / "none" / name)


def test_a_rate_that_flac_does_not_have_is_told(tmp_path):
    with (
        pytest.raises(InputError, match=r"cannot write .*a\.flac: .*; choose another -o"),
        open_writer(tmp_path / "a.flac", rate=1_000_000, frames=10) as writer,
    ):
        writer.write(WHOLE)
    assert not list(tmp_path.iterdir())


def test_names_of_other_forms_are_refused():
    for name in ("a.mp3", "a", "a.ogg"):
        with pytest.raises(ConfigError, match=f"-o {name}: expected a name that ends in .wav, .wave, .flac"):
            check_output(name, 1)
    check_output("a.WAV", 0x7FFFFF00 - 1)
    with pytest.raises(ConfigError, match=r"WAV holds 2147483391 samples at most; write .flac"):
        check_output("-", 1 << 31)
