import io
import logging
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from seqdomains.audio.containers import data_chunk
from seqdomains.audio.files import (
    SoundFacts,
    channel_names,
    examine,
    is_sound_file,
    read,
    resampled_frames,
    stream,
    write_wav,
)
from seqdomains.errors import InputError

RATE = 16_000
LOSSLESS = [
    ("a.wav", "WAV", "PCM_16"),
    ("a.wav", "WAV", "PCM_U8"),
    ("a.wav", "WAV", "PCM_24"),
    ("a.wav", "WAV", "PCM_32"),
    ("a.wav", "WAV", "FLOAT"),
    ("a.wav", "WAV", "DOUBLE"),
    ("a.wav", "WAV", "ULAW"),
    ("a.wav", "WAV", "ALAW"),
    ("a.WAVE", "WAVEX", "PCM_24"),
    ("a.rf64", "RF64", "PCM_16"),
    ("a.w64", "W64", "PCM_16"),
    ("a.aiff", "AIFF", "PCM_16"),
    ("a.au", "AU", "PCM_16"),
    ("a.flac", "FLAC", "PCM_16"),
    ("a.flac", "FLAC", "PCM_24"),
]
LOSSY = [("a.ogg", "OGG", "VORBIS"), ("a.opus", "OGG", "OPUS"), ("a.mp3", "MP3", "MPEG_LAYER_III")]
COARSE = {"PCM_U8": 0.01, "ULAW": 0.03, "ALAW": 0.03}


def tone(frames=20_000, channels=1, rate=RATE):
    """A different tone in each channel, with some noise."""
    times = np.arange(frames)[:, None] / rate
    noise = np.random.default_rng(frames).normal(size=(frames, channels))
    return (0.4 * np.sin(2 * np.pi * 220 * (1 + np.arange(channels)) * times) + 0.05 * noise).astype(np.float32)


def encoded(samples, form="WAV", subtype="PCM_16", rate=RATE, **options):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, subtype, format=form, **options)
    return buffer.getvalue()


def kept(path, content):
    path.write_bytes(content)
    return path


def streamed(path, **options):
    return np.concatenate(list(stream(path, **options)), axis=1)


def chunk(tag, body):
    return tag + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def with_sizes(wav, outer, inner):
    """Give a WAV that begins with 44 bytes of header other sizes."""
    return wav[:4] + struct.pack("<I", outer) + wav[8:40] + struct.pack("<I", inner) + wav[44:]


@pytest.mark.parametrize(("name", "form", "subtype"), LOSSLESS + LOSSY)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_gives_what_was_written(tmp_path, name, form, subtype, channels):
    samples = tone(channels=channels)
    path = kept(tmp_path / name, encoded(samples, form, subtype))
    assert examine(path) == SoundFacts(path, form, subtype, RATE, channels, 20_000)
    found = streamed(path, rate=RATE, channels="each", block=3001)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert found.shape == (channels, 20_000)
    assert np.array_equal(found, read(path, rate=RATE, channels="each"))
    if (name, form, subtype) in LOSSLESS:
        np.testing.assert_allclose(found, samples.T, atol=COARSE.get(subtype, 1e-4))
    else:
        assert np.corrcoef(found[0], samples[:, 0])[0, 1] > 0.97


def test_suffixes():
    assert all(is_sound_file(f"x/a{suffix}") for suffix in (".wav", ".FLAC", ".Ogg", ".mp3", ".aif", ".w64", ".oga"))
    assert not any(is_sound_file(name) for name in ("wav", "a.txt", "a.wav.gz", "a.m4a"))


@pytest.mark.parametrize(("channels", "rate"), [(8, 96_000), (64, 8_000), (1, 100), (1, 1_000_000)])
def test_many_channels_and_unusual_rates(tmp_path, channels, rate):
    samples = tone(5000, channels, rate)
    path = kept(tmp_path / "a.wav", encoded(samples, "WAVEX" if channels > 2 else "WAV", "FLOAT", rate))
    facts = examine(path)
    assert (facts.channels, facts.rate, facts.seconds) == (channels, rate, 5000 / rate)
    assert np.array_equal(read(path, rate=rate, channels="each"), samples.T)
    mean = read(path, rate=rate)
    np.testing.assert_allclose(mean[0], samples.mean(axis=1), atol=1e-6)
    assert read(path, rate=8000).shape == (1, resampled_frames(5000, rate, 8000))


