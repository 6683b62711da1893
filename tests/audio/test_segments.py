"""Segments of time from manifests, label tracks, RTTM and tables; bad ones are named by file and line."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqdomains.audio.clip import Clip
from seqdomains.audio.clips import read_clips
from seqdomains.audio.segments import Segment, in_part, segments_of
from seqdomains.errors import InputError

DOG, RAIN = Segment(0.5, 1.0, "dog"), Segment(1.0, 1.5, "rain")


def clip(folder, name="a.wav", events=None):
    return Clip(folder / name, None, {}, name=name, events=events)


def read(*clips, table=None, **options):
    return segments_of(clips, table=table, **{"background": "background", **options})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "0.5\t1.0\tdog\n\\\t100.0\t2000.0\n1.0\t1.5\train\n"),
        ("a.tsv", "label\tstart\tend\tby\ndog\t0.5\t1\tann\nrain\t1\t1.5\tann\n"),
        ("a.tsv", "1.0\t1.5\train\n0.5\t1.0\tdog\n"),
        (
            "a.rttm",
            ";; a comment\nSPKR-INFO a 1 <NA> <NA> <NA> unknown dog <NA>\n"
            "SPEAKER a 1 0.5 0.5 <NA> <NA> dog <NA> <NA>\nSPEAKER a 1 1.0 0.5 <NA> <NA> rain <NA> <NA>\n",
        ),
    ],
)
def test_files_beside_the_clips(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read(clip(tmp_path)) == [(DOG, RAIN)]


@pytest.mark.parametrize("column", ["segments", "events"])
def test_a_manifest(tmp_path, column):
    (tmp_path / "a.wav").touch()
    rows = [[0.5, 1.0, "dog"], {"start": 1, "end": 1.5, "label": "rain"}]
    (tmp_path / "m.jsonl").write_text(json.dumps({"path": "a.wav", column: rows}))
    clips = read_clips([tmp_path / "m.jsonl"], is_sound=lambda path: path.suffix == ".wav")
    assert read(*clips) == [(DOG, RAIN)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.tsv", "file\tstart\tend\tlabel\na.wav\t0.5\t1\tdog\na.wav\t1\t1.5\train\n"),
        ("t.csv", "filename,label,start,end\na.wav,dog,0.5,1\na.wav,rain,1,1.5\n"),
        ("t.rttm", "SPEAKER a 1 0.5 0.5 <NA> <NA> dog <NA> <NA>\nSPEAKER a 1 1.0 0.5 <NA> <NA> rain <NA> <NA>\n"),
    ],
)
def test_one_table_of_all(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read(clip(tmp_path), clip(tmp_path, "b.wav"), table=tmp_path / name) == [(DOG, RAIN), ()]


def test_activity_is_one_class_and_background_is_none(tmp_path):
    events = [[0, 2, "ann"], [1, 3, "bob"], [3, 4, "quiet"], [5, 6, ""]]
    (found,) = read(clip(tmp_path, events=events), activity="speech", background="quiet")
    assert found == (Segment(0, 3, "speech"), Segment(5, 6, "speech"))
    (found,) = read(clip(tmp_path, events=[[0, 1, "a"], [0.5, 2, "a"], [1.9999, 3, "b"], [4, 5, "background"]]))
    assert found == (Segment(0, 2, "a"), Segment(1.9999, 3, "b"))
    assert read(clip(tmp_path, events=[])) == [()]


def test_a_part_of_a_file():
    assert in_part([DOG, RAIN], start=0.75, seconds=0.5) == (Segment(0, 0.25, "dog"), Segment(0.25, 0.5, "rain"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "0.5\t0.5\tdog\n", r"a\.txt, line 1: from '0.5' to '0.5': expected times in s, 0 or more, the end"),
        ("a.txt", "0.5\t1\t \n", r"a\.txt, line 1: label '': expected a name"),
        ("a.txt", "x\t1\tdog\n-1\t2\tdog\n", r"line 1: from 'x' to '1'.*\n.*line 2: from '-1' to '2'"),
        ("a.txt", "1\tnan\tdog\n", "line 1: from '1' to 'nan'"),
        ("a.txt", "1\t2\n", r"a\.txt, line 1: 2 cells, expected 3: start, end, label"),
        (
            "a.txt",
            "0\t2\tdog\n1\t3\train\n",
            r"a\.txt: 'dog' lasts until 2 s and 'rain' begins at 1 s: a frame has one",
        ),
        ("a.rttm", "LEXEME a 1 0 1 <NA> <NA> dog\n", r"a\.rttm, line 1: expected `SPEAKER file channel start duration"),
        ("a.rttm", "SPEAKER a 1 0 one <NA> <NA> dog\n", "line 1: from '0' to 'one'"),
        ("a.txt", b"\xff\xfe", r"a\.txt, line 1: byte 0xff is not UTF-8"),
    ],
)
def test_bad_files_are_named_by_line(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        read(clip(tmp_path))


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ("often", "its segments are 'often', expected a list of"),
        ([[1, 2]], r"a\.wav, segment 1: expected \[start, end, label\], found \[1, 2\]"),
        ([[1, 2, "a"], 3], "segment 2: expected .*, found 3"),
        ([[2, 1, "a"]], "segment 1: from 2 to 1"),
        ([[True, 2, "a"]], "segment 1: from True to 2"),
        ([[0, 2, "a"], [1, 3, "b"]], r"a\.wav: 'a' lasts until 2 s and 'b' begins at 1 s"),
    ],
)
def test_bad_segments_of_a_manifest(tmp_path, events, message):
    with pytest.raises(InputError, match=message):
        read(clip(tmp_path, events=events))


def test_no_segments_or_two_files_of_them(tmp_path):
    with pytest.raises(
        InputError, match=r"2 of 2 clips have no segments, first 'a\.wav', 'b\.wav': expected `segments`"
    ):
        read(clip(tmp_path), clip(tmp_path, "b.wav"))
    (tmp_path / "a.txt").touch()
    (tmp_path / "a.rttm").touch()
    with pytest.raises(InputError, match=r"a\.wav has a\.txt and a\.rttm beside it: keep one"):
        read(clip(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file\tstart\tend\nx.wav\t0\t1\n", r"line 1: found the columns 'file', 'start', 'end'; .*lacking: label"),
        ("file\tstart\tend\tlabel\nx.wav\t0\t1\tdog\n", r"names 1 files that are not there: 'x\.wav'; remove"),
        ("file\tstart\tend\tlabel\na.wav\t0\t1\tdog\n", r"line 2: 'a\.wav' is the name of 2 clips: write the paths"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    (tmp_path / "t.tsv").write_text(text)
    with pytest.raises(InputError, match=message):
        read(clip(tmp_path, "1/a.wav"), clip(tmp_path, "2/a.wav"), table=tmp_path / "t.tsv")


@given(
    name=st.sampled_from(["a.txt", "a.tsv", "a.rttm"]),
    lines=st.lists(
        st.lists(
            st.one_of(
                st.sampled_from(
                    ["SPEAKER", "a", "1", "0.5", "1e400", "-1", "nan", "start", "end", "label", "\\", '"', ""]
                ),
                st.text(max_size=5),
            ),
            max_size=9,
        ),
        max_size=4,
    ),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_gives_segments_or_a_sentence(tmp_path, name, lines):
    for old in tmp_path.iterdir():
        old.unlink()
    separator = " " if name.endswith("rttm") else "\t"
    (tmp_path / name).write_text("\n".join(separator.join(cells) for cells in lines), encoding="utf-8", newline="")
    try:
        (found,) = read(clip(tmp_path))
    except InputError as error:
        assert name in str(error)  # noqa: PT017
    else:
        assert all(0 <= one.start < one.end and one.label for one in found)
        assert all(one.end <= other.start + 1e-3 for one, other in pairwise(found))
