"""Pipelines with a model that reads both sides of a position: windows go through, what needs causality is refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from seqdomains.backbone import FrameClassifier, MambaConfig, MambaLM, SequenceClassifier
from seqdomains.errors import ConfigError, InputError
from seqdomains.pipelines import bits, likelihood, stream
from seqdomains.pipelines.answers import BadInputError
from seqdomains.pipelines.batch.shard import Tally
from seqdomains.pipelines.batch.verbs import Embed, Predict, Runner
from seqdomains.pipelines.batch.whole import Whole
from seqdomains.pipelines.dry_run import dry_run
from seqdomains.pipelines.objectives import NextToken, refuse_unfit
from seqdomains.pipelines.ratio import score_pairs
from seqdomains.pipelines.recipe import TrainConfig
from seqdomains.pipelines.stream import CHUNK
from seqdomains.task import Windows

SIZES = MambaConfig(d_model=16, n_layer=2, bidirectional=True)


@pytest.fixture(scope="module")
def classifier():
    return SequenceClassifier(SIZES, classes=("a", "b"), generator=torch.Generator().manual_seed(0)).eval()


@pytest.fixture(scope="module")
def language_model():
    return MambaLM(SIZES, generator=torch.Generator().manual_seed(0)).eval()


def test_streams_ratios_and_bits_are_refused(classifier, language_model):
    with pytest.raises(InputError, match=r"a stream takes one that reads .* Classify windows instead"):
        stream.stream(classifier, [], every=5)
    with pytest.raises(InputError, match=r"a stream takes one .* trained on each next token"):
        likelihood.stream_likelihood(language_model, [], None)
    with pytest.raises(InputError, match="a likelihood ratio takes one"):
        score_pairs(language_model, [], None, values=1)

    class Task:
        ignored = None

        def test_batches(self, batch_size):
            yield Windows(np.zeros((1, 5), np.uint8), np.array([5]))

    with pytest.raises(InputError, match=r"a class for each frame, as it is read, takes one .*bidirectional off"):
        FrameClassifier(SIZES, classes=("background", "speech"))
    with pytest.raises(InputError, match="bits of each next token takes one"):
        bits.evaluate_bits(language_model, Task(), bits.BitsConfig(), progress=False)


def test_time_chunks_shared_windows_and_next_tokens_are_refused():
    with pytest.raises(ConfigError) as found:
        refuse_unfit(TrainConfig(time_chunk=8, sequence_ranks=2), SIZES, objective=NextToken())
    assert [problem.partition(":")[0] for problem in found.value.problems] == [
        "train.time_chunk",
        "train.sequence_ranks",
        "model.bidirectional, model.reverse_complement",
    ]
    refuse_unfit(TrainConfig(time_chunk=8), SIZES.model_copy(update={"bidirectional": False}), objective=NextToken())
    refuse_unfit(TrainConfig(recompute=True), SIZES)


def test_a_dry_run_knows_what_it_takes(classifier):
    causal = SequenceClassifier(SIZES.model_copy(update={"bidirectional": False}), classes=("a", "b"))
    config = TrainConfig(batch=4, steps=1)
    found, less = (dry_run(one, config, window=64, device=torch.device("cpu")).memory for one in (classifier, causal))
    assert found.kept > 1.3 * less.kept


@pytest.mark.parametrize("pooling", ["mean", "last", "max", "position"])
@pytest.mark.parametrize("layer", [0, 1, None])
def test_embeddings_of_padded_windows(classifier, pooling, layer):
    windows = [np.arange(count, dtype=np.uint8) % 4 for count in (40, 13)]
    runner = Runner(
        Embed(classifier, pooling=pooling, layer=layer), device=torch.device("cpu"), batch_size=2, precision="float32"
    )
    found = runner.fetch(runner.launch(windows))
    for row, window in zip(found, windows, strict=True):
        alone = runner.fetch(runner.launch([window]))[0]
        assert np.allclose(row[: len(window)] if pooling == "position" else row, alone, atol=1e-5)


def test_a_record_longer_than_a_chunk_is_named(classifier):
    class Source:
        def records(self, place, first, count):
            yield "long one", iter([np.zeros(CHUNK + 1, np.uint8)])

    runner = Runner(Predict(classifier), device=torch.device("cpu"), batch_size=1, precision="float32")
    whole = Whole(Source(), runner, tokens=100)
    assert [field.type for field in whole.fields] == [pa.string(), pa.float32(), pa.float32()]
    with pytest.raises(BadInputError) as found:
        whole._read(next(Source().records("", 0, 1)), Tally())
    assert f"long one is longer than {CHUNK} tokens" in str(found.value.reason)
    assert "give --window" in str(found.value.reason)
