"""Pack rendered piano into a few tens of MB for a machine without it, unpack it there, and say what it is worth.

``python -m benchmarks.piano_data pack FOLDER PACKED`` turns a folder of ``audio synthesize --kind piano`` into FLAC of
the 8-bit mu-law codes, and writes what simple models know of the next code: the codes' own frequencies, a Markov chain,
adaptive linear prediction, and FLAC, all on the test clips. ``unpack PACKED FOLDER`` writes WAV of 16 bits, whose codes
are the packed ones, with the manifest. The recordings are RENDERED (`seqdomains.audio.synthesis.piano`).
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from pathlib import Path

import numpy as np
import soundfile

from seqdomains.audio.code_task import CodeTask
from seqdomains.audio.data_config import ClipData
from seqdomains.audio.files import read
from seqdomains.audio.front_end import LEVELS, SoundInput, decode_mu_law
from seqdomains.audio.synthesis.write import MANIFEST, RECORD
from seqdomains.files import atomic_file

REFERENCES = "references.json"


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]


def flac_size(samples: np.ndarray, rate: int, subtype: str) -> int:
    """Return how many bytes FLAC makes of samples of 16 bits, of which it is told how many count."""
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="FLAC", subtype=subtype)
    return out.getbuffer().nbytes


def pack(folder: Path, packed: Path) -> None:
    record = json.loads((folder / RECORD).read_text())
    given = SoundInput(rate=record["config"]["rate"])
    packed.mkdir(parents=True)
    rows, flac = rows_of(folder), {"flac, 16-bit samples": 0, "flac, 8-bit codes": 0}
    counts = {side: np.zeros(LEVELS, np.int64) for side in ("train", "test")}
    for row in rows:
        path = folder / row["audio_filepath"]
        codes = given.encode(read(path, rate=given.rate)[0])
        wide = (codes.astype(np.int16) - 128) << 8
        row["audio_filepath"] = Path(row["audio_filepath"]).with_suffix(".flac").as_posix()
        counts[row["split"]] += np.bincount(codes, minlength=LEVELS)
        target = packed / row["audio_filepath"]
        target.parent.mkdir(exist_ok=True)
        soundfile.write(target, wide, given.rate, format="FLAC", subtype="PCM_S8")
        if row["split"] == "test":
            whole = soundfile.read(path, dtype="int16")[0]
            flac["flac, 16-bit samples"] += flac_size(whole, given.rate, "PCM_16")
            flac["flac, 8-bit codes"] += target.stat().st_size
    (packed / MANIFEST).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (packed / RECORD).write_text(json.dumps(record | {"packed": "FLAC of mu-law codes less 128"}, indent=1) + "\n")
    samples = int(counts["test"].sum())
    found = {name: 8 * size / samples for name, size in flac.items()}
    frequencies = (counts["train"] + 1) / (counts["train"] + 1).sum()
    found["frequencies of codes"] = float(-(counts["test"] * np.log2(frequencies)).sum() / samples)
    task = CodeTask(ClipData(paths=(folder / MANIFEST,)), given)
    found |= {one["name"]: one["bits"] for one in task.baselines()}
    (packed / REFERENCES).write_text(json.dumps({"bits": found, "samples": samples}, indent=1) + "\n")
    size = sum(path.stat().st_size for path in packed.rglob("*") if path.is_file())
    print(f"{len(rows)} clips, {size / 1e6:.1f} MB; test clips of {samples:,} samples, bits a sample:")
    for name, bits in found.items():
        print(f"  {name:22} {bits:.3f}")


def unpack(packed: Path, folder: Path) -> None:
    """Write the clips that are not there yet; several processes may do so at once.

    Raises
    ------
    SystemExit
        The folder is not packed: samples of 16 bits would be taken for codes.
    """
    record = json.loads((packed / RECORD).read_text())
    if record.pop("packed", None) is None:
        raise SystemExit(f"{packed} is not packed: it holds sounds as they are, which need no unpacking")
    rate = record["config"]["rate"]
    given = SoundInput(rate=rate)
    rows = rows_of(packed)
    for row in rows:
        codes = ((soundfile.read(packed / row["audio_filepath"], dtype="int16")[0] >> 8) + 128).astype(np.uint8)
        row["audio_filepath"] = Path(row["audio_filepath"]).with_suffix(".wav").as_posix()
        target = folder / row["audio_filepath"]
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as partial:
            soundfile.write(partial, decode_mu_law(codes), rate, format="WAV", subtype="PCM_16")
            if not np.array_equal(given.encode(read(partial, rate=rate)[0]), codes):
                raise SystemExit(f"{target}: other codes than those that were packed")
    for name, text in (
        (RECORD, json.dumps(record, indent=1) + "\n"),
        (MANIFEST, "".join(json.dumps(row) + "\n" for row in rows)),
    ):
        with atomic_file(folder / name) as partial:
            partial.write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("pack", "unpack"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    began = time.perf_counter()
    (pack if arguments.what == "pack" else unpack)(arguments.source, arguments.target)
    print(f"{time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
