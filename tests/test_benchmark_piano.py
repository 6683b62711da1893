"""Packed recordings unpack to the same codes, and what is not packed is not taken for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from seqdomains.audio.files import read, write_wav
from seqdomains.audio.front_end import SoundInput
from seqdomains.audio.synthesis.write import MANIFEST, RECORD

RATE = 8000


def test_packed_clips_unpack_to_the_same_codes_and_only_once(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    from benchmarks.piano_data import REFERENCES, pack, unpack

    folder, packed, unpacked = tmp_path / "clips", tmp_path / "packed", tmp_path / "unpacked"
    (folder / "piano").mkdir(parents=True)
    names = {"piano/0.wav": "train", "piano/1.wav": "test"}
    for step, name in enumerate(names):
        write_wav(folder / name, 0.4 * np.sin(0.05 * (step + 1) * np.arange(3000, dtype=np.float32)), RATE)
    rows = [{"audio_filepath": name, "split": split} for name, split in names.items()]
    (folder / MANIFEST).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / RECORD).write_text(json.dumps({"config": {"rate": RATE}}))

    pack(folder, packed)
    assert json.loads((packed / REFERENCES).read_text())["samples"] == 3000
    unpack(packed, unpacked)
    given = SoundInput(rate=RATE)
    for name in names:
        before, after = (given.encode(read(one / name, rate=RATE)[0]) for one in (folder, unpacked))
        assert np.array_equal(before, after)
        assert len(np.unique(before)) > 50
    assert "packed" not in json.loads((unpacked / RECORD).read_text())
    with pytest.raises(SystemExit, match="is not packed"):
        unpack(unpacked, tmp_path / "again")
