"""Time `audio predict` over one recording of hours, and watch the memory that it takes.

Run ``python -m benchmarks.audio_stream``. The sound is noise and tones, and the model of the preset is untrained
(SYNTHESIZED input: only speed and memory mean anything). First a shorter file, of 60 s or of one and a half of the
chunks that a stream is cut into, must get the answer of the model over the whole of it in memory, to 1e-4. Then the
command runs in a process of its own, whose resident memory is read from /proc twice a second (Linux). Prints RTF,
computing time over the sound's, and the most that the process held in each tenth of the computing: in the first one
it still warms up.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

from seqdomains.audio.files import read
from seqdomains.audio.front_end import SoundInput
from seqdomains.backbone import SequenceClassifier
from seqdomains.cli.config import resolve
from seqdomains.cli.sound_config import SoundRunConfig
from seqdomains.pipelines.stream import CHUNK

RATE = 44_100
BLOCK = 10  # s
CLASSES = ("a", "b", "c", "d")
SAMPLED = 0.5  # s


def write_recording(path: Path, seconds: float) -> None:
    """Write stereo of 16 bits, block by block: in each block another tone in another noise."""
    time_ = np.arange(BLOCK * RATE, dtype=np.float32) / RATE
    left = round(seconds * RATE)
    random = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", RATE, 2, "PCM_16", format=path.suffix[1:].upper()) as file:
        while left:
            samples = random.standard_normal((len(time_), 2), np.float32) * np.float32(10 ** random.uniform(-3, -1))
            samples += (0.2 * np.sin(2 * np.pi * np.float32(random.uniform(50, 8000)) * time_))[:, None]
            file.write(np.clip(samples[:left], -1, 1))
            left -= min(left, len(samples))


def write_model(folder: Path, preset: str, sound: Path) -> SoundInput:
    """Write an untrained classifier of a preset, its input normalised on a sound, its answers far from even."""
    config = resolve(SoundRunConfig, preset=preset).config
    given = config.input.measured([read(sound, rate=config.input.rate, seconds=10)[0]])
    generator = torch.Generator().manual_seed(0)
    model = SequenceClassifier(config.backbone(), classes=CLASSES, pooling=config.pooling, generator=generator)
    with torch.no_grad():
        model.head.weight.mul_(30)
    model.save_pretrained(folder, signature=given.signature())
    count = sum(one.numel() for one in model.parameters())
    print(f"preset {preset}, untrained: {count:,} parameters, {given.per_second:g} positions a second, {given.rate} Hz")
    return given


def command(model: Path, sound: Path, out: Path) -> list[str]:
    sized = ["--out", str(out), "--format", "tsv", "--device", "cpu"]
    return [sys.executable, "-m", "seqdomains", "audio", "predict", str(model), str(sound), *sized]


def answers(out: Path) -> np.ndarray:
    row = (out / "predictions.tsv").read_text().splitlines()[1].split("\t")
    return np.array(row[5:], float)


def difference(model: Path, given: SoundInput, sound: Path, out: Path) -> float:
    """Return how far the streamed answer is from that of the model over the whole sound in memory."""
    subprocess.run(command(model, sound, out), check=True, capture_output=True)
    samples = read(sound, rate=given.rate, channels=given.channels)[0]
    positions = torch.from_numpy(given.encode(samples))
    with torch.inference_mode():
        whole = SequenceClassifier.from_pretrained(model).eval()(positions[None]).double().softmax(-1)[0]
    print(f"answers {answers(out).tolist()}")
    return float(np.abs(answers(out) - whole.numpy()).max())


def resident(process: int) -> float:
    """Return the resident memory of a process, MB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def watched(given: list[str]) -> tuple[list[tuple[float, float]], float, float]:
    """Run a command; returns when (s from now) it held how much (MB), and its own and its processors' seconds."""
    began = time.perf_counter()
    seen = []
    process = subprocess.Popen(given, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while True:
        done, status, used = os.wait4(process.pid, os.WNOHANG)
        if done:
            break
        seen.append((time.perf_counter() - began, resident(process.pid)))
        time.sleep(SAMPLED)
    if status:
        sys.exit(process.stderr.read().decode() if process.stderr else f"status {status}")
    return seen, time.perf_counter() - began, used.ru_utime + used.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--preset", default="audio-small")
    parser.add_argument("--format", choices=["flac", "wav", "rf64"], default="flac")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f"{platform.processor() or platform.machine()}, {cores} cores, load {os.getloadavg()[0]:.1f}, Python "
          f"{platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, libsndfile "
          f"{soundfile.__libsndfile_version__}")  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model, short, long = folder / "model", folder / "short.flac", folder / f"long.{arguments.format}"
        write_recording(short, BLOCK)
        given = write_model(model, arguments.preset, short)
        tried = max(60.0, 1.5 * CHUNK / given.per_second)
        write_recording(short, tried)
        wrong = difference(model, given, short, folder / "short")
        print(f"{tried:.0f} s streamed and whole in memory differ by {wrong:.1e} (bound 1e-4)", flush=True)
        if not wrong <= 1e-4:
            return 1
        write_recording(long, 3600 * arguments.hours)
        heard = soundfile.info(long).frames / RATE
        print(f"SYNTHESIZED: {heard / 3600:.2f} h of {RATE} Hz stereo, {arguments.format}, "
              f"{long.stat().st_size / 1e9:.2f} GB", flush=True)  # fmt: skip
        seen, whole, used = watched(command(model, long, folder / "long"))
        session = json.loads((folder / "long" / "run.json").read_text())["last_session"]
        computing = session["seconds"]
        most = [0.0] * 10
        for at, held in seen:
            if 0 <= (tenth := int(10 * (1 - (whole - at) / computing))) < 10 and at > whole - computing:
                most[tenth] = max(most[tenth], held)
        print(f"RTF {computing / heard:.5f} computing ({computing:.1f} s), {whole / heard:.5f} with start and table "
              f"({whole:.1f} s), {used / heard:.5f} in CPU time; {session['tokens'] / computing / 1e3:.0f} k positions "
              f"a second, {heard / computing:.0f} s of sound a second")  # fmt: skip
        print(f"resident, most in each tenth of the computing, MB: {' '.join(f'{held:.0f}' for held in most)}")
        print(f"growth from the second to the last tenth: {most[-1] - most[1]:+.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
