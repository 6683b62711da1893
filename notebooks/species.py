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
# # Tell species from DNA
#
# A small classifier learns SIMULATED great apes in seconds on a CPU; its mistakes and its embeddings are looked at. The
# same cells serve real assemblies: leave out `simulate`, and give a folder with a FASTA per species as `paths`. So
# small a model, trained so briefly, knows little: the preset `laptop` takes five minutes, and what is reached on real
# apes nothing here says.
#
# To open it as a notebook: `pip install 'seqdomains[notebooks]'`, then `jupytext --to ipynb notebooks/species.py`.

# %%
"""Train on simulated apes, classify windows of chromosomes that were held out, and look at mistakes and embeddings."""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from seqdomains.backbone import MambaConfig, SequenceClassifier
from seqdomains.genomics.alphabet import VOCAB_SIZE, decode
from seqdomains.genomics.data_config import SpeciesData
from seqdomains.genomics.faidx import FastaFile
from seqdomains.genomics.simulate import SimulationConfig, simulate
from seqdomains.genomics.species_task import SpeciesTask
from seqdomains.genomics.windows import read_bed
from seqdomains.pipelines.borrowed import seeded, thread_count
from seqdomains.pipelines.evaluate import EvaluateConfig, evaluate
from seqdomains.pipelines.explain import ExplainedWindow, Explainer, recovery
from seqdomains.pipelines.figures import confusion_figure
from seqdomains.pipelines.logo import logo_figure
from seqdomains.pipelines.recipe import LengthStage, TrainConfig
from seqdomains.pipelines.run_folder import RunFolder
from seqdomains.pipelines.train import train

scratch = tempfile.TemporaryDirectory()
folder = Path(scratch.name)

# %% [markdown]
# ## The genomes
#
# SIMULATED: three species with four chromosomes of about 150,000 bp each, which descend from common ones by published
# rates. Insertions that mark a lineage are 256 times as dense as published, so that windows of 1,024 bp hold some.

# %%
apes = SimulationConfig(
    species=("human", "gorilla", "orangutan"), chromosomes=(2, 4, 6, 5), chromosome_length=150_000, density=256
)
simulate(apes, folder / "genomes")
sorted(path.name for path in (folder / "genomes").iterdir())

# %% [markdown]
# ## Windows
#
# Those of the chromosomes homologous to human 5 are held out: no window is tested whose place was trained on.

# %%
data = SpeciesData(paths=(folder / "genomes",), window=1024, test_windows=100)
task = SpeciesTask(data)
task.classes, task.split.kind, len(task.test.targets)

# %% [markdown]
# ## Training
#
# Short windows come first. The run folder gets checkpoints, metrics and the artefact. The command for this is
# `seqdomains genomics train`.

# %%
recipe = TrainConfig(
    steps=300, batch=8, lr=2e-2, warmup=0.1, length_warmup=(LengthStage(until=0.6, window=128),), threads=1
)
with seeded(recipe.seed):
    model = SequenceClassifier(
        MambaConfig(d_model=32, n_layer=1, vocab_size=VOCAB_SIZE), classes=task.classes, pooling="mean"
    )
run = RunFolder.prepare(folder / "run", {"train": recipe.model_dump(mode="json")})
outcome = train(model, task, recipe, run, progress=False)
f"{outcome.step} steps in {outcome.seconds:.0f} s"

# %% [markdown]
# ## How good it is
#
# Beside chance, a logistic regression on 6-mers, and a reader who sees the true markers in the same windows. So briefly
# trained a model is behind the 6-mers; the README has what larger ones reach.

# %%
model = SequenceClassifier.from_pretrained(run.artefact)
result = evaluate(model, task, EvaluateConfig(), progress=False)
for name, value in (
    ("accuracy", result["accuracy"]),
    ("chance", result["chance"]),
    ("6-mers", result["baseline"]["accuracy"]),
    ("marker oracle", result["ceiling"]),
):
    print(f"{name:14} {value:.3f}   SIMULATED")  # noqa: T201 - a notebook speaks to its reader

# %% [markdown]
# ## Which species are taken for which

# %%
confusion_figure(result)

# %% [markdown]
# ## Embeddings
#
# A window's embedding is the mean of its hidden vectors, here before the classifier's head sees it. `seqdomains
# genomics embed` writes them for any number of files.


