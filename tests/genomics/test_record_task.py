import numpy as np
import pytest
import torch

from seqdomains.backbone import MambaConfig, SequenceClassifier
from seqdomains.errors import ConfigError, InputError
from seqdomains.genomics.alphabet import PAD, decode, encode, reverse_complement
from seqdomains.genomics.data_config import SpeciesData
from seqdomains.genomics.record_task import RecordTask, labelled_task
from seqdomains.genomics.species_task import SpeciesTask
from seqdomains.genomics.windows import read_bed


def letters(length, seed):
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


@pytest.fixture
def table(tmp_path):
    """Return what writes rows of sequence and label, and more columns, as a table."""

    def write(rows, columns="sequence,label", name="all.csv"):
        path = tmp_path / name
        path.write_text("\n".join([columns, *(",".join(map(str, row)) for row in rows)]) + "\n")
        return path

    return write


@pytest.fixture
def mixed(table):
    """Forty sequences of 20 to 59 bp, every fourth of y."""
    return table([(letters(20 + number, number), "yxxx"[number % 4]) for number in range(40)])


def task_of(path, **options):
    return RecordTask(SpeciesData(**{"paths": (path,), "window": 64} | options))


def rows_of(batch):
    """Each row without its padding."""
    assert all((row[length:] == PAD).all() for row, length in zip(batch.tokens, batch.lengths, strict=True))
    return [decode(row[:length]) for row, length in zip(batch.tokens, batch.lengths.tolist(), strict=True)]


@pytest.mark.parametrize("options", [{}, {"substitution": 0.1}, {"balanced": False}, {"window": 30}])
def test_how_the_stream_is_cut_does_not_matter(mixed, options):
    task = task_of(mixed, **options)
    whole = task.training_batch(3, 100, 60)
    for cuts in ([1] * 60, [7, 53]):
        at, rows, targets = 100, [], []
        for count in cuts:
            part = task.training_batch(3, at, count)
            rows += rows_of(part)
            targets += part.targets.tolist()
            at += count
        assert (rows, targets) == (rows_of(whole), whole.targets.tolist())
    assert rows_of(whole) != rows_of(task.training_batch(4, 100, 60))


def test_samples_are_records_of_their_class_on_either_strand(mixed):
    task = task_of(mixed)
    texts = [line.split(",") for line in mixed.read_text().splitlines()[1:]]
    label_of = dict(texts)
    batch = task.training_batch(0, 0, 300)
    turned = 0
    for row, target in zip(rows_of(batch), batch.targets.tolist(), strict=True):
        if row not in label_of:
            row = decode(reverse_complement(encode(row)))
            turned += 1
        assert label_of[row] == task.classes[target]
    assert 100 < turned < 200


def test_classes_or_records_are_drawn_alike(mixed):
    def share(**options):
        targets = task_of(mixed, **options).training_batch(0, 0, 2000).targets
        return float((targets == 1).mean())

    assert abs(share() - 0.5) < 0.05
    assert abs(share(balanced=False) - 0.25) < 0.05


def test_held_out_are_records_of_each_class_and_the_bed_names_them(mixed, tmp_path):
    task = task_of(mixed)
    tests = list(task.test_batches(3))
    lengths = np.concatenate([batch.lengths for batch in tests])
    assert np.all(np.diff(lengths) >= 0)
    targets = np.concatenate([batch.targets for batch in tests])
    assert np.bincount(targets).tolist() == [6, 2]
    assert not (task.split.train & task.split.held).any()
    task.write_test_windows(tmp_path)
    regions = read_bed(tmp_path / "test_windows.bed")
    assert [region.end - region.start for region in regions] == lengths.tolist()
    assert [region.name for region in regions] == [task.classes[target] for target in targets]
    assert all(region.contig.startswith("line") for region in regions)


def test_long_records_are_cut_and_it_is_told(table):
    rows = [(letters(100, number), "xy"[number % 2]) for number in range(10)]
    task = task_of(table(rows), window=40, reverse_complement=0)
    batch = task.training_batch(0, 0, 200)
    assert set(batch.lengths.tolist()) == {40}
    starts = {text.find(row) for row in rows_of(batch) for text, _ in rows if row in text}
    assert min(starts) >= 0
    assert len(starts) > 30
    texts = {text[30:70] for text, _ in rows}
    assert all(row in texts for test in task.test_batches(10) for row in rows_of(test))
    assert set(task.training_batch(0, 0, 9, window=10).lengths.tolist()) == {10}
    assert any("10 of 10 records are longer than the window of 40 bp: training draws" in note for note in task.notes())