def test_channel_policies(tmp_path):
    samples = tone(100, 3)
    path = kept(tmp_path / "a.wav", encoded(samples, "WAV", "FLOAT"))
    found = {policy: read(path, rate=RATE, channels=policy) for policy in ("mean", "left", "right", "each")}
    facts = examine(path)
    assert [channel_names(facts, policy) for policy in found] == [("mean",), ("left",), ("right",), ("1", "2", "3")]
    assert np.array_equal(found["left"][0], samples[:, 0])
    assert np.array_equal(found["right"][0], samples[:, 1])
    assert np.array_equal(found["each"], samples.T)
    mono = kept(tmp_path / "b.wav", encoded(samples[:, 0], "WAV", "FLOAT"))
    for policy in found:
        assert np.array_equal(read(mono, rate=RATE, channels=policy), samples[:, :1].T)
        assert len(channel_names(examine(mono), policy)) == 1


@pytest.mark.parametrize("samples", [np.zeros(1), np.full(1, 0.5), np.zeros(3000)], ids=["one zero", "one", "silence"])
def test_short_and_silent(tmp_path, samples):
    path = kept(tmp_path / "a.wav", encoded(samples))
    assert np.array_equal(read(path, rate=RATE), samples[None])
    for rate in (8000, 44_100, 96_000):
        found = list(stream(path, rate=rate))
        assert sum(piece.shape[1] for piece in found) == resampled_frames(len(samples), RATE, rate)
        assert all(np.isfinite(piece).all() for piece in found)


@pytest.mark.parametrize(("source", "rate"), [(44_100, 16_000), (8_000, 16_000), (44_101, 7_350), (16_000, 16_000)])
@pytest.mark.parametrize(("name", "form", "subtype"), [LOSSLESS[0], LOSSLESS[13], *LOSSY[::2]])
def test_blocks_do_not_matter(tmp_path, source, rate, name, form, subtype):
    if form == "MP3" and source == 44_101:
        pytest.skip("MP3 has no such rate")
    path = kept(tmp_path / name, encoded(tone(9001, 2, source), form, subtype, source))
    whole, _ = soundfile.read(path, dtype="float32", always_2d=True)
    expected = whole if source == rate else soxr.resample(whole, source, rate)
    for block in (97, 4096, 1 << 20):
        found = streamed(path, rate=rate, channels="each", block=block)
        np.testing.assert_allclose(found, expected.T, atol=1e-6)
        assert np.array_equal(found, read(path, rate=rate, channels="each")) or form == "MP3"


def test_frames_of_the_result_are_known():
    draw = np.random.default_rng(5)
    rates = (100, 999, 7_350, 8_000, 11_025, 12_345, 16_000, 22_050, 44_100, 44_101, 48_000, 96_000, 1_000_000)
    for source in rates:
        for rate in set(rates) - {source}:
            # A half frame is where roundings differ: n * rate / source = k + 1/2.
            ties = [n for n in range(1, 60) if 2 * n * rate % (2 * source) == source]
            for frames in (1, 2, 3, *ties[:2], *draw.integers(4, 4000, 2).tolist()):
                if frames * rate / source < 100_000:
                    resampler = soxr.ResampleStream(source, rate, 1)
                    found = len(resampler.resample_chunk(np.zeros((frames, 1), dtype=np.float32), last=True))
                    assert resampled_frames(frames, source, rate) == found, (frames, source, rate)


def test_a_stream_has_the_frames_that_were_counted(tmp_path):
    for frames in (1, 2, 441, 12_345):
        path = kept(tmp_path / "a.wav", encoded(tone(frames), rate=44_100))
        for rate in (8_000, 16_000, 44_100, 48_000):
            count = sum(piece.shape[1] for piece in stream(path, rate=rate, block=1000))
            assert count == resampled_frames(frames, 44_100, rate)


