# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Play on
#
# A small language model of samples hears SYNTHESIZED melodies for about half a minute on a CPU and goes on from the
# beginning of one that it never heard. So small a model, trained so briefly, has the rhythm and the loudness at best,
# and writes noise for notes. The same cells serve recordings of a piano: leave out `synthesize`, give their folder as
# `paths`, and train longer and larger, on a GPU (`seqdomains audio pretrain --preset piano-3m`).
#
# To open it as a notebook: `pip install 'seqdomains[notebooks]'`, then `jupytext --to ipynb notebooks/piano.py`.

# %%
"""Learn synthesized melodies sample by sample, go on from one that was held out, listen, and look at it."""

import base64
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from seqdomains.audio.clips import read_clips
from seqdomains.audio.code_task import CodeTask
from seqdomains.audio.data_config import ClipData
from seqdomains.audio.files import is_sound_file, read, write_wav
from seqdomains.audio.front_end import SoundInput
from seqdomains.audio.levels import RunawayWatch, SecondMeter
from seqdomains.audio.synthesis import SynthesisConfig, synthesize
from seqdomains.audio.writing import open_writer
from seqdomains.backbone import MambaConfig, MambaLM
from seqdomains.kernels.token_draw import Sampling
from seqdomains.pipelines.bits import BitsConfig, evaluate_bits
from seqdomains.pipelines.borrowed import seeded, thread_count
from seqdomains.pipelines.generate import generate_blocks
from seqdomains.pipelines.objectives import NextToken
from seqdomains.pipelines.recipe import TrainConfig
from seqdomains.pipelines.run_folder import RunFolder
from seqdomains.pipelines.train import train

scratch = tempfile.TemporaryDirectory()
folder = Path(scratch.name)

# %% [markdown]
# ## The sounds
#
# Twelve melodies of ten seconds, each of another instrument and key. Chorales on a sampled piano are
# `SynthesisConfig(kind="piano")`, with `pip install 'seqdomains[piano]'`.

# %%
synthesize(SynthesisConfig(kind="music", clips=2, rate=8000, noise=(50.0, 60.0)), folder / "music")
sorted(path.name for path in (folder / "music").iterdir())

# %% [markdown]
# ## What the model reads
#
# One mu-law code a sample, at 4 kHz: each is asked given all before it. A melody of each five is held out.

# %%
heard = SoundInput(rate=4000)
data = ClipData(paths=(folder / "music" / "manifest.jsonl",), seconds=0.5)
task = CodeTask(data, heard, simulated=True)
task.window, task.notes()

# %% [markdown]
# ## Training
#
# The run folder gets checkpoints, metrics and the artefact. The command for this is `seqdomains audio pretrain`.

# %%
recipe = TrainConfig(steps=150, batch=8, lr=1e-2, warmup=0.1, threads=1)
with seeded(recipe.seed):
    model = MambaLM(MambaConfig(d_model=32, n_layer=2, vocab_size=task.codes))
run = RunFolder.prepare(folder / "run", {"train": recipe.model_dump(mode="json")})
outcome = train(model, task, recipe, run, objective=NextToken(task.ignored), progress=False)
f"{outcome.step} steps in {outcome.seconds:.0f} s"

# %% [markdown]
# ## Bits a sample
#
# On the held-out melodies, beside linear prediction and a Markov chain. 8 bits would be pure noise.

# %%
model = MambaLM.from_pretrained(run.artefact).eval()
with thread_count(1):
    result = evaluate_bits(model, task, BitsConfig(), progress=False)
for name, bits in (("model", result["bits"]), *((one["name"], one["bits"]) for one in result["baselines"])):
    print(f"{name:22} {bits:.3f} bits a sample   SIMULATED")  # noqa: T201 - a notebook speaks to its reader

# %% [markdown]
# ## Going on
#
# From the first four seconds of a held-out melody. The command for this is `seqdomains audio generate`; blocks come as
# they are written, here into a file. Level, peak, entropy and clipping of each second are kept, and whether the sound
# runs away from what the prompt was is watched.

# %%
SECONDS = 4
task.write_test_windows(folder)
melody = read_clips([folder / "test_clips.jsonl"], is_sound=is_sound_file)[0]
prompt = heard.encode(read(melody.path, rate=heard.rate, seconds=SECONDS)[0])
meter, prompt_meter = SecondMeter(heard), SecondMeter(heard)
seconds, before = [], []
blocks = generate_blocks(
    model,
    np.append(np.uint8(task.input.pad), prompt),
    length=SECONDS * heard.rate,
    sampling=Sampling(top_p=0.98),
    seed=1,
    progress=False,
    heard=lambda bits: before.extend(prompt_meter.push(prompt, bits[:-1])),
)
with open_writer(folder / "played.wav", rate=heard.rate, frames=SECONDS * heard.rate, comment="GENERATED") as writer:
    for block in blocks:
        codes = block.tokens[0].astype(np.uint8)
        writer.write(heard.decode(codes))
        seconds += meter.push(codes, block.bits[0])
watch = RunawayWatch(heard.rate, before)
for second in seconds:
    watch.see(second)
played = read(folder / "played.wav", rate=heard.rate)[0]
f"{len(played) / heard.rate:.1f} s written; " + (watch.verdict() or "it did not run away")

# %% [markdown]
# ## Listening
#
# First the beginning of the melody, as the model heard it, then what the model made of it.


# %%
class Player:
    """A sound file as a notebook plays it."""

    def __init__(self, path: Path) -> None:
        self.sound = base64.b64encode(path.read_bytes()).decode()

    def _repr_html_(self) -> str:
        return f'<audio controls src="data:audio/wav;base64,{self.sound}"></audio>'


write_wav(folder / "prompt.wav", heard.decode(prompt), heard.rate)
Player(folder / "prompt.wav")

# %%
Player(folder / "played.wav")

# %% [markdown]
# ## What was written
#
# Spectrum, level and entropy on both sides of the moment from which the model goes on. A model that has lost itself is
# seen here: its spectrum is without lines, its level rises or falls for good, its entropy leaves what the prompt had.

# %%
both = np.concatenate([heard.decode(prompt), played])
every = [*before, *seconds]
edges = np.arange(len(every) + 1)
figure, (spectrum, levels, entropies) = plt.subplots(3, sharex=True, figsize=(9, 6), layout="constrained")
spectrum.specgram(both, NFFT=256, noverlap=192, Fs=heard.rate, mode="magnitude", scale="dB", cmap="cividis", vmin=-100)
spectrum.set_ylabel("frequency (Hz)")
spectrum.set_title("melody | what the model made of it, SIMULATED")
levels.stairs([second.level for second in every], edges, baseline=None)
levels.set_ylabel("level (dBFS)")
entropies.stairs([second.entropy for second in every], edges, baseline=None)
entropies.set_ylabel("entropy (bits)")
entropies.set_xlabel("time (s)")
for axes in (spectrum, levels, entropies):
    axes.axvline(SECONDS, color="C3")

# %%
scratch.cleanup()
