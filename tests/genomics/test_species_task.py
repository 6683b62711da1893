import json

import numpy as np
import pytest

from seqdomains.errors import ConfigError, InputError
from seqdomains.genomics import species_task
from seqdomains.genomics.alphabet import N, decode, encode, reverse_complement
from seqdomains.genomics.data_config import SpeciesData
from seqdomains.genomics.simulate import SimulationConfig, simulate
from seqdomains.genomics.species_task import SpeciesTask
from seqdomains.genomics.windows import read_bed


def letters(length, seed):
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


def write(path, records):
    path.write_text("".join(f">{header}\n{text}\n" for header, text in records))
    return path


@pytest.fixture
def genomes(tmp_path):
    """Two classes of one record each, so that every window can be found again."""
    texts = {"x": letters(3000, 1), "y": letters(2000, 2)}
    return write(tmp_path / "two.fa", [(f"r{kind} kind={kind}", text) for kind, text in texts.items()]), texts


def task_of(path, **options):
    return SpeciesTask(SpeciesData(**{"paths": (path,), "label_from": "header:kind", "window": 64} | options))


def same(first, second):
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in ("tokens", "targets", "lengths"))


@pytest.mark.parametrize("options", [{}, {"substitution": 0.1}], ids=["plain", "augmented"])
def test_how_the_stream_is_cut_does_not_matter(genomes, options):
    task = task_of(genomes[0], **options)
    whole = task.training_batch(3, 100, 60)
    for cuts in ([1] * 60, [7, 53], [32, 28]):
        at, parts = 100, []
        for count in cuts:
            parts.append(task.training_batch(3, at, count))
            at += count
        for name in ("tokens", "targets", "lengths"):
            assert np.array_equal(getattr(whole, name), np.concatenate([getattr(part, name) for part in parts]))
    assert same(whole, task_of(genomes[0], **options).training_batch(3, 100, 60))
    assert not same(whole, task.training_batch(4, 100, 60))


def test_global_random_state_neither_matters_nor_moves(genomes):
    task = task_of(genomes[0])
    np.random.seed(1)  # noqa: NPY002
    first = task.training_batch(0, 0, 8)
    np.random.seed(2)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert same(first, task.training_batch(0, 0, 8))
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_every_window_is_a_stretch_of_its_class_on_either_strand(genomes):
    path, texts = genomes
    task = task_of(path)
    batch = task.training_batch(0, 0, 400)
    assert batch.lengths.tolist() == [64] * 400
    forward = 0
    for row, target in zip(batch.tokens, batch.targets, strict=True):
        text = texts[task.classes[target]]
        assert decode(row) in text or decode(reverse_complement(row)) in text
        forward += decode(row) in text
    assert 140 < forward < 260  # 400 fair coins: 200 +- 6 standard deviations


def test_classes_are_uniform_and_starts_uniform_over_bases_not_records(tmp_path):
    long, short = "A" * 4036, "C" * 1036  # 3,973 and 973 starts of a 64 bp window
    path = write(tmp_path / "a.fa", [("a kind=x", long), ("b kind=x", short), ("c kind=y", "G" * 64)])
    task = task_of(path, reverse_complement=0, split="none", test_windows=1)
    batch = task.training_batch(0, 0, 5000)
    assert abs((batch.targets == 0).mean() - 0.5) < 0.04
    share = (batch.tokens[batch.targets == 0, 0] == 1).mean()
    assert abs(share - 973 / (973 + 3973)) < 0.04


def test_first_and_last_start_of_a_record_are_drawn_and_never_a_base_beyond(tmp_path):
    text = "A" + "C" * 8 + "G"  # 3 starts of an 8 bp window
    path = write(tmp_path / "a.fa", [("a kind=x", text), ("b kind=y", "T" * 10)])
    batch = task_of(path, window=8, reverse_complement=0, test_windows=1).training_batch(0, 0, 300)
    seen = {decode(row) for row in batch.tokens[batch.targets == 0]}
    assert seen == {text[0:8], text[1:9], text[2:10]}