@pytest.mark.parametrize(("name", "form", "subtype"), [LOSSLESS[0], LOSSLESS[13], *LOSSY])
@pytest.mark.parametrize("rate", [16_000, 8_000, 11_025, 44_100])
def test_a_part_is_what_the_whole_holds_there(tmp_path, name, form, subtype, rate):
    path = kept(tmp_path / name, encoded(tone(120_000), form, subtype))
    whole = read(path, rate=rate)
    for start, seconds in ((0.0, 0.01), (0.37, 1.0), (4.2, 0.5), (5.01, None), (6.9, 60.0), (3.3333, 0.1234)):
        begin = round(start * rate)
        end = whole.shape[1] if seconds is None else min(whole.shape[1], begin + round(seconds * rate))
        found = read(path, rate=rate, start=start, seconds=seconds)
        assert found.shape == (1, end - begin)
        np.testing.assert_allclose(found, whole[:, begin:end], atol=1e-4 if subtype != "OPUS" else 0.01)


def test_a_part_far_down_in_rate(tmp_path):
    path = kept(tmp_path / "a.wav", encoded(tone(400_000, rate=96_000), rate=96_000))
    whole = read(path, rate=100)
    np.testing.assert_allclose(read(path, rate=100, start=3, seconds=0.5), whole[:, 300:350], atol=1e-4)


@pytest.mark.parametrize(
    ("start", "seconds", "words"),
    [
        (1.25, None, "lasts 1.250 s and a part of it begins at 1.25 s"),
        (-1, None, "begins at -1 s"),
        (float("nan"), 1, "begins at nan s"),
        (0, 0, "lasts 0 s; expected more than 0"),
        (0, float("nan"), "lasts nan s"),
    ],
)
def test_parts_that_are_not_there(tmp_path, start, seconds, words):
    path = kept(tmp_path / "a.wav", encoded(tone()))
    with pytest.raises(InputError, match=words):
        read(path, rate=RATE, start=start, seconds=seconds)


