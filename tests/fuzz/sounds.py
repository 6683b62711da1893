"""Sound files: each container with a mutated header or body, as facts, as a stream and by time."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import soundfile
from hypothesis import strategies as st
from mutations import Draw, mutated
from target import Target

from seqdomains.audio.files import examine, read, resampled_frames, stream

MOST_FRAMES = 1 << 20  # that are read of a file: a kilobyte of FLAC may hold hours of silence
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def _encoded(form: str, subtype: str, channels: int = 1) -> bytes:
    buffer = io.BytesIO()
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (1500, channels))
    soundfile.write(buffer, samples, 8000, subtype, format=form)
    return buffer.getvalue()


WAV = _encoded("WAV", "PCM_16")
FLAC = _encoded("FLAC", "PCM_16", 2)
MP3 = _encoded("MP3", "MPEG_LAYER_III")
SEEDS = (
    WAV,
    FLAC,
    MP3,
    MP3[MP3.index(MP3[:2], 4) :],  # without the packet that states the length
    _encoded("OGG", "VORBIS"),
    _encoded("OGG", "OPUS"),
    _encoded("WAV", "FLOAT", 2),
    _encoded("WAV", "IMA_ADPCM"),
    _encoded("WAV", "GSM610"),
    _encoded("WAVEX", "PCM_24", 3),
    _encoded("RF64", "PCM_16"),
    _encoded("W64", "DOUBLE"),
    _encoded("AIFF", "PCM_16"),
    _encoded("AU", "ULAW"),
)


@st.composite
def _sounds(draw: Draw) -> dict[str, bytes]:
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, 120))
        content[at : at + 4] = struct.pack(draw(st.sampled_from(("<I", ">I"))), draw(st.sampled_from(EXTREMES)))
    return {"x.wav": draw(mutated(bytes(content)))}


def _read_sound(folder: Path) -> None:
    path = folder / "x.wav"
    facts = examine(path)
    frames = 0
    for block in stream(path, rate=16_000, channels="each"):
        assert block.shape[0] == facts.channels
        assert np.isfinite(block).all()
        frames += block.shape[1]
        if frames > MOST_FRAMES:
            break
    else:
        assert frames == resampled_frames(facts.frames, facts.rate, 16_000)
    assert read(path, rate=8000, start=facts.seconds / 2, seconds=0.01).shape[1] <= 80


TARGETS = (
    Target(
        "sound",
        _sounds(),
        _read_sound,
        where=r"IN/x",
        valid={"x.wav": WAV},
        worst=(
            {"x.wav": WAV[:36] + b"JUNK\0\0\0\0" * 500_000 + WAV[36:]},
            {"x.wav": WAV[:24] + struct.pack("<I", 100) + WAV[28:40] + b"\xff" * 4 + bytes(4 << 20)},
            {"x.wav": FLAC[:21] + b"\xff" * 5 + FLAC[26:]},
            {"x.wav": MP3 + bytes(4 << 20)},
            {"x.wav": b"ID3\x03\0\0\x7f\x7f\x7f\x7f" + MP3},
        ),
    ),
)