def test_reverse_complement_share(genomes):
    never, always = (task_of(genomes[0], reverse_complement=share).training_batch(0, 0, 50) for share in (0, 1))
    assert np.array_equal(reverse_complement(never.tokens), always.tokens)


def test_substitutions_at_the_rate_and_with_the_share_of_transitions_asked_for(genomes):
    plain = task_of(genomes[0]).training_batch(0, 0, 2000)
    changed = task_of(genomes[0], substitution=0.05, transitions=0.8).training_batch(0, 0, 2000)
    different = plain.tokens != changed.tokens
    assert abs(different.mean() - 0.05) < 0.003
    assert int(changed.tokens.max()) < 4
    before, after = plain.tokens[different], changed.tokens[different]
    transition = (before ^ after) == 2
    assert abs(transition.mean() - 0.8) < 0.03
    kinds = np.bincount(before[~transition] ^ after[~transition], minlength=4)
    assert abs(kinds[1] / kinds[[1, 3]].sum() - 0.5) < 0.1


def test_substitutions_know_nothing_of_the_class(genomes):
    """16 bp take as many random words as a draw does: from one stream, the class would decide what base 3 becomes."""
    plain = task_of(genomes[0], window=16).training_batch(0, 0, 4000)
    changed = task_of(genomes[0], window=16, substitution=0.3).training_batch(0, 0, 4000)
    different = plain.tokens != changed.tokens
    for target in (0, 1):
        share = different[plain.targets == target].mean(axis=0)
        assert abs(share - 0.3).max() < 0.06  # 2,000 windows: 0.3 +- 0.01


def test_substitution_leaves_ambiguous_bases(tmp_path):
    path = write(tmp_path / "a.fa", [("a kind=x", "N" * 64), ("b kind=y", "R" * 64)])
    batch = task_of(path, substitution=0.75, max_n=1, test_windows=1).training_batch(0, 0, 64)
    assert set(np.unique(batch.tokens)) == set(encode("RYN").tolist())


def test_shorter_windows_on_demand_start_anywhere_in_a_record(tmp_path):
    text = "A" + "C" * 8 + "G"  # 1 start of a 10 bp window, 3 starts of an 8 bp window
    path = write(tmp_path / "a.fa", [("a kind=x", text), ("b kind=y", "T" * 10)])
    batch = task_of(path, window=10, reverse_complement=0, test_windows=1).training_batch(0, 0, 300, window=8)
    assert batch.lengths.tolist() == [8] * 300
    assert {decode(row) for row in batch.tokens[batch.targets == 0]} == {text[0:8], text[1:9], text[2:10]}


@pytest.mark.parametrize("memory_mb", [512, 0], ids=["held", "indexed"])
def test_windows_with_too_many_n_are_drawn_again_without_tilting_the_classes(tmp_path, memory_mb):
    text = letters(500, 1) + "N" * 1000 + letters(500, 2)
    path = write(tmp_path / "a.fa", [("a kind=x", text), ("b kind=y", letters(1000, 3))])
    task = task_of(path, max_n=0.01, memory_mb=memory_mb)
    batch = task.training_batch(0, 0, 500)
    assert (batch.tokens == N).sum(axis=1).max() == 0
    assert abs((batch.targets == 0).mean() - 0.5) < 0.1
    assert all((test.tokens == N).sum() == 0 for test in task.test_batches(64))
    assert np.array_equal(batch.tokens[37:40], task.training_batch(0, 37, 3).tokens)
    assert (task_of(path, max_n=1.0).training_batch(0, 0, 500).tokens == N).any()


def test_a_class_of_nothing_but_n_is_an_error(tmp_path):
    path = write(tmp_path / "a.fa", [("a kind=x", "N" * 500), ("b kind=y", letters(500, 3))])
    with pytest.raises(InputError, match=r"class 'x': none of 64 windows of 64 bp holds at most 1\.0% N"):
        task_of(path)