def test_padding_changes_no_answer(mixed):
    task = task_of(mixed)
    generator = torch.Generator().manual_seed(0)
    model = SequenceClassifier(MambaConfig(d_model=8, n_layer=2), classes=task.classes, generator=generator)
    answers = {}
    for size in (1, 100):
        with torch.no_grad():
            answers[size] = torch.cat(
                [
                    model(torch.from_numpy(batch.tokens), torch.from_numpy(batch.lengths))
                    for batch in task.test_batches(size)
                ]
            )
    torch.testing.assert_close(answers[1], answers[100], rtol=1e-5, atol=1e-6)


def test_a_column_says_the_sides(table):
    rows = [(letters(30, n), "xy"[n % 2], ("train", "train", "test", "test", "dev", "dev")[n]) for n in range(6)]
    path = table(rows, "sequence,label,split")
    task = task_of(path)
    assert (task.split.kind, task.split.train.tolist()) == ("given", [True] * 2 + [False] * 4)
    assert task.split.held.tolist() == [False] * 2 + [True] * 2 + [False] * 2
    assert "2 records for validation are on neither side." in task.notes()
    assert task_of(path, held="valid").split.held.tolist() == [False] * 4 + [True] * 2
    assert task_of(path, split="none").split.kind == "none"
    with pytest.raises(InputError, match="column:label says 'x', 'y' of records; expected train, valid or test"):
        task_of(path, split_from="column:label")
    with pytest.raises(InputError, match="no column 'fold'"):
        task_of(path, split_from="column:fold")


def test_groups_stay_together(table):
    rows = [(letters(30, n), "xy"[n % 2], f"gene{n // 4}") for n in range(40)]
    task = task_of(table(rows, "sequence,label,gene"), group="column:gene")
    groups = np.array(task.corpus.groups)
    assert task.split.kind == "group"
    assert task.split.held.sum() == 8
    assert not set(groups[task.split.train]) & set(groups[task.split.held])


def test_files_that_are_held_out(table, mixed):
    other = table([(letters(30, 90), "x"), (letters(30, 91), "y")], name="test.csv")
    task = task_of(mixed, test_paths=(other,))
    assert (task.split.kind, int(task.split.train.sum()), int(task.split.held.sum())) == ("given", 40, 2)
    with pytest.raises(InputError, match="is among the data and among the test data"):
        task_of(mixed, test_paths=(mixed,))
    with pytest.raises(ConfigError, match=r"group does not go with data\.test_paths"):
        task_of(mixed, test_paths=(other,), split="group", group="column:label")
    with pytest.raises(InputError, match="class 'z' has no record to train on"):
        task_of(mixed, test_paths=(table([(letters(30, 9), "z")], name="z.csv"),))
    with pytest.raises(ValueError, match="test_paths and split_from are both given"):
        SpeciesData(paths=(mixed,), test_paths=(other,), split_from="column:split")


def test_what_is_on_both_sides_or_of_two_classes_is_counted(table):
    text, other = letters(30, 0), letters(30, 1)
    turned = decode(reverse_complement(encode(text)))
    rows = [(text, "x", "train"), (other, "y", "train"), (turned, "x", "test"), (other, "x", "test")]
    notes = task_of(table(rows, "sequence,label,split")).notes()
    assert "2 of 2 held-out sequences are also among those trained on (either strand)." in notes
    assert "1 sequences have more than one class." in notes
    assert "No record is held out of y." in notes


def test_copies_are_drawn_to_one_side(table):
    rows = [(letters(30, number % 10), "xy"[number % 2]) for number in range(40)]
    task = task_of(table(rows))
    texts = np.array([text for text, _ in rows])
    assert not set(texts[task.split.train]) & set(texts[task.split.held])


def test_imbalance_and_unknown_bases_are_told(table):
    rows = [(letters(30, number), "y" if number % 10 == 0 else "x") for number in range(50)]
    rows += [("N" * 15 + letters(15, 99), "x")]
    notes = " ".join(task_of(table(rows)).notes())
    assert "Classes are unequal: 37 records of x to train on, 4 of y; training draws classes alike" in notes
    assert "Of the held-out records 0.900 are x: see macro F1." in notes
    assert "1 of 51 records are N or masked for more than 1.0%." in notes