def test_memory_is_flat(tmp_path):
    wav = encoded(tone(100, 2))
    path, size = tmp_path / "long.wav", 80 << 20
    kept(path, with_sizes(wav[:44], size + 36, size))
    os.truncate(path, size + 44)  # sparse: 21 minutes of silence
    tracemalloc.start()
    try:
        frames = sum(piece.shape[1] for piece in stream(path, rate=8000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert frames == size // 8
    assert peak < 4 << 20


def test_a_rate_far_above_the_files_is_read_in_small_pieces(tmp_path):
    path = kept(tmp_path / "a.wav", encoded(tone(2000, 2, 100), rate=100))
    pieces = [piece.size for piece in stream(path, rate=192_000, channels="each")]
    assert sum(pieces) == 2000 * 2 * 1920
    assert max(pieces) < 4 << 20


WAV = encoded(tone())
MP3 = encoded(tone(), "MP3", "MPEG_LAYER_III")
FLAC = encoded(tone(), "FLAC")
OGG = encoded(tone(), "OGG", "VORBIS")
ID3 = b"ID3\x03\x00\x00\x00\x00\x01\x00" + bytes(128)
# Its length goes by the first packets where it isn't stated, and they take more bits than the rest.
FADED = encoded(np.concatenate([tone(20_000), 0.1 * tone(400_000)]), "MP3", "MPEG_LAYER_III", bitrate_mode="VARIABLE")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.wav", b"", r"is empty \(0 bytes\)"),
        ("a.wav", encoded(np.zeros(0)), r"header and no sound \(0 frames\)"),
        ("a.wav", WAV[:44], "truncated: 0 of the 40000 bytes of sound that its header states are there; copy"),
        ("a.wav", WAV[:20_044], r"truncated: 20000 of the 40000 bytes .* there, 0\.625 s of 1\.250 s; copy"),
        ("a.wav", WAV[:-2], "truncated: 39998 of the 40000"),
        ("a.wav", WAV[:36], "cannot be decoded .*data"),
        ("a.wav", WAV[:12], "cannot be decoded"),
        ("a.rf64", encoded(tone(), "RF64")[:-20_000], r"truncated: 20000 of the 40000 .* 0\.625 s of 1\.250 s"),
        ("a.w64", encoded(tone(), "W64")[:-20_000], r"truncated: 20000 of the 40000 .* 0\.625 s of 1\.250 s"),
        ("a.aiff", encoded(tone(), "AIFF")[:-20_000], r"truncated: 20008 of the 40008 "),
        ("a.au", encoded(tone(), "AU")[:-20_000], r"truncated: 20000 of the 40000 "),
        ("a.wav", encoded(tone(), "WAV", "IMA_ADPCM")[:-5000], "truncated"),
        ("a.flac", FLAC[: len(FLAC) // 2], r"truncated or damaged: .* the end that its header states \(1\.250 s\)"),
        ("a.flac", FLAC[:-1], "truncated or damaged"),
        ("a.flac", FLAC[:21] + bytes([FLAC[21] & 0xF0]) + bytes(4) + FLAC[26:], "does not state its length.*pipe"),
        ("a.flac", FLAC[:40], "cannot be decoded|truncated"),
        ("a.ogg", OGG[: len(OGG) // 2], "truncated: it ends within an Ogg page"),
        ("a.ogg", OGG[:30], "truncated|cannot be decoded"),
        ("a.mp3", MP3[: len(MP3) // 2], "truncated or damaged"),
        ("a.mp3", FADED[FADED.index(FADED[:2], 4) :], r"lasts 26\.\d+ s and its first packet tells of"),
        ("a.mp3", MP3 * 3, r"lasts \d\.\d+ s and its first packet tells of 1\.250 s"),
        ("a.wav", b"\x00\x00\x00\x20ftypM4A \x00\x00\x00\x00" + bytes(99), "looks like MP4 .*ffmpeg.*flac"),
        ("a.mp3", b"\xff\xf1\x50\x80" + bytes(99), "looks like AAC.*ffmpeg"),
        ("a.wav", b"RIFF\x00\x01\x00\x00AVI LIST", "AVI"),
        ("a.wav", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a.wav", b"<!DOCTYPE html><html>", "looks like text that begins with '<!DOCTYPE html><'"),
        ("a.wav", b"hi", "looks like text that begins with 'hi'"),
        ("a.wav", bytes(range(100)), "begins with the bytes 00 01 02 03"),
        ("a.wav", WAV[:24] + struct.pack("<I", 99) + WAV[28:], "rate of 99 Hz; expected 100 to 1000000"),
        ("a.wav", WAV[:24] + struct.pack("<I", 1_000_001) + WAV[28:], "rate of 1000001 Hz"),
        ("a.wav", encoded(tone(10, 65)), "65 channels; expected at most 64"),
        ("a.wav", WAV[:36] + chunk(b"JUNK", b"") * 10_001 + WAV[36:], "over 10000 chunks before its sound"),
        ("a.mp3", ID3, "nothing follows its ID3 tag"),
        ("a.mp3", ID3 + WAV, "is not WAV, FLAC"),
        ("a.mp3", MP3[:2000] + bytes(range(256)) * 30 + MP3[2000:], "no MP3 packet begins at byte"),
    ],
    # The serial number of an Ogg stream is drawn anew: a name made of the content would be another one each time.
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else None,
)
def test_bad_files_are_refused_in_words(tmp_path, name, content, words):
    path = kept(tmp_path / name, content)
    for reading in (examine, lambda path: list(stream(path, rate=8000)), lambda path: read(path, rate=8000)):
        with pytest.raises(InputError, match=words) as caught:
            reading(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_no_such_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    locked = kept(tmp_path / "locked.wav", WAV)
    locked.chmod(0)
    for path, words in (
        (tmp_path / "none.wav", "does not exist; expected a sound file"),
        (tmp_path, "is a folder"),
        (tmp_path / "pipe.wav", "is a pipe or device"),
        *([] if os.access(locked, os.R_OK) else [(locked, "cannot be read: Permission denied")]),
    ):
        with pytest.raises(InputError, match=words):
            examine(path)


def test_damage_within_a_file_is_met_when_it_is_read(tmp_path):
    content = bytearray(FLAC)
    content[len(FLAC) // 2 : len(FLAC) // 2 + 400] = bytes(400)
    path = kept(tmp_path / "a.flac", bytes(content))
    with pytest.raises(InputError, match=r"cannot be decoded|is truncated or damaged: it ends after"):
        list(stream(path, rate=RATE))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_samples_that_are_no_sound(tmp_path, wrong, subtype):
    samples = tone(9000, 2)
    samples[8000, 1] = wrong
    path = kept(tmp_path / "a.wav", encoded(samples, "WAV", subtype))
    assert examine(path).frames == 9000
    with pytest.raises(InputError, match=r"a\.wav, channel 2, frame 8000 \(0\.5 s\): the sample is") as caught:
        list(stream(path, rate=RATE, block=1000))
    assert "expected finite numbers" in str(caught.value)
    assert read(path, rate=RATE, seconds=0.1, start=0).shape == (1, 1600)


def test_float_beyond_full_scale_is_passed_on_and_logged_once(tmp_path, caplog):
    samples = tone(9000)
    samples[10], samples[5000] = 1.5, -3
    path = kept(tmp_path / "a.wav", encoded(samples, "WAV", "FLOAT"))
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(streamed(path, rate=RATE, block=100), samples.T)
        streamed(path, rate=RATE)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} has 2 samples beyond [-1, 1], up to 3; sample codes will clip them"
    ]


def test_content_decides_and_a_wrong_name_is_logged(tmp_path, caplog):
    path = kept(tmp_path / "a.wav", FLAC)
    with caplog.at_level(logging.WARNING):
        assert examine(path).format == "FLAC"
        assert read(path, rate=RATE).shape == (1, 20_000)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} is FLAC, though its name says WAV: it is read as FLAC"
    ]
    raw = kept(tmp_path / "a.raw", WAV)  # soundfile would ask for its rate
    assert examine(raw).frames == 20_000
    assert examine(kept(tmp_path / "tagged.flac", ID3 + FLAC)).frames == 20_000


LIST = chunk(b"LIST", b"INFOISFT" + struct.pack("<I", 5) + b"Lavf\0")


@pytest.mark.parametrize(
    "content",
    [
        WAV[:36] + LIST + WAV[36:],
        WAV[:36] + chunk(b"odd ", b"12345") + WAV[36:],
        WAV + LIST,
        encoded(tone(), endian="BIG"),
        with_sizes(WAV, 0xFFFFFFFF, 0xFFFFFFFF),
        with_sizes(WAV, 0x7FFFF024, 0x7FFFF000),
        with_sizes(WAV, 0, 0),
        with_sizes(WAV, 36, 0),
        with_sizes(WAV, 0xFFFFFFFF, 0),
        WAV[:36] + LIST + b"data\xff\xff\xff\xff" + WAV[44:],
        WAV[:36] + LIST + b"data\x00\x00\x00\x00" + WAV[44:],
    ],
    ids=[
        "LIST",
        "odd chunk",
        "LIST behind",
        "RIFX",
        "ffmpeg",
        "sox",
        "zeros",
        "header's",
        "mixed",
        "LIST, ffmpeg",
        "LIST, 0",
    ],
)
def test_chunks_and_sizes_that_were_never_filled_in(tmp_path, content):
    path = kept(tmp_path / "a.wav", content)
    assert examine(path).frames == 20_000
    np.testing.assert_allclose(streamed(path, rate=RATE, block=999), tone().T, atol=1e-4)


@pytest.mark.parametrize("size", [0, (1 << 64) - 1])
def test_rf64_from_a_pipe(tmp_path, size):
    content = bytearray(encoded(tone(), "RF64"))
    content[28:36] = struct.pack("<Q", size)
    path = kept(tmp_path / "a.wav", bytes(content))
    np.testing.assert_allclose(read(path, rate=RATE), tone().T, atol=1e-4)


def test_an_empty_wav_with_tags_is_empty(tmp_path):
    empty = encoded(np.zeros(0)) + LIST
    path = kept(tmp_path / "a.wav", with_sizes(empty, len(empty) - 8, 0))
    with pytest.raises(InputError, match="no sound"):
        examine(path)


def test_a_lost_padding_byte_is_no_loss(tmp_path):
    odd = encoded(tone(333), "WAV", "PCM_24")
    assert len(odd) % 2 == 0
    path = kept(tmp_path / "a.wav", odd[:-1])
    assert examine(path).frames == 333
    assert data_chunk(path.open("rb", buffering=0)).stated == 999


def test_a_piped_wav_past_what_it_can_state(tmp_path):
    path = kept(tmp_path / "a.wav", with_sizes(WAV, 0xFFFFFFFF, 0xFFFFFFFF))
    os.truncate(path, 5 << 30)
    with pytest.raises(InputError, match="at most the 4 GiB"):
        examine(path)


@pytest.mark.parametrize("tail", [b"", b"TAG" + bytes(125), b"APETAGEX" + bytes(20_000)], ids=["none", "ID3", "APE"])
def test_an_mp3_without_length_is_measured(tmp_path, tail):
    samples, options = tone(100_000, rate=44_100), {"bitrate_mode": "CONSTANT", "compression_level": 0.5}
    whole = encoded(samples, "MP3", "MPEG_LAYER_III", 44_100, **options)
    first = whole.index(whole[:2], 4)  # the packet behind that with the length
    path = kept(tmp_path / "a.mp3", ID3 + ID3 + whole[first:] + tail)
    facts = examine(path)
    assert 100_000 <= facts.frames < 100_000 + 3456
    assert streamed(path, rate=44_100).shape == (1, facts.frames)
    assert examine(kept(tmp_path / "b.mp3", whole + tail)).frames == 100_000


@pytest.mark.parametrize("samples", [tone(500)[:, 0], tone(500, 2).T, tone(500).T.astype(np.float64)])
def test_writing(tmp_path, samples):
    path = tmp_path / "a.wav"
    for subtype, tolerance in (("PCM_16", 1e-4), ("FLOAT", 0)):
        write_wav(path, samples, 8000, subtype)
        assert examine(path).subtype == subtype
        np.testing.assert_allclose(read(path, rate=8000, channels="each"), np.atleast_2d(samples), atol=tolerance)
    write_wav(path, samples * 10, 8000)
    assert np.abs(read(path, rate=8000)).max() <= 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.wav"]


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    samples = tone(500)[:, 0]
    with pytest.raises(InputError, match=r"cannot write .*No such file"):
        write_wav(tmp_path / "none" / "a.wav", samples, 8000)
    samples[7] = np.nan
    with pytest.raises(InputError, match=r"a\.wav, channel 1, frame 7 \(0\.000875 s\): the sample is nan"):
        write_wav(tmp_path / "a.wav", samples, 8000)
    assert not list(tmp_path.iterdir())


def test_descriptors_are_given_back(tmp_path):
    bad, good = kept(tmp_path / "a.wav", WAV[:100]), kept(tmp_path / "b.wav", with_sizes(WAV, 0, 0))
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    for _ in range(5):
        with pytest.raises(InputError):
            examine(bad)
        next(stream(good, rate=RATE, block=10))
    after = len(list(Path("/proc/self/fd").iterdir())) if before else 0
    assert after == before


@pytest.mark.skipif("SEQDOMAINS_DATA" not in os.environ, reason="SEQDOMAINS_DATA names no folder of real recordings")
def test_spoken_digits():
    folder = Path(os.environ["SEQDOMAINS_DATA"]) / "fsdd" / "recordings"
    paths = sorted(folder.glob("*.wav"))[::100]
    assert paths
    for path in paths:
        facts = examine(path)
        assert (facts.format, facts.subtype, facts.rate, facts.channels) == ("WAV", "PCM_16", 8000, 1)
        found = read(path, rate=16_000)
        assert found.shape == (1, 2 * facts.frames)
        assert 0.001 < np.abs(found).max() < 1.5