def test_windows_are_fixed_distinct_and_seeded(genomes, tmp_path):
    task = task_of(genomes[0], test_windows=50)
    tests = list(task.test_batches(32))
    assert [len(batch.targets) for batch in tests] == [32, 32, 32, 4]
    assert np.concatenate([batch.targets for batch in tests]).tolist() == [0] * 50 + [1] * 50
    rows = np.concatenate([batch.tokens for batch in tests])
    again = np.concatenate([batch.tokens for batch in task_of(genomes[0], test_windows=50).test_batches(7)])
    assert np.array_equal(rows, again)
    places = set(zip(task.test.records.tolist(), task.test.starts.tolist(), strict=True))
    assert len(places) == 100
    other = task_of(genomes[0], test_windows=50, seed=1)
    assert not np.array_equal(task.test.starts, other.test.starts)
    longer = task_of(genomes[0], test_windows=80)
    assert longer.test.starts[:50].tolist() == task.test.starts[:50].tolist()


def test_the_bed_scores_the_same_windows(genomes, tmp_path):
    path, texts = genomes
    task = task_of(path, test_windows=5)
    task.write_test_windows(tmp_path)
    bed = tmp_path / "test_windows.bed"
    assert bed.read_text().splitlines()[0] == "#contig\tstart\tend\tclass\tscore\tstrand\tfile"
    tokens = np.concatenate([batch.tokens for batch in task.test_batches(3)])
    regions = read_bed(bed)
    assert len(regions) == 10
    for region, row in zip(regions, tokens, strict=True):
        assert region.contig == f"r{region.name}"
        assert texts[region.name][region.start : region.end] == decode(row)
    assert bed.read_text().splitlines()[1].split("\t")[4:] == ["0", "+", "two.fa"]


def test_few_starts_give_few_test_windows_and_a_note(tmp_path):
    path = write(tmp_path / "a.fa", [("a kind=x", letters(66, 1)), ("b kind=y", letters(900, 2)), ("c kind=y", "ACGT")])
    task = task_of(path, test_windows=20, split="none")
    assert np.bincount(task.test.targets).tolist() == [3, 20]
    assert any("Only 3 distinct test windows could be drawn for x" in note for note in task.notes())
    assert any("1 of 3 records are shorter than the 64 bp window" in note for note in task.notes())
    assert any("training loci" in note for note in task.notes())


def test_window_longer_than_every_contig(genomes):
    with pytest.raises(InputError, match=r"4000 bp is longer than every contig \(the longest has 3000 bp\)"):
        task_of(genomes[0], window=4000)


def test_a_class_without_a_long_enough_record(genomes):
    with pytest.raises(InputError, match="class 'y' has no record of 2500 bp or more to train on"):
        task_of(genomes[0], window=2500)


def test_groups_never_cross_the_split(tmp_path):
    records = [(f"{kind}{gene} kind={kind} gene={gene}", letters(100, gene)) for gene in range(20) for kind in "xy"]
    task = task_of(write(tmp_path / "a.fa", records), group="header:gene")
    groups = np.array(task.corpus.groups)
    assert task.split.kind == "group"
    assert not set(groups[task.split.train]) & set(groups[task.split.held])
    held = set(groups[np.unique(task.test.records)])
    assert held <= set(groups[task.split.held])
    train = {decode(row) for row in task.training_batch(0, 0, 500).tokens}
    texts = {str(gene): letters(100, gene) for gene in range(20)}
    for window in train:
        homes = {
            gene for gene, text in texts.items() if window in text or decode(reverse_complement(encode(window))) in text
        }
        assert homes
        assert not homes & held


def test_records_are_held_out_where_there_are_two(tmp_path):
    records = [(f"r{number} kind={'xy'[number % 2]}", letters(200, number)) for number in range(8)]
    task = task_of(write(tmp_path / "a.fa", records), test_windows=20)
    assert task.split.kind == "record"
    assert not (task.split.train & task.split.held).any()
    assert task.notes() == ()


