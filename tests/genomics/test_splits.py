import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdomains.errors import InputError
from seqdomains.genomics.contigs import homologue
from seqdomains.genomics.species import GREAT_APES
from seqdomains.genomics.splits import (
    TEST_HOMOLOGUES,
    VALID_HOMOLOGUES,
    no_split,
    split_by_chromosome,
    split_by_group,
    split_by_record,
    split_by_sides,
)


def test_t2t_assemblies_are_split_by_homology_not_by_number():
    # Chimpanzee chr4 is hsa5 (test), chr5 is hsa6 (train); by number the two would be swapped.
    names = ["chr4_hap1_hsa5", "chr5_hap1_hsa6", "chr8_hap1_hsa10", "chr12_hap1_hsa2a", "chr1_hap1_hsa1"]
    homologues = [homologue(name) for name in names]
    assert split_by_chromosome(homologues).held.tolist() == [True, False, True, False, False]
    assert split_by_chromosome(homologues).train.tolist() == [False, True, False, True, False]
    assert split_by_chromosome(homologues, part="valid").held.tolist() == [False] * 4 + [True]


@pytest.mark.parametrize("species", GREAT_APES, ids=lambda species: species.name)
def test_no_chromosome_of_an_assembly_is_on_two_sides(species):
    homologues = list(species.homologue_of_length.values())
    test, valid = split_by_chromosome(homologues), split_by_chromosome(homologues, part="valid")
    assert not (test.train & test.held).any()
    assert not (valid.held & test.held).any()
    assert np.array_equal(test.train, valid.train)
    on_one = test.train | test.held | valid.held
    assert [hsa for hsa, one in zip(homologues, on_one, strict=True) if not one] == (
        ["17x5", "5x17"] if species.name == "gorilla" else []
    )


def test_what_is_left_out_is_noted():
    split = split_by_chromosome(["5", "M", None, "17x5", "2"])
    assert not (split.train | split.held)[1:4].any()
    assert "3 of 5 contigs" in split.notes[0]
    assert split_by_chromosome(["5", "2"]).notes == ()


def test_the_parts_are_those_of_the_paper():
    assert sorted(map(int, TEST_HOMOLOGUES)) == [5, 7, 9, 10, 11]
    assert sorted(map(int, VALID_HOMOLOGUES)) == [1, 3, 12, 13]


@given(st.lists(st.sampled_from("abcdefghij"), min_size=3, max_size=40), st.integers(0, 2**64 - 1))
@settings(max_examples=60, deadline=None)
def test_groups_are_never_on_both_sides(groups, seed):
    if len(set(groups)) < 3:
        return
    for part in ("test", "valid"):
        split = split_by_group(groups, fraction=0.2, seed=seed, part=part)
        sides = [{group for group, one in zip(groups, side, strict=True) if one} for side in (split.train, split.held)]
        assert sides[0]
        assert sides[1]
        assert not sides[0] & sides[1]


def test_test_and_valid_groups_differ_and_the_seed_decides():
    groups = [str(number) for number in range(100)]
    test = split_by_group(groups, fraction=0.2, seed=1)
    valid = split_by_group(groups, fraction=0.2, seed=1, part="valid")
    assert (test.held.sum(), valid.held.sum(), test.train.sum(), valid.train.sum()) == (20, 20, 80, 60)
    assert not (test.held & valid.held).any()
    assert not (test.held & valid.train).any()
    assert not np.array_equal(test.held, split_by_group(groups, fraction=0.2, seed=2).held)
    shuffled = split_by_group(groups[::-1], fraction=0.2, seed=1)
    assert np.array_equal(shuffled.held[::-1], test.held)


def test_one_group_cannot_be_split():
    with pytest.raises(InputError, match="1 groups, and 2 are needed"):
        split_by_group(["a", "a"], fraction=0.2, seed=0)


def test_records_are_held_out_per_class():
    class_of = np.array([0] * 10 + [1] * 2 + [2])
    names = [f"r{number}" for number in range(13)]
    split = split_by_record(class_of, names, ["x", "y", "z"], fraction=0.2, seed=0)
    assert [int(split.held[class_of == index].sum()) for index in range(3)] == [2, 1, 1]
    assert [int((split.train & split.held)[class_of == index].sum()) for index in range(3)] == [0, 0, 1]
    assert split.kind == "record"
    assert split.notes == ("Test windows of z come from the training loci: there is no second record to hold out.",)


def test_single_records_are_tested_on_their_training_loci_and_that_is_noted():
    split = split_by_record(np.array([0, 1]), ["a", "b"], ["x", "y"], fraction=0.2, seed=0)
    assert split.kind == "none"
    assert split.train.all()
    assert split.held.all()
    assert split.notes == no_split(2).notes
    assert "training loci" in split.notes[0]


@pytest.mark.parametrize(
    ("sex", "train", "held", "note"),
    [
        ("test", [False, True, False, False], [True, False, True, True], None),
        ("train", [False, True, True, True], [True, False, False, False], "X and Y are trained on: no test window"),
        ("drop", [False, True, False, False], [True, False, False, False], "X and Y are on neither side"),
    ],
)
def test_sex_chromosomes_are_on_one_side(sex, train, held, note):
    names = ["5", "2", "X", "Y"]
    split = split_by_chromosome(names, sex_chromosomes=sex)
    assert (split.train.tolist(), split.held.tolist()) == (train, held)
    assert [note in one for one in split.notes] == [True] * (note is not None)
    valid = split_by_chromosome([*names, "1"], part="valid", sex_chromosomes=sex)
    assert valid.train.tolist() == [*train, False]
    assert valid.held.tolist() == [False] * 4 + [True]


def test_sides_that_the_user_gives():
    split = split_by_sides(["train", "valid", "train"])
    assert (split.kind, split.held.tolist()) == ("given", [False, True, False])
    assert split.notes == ("Held out are records for validation, since none are for testing.",)
    split = split_by_sides(["train", "valid", "test"], part="valid")
    assert (split.held.tolist(), split.notes) == ([False, True, False], ("1 records for testing are on neither side.",))
    for sides in (["train", "train"], ["test", "valid"]):
        with pytest.raises(InputError, match="both sides need some"):
            split_by_sides(sides)
