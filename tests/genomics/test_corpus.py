import gzip
import json

import numpy as np
import pysam
import pytest

from seqdomains.errors import ConfigError, InputError
from seqdomains.genomics.corpus import read_corpus, sequence_files
from seqdomains.genomics.data_config import SpeciesData
from seqdomains.genomics.sequences import EncodedSequences, IndexedSequences


def letters(length, seed=0):
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


def write_fasta(path, records, *, width=60):
    with path.open("w") as handle:
        for header, text in records:
            handle.write(f">{header}\n" + "\n".join(text[at : at + width] for at in range(0, len(text), width)) + "\n")
    return path


@pytest.fixture
def labelled(tmp_path):
    records = [
        (f"r{number} kind={kind} gene=g{number % 3}", letters(300, number)) for number, kind in enumerate("xyxyxy")
    ]
    return write_fasta(tmp_path / "all.fa", records)


def test_labels_from_headers(labelled):
    corpus = read_corpus(SpeciesData(paths=(labelled,), label_from="header:kind", group="header:gene"))
    assert corpus.classes == ("x", "y")
    assert corpus.class_of.tolist() == [0, 1] * 3
    assert corpus.groups == ("g0", "g1", "g2") * 2
    assert corpus.names == tuple(f"r{number}" for number in range(6))
    assert set(corpus.homologues) == {None}
    assert corpus.simulated is None


def test_labels_from_a_table(labelled, tmp_path):
    table = tmp_path / "labels.tsv"
    table.write_text("".join(f"r{number}\t{'ab'[number > 2]}\n" for number in range(6)))
    corpus = read_corpus(SpeciesData(paths=(labelled,), labels=table))
    assert (corpus.classes, corpus.class_of.tolist()) == (("a", "b"), [0, 0, 0, 1, 1, 1])


def test_declared_classes_decide_the_order_and_must_fit(labelled):
    base = SpeciesData(paths=(labelled,), label_from="header:kind")
    assert read_corpus(base.model_copy(update={"classes": ("y", "x")})).class_of.tolist() == [1, 0] * 3
    with pytest.raises(InputError, match=r"labels that are not in data\.classes: 'y'"):
        read_corpus(base.model_copy(update={"classes": ("x", "z")}))
    with pytest.raises(InputError, match=r"no sequence for 'z' of data\.classes"):
        read_corpus(base.model_copy(update={"classes": ("x", "y", "z")}))


def test_one_class_is_no_task(tmp_path):
    path = write_fasta(tmp_path / "a.fa", [("a kind=x", "ACGT"), ("b kind=x", "ACGT")])
    with pytest.raises(InputError, match="one class, 'x': at least two"):
        read_corpus(SpeciesData(paths=(path,), label_from="header:kind"))
    assert read_corpus(SpeciesData(paths=(path,), label_from="header:kind"), least_classes=1).classes == ("x",)


def test_a_label_that_breaks_a_table_is_refused(tmp_path):
    path = write_fasta(tmp_path / "a.fa", [('a kind="x\ty"', "ACGT"), ("b kind=z", "ACGT")])
    with pytest.raises(InputError, match="without tabs and line ends"):
        read_corpus(SpeciesData(paths=(path,), label_from="header:kind"))


def test_a_missing_group_is_named(tmp_path):
    path = write_fasta(tmp_path / "a.fa", [("a kind=x gene=1", "ACGT"), ("b kind=y", "ACGT")])
    with pytest.raises(InputError, match=r"1 of 2 records have no `gene=`.*'b': data\.group"):
        read_corpus(SpeciesData(paths=(path,), label_from="header:kind", group="header:gene"))


def test_a_name_in_two_files_is_refused_where_labels_go_by_name(tmp_path):
    paths = tuple(write_fasta(tmp_path / f"{kind}.fa", [(f"a kind={kind}", "ACGT")]) for kind in "xy")
    with pytest.raises(InputError, match="'a' is also in another file"):
        read_corpus(SpeciesData(paths=paths, label_from="header:kind"))


def test_unlabelled_files_must_be_named_after_species(labelled):
    with pytest.raises(ConfigError, match=r"data\.label_from: no labels for all\.fa; give --label-from header:KEY"):
        read_corpus(SpeciesData(paths=(labelled,)))


@pytest.fixture
def assemblies(tmp_path):
    folder = tmp_path / "apes"
    folder.mkdir()
    write_fasta(folder / "human.fa", [("chr5", letters(400, 1)), ("chr6", letters(400, 2))])
    write_fasta(folder / "mPanTro3.fa", [("chr4_hap1_hsa5", letters(400, 3)), ("chr5_hap1_hsa6", letters(400, 4))])
    (folder / "markers.human.bed").write_text("chr5\t0\t1\tx\n")
    return folder


def test_a_folder_of_assemblies_is_one_class_per_file(assemblies):
    corpus = read_corpus(SpeciesData(paths=(assemblies,)))
    assert corpus.classes == ("human", "chimpanzee")
    assert corpus.class_of.tolist() == [1, 1, 0, 0] or corpus.class_of.tolist() == [0, 0, 1, 1]
    by_name = dict(zip(corpus.names, corpus.homologues, strict=True))
    assert by_name == {"chr5": "5", "chr6": "6", "chr4_hap1_hsa5": "5", "chr5_hap1_hsa6": "6"}