def test_the_baseline_sees_composition(table):
    random = np.random.default_rng(0)
    rows = [
        ("".join(random.choice(list("ACGT"), 60, p=p)), label)
        for label, p in (("gc", (0.1, 0.4, 0.4, 0.1)), ("at", (0.4, 0.1, 0.1, 0.4)))
        for _ in range(60)
    ]
    found = task_of(table(rows)).baseline()
    assert found["accuracy"] > 0.9
    assert found["training_windows"] == 96


def test_folders_files_and_headers_label_records_too(tmp_path):
    for place in ("train/x", "train/y", "other"):
        (tmp_path / place).mkdir(parents=True)
    for number, name in enumerate(("train/x/a.fa", "train/y/b.fa", "train/y/c.fa")):
        records = [f">r{n} kind={name[6]} gene=g{n}\n{letters(20 + n, 10 * number + n)}\n" for n in range(4)]
        (tmp_path / name).write_text("".join(records))
    whole = {"unit": "record", "paths": (tmp_path / "train",)}
    by_folder = task_of(None, **whole, label_from="folder")
    assert by_folder.classes == ("x", "y")
    assert np.bincount(by_folder.corpus.class_of).tolist() == [4, 8]
    by_file = task_of(None, unit="record", paths=(tmp_path / "train/x", tmp_path / "train/y"), label_from="file")
    assert by_file.classes == ("a", "b", "c")
    paths = {"unit": "record", "paths": (tmp_path / "train/x/a.fa", tmp_path / "train/y/b.fa")}
    with pytest.raises(InputError, match="'r0' is also in another file"):
        task_of(None, **paths, label_from="header:kind")
    with pytest.raises(InputError, match="4 of 4 records have no column 'kind', since they are in no table"):
        task_of(tmp_path / "train/x/a.fa", unit="record", label_from="column:kind")


def test_what_a_sample_is_follows_from_the_data(mixed, tmp_path):
    fasta = tmp_path / "two.fa"
    fasta.write_text(f">a kind=x\n{letters(300, 1)}\n>b kind=y\n{letters(300, 2)}\n")
    of_fasta = SpeciesData(paths=(fasta,), label_from="header:kind", window=16)
    assert isinstance(labelled_task(of_fasta), SpeciesTask)
    assert isinstance(labelled_task(SpeciesData(paths=(mixed,))), RecordTask)
    assert isinstance(labelled_task(SpeciesData(paths=(mixed,), unit="window", window=20)), SpeciesTask)
    assert isinstance(labelled_task(of_fasta.model_copy(update={"unit": "record"})), RecordTask)
    assert labelled_task(SpeciesData(paths=(mixed,))).signature()["whole_records"] is True


def test_records_are_read_by_position_where_files_are_large(tmp_path):
    path = tmp_path / "all.fa"
    path.write_text("".join(f">r{n} kind={'xy'[n % 2]}\n{letters(30 + n, n)}\n" for n in range(12)))
    held, indexed = (task_of(path, unit="record", label_from="header:kind", memory_mb=size) for size in (512, 0))
    assert rows_of(held.training_batch(0, 0, 50)) == rows_of(indexed.training_batch(0, 0, 50))
    assert held.notes() == indexed.notes()


def test_sequence_files_are_held_out_whole_though_names_are_alike(tmp_path):
    for number, name in enumerate(("train.fa", "test.fa")):
        texts = (letters(100, 10 * number + n) for n in range(4))
        (tmp_path / name).write_text("".join(f">r{n} kind={'xy'[n % 2]}\n{text}\n" for n, text in enumerate(texts)))
    paths = {"paths": (tmp_path / "train.fa",), "test_paths": (tmp_path / "test.fa",), "label_from": "header:kind"}
    windows = SpeciesTask(SpeciesData(**paths, window=50, test_windows=5))
    assert {windows.corpus.files[record].name for record in windows.test.records} == {"test.fa"}
    records = task_of(None, **paths, unit="record")
    assert [len(batch.targets) for batch in records.test_batches(9)] == [4]
