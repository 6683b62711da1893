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
# # Classify a folder of sounds
#
# A small classifier learns SYNTHESIZED words in seconds on a CPU, and its mistakes are looked at. The same cells serve
# your own clips: leave out `synthesize`, and give their folder or manifest as `paths`.
#
# To open it as a notebook: `pip install 'seqdomains[notebooks]'`, then
# `jupytext --to ipynb notebooks/classify_a_folder.py`.

# %%
"""Train on a folder of synthesized words, classify those of other speakers, and look at the mistakes."""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix

from seqdomains.audio.clip_task import ClipTask
from seqdomains.audio.clips import read_clips
from seqdomains.audio.data_config import ClipData
from seqdomains.audio.figures import prediction_figure
from seqdomains.audio.files import is_sound_file, read
from seqdomains.audio.front_end import SoundInput
from seqdomains.audio.synthesis import SynthesisConfig, synthesize
from seqdomains.backbone import MambaConfig, SequenceClassifier
from seqdomains.pipelines.borrowed import seeded, thread_count
from seqdomains.pipelines.figures import confusion_figure
from seqdomains.pipelines.recipe import TrainConfig
from seqdomains.pipelines.run_folder import RunFolder
from seqdomains.pipelines.stream import RunningClassifier
from seqdomains.pipelines.train import train

scratch = tempfile.TemporaryDirectory()
folder = Path(scratch.name)

# %% [markdown]
# ## The sounds
#
# 400 clips: ten words, each said four times by each of ten speakers; and a manifest of who says what.

# %%
synthesize(SynthesisConfig(kind="words", clips=40, rate=8000, speakers=10), folder / "words")
sorted(path.name for path in (folder / "words").iterdir())

# %% [markdown]
# ## What the model reads and what it learns from
#
# The levels of 40 mel bands, every 10 ms. Two of the ten speakers are held out: what counts is whether a voice that was
# never heard is understood. What is learned from is played faster and slower, and noise is added.

# %%
heard = SoundInput(rate=8000, codec="log-mel", patch=80, span=256, mels=40)
data = ClipData(
    paths=(folder / "words" / "manifest.jsonl",),
    group="speaker",
    seconds=0.6,
    speed=0.1,
    gain=6.0,
    noise=(10.0, 40.0),
)
task = ClipTask(data, heard, simulated=True)
task.classes, task.window, task.notes()

# %% [markdown]
# ## Training
#
# The run folder gets checkpoints, metrics and the artefact. The command for this is `seqdomains audio train`.

# %%
recipe = TrainConfig(steps=120, batch=32, lr=8e-3, threads=1)
with seeded(recipe.seed):
    sizes = MambaConfig(d_model=48, n_layer=2, features=task.input.features)
    model = SequenceClassifier(sizes, classes=task.classes, pooling="mean")
run = RunFolder.prepare(folder / "run", {"train": recipe.model_dump(mode="json")})
outcome = train(model, task, recipe, run, progress=False)
f"{outcome.step} steps in {outcome.seconds:.0f} s"

# %% [markdown]
# ## Predictions
#
# The artefact is read as anybody would who was given it. Its pooling is the mean: a clip's class is read off the mean
# of its hidden vectors, which are kept for later. The command for this is `seqdomains audio predict`.

# %%
model = SequenceClassifier.from_pretrained(run.artefact).eval()
task.write_test_windows(folder)
clips = read_clips([folder / "test_clips.jsonl"], is_sound=is_sound_file)
sounds = [read(clip.path, rate=heard.rate)[0] for clip in clips]
inputs = [task.input.encode(sound) for sound in sounds]
# A clip of half a second is too little for two threads to share.
with torch.inference_mode(), thread_count(1):
    vectors = torch.stack([model.backbone(torch.from_numpy(one)[None])[0].mean(0) for one in inputs])
    shares = model.head(vectors).softmax(-1).numpy()
truth = np.array([model.classes.index(str(clip.label)) for clip in clips])
found = shares.argmax(axis=1)
accuracy = float((found == truth).mean())
f"{accuracy:.3f} of {len(clips)} clips of two other speakers; chance is {1 / len(model.classes)}"

# %%
confusion = confusion_matrix(truth, found, labels=range(len(model.classes)))
confusion_figure({"classes": model.classes, "confusion": confusion})

# %% [markdown]
# ## The three mistakes that it is surest of
#
# Above is the sound, below what the model says of it up to each moment: its state is carried along, as through hours.

# %%
by_surprise = np.lexsort((-shares.max(axis=1), found == truth))


def along(number: int) -> Figure:
    """Draw a clip and what the model says of its beginning, up to each moment."""
    running = RunningClassifier(model, every=2, device=torch.device("cpu"))
    ends, answers = running.read(inputs[number])
    figure = prediction_figure(sounds[number], heard.rate, ends / heard.per_second, answers, model.classes)
    figure.suptitle(f"{clips[number].name}: {model.classes[truth[number]]}, heard as {model.classes[found[number]]}")
    return figure


along(by_surprise[0])

# %%
along(by_surprise[1])

# %%
along(by_surprise[2])

# %% [markdown]
# ## Embeddings
#
# The mean hidden vectors, along the two directions in which they vary most. `seqdomains audio embed` writes them for
# any number of files.

# %%
directions = PCA(n_components=2)
places = directions.fit_transform(vectors.numpy())
overview, axes = plt.subplots(figsize=(6, 4.5), layout="constrained")
for number, name in enumerate(model.classes):
    axes.scatter(*places[truth == number].T, s=16, color=f"C{number}", label=name)
axes.set_xlabel(f"{directions.explained_variance_ratio_[0]:.0%} of the variance")
axes.set_ylabel(f"{directions.explained_variance_ratio_[1]:.0%} of the variance")
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)

# %%
scratch.cleanup()
