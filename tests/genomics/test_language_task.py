"""Windows to pretrain on: what is asked, what is hidden, what is held out."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from seqdomains.cli.config import resolve
from seqdomains.cli.language_config import LanguageConfig
from seqdomains.errors import ConfigError, InputError
from seqdomains.genomics.alphabet import PAD, N, encode, reverse_complement, soft_mask
from seqdomains.genomics.fasta import stream_fasta
from seqdomains.genomics.language_data import LanguageData
from seqdomains.genomics.language_task import LanguageTask
from seqdomains.task import HiddenTokens


@pytest.fixture
def write(tmp_path):
    def write_records(name="one.fa", **records):
        path = tmp_path / name
        path.write_text("".join(f">{record}\n{text}\n" for record, text in records.items()))
        return path

    return write_records


def bases(length, seed=0, letters="ACGT"):
    return "".join(np.random.default_rng(seed).choice(list(letters), length))


def task_of(*paths, objective="next-token", **changes):
    data = {"window": 16, "test_windows": 5, "markov_order": 2} | changes
    return LanguageTask(LanguageData(paths=paths, **data), objective)


def bed(path):
    rows = [line.split("\t") for line in path.read_text().splitlines() if not line.startswith("#")]
    return [(row[0], int(row[1]), int(row[2])) for row in rows]


def windows_of(text, length=16):
    both = text.upper(), "".join("ACGTN"["TGCAN".index(one)] for one in reversed(text.upper()))
    return {one[at : at + length] for one in both for at in range(len(text) - length + 1)}


def test_an_n_stands_before_each_window_and_all_bases_are_asked(write):
    task = task_of(write(a=bases(2000)))
    batch = task.training_batch(0, 0, 50)
    assert batch.tokens.shape == (50, 17)
    assert (batch.tokens[:, 0] == N).all()
    assert batch.weights is None
    assert batch.lengths.tolist() == [17] * 50


def test_samples_are_a_function_of_seed_and_index(write):
    for objective in ("next-token", "masked"):
        task = task_of(write(a=bases(2000)), objective=objective)
        whole, part = task.training_batch(5, 0, 40), task.training_batch(5, 30, 7)
        np.testing.assert_array_equal(whole.tokens[30:37], part.tokens)
        assert not np.array_equal(task.training_batch(6, 0, 40).tokens, whole.tokens)
        assert task.training_batch(5, 0, 3, window=8).tokens.shape == (3, 9 if objective == "next-token" else 8)


def test_training_windows_are_of_the_training_side_of_either_strand(write):
    text = bases(1000)
    task = task_of(write(a=text), held=("a:401-600",), gap=10)
    train, test = windows_of(text[:390]) | windows_of(text[610:]), windows_of(text[400:600])
    batch = task.training_batch(0, 0, 400)
    found = {"".join("ACGT"[one] for one in row[1:]) for row in batch.tokens}
    assert found <= train
    assert not found & test
    # Of both strands.
    forward = {text[at : at + 16] for at in range(985)}
    assert 0.4 < np.mean([one in forward for one in found]) < 0.6


def test_test_windows_lie_side_by_side_in_what_is_held_out(write, tmp_path):
    task = task_of(write(a=bases(1000), b=bases(500)), held=("a:401-600", "b"), test_windows=1000)
    task.write_test_windows(tmp_path)
    rows = bed(tmp_path / "test_windows.bed")
    assert rows == [("a", at, at + 16) for at in range(400, 592, 16)] + [("b", at, at + 16) for at in range(0, 496, 16)]
    assert len(rows) == sum(len(batch.tokens) for batch in task.test_batches(7))
    few = task_of(tmp_path / "one.fa", held=("a:401-600", "b"), test_windows=5)
    few.write_test_windows(tmp_path)
    chosen = bed(tmp_path / "test_windows.bed")
    assert len(set(chosen)) == 5
    assert set(chosen) <= set(rows)
    other = task_of(tmp_path / "one.fa", held=("a:401-600", "b"), test_windows=5, seed=1)
    other.write_test_windows(tmp_path)
    assert bed(tmp_path / "test_windows.bed") != chosen


def test_n_is_read_and_never_asked_and_a_long_run_is_cut_out(write):
    text = bases(300) + "N" + bases(300, 1) + "N" * 50 + bases(300, 2) + bases(200, 3)
    task = task_of(write(a=text), max_n=0.1, held=("a:901-1100",))
    batch = task.training_batch(0, 0, 2000)
    unknown = batch.tokens == N
    assert unknown[:, 1:].sum(axis=1).max() == 1
    np.testing.assert_array_equal(batch.weights == 0, unknown)


def test_soft_masked_bases_weigh_less_in_training_alone(write):
    text = bases(500) + bases(500, 1).lower()
    task = task_of(write(a=text), soft_mask_weight=0.25, held=("a:901-1000",))
    batch = task.training_batch(3, 0, 300)
    lower = {one: at >= 500 for at in range(985) for one in windows_of(text[at : at + 16]) if at >= 500 or at < 485}
    for row, weights in zip(batch.tokens, batch.weights, strict=True):
        window = "".join("ACGT"[one] for one in row[1:])
        if window in lower:
            assert (weights[1:] == (0.25 if lower[window] else 1)).all()
    assert set(np.unique(batch.weights[:, 1:])) == {0.25, 1}
    assert all(test.weights is None for test in task.test_batches(3))
    assert any("100.0% of the other bases are in lower case" in note for note in task.notes())


def test_weights_follow_their_bases_to_the_other_strand(write):
    text = bases(40) + bases(9, 1).lower() + bases(300, 2)
    task = task_of(write(a=text), soft_mask_weight=0.5, held=("a:201-300",))
    codes, lower = encode(text), soft_mask(text)
    batch = task.training_batch(0, 0, 100)
    for row, weights in zip(batch.tokens[:, 1:], batch.weights[:, 1:], strict=True):
        for start in range(len(text) - 15):
            part = codes[start : start + 16]
            expected = np.where(lower[start : start + 16], 0.5, 1)
            if np.array_equal(row, part):
                np.testing.assert_array_equal(weights, expected)
            elif np.array_equal(row, reverse_complement(part)):
                np.testing.assert_array_equal(weights, expected[::-1])


def test_masks_have_berts_shares_and_never_become_an_n(write):
    text = bases(30_000, letters="ACGTN")
    task = task_of(write(a=text), objective="masked", window=1000, max_n=1)
    batch = task.training_batch(0, 0, 200)
    assert isinstance(batch, HiddenTokens)
    asked = batch.targets >= 0
    true = np.where(asked, batch.targets, batch.tokens).astype(np.uint8)
    assert asked[true < 4].mean() == pytest.approx(0.15, abs=0.005)
    assert not asked[true == N].any()
    read = batch.tokens[asked]
    assert (read == PAD).mean() == pytest.approx(0.8, abs=0.01)
    changed = read[(read != PAD) & (read != batch.targets[asked])]
    assert len(changed) / len(read) == pytest.approx(0.1 * 3 / 4, abs=0.01)
    assert set(np.unique(changed)) == {0, 1, 2, 3}
    assert (true[~asked] == batch.tokens[~asked]).all()


def test_hidden_bases_of_the_test_do_not_depend_on_the_batch(write):
    task = task_of(write(a=bases(3000)), objective="masked", test_windows=9)
    whole, parts = next(iter(task.test_batches(9))), list(task.test_batches(2))
    np.testing.assert_array_equal(np.concatenate([one.tokens for one in parts]), whole.tokens)
    np.testing.assert_array_equal(np.concatenate([one.targets for one in parts]), whole.targets)


def test_baselines_are_of_what_is_asked(write):
    text = bases(4000, letters="AAACGT")
    for objective in ("next-token", "masked"):
        task = task_of(write(a=text), objective=objective, test_windows=20, markov_order=3)
        markov, frequencies = task.baselines()
        assert markov["name"].endswith("interpolated Markov model, both strands")
        assert frequencies["bits"] == pytest.approx(1.79, abs=0.15)
    assert task_of(write(a=text), markov_order=0).baselines() == []


def test_of_very_much_the_markov_model_counts_a_part_and_says_so(write, monkeypatch):
    task = task_of(write(a=bases(40_000)), markov_order=4)
    whole = task.baselines()
    assert not any("counted" in note for note in task.notes())
    monkeypatch.setattr("seqdomains.genomics.language_task._COUNTED", 9_000)
    monkeypatch.setattr("seqdomains.genomics.language_task._STRETCH", 500)
    (note,) = [note for note in task.notes() if "counted" in note]
    assert note == "The Markov model counted one in 4 of the 0 Mb to train on."
    part = task.baselines()
    assert part != whole
    assert part[0]["bits"] == pytest.approx(whole[0]["bits"], abs=0.05)


@pytest.mark.parametrize("memory", [0, 512])
def test_files_in_memory_and_by_position_give_the_same(write, memory):
    text = bases(400) + bases(300, 1).lower() + "N" * 30 + bases(300, 2)
    path = write(a=text, b=bases(500, 3))
    task = task_of(path, held=("b",), memory_mb=memory, soft_mask_weight=0.5)
    batch = task.training_batch(0, 0, 64)
    expected = task_of(path, held=("b",), soft_mask_weight=0.5).training_batch(0, 0, 64)
    np.testing.assert_array_equal(batch.tokens, expected.tokens)
    np.testing.assert_array_equal(batch.weights, expected.weights)


def test_regions_whose_fourth_column_says_so_are_the_split(write, tmp_path):
    regions = tmp_path / "parts.bed"
    regions.write_text("a\t0\t300\ttrain\na\t400\t500\tvalid\na\t600\t700\ttest\n")
    for part, start in (("test", 600), ("valid", 400)):
        task = task_of(write(a=bases(1000)), regions=regions, part=part, test_windows=100)
        assert list(task.split.train.rows()) == [(0, 0, 300)]
        task.write_test_windows(tmp_path)
        assert {row[1] for row in bed(tmp_path / "test_windows.bed")} == set(range(start, start + 96, 16))
    assert task.split.kind == "named"


def test_the_ends_of_what_is_read_are_held_out(write, tmp_path):
    regions = tmp_path / "parts.bed"
    regions.write_text("a\t100\t300\nb\t0\t50\nb\t150\t200\n")
    split = task_of(write(a=bases(1000), b=bases(200)), regions=regions, test_fraction=0.25).split
    assert list(split.test.rows()) == [(0, 250, 300), (1, 150, 200)]
    assert list(split.train.rows()) == [(0, 100, 250), (1, 0, 50)]


def test_genbank_has_no_soft_mask(tmp_path):
    path = tmp_path / "one.gb"
    text = bases(600).lower()
    rows = "".join(f"{at + 1:>9} {text[at : at + 60]}\n" for at in range(0, 600, 60))
    path.write_text(f"LOCUS       one 600 bp DNA linear UNK\nACCESSION   one\nORIGIN\n{rows}//\n")
    assert task_of(path, soft_mask_weight=0.5).training_batch(0, 0, 50).weights is None


def test_a_contig_is_held_out_to_its_end_in_each_file(write):
    paths = [write("x.fa", a=bases(100), b=bases(300)), write("y.fa", a=bases(80), c=bases(300))]
    split = task_of(*paths, held=("a", "b:101")).split
    assert list(split.test.rows()) == [(0, 0, 100), (1, 100, 300), (2, 0, 80)]
    with pytest.raises(InputError, match=r"data.held: a:1-90 is not within the contig, which has 80 bp in .*y.fa"):
        task_of(*paths, held=("a:1-90",))


def test_whole_contigs_are_held_out_by_seed(write):
    path = write(**{f"c{number}": bases(100, number) for number in range(10)})
    split = task_of(path, split="contig", test_fraction=0.2).split
    assert len(split.test.records) == 2
    assert sorted([*split.test.records, *split.train.records]) == list(range(10))
    assert "homologous" in split.notes[0]


def test_the_ends_of_contigs_are_held_out_where_nothing_else_is_said(write):
    task = task_of(write(a=bases(1000)), gap=50, test_fraction=0.2)
    assert list(task.split.train.rows()) == [(0, 0, 750)]
    assert list(task.split.test.rows()) == [(0, 800, 1000)]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"held": ("a:900-1200",)},
            r"data.held: region 'a:900-1200' ends behind the contig, which has 1000 bp in .*one.fa",
        ),
        ({"held": ("c",)}, r"data.held: .*one.fa has no contig 'c'; the nearest names are 'a'"),
        ({"held": ("a:0-100",)}, r"data.held: region 'a:0-100': positions are 1-based"),
        ({"held": ("a:50-20",)}, r"data.held: region 'a:50-20': its start is behind its end"),
        ({"window": 600}, r"no stretch of 600 bp to test on \(split by fraction\); the longest has 100 bp"),
        ({"window": 950, "held": ("a:1-950",)}, r"no stretch of 950 bp to train on \(split by held\)"),
    ],
)
def test_data_that_cannot_serve_are_refused(write, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        task_of(write(a=bases(1000)), **changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"split": "homologue"}, r"data.split: homologue needs one assembly per species"),
        ({"part": "valid"}, r"data.part: valid is not known to the split fraction"),
    ],
)
def test_splits_that_do_not_fit_are_refused(write, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        task_of(write(a=bases(1000)), **changes)


def test_a_region_that_ends_behind_its_contig_is_named_by_line(write, tmp_path):
    regions = tmp_path / "bad.bed"
    regions.write_text("track name=x\na\t0\t100\na\t900\t1001\n")
    with pytest.raises(InputError, match=r"bad.bed, line 3: a:901-1001 is not within the contig, which has 1000 bp"):
        task_of(write(a=bases(1000)), regions=regions)


def test_assemblies_named_after_their_species_are_split_by_homology(write):
    names = {f"chr{number}": bases(100, number) for number in (2, 5, 12, 21)}
    paths = [write(f"{species}.fa", **names) for species in ("human", "bonobo")]
    split = task_of(*paths).split
    assert split.kind == "homologue"
    assert sorted(split.test.records.tolist()) == [1, 5]
    assert sorted(split.train.records.tolist()) == [0, 3, 4, 7]
    assert sorted(task_of(*paths, part="valid").split.test.records.tolist()) == [2, 6]


@pytest.mark.skipif("SEQDOMAINS_DATA" not in os.environ, reason="SEQDOMAINS_DATA names no real sequences")
def test_orthologous_parts_of_encode_enm002_are_on_one_side():
    """Of the words of 32 bases that stand once in the human region, and are held out, hardly any is trained on."""
    folder = Path(os.environ["SEQDOMAINS_DATA"]) / "encode-ENm002"
    config = resolve(LanguageConfig, preset="encode-enm002", settings=[f"data.paths=[{folder}]"]).config
    split = LanguageTask(config.data).split
    ((human, chimpanzee),) = [
        [record.codes() for record in stream_fasta(file)] for file in sorted(folder.glob("*.fasta"))
    ]
    assert [split.train.records.tolist(), split.test.records.tolist()] == [[0, 1], [0, 1]]

    sides = []
    for record, codes in enumerate((human, chimpanzee)):
        words, starts = words32_that_stand_once(codes)
        (_, _, end), (_, first, last) = (list(areas.rows())[record] for areas in (split.train, split.test))
        assert (first - end, last) == (10_000, len(codes))
        sides.append((words[starts <= end - 32], words[starts >= first]))
    (trained, held), (other_trained, other_held) = sides
    for one, trained_on, beside in ((held, other_trained, other_held), (other_held, trained, held)):
        assert np.isin(one, trained_on).mean() < 0.001
        assert np.isin(one, beside).mean() > 0.6


def words32_that_stand_once(codes):
    """Words of 32 bases without N, as numbers of 64 bits, and where they begin."""
    words = (codes & 3).astype(np.uint64)
    for length in (1, 2, 4, 8, 16):
        words = words[:-length] << np.uint64(2 * length) | words[length:]
    unknown = np.concatenate([[0], np.cumsum(codes > 3)])
    starts = np.flatnonzero(unknown[32:] == unknown[:-32])
    once, index, counts = np.unique(words[starts], return_index=True, return_counts=True)
    return once[counts == 1], starts[index[counts == 1]]
