from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdomains.audio.clip import Clip
from seqdomains.audio.splits import split_clips
from seqdomains.errors import InputError


def clip(name, label="a", **fields):
    return Clip(Path("/data") / name, label, fields, name=name)


def spoken(speakers=("ann", "bob", "cy", "dee", "eve"), takes=4, labels=("no", "yes")):
    return [
        clip(f"{label}_{speaker}_{take}.wav", label, speaker=speaker, take=str(take))
        for label in labels
        for speaker in speakers
        for take in range(takes)
    ]


def names(clips, side):
    return [one.name for one, there in zip(clips, side, strict=True) if there]


def in_split(*values):
    return [clip(f"{place}.wav", split=value) for place, value in enumerate(values)]


# By the split column


@pytest.mark.parametrize("test", ["test", "Testing", "eval", "evaluation"])
@pytest.mark.parametrize("train", ["train", "TRAINING"])
@pytest.mark.parametrize("valid", ["valid", "validation", "val", "dev"])
def test_a_split_column_is_followed(test, train, valid):
    split = split_clips(in_split(train, valid, test, train), kind="auto", group="speaker")
    assert (split.kind, split.train.tolist(), split.held.tolist()) == (
        "field",
        [True, False, False, True],
        [False, False, True, False],
    )
    assert split.notes == (f"Held out: split {test}.", "1 validation clips are on neither side.")
    assert split.train.dtype == split.held.dtype == np.bool_


def test_validation_clips_are_held_out_where_there_are_no_test_clips():
    split = split_clips(in_split("train", "dev"), kind="field")
    assert split.held.tolist() == [False, True]
    assert split.notes == ("Held out: split dev.",)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["train", "fold1"], "the field split has the values 'fold1'; expected train, valid and test, or another kind"),
        (
            ["train", "train"],
            "the split by field leaves 2 of 2 clips to train on and holds out 0; both sides need some",
        ),
        (["test", "valid"], "leaves 0 of 2 clips to train on and holds out 1"),
    ],
)
def test_bad_split_columns(values, message):
    with pytest.raises(InputError, match=message):
        split_clips(in_split(*values), kind="field")


def test_a_split_column_that_is_lacking():
    with pytest.raises(
        InputError, match=r"no clip has the field 'split' \(did you mean 'splt'\?\); the fields are splt"
    ):
        split_clips([clip("1.wav", splt="test")], kind="field")
    with pytest.raises(InputError, match=r"1 of 2 clips do not have the field 'split', first '2\.wav'"):
        split_clips([*in_split("train"), clip("2.wav")], kind="field")


# By values


def test_values_are_held_out_where_all_fields_have_them():
    clips = spoken()
    split = split_clips(clips, kind="auto", held_values={"speaker": ["ann", "bob"], "take": ["0"]})
    assert names(clips, split.held) == ["no_ann_0.wav", "no_bob_0.wav", "yes_ann_0.wav", "yes_bob_0.wav"]
    assert np.array_equal(split.train, ~split.held)
    assert split.kind == "values"
    assert split.notes == ("Held out: speaker ann, bob with take 0.", "The same speakers are on both sides.")
    assert split_clips(clips, kind="values", held_values={"speaker": ["ann"]}).notes == ("Held out: speaker ann.",)


@pytest.mark.parametrize(
    ("held_values", "message"),
    [
        (None, r"a split by values needs the values to hold out, such as speaker: \[jackson\]"),
        (
            {"speker": ["ann"]},
            r"no clip has the field 'speker' \(did you mean 'speaker'\?\); the fields are speaker, take",
        ),
        ({"speaker": ["anne"]}, r"no clip has speaker 'anne' \(did you mean 'ann'\?\); the values are ann, bob, cy"),
        ({"take": ["0", "1", "2", "3"]}, "leaves 0 of 40 clips to train on and holds out 40"),
        ({"take": []}, "leaves 40 of 40 clips to train on and holds out 0"),
    ],
)
def test_bad_values(held_values, message):
    with pytest.raises(InputError, match=message):
        split_clips(spoken(), kind="values", held_values=held_values)


def test_long_lists_of_values_are_shortened_in_natural_order():
    clips = spoken(takes=15)
    with pytest.raises(InputError, match="the values are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 3 more"):
        split_clips(clips, kind="values", held_values={"take": ["99"]})


def test_what_a_user_should_know_is_noted():
    parts = [Clip(Path("/data/1.wav"), label, {"hour": hour}, name=hour) for label, hour in (("a", "1"), ("b", "2"))]
    split = split_clips(parts, kind="values", held_values={"hour": ["2"]})
    assert split.notes == (
        "Held out: hour 2.",
        "Parts of 1 files are on both sides, first /data/1.wav.",
        "No clip to train on: b.",
        "No clip held out: a.",
    )


# By group