def test_homology_of_accessions_through_an_alias_table(assemblies):
    (assemblies / "mPanTro3.fa").unlink()
    write_fasta(assemblies / "panTro.mPanTro3.fa", [("NC_072401.2", letters(400)), ("NC_072402.2", letters(400))])
    (assemblies / "panTro.mPanTro3.chromAlias.txt").write_text(
        "# refseq\tassembly\tucsc\nNC_072401.2\t4\tchr4_hap1_hsa5\nNC_072402.2\t5\tchr5_hap1_hsa6\n"
    )
    corpus = read_corpus(SpeciesData(paths=(assemblies,)))
    assert dict(zip(corpus.names, corpus.homologues, strict=True))["NC_072401.2"] == "5"
    assert dict(zip(corpus.names, corpus.homologues, strict=True))["NC_072402.2"] == "6"


def test_a_simulated_folder_is_recognised(assemblies):
    (assemblies / "simulation.json").write_text(json.dumps({}))
    assert read_corpus(SpeciesData(paths=(assemblies,))).simulated == assemblies


@pytest.mark.parametrize("source", [{"label_from": "file"}, {"label_from": "header:kind"}])
def test_headers_tell_simulated_records_however_they_are_labelled(tmp_path, source):
    for name in ("x", "y"):
        (tmp_path / f"{name}.fa").write_text(f">{name} kind={name} simulated\n{'ACGT' * 20}\n")
    assert read_corpus(SpeciesData(paths=(tmp_path,), **source)).marked
    for name in ("x", "y"):
        (tmp_path / f"{name}.fa").write_text(f">{name} kind={name}\n{'ACGT' * 20}\n")
    assert not read_corpus(SpeciesData(paths=(tmp_path,), **source)).marked


@pytest.mark.parametrize("form", ["plain", "bgzip"])
def test_memory_and_index_give_the_same_windows(assemblies, form):
    if form == "bgzip":
        for path in list(assemblies.glob("*.fa")):
            pysam.tabix_compress(str(path), f"{path}.gz")
            path.unlink()
    held = read_corpus(SpeciesData(paths=(assemblies,)))
    indexed = read_corpus(SpeciesData(paths=(assemblies,), memory_mb=0))
    assert isinstance(held.sequences, EncodedSequences)
    assert isinstance(indexed.sequences, IndexedSequences)
    assert (held.names, held.homologues, held.classes) == (indexed.names, indexed.homologues, indexed.classes)
    records, starts = np.array([0, 3, 1, 0]), np.array([0, 320, 17, 59])
    for length in (1, 64, 80):
        assert np.array_equal(
            held.sequences.windows(records, starts, length), indexed.sequences.windows(records, starts, length)
        )


def test_labels_in_headers_are_found_for_indexed_files_too(labelled):
    data = SpeciesData(paths=(labelled,), label_from="header:kind", group="header:gene")
    held, indexed = read_corpus(data), read_corpus(data.model_copy(update={"memory_mb": 0}))
    assert held.class_of.tolist() == indexed.class_of.tolist()
    assert held.groups == indexed.groups


def test_plain_gzip_beyond_the_memory_limit_is_held_with_a_warning(labelled, caplog):
    path = labelled.with_name("all.fa.gz")
    path.write_bytes(gzip.compress(labelled.read_bytes()))
    corpus = read_corpus(SpeciesData(paths=(path,), label_from="header:kind", memory_mb=0))
    assert isinstance(corpus.sequences, EncodedSequences)
    assert any("plain gzip, GenBank and tables have no index" in record.message for record in caplog.records)


def test_long_windows_are_copied_as_short_ones_are():
    rows = [np.arange(5000, dtype=np.int64).astype(np.uint8) % 4, np.full(3000, 3, dtype=np.uint8)]
    store = EncodedSequences(rows)
    taken = store.windows(np.array([0, 1]), np.array([1234, 500]), 2048)
    assert np.array_equal(taken, np.stack([rows[0][1234 : 1234 + 2048], rows[1][500 : 500 + 2048]]))


def test_sequence_files(tmp_path, assemblies):
    assert [path.name for path in sequence_files([assemblies, assemblies])] == ["human.fa", "mPanTro3.fa"]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="holds no sequence file"):
        sequence_files([empty])
    with pytest.raises(InputError, match="does not exist"):
        sequence_files([tmp_path / "none"])
    with pytest.raises(ConfigError, match=r"data\.paths: no data"):
        sequence_files([])


def test_config_refuses_what_does_not_fit_together():
    for values, message in [
        ({"label_from": "header:x", "labels": "y.tsv"}, "both given"),
        ({"split": "group"}, "group is not set"),
        ({"classes": ("a", "a")}, "named twice"),
        (
            {"label_from": "species"},
            "expected header:KEY such as header:species, column:NAME of a table, file or folder; found 'species'",
        ),
        ({"windw": 3}, "windw"),
    ]:
        with pytest.raises(ValueError, match=message):
            SpeciesData(**values)


@pytest.mark.parametrize("memory_mb", [512, 0], ids=["held", "indexed"])
def test_simulated_assemblies_are_known_wherever_they_lie(tmp_path, memory_mb):
    for species in ("human", "gorilla"):
        (tmp_path / f"{species}.fa").write_text(f">chr5 hsa=5 species={species} simulated\nACGT\n>chr2 hsa=2\nACGT\n")
    corpus = read_corpus(SpeciesData(paths=(tmp_path,), memory_mb=memory_mb))
    assert corpus.marked
    assert corpus.simulated is None
    assert corpus.homologues == ("5", "2") * 2  # of a real gorilla, chr5 would be of the translocation
    real = tmp_path / "real"
    real.mkdir()
    for species in ("human", "gorilla"):
        (real / f"{species}.fa").write_text(">chr5 assembled\nACGT\n>chr2\nACGT\n")
    corpus = read_corpus(SpeciesData(paths=(real,), memory_mb=memory_mb))
    assert not corpus.marked
    assert corpus.homologues == ("5x17", "2", "5", "2")
