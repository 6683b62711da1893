"""The real sequences that SEQDOMAINS_DATA names: counts, lengths and labels as their README files state them."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from seqdomains.genomics.alphabet import N
from seqdomains.genomics.data_config import SpeciesData
from seqdomains.genomics.fasta import stream_fasta
from seqdomains.genomics.kmers import kmer_indices
from seqdomains.genomics.labels import header_value
from seqdomains.genomics.spans import plan_spans
from seqdomains.genomics.species_task import SpeciesTask

DATA = os.environ.get("SEQDOMAINS_DATA")
pytestmark = pytest.mark.skipif(
    DATA is None, reason="SEQDOMAINS_DATA is not set: it names the folder of real sequences"
)


@pytest.fixture
def data():
    return Path(DATA)


def lengths(path):
    return {record.name: sum(len(piece) for piece in record.pieces) for record in stream_fasta(path)}


def bases_by_species(path):
    bases, records = Counter(), Counter()
    for record in stream_fasta(path):
        species = header_value(record.description, "species")
        bases[species] += sum(len(piece) for piece in record.pieces)
        records[species] += 1
    return records, bases


def test_mitochondrial_references(data):
    assert lengths(data / "apes-mtdna" / "refs.fasta") == {
        "V00662.1": 16_569,
        "D38113.1": 16_554,
        "D38116.1": 16_563,
        "D38114.1": 16_364,
        "NC_002083.1": 16_499,
    }


def test_other_individuals(data):
    records, _ = bases_by_species(data / "apes-mtdna" / "other_individuals.fasta")
    assert records == {"human": 15, "chimpanzee": 1, "orangutan": 1}
    assert lengths(data / "apes-mtdna" / "other_individuals.fasta")["X93335_12CDS"] == 10_707


def test_messenger_rna(data):
    records, bases = bases_by_species(data / "apes-mrna-five" / "mrna_5species.fasta")
    assert records == {"bonobo": 51, "chimpanzee": 76, "gorilla": 58, "human": 197, "orangutan": 48}
    assert bases == {
        "bonobo": 123_127,
        "chimpanzee": 226_956,
        "gorilla": 138_540,
        "human": 506_182,
        "orangutan": 111_745,
    }


def test_genomic_pieces(data):
    path = data / "encode-ENm002" / "human_chimp_ENm002.fasta"
    found = {record.name: record.codes() for record in stream_fasta(path)}
    assert {name: (codes.size, int((codes == N).sum())) for name, codes in found.items()} == {
        "human_ENm002_0": (1_000_000, 0),
        "chimp_ENm002_0": (1_005_278, 41_912),
    }
    pieces = lengths(data / "apes-chr1-100kb" / "chr1_human_chimp_orang.fasta")
    assert (len(pieces), sum(pieces.values())) == (87, 246_064)


def test_runs_of_n_cannot_mark_the_chimpanzee_draft(data):
    path = data / "encode-ENm002" / "human_chimp_ENm002.fasta"
    task = SpeciesTask(SpeciesData(paths=(path,), label_from="header:species", window=1024))
    batch = task.training_batch(0, 0, 2000)
    assert float((batch.tokens == N).mean(axis=1).max()) <= 0.01
    assert abs(float((batch.targets == 0).mean()) - 0.5) < 0.05
    assert all(float((test.tokens == N).mean(axis=1).max()) <= 0.01 for test in task.test_batches(128))


def test_genes_are_never_on_both_sides(data):
    path = data / "apes-nuclear-cds" / "cds_231genes_4species.fasta"
    task = SpeciesTask(
        SpeciesData(paths=(path,), label_from="header:species", group="header:gene_human", window=256, test_windows=50)
    )
    assert len(task.corpus.names) == 924
    assert int(task.corpus.sequences.lengths.sum()) == 1_592_613
    assert task.classes == ("human", "chimpanzee", "gorilla", "orangutan")
    genes = np.array(task.corpus.groups)
    assert len(set(genes)) == 231
    train, held = set(genes[task.split.train]), set(genes[task.split.held])
    assert len(train) + len(held) == 231
    assert len(held) == 46
    assert not train & held
    assert set(genes[np.unique(task.test.records)]) <= held


def vote_accuracy(task):
    """Macro accuracy of a 15-mer vote of the training records on the test windows; a tie is worth its share."""
    store = task.corpus.sequences
    windows = kmer_indices(np.concatenate([batch.tokens for batch in task.test_batches(256)]), 15)
    votes = np.zeros((len(windows), len(task.classes)))
    for index in range(len(task.classes)):
        records = np.flatnonzero(task.split.train & (task.corpus.class_of == index))
        pieces = [store.codes[first : first + size] for first, size in zip(store.offsets, store.lengths, strict=True)]
        words = np.unique(np.concatenate([kmer_indices(pieces[record], 15) for record in records]))
        votes[:, index] = (np.isin(windows, words) & (windows >= 0)).sum(axis=1)
    best = votes == votes.max(axis=1, keepdims=True)
    shares = best[np.arange(len(best)), task.test.targets] / best.sum(axis=1)
    return np.mean([shares[task.test.targets == index].mean() for index in range(len(task.classes))])


def test_on_genes_never_seen_species_cannot_be_told(data):
    path = data / "apes-nuclear-cds" / "cds_231genes_4species.fasta"
    base = SpeciesData(paths=(path,), label_from="header:species", window=256, test_windows=100)
    held_out = vote_accuracy(SpeciesTask(base.model_copy(update={"group": "header:gene_human"})))
    # Chance is 0.25, and 400 windows have a standard error of 0.022; a gene on both sides would show as 0.8 and more.
    assert 0.18 < held_out < 0.32
    assert vote_accuracy(SpeciesTask(base.model_copy(update={"split": "none"}))) > 0.8


def test_barcode_references_and_individuals_are_read_for_their_jobs(data):
    refs, others = (data / "apes-mtdna" / name for name in ("refs.fasta", "other_individuals.fasta"))
    task = SpeciesTask(SpeciesData(paths=(refs,), label_from="header:species", window=128))
    assert task.classes == ("human", "chimpanzee", "bonobo", "gorilla", "orangutan")
    assert "training loci" in task.notes()[0]
    plan = plan_spans([others], window=128, stride=128)
    assert not plan.failures
    assert not plan.skipped
    found = [(span.record, span.start, span.end) for span in plan.files[0].spans()]
    assert len(found) == plan.windows
    order = {name: place for place, name in enumerate(lengths(others))}
    assert found == sorted(found, key=lambda row: (order[row[0]], row[1]))
    assert {end - start for _, start, end in found if end - start != 128} <= set(range(64, 128))