@given(st.integers(0, 2**64 - 1), st.floats(0, 1), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_groups_are_never_on_both_sides_whatever_the_order(seed, fraction, random):
    clips = spoken()
    split = split_clips(clips, kind="auto", group="speaker", fraction=fraction, seed=seed)
    sides = [
        {one.fields["speaker"] for one, there in zip(clips, side, strict=True) if there}
        for side in (split.train, split.held)
    ]
    assert not sides[0] & sides[1]
    assert sides[0]
    assert split.kind == "group"
    assert split.notes == (f"Held out: speaker {', '.join(sorted(sides[1]))}.",)
    assert len(sides[1]) == min(4, max(1, int(np.ceil(fraction * 5 - 1e-9))))
    shuffled = random.sample(clips, len(clips))
    again = split_clips(shuffled, kind="group", group="speaker", fraction=fraction, seed=seed)
    assert sorted(names(shuffled, again.held)) == sorted(names(clips, split.held))


@pytest.mark.parametrize(
    ("clips", "group", "message"),
    [
        (spoken(), None, "a split by group needs the field that says a clip's group, such as speaker"),
        (spoken(), "spaeker", r"no clip has the field 'spaeker' \(did you mean 'speaker'\?\)"),
        (spoken(("ann",)), "speaker", "all clips have speaker 'ann': at least two groups are needed"),
        ([*spoken(), clip("x.wav")], "speaker", r"1 of 41 clips do not have the field 'speaker', first 'x\.wav'"),
        ([], "speaker", "no clip has the field 'speaker'; the fields are none"),
    ],
)
def test_bad_groups(clips, group, message):
    with pytest.raises(InputError, match=message):
        split_clips(clips, kind="group", group=group)


# Clip by clip


@given(
    st.lists(st.integers(2, 12), min_size=1, max_size=4),
    st.floats(0, 1),
    st.integers(0, 2**64 - 1),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_each_class_is_on_both_sides_whatever_the_order(sizes, fraction, seed, random):
    clips = [clip(f"{label}/{number}.wav", str(label)) for label, size in enumerate(sizes) for number in range(size)]
    split = split_clips(clips, kind="auto", fraction=fraction, seed=seed)
    assert split.kind == "clip"
    assert np.array_equal(split.train, ~split.held)
    for label, size in enumerate(sizes):
        held = sum(there for one, there in zip(clips, split.held.tolist(), strict=True) if one.label == str(label))
        assert held == min(size - 1, max(1, round(fraction * size)))
    shuffled = random.sample(clips, len(clips))
    again = split_clips(shuffled, kind="clip", fraction=fraction, seed=seed)
    assert sorted(names(shuffled, again.held)) == sorted(names(clips, split.held))


HELD_OF_SEED_0 = ["2.wav", "3.wav", "4.wav", "11.wav"]


def test_the_draw_is_of_the_seed():
    clips = [clip(f"{number}.wav") for number in range(20)]
    assert names(clips, split_clips(clips, kind="clip").held) == HELD_OF_SEED_0
    assert names(clips, split_clips(clips, kind="clip", seed=1).held) != HELD_OF_SEED_0
    assert split_clips(clips, kind="clip").notes == ("Held out: 4 of 20 clips, drawn from each class.",)


def test_clips_without_labels_are_drawn_from_all_files():
    clips = [clip(f"{number}.wav", None) for number in range(20)]
    split = split_clips(clips, kind="clip")
    assert names(clips, split.held) == HELD_OF_SEED_0
    assert split.notes == ("Held out: 4 of 20 clips, drawn from all files.",)
    parts = [Clip(Path("/data/a.wav"), None, {}, start=start, name="a.wav") for start in range(3)]
    with pytest.raises(InputError, match=r"3 clips of one file, /data/a\.wav: another file is needed"):
        split_clips(parts, kind="clip")


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from("ab")), min_size=4, max_size=30), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_parts_of_a_file_stay_together(parts, seed):
    clips = [
        Clip(Path(f"/data/{file}.wav"), label, {}, float(start), 1.0, f"{file}.wav:{start}-{start + 1}")
        for start, (file, label) in enumerate(parts)
    ]
    # A file of each class alone, so that both classes can be on both sides.
    clips += [clip(f"{label}{number}.wav", label) for label in "ab" for number in range(2)]
    split = split_clips(clips, kind="clip", seed=seed, fraction=0.4)
    for side in (split.train, split.held):
        assert {one.label for one, there in zip(clips, side, strict=True) if there} == {one.label for one in clips}
    assert not any("both sides" in note for note in split.notes)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (
            [clip("1.wav"), clip("2.wav"), clip("3.wav", "b")],
            "no clip can be held out of 'b': a class needs clips from two",
        ),
        ([Clip(Path("1.wav"), "a", {}, float(start), 1.0, str(start)) for start in range(3)], "no clip can be .* 'a'"),
        ([], "leaves 0 of 0 clips to train on and holds out 0"),
    ],
)
def test_classes_that_cannot_be_on_both_sides(clips, message):
    with pytest.raises(InputError, match=message):
        split_clips(clips, kind="clip")


def test_single_clips_of_known_speakers_are_noted():
    assert "The same speakers are on both sides." in split_clips(spoken(), kind="clip").notes
