"""Models of both strands from the command line: trained, used, and refused where a stream needs one that is causal."""

from __future__ import annotations

import json

import pytest

BOTH = ("--set", "model.bidirectional=true", "--set", "model.reverse_complement=equivariant")


@pytest.fixture(scope="session")
def equivariant_run(seqdomains, tmp_path_factory):
    """A run of the preset tiny with a model of both strands, of two steps."""
    folder = tmp_path_factory.mktemp("runs") / "equivariant"
    outcome = seqdomains(
        "genomics", "train", "--species", "great-apes", "--preset", "tiny", "--set", "train.steps=2",
        "--set", "data.test_windows=4", "--set", "strands=both", *BOTH, "--out", folder,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "Probabilities are the mean of both strands." in outcome.out
    return folder


@pytest.fixture
def strands_of(tmp_path):
    """A FASTA file of two records, each the reverse complement of the other."""
    import numpy as np

    letters = "".join(np.random.default_rng(0).choice(list("ACGTN"), 700, p=[0.3, 0.2, 0.2, 0.25, 0.05]))
    other = letters[::-1].translate(str.maketrans("ACGT", "TGCA"))
    path = tmp_path / "both.fa"
    path.write_text(f">given\n{letters}\n>other\n{other}\n")
    return path


def test_a_trained_model_says_the_same_of_both_strands(seqdomains, equivariant_run, strands_of):
    outcome = seqdomains("genomics", "predict", equivariant_run, strands_of, "--window", 700)
    assert outcome.code == 0, outcome.err
    given, other = (line.split("\t")[3:] for line in outcome.out.splitlines()[1:])
    assert given == other


def test_embeddings_have_both_strands_side_by_side(seqdomains, equivariant_run, strands_of, tmp_path):
    import numpy as np
    import pyarrow.parquet as pq

    outcome = seqdomains(
        "genomics", "embed", equivariant_run, strands_of, "--window", 700, "--layer", 1, "--out", tmp_path / "e"
    )
    assert outcome.code == 0, outcome.err
    given, other = np.stack(pq.read_table(tmp_path / "e" / "embeddings.parquet")["embedding"].to_numpy())
    assert np.allclose(given, other[::-1], atol=1e-5)
    assert len(given) % 2 == 0
    assert not np.allclose(given[: len(given) // 2], given[len(given) // 2 :][::-1], atol=1e-3)


@pytest.mark.parametrize("batch", [False, True])
def test_a_stream_is_refused(seqdomains, equivariant_run, strands_of, tmp_path, batch):
    outcome = seqdomains(
        "genomics", "stream", equivariant_run, strands_of, *(["--out", tmp_path / "s"] if batch else [])
    )
    assert outcome.code == 1
    assert "the model reads both sides of a position, and a stream takes one that reads" in outcome.error
    assert outcome.error.endswith("Classify windows instead: predict reads them whole.")


@pytest.mark.parametrize("extra", [[], ["--dry-run"]])
def test_time_chunks_are_refused(seqdomains, tmp_path, extra):
    outcome = seqdomains(
        "genomics", "train", "--species", "great-apes", "--preset", "tiny", "--set", "train.time_chunk=64", *BOTH,
        "--out", tmp_path / "run", *extra,
    )  # fmt: skip
    assert outcome.code == 2
    assert "train.time_chunk: the model reads both sides of a position, so that windows stay whole" in outcome.err


@pytest.mark.parametrize("extra", [[], ["--dry-run"]])
def test_next_tokens_are_no_question_for_both_sides(seqdomains, tmp_path, extra):
    clips = tmp_path / "clips"
    assert seqdomains("audio", "synthesize", "--kind", "tones", "--preset", "words", "--out", clips,
                      "--set", "data.synthesis={clips: 2, rate: 8000}").code == 0  # fmt: skip
    outcome = seqdomains(
        "audio", "pretrain", "--data", clips, "--preset", "codes-small", "--set", "model.bidirectional=true",
        "--out", tmp_path / "run", *extra,
    )  # fmt: skip
    assert outcome.code == 2, outcome.err
    assert (
        "model.bidirectional, model.reverse_complement: the model reads both sides of a position and has" in outcome.err
    )
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_complement_is_not_for_the_user_to_write_nor_sound_to_have(seqdomains):
    outcome = seqdomains("config", "show", "tiny", "--set", "model.complement=[0]")
    assert outcome.code == 2
    assert "model.complement" in outcome.err
    outcome = seqdomains("config", "show", "words", "--set", "model.reverse_complement=equivariant")
    assert outcome.code == 2
    assert "model.reverse_complement" in outcome.err


def rows_of(text):
    return [[float(cell) for cell in line.split("\t")[4:]] for line in text.splitlines()[1:]]


def test_predictions_are_the_mean_of_both_strands(seqdomains, artefact, strands_of):
    command = ("genomics", "predict", artefact, strands_of, "--window", 700)
    given, other = rows_of(seqdomains(*command).out)
    outcome = seqdomains(*command, "--set", "strands=both")
    assert outcome.code == 0, outcome.err
    found = rows_of(outcome.out)
    assert found[0] == found[1]
    assert found[0] == pytest.approx([(a + b) / 2 for a, b in zip(given, other, strict=True)], abs=1e-5)
    assert given != pytest.approx(other, abs=1e-3)


def test_a_batch_of_both_strands_is_the_same_however_it_is_shared(seqdomains, artefact, genomes, tmp_path):
    tables = []
    inputs = [genomes / f"{number:03}.fa" for number in range(6)]
    for jobs in (["1/1"], ["1/2", "2/2"]):
        out = tmp_path / str(len(jobs))
        for job in jobs:
            outcome = seqdomains(
                "genomics", "predict", artefact, *inputs, "--threads", 1, "--shard-size", 40, "--format", "tsv",
                "--set", "strands=both", "--out", out, "--shard", job,
            )  # fmt: skip
            assert outcome.code == 0, outcome.err
        tables.append((out / "predictions.tsv").read_bytes())
    assert tables[0] == tables[1]
    found = rows_of(seqdomains("genomics", "predict", artefact, inputs[0], "--set", "strands=both").out)
    rows = [[float(cell) for cell in line.split("\t")[5:]] for line in tables[0].decode().splitlines()[1:]]
    assert rows[: len(found)] == [pytest.approx(row, abs=1e-5) for row in found]
    again = seqdomains("genomics", "predict", artefact, *inputs, "--out", tmp_path / "1", "--format", "tsv")
    assert again.code == 2  # of one strand is another table
    assert "--strand forward differs from --strand both of the plan" in again.err


def test_strand_is_spelled_as_explain_and_score_spell_it(seqdomains, artefact, strands_of, tmp_path):
    command = ("genomics", "predict", artefact, strands_of, "--window", 700)
    for strand in ("both", "forward"):
        older = seqdomains(*command, "--set", f"strands={strand}")
        assert older.code == 0, older.err
        assert seqdomains(*command, "--strand", strand).out == older.out
    batch = seqdomains(*command, "--strand", "both", "--format", "tsv", "--out", tmp_path / "out")
    assert batch.code == 0, batch.err
    rows = [line.split("\t")[5:] for line in (tmp_path / "out" / "predictions.tsv").read_text().splitlines()[1:]]
    found = [[float(cell) for cell in row] for row in rows]
    assert found == [pytest.approx(row, abs=1e-5) for row in rows_of(seqdomains(*command, "--strand", "both").out)]
    twice = seqdomains(*command, "--strand", "both", "--set", "strands=forward")
    assert twice.code == 2
    assert "--strand: is what --set strands says too; give one of the two" in twice.error


@pytest.mark.parametrize("verb", ["stream", "embed"])
def test_what_reads_one_strand_says_so(seqdomains, artefact, strands_of, tmp_path, verb):
    out = ["--out", tmp_path / "e"] if verb == "embed" else []
    outcome = seqdomains("genomics", verb, artefact, strands_of, "--set", "strands=both", *out)
    assert outcome.code == 2
    assert (
        f"strands: {verb} reads the strand that is given; both are for predict, evaluate and explain" in outcome.error
    )


def test_an_evaluation_of_both_strands_says_so(seqdomains, run, tmp_path):
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    outcome = seqdomains("genomics", "evaluate", copy, "--strand", "both")
    assert outcome.code == 0, outcome.err
    said = "Probabilities are the mean of both strands."
    assert said in outcome.out
    assert said in (copy / "evaluation.json").read_text()
    # The configuration stays that of the training; the report says where the evaluation's is another one.
    assert "strands: forward" in (copy / "config.yaml").read_text()
    told = "other settings than the run was begun with:\n<code>strands: both</code>."
    assert seqdomains("report", copy).code == 0
    assert told in (copy / "report.html").read_text()
    assert seqdomains("genomics", "evaluate", copy).code == 0
    assert "changed" not in json.loads((copy / "evaluation.json").read_text())
    assert seqdomains("report", copy).code == 0
    assert "other settings" not in (copy / "report.html").read_text()