# %%
def embedded(tokens: np.ndarray) -> np.ndarray:
    """Return the mean hidden vector of each window."""
    with torch.inference_mode(), thread_count(1):
        hidden = [model.backbone(torch.from_numpy(part)) for part in np.array_split(tokens, max(1, len(tokens) // 16))]
    return torch.cat([part.mean(1) for part in hidden]).numpy()


test = next(task.test_batches(len(task.test.targets)))
vectors, truth = embedded(test.tokens), test.targets
directions = PCA(n_components=2)
places = directions.fit_transform(vectors)
overview, axes = plt.subplots(figsize=(6, 4.5), layout="constrained")
for number, name in enumerate(task.classes):
    axes.scatter(*places[truth == number].T, s=12, color=f"C{number}", label=name)
axes.set_title("held-out windows, SIMULATED")
axes.set_xlabel(f"{directions.explained_variance_ratio_[0]:.0%} of the variance")
axes.set_ylabel(f"{directions.explained_variance_ratio_[1]:.0%} of the variance")
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)

# %% [markdown]
# What is in the windows that lie apart? The simulator wrote down every marker of a lineage: lineage, family and name.


# %%
def markers_in(window: int) -> tuple[str, int, list[str]]:
    """Return the species of a test window, where it begins, and the families of the markers that it meets."""
    species, start = task.classes[truth[window]], int(task.test.starts[window])
    contig = task.corpus.names[task.test.records[window]]
    markers = read_bed(folder / "genomes" / f"markers.{species}.bed")
    met = (one for one in markers if one.contig == contig and one.start < start + task.window and start < one.end)
    return species, start, sorted({marker.name.rpartition("/")[0] for marker in met})


apart = np.argsort(-np.linalg.norm(places - np.median(places, axis=0), axis=1))[:6]
met_apart = [markers_in(window) for window in apart]
list(met_apart)

# %% [markdown]
# What do the vectors hold that a linear reader finds? It is fitted on windows of the training chromosomes, and asked of
# the held-out ones. Texts in place of windows, and the classifier as a whole in scikit-learn's tools, are what
# `seqdomains.estimators.SequenceClassifier` is for.

# %%
training = task.training_batch(seed=1, first=0, count=400)
reader = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
reader.fit(embedded(training.tokens), training.targets)
found = reader.predict(vectors)
by_reader = float((found == truth).mean())
confusion_matrix(truth, found), f"{by_reader:.3f}, SIMULATED"

# %% [markdown]
# ## What an answer rests on
#
# A chromosome of a gorilla ends in a cap of StSat, which no human and no orangutan has. In a window that begins within
# the cap of a held-out chromosome and ends behind it, each base is replaced by each other one (in-silico mutagenesis):
# how much less likely is `gorilla` then? If it is the cap that the model looks at, importance lies there, and its
# average precision, the area under the precision-recall curve, is above chance. The command for this is
# `seqdomains genomics explain`.

# %%
caps = read_bed(folder / "genomes" / "markers.gorilla.bed")
cap = next(one for one in caps if one.contig == "chr5" and one.name.startswith("cap/") and one.start == 0)
begin = cap.end - task.window // 2
genome = FastaFile(folder / "genomes" / "gorilla.fa")
window = ExplainedWindow(
    "chr5",
    begin,
    genome.codes("chr5", begin, begin + task.window),
    first=task.window // 2 - 100,
    last=task.window // 2 + 100,
)
explainer = Explainer(
    model, "ism", codes=(0, 1, 2, 3), device=torch.device("cpu"), number=task.classes.index("gorilla"), at_once=16
)
with thread_count(1):
    ((explained, scores),) = explainer.explain([window])
importance = scores[:, 0]
recovered = recovery(importance, explained.starts < cap.end)
f"average precision {recovered['average_precision']:.3f}, chance {recovered['chance']:.3f}, SIMULATED"

# %%
seen = slice(60, 140)
logo_figure(
    decode(explained.codes[seen]),
    importance[seen],
    start=int(explained.starts[seen][0]) + 1,
    colours=dict(zip("ACGT", ("C2", "C0", "C1", "C3"), strict=True)),
    title="importance for gorilla, SIMULATED; the cap is shaded",
    marked=[(int(explained.starts[seen][0]) + 1, cap.end)],
)

# %%
scratch.cleanup()