def test_files_of_species_without_known_homology(tmp_path):
    for number, name in enumerate(("human", "gorilla")):
        write(tmp_path / f"{name}.fa", [(f"scaffold_{k}", letters(300, 10 * number + k)) for k in range(4)])
    task = task_of(tmp_path, label_from=None, test_windows=5)
    assert task.split.kind == "record"
    assert task.notes() == ("The human homologues of the contigs are not known: the same locus may be on both sides.",)
    for name, accession in (("human", "NC_012920.1"), ("gorilla", "NC_001645.1")):
        write(tmp_path / f"{name}.fa", [(accession, letters(500, len(name)))])
    mitochondria = task_of(tmp_path, label_from=None, test_windows=5)
    assert mitochondria.corpus.homologues == ("M", "M")
    assert mitochondria.split.kind == "none"


def test_a_split_that_the_data_cannot_serve(genomes):
    with pytest.raises(ConfigError, match=r"data\.split: chromosome needs one assembly per species"):
        task_of(genomes[0], split="chromosome")


def test_signature_and_protocol(genomes):
    task = task_of(genomes[0])
    assert json.loads(json.dumps(task.signature())) == {
        "domain": "genomics",
        "alphabet": "ACGTRYSWKMBDHVN",
        "unit": "bp",
        "window": 64,
    }
    assert (task.classes, task.vocab_size, task.window, task.simulated) == (("x", "y"), 16, 64, False)
    assert task.ceiling() is None


def test_baseline_sees_composition(tmp_path):
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("ACGT"), 3000, p=p)) for p in ((0.4, 0.1, 0.1, 0.4), (0.1, 0.4, 0.4, 0.1))]
    path = write(tmp_path / "a.fa", [("a kind=x", texts[0]), ("b kind=y", texts[1])])
    baseline = task_of(path, test_windows=50).baseline()
    assert baseline["accuracy"] > 0.95
    assert baseline["training_windows"] == 2000
    assert baseline["name"] == "6-mer logistic regression"


def test_a_stretch_without_a_clean_window_stops_with_its_class(genomes, monkeypatch, tmp_path):
    monkeypatch.setattr(species_task, "_MOST_DRAWS", 2)
    path = write(tmp_path / "a.fa", [("a kind=x", letters(200, 1) + "N" * 1500), ("b kind=y", letters(1000, 3))])
    with pytest.raises(InputError, match="class 'x': none of 2 windows"):
        task_of(path).training_batch(0, 0, 200)


def test_a_split_that_is_asked_for_is_taken(tmp_path):
    records = [(f"{kind}{gene} kind={kind} gene={gene}", letters(100, gene)) for gene in range(20) for kind in "xy"]
    path = write(tmp_path / "a.fa", records)
    by_record = task_of(path, group="header:gene", split="record", test_windows=5)
    assert by_record.split.kind == "record"
    valid = task_of(path, group="header:gene", held="valid", test_windows=5)
    test = task_of(path, group="header:gene", test_windows=5)
    assert not (valid.split.held & test.split.held).any()
    assert not (valid.split.train & test.split.held).any()


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated") / "apes"
    config = SimulationConfig(species=("human", "gorilla"), chromosomes=(2, 5), chromosome_length=60_000, density=64)
    simulate(config, folder)
    return folder


def test_simulated_assemblies_are_read_like_real_ones_and_know_their_ceiling(simulated):
    task = SpeciesTask(SpeciesData(paths=(simulated,), window=2048, test_windows=40))
    assert task.simulated
    assert task.classes == ("human", "gorilla")
    assert task.split.kind == "chromosome"
    names = np.array(task.corpus.names)
    assert set(names[task.test.records]) == {"chr5"}
    assert set(names[task.split.train]) == {"chr2"}
    ceiling = task.ceiling()
    assert 0.5 <= ceiling <= 1
    assert ceiling == task.ceiling()


def test_simulated_data_without_a_validation_chromosome(simulated):
    with pytest.raises(InputError, match="to test on"):
        SpeciesTask(SpeciesData(paths=(simulated,), window=2048, held="valid"))
