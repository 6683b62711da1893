import json
import logging
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqdomains.audio.clip import Clip
from seqdomains.audio.clips import classes_of, read_clips
from seqdomains.errors import ConfigError, InputError


def is_sound(path):
    return path.suffix.lower() in (".wav", ".flac")


@pytest.fixture
def place(tmp_path):
    """Write empty files and return the folder they are below."""

    def write(*sounds):
        for name in sounds:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    return write


def read(*paths, **options):
    return read_clips(paths, is_sound=is_sound, **options)


def manifest(folder, name, text):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def said(clips):
    return [(clip.name, clip.label) for clip in clips]


# Folders and files


def test_the_first_folder_below_is_the_class(place):
    folder = place("yes/b/2.wav", "yes/1.WAV", "no/1.flac", "top.wav", "no/notes.txt", ".git/x.wav", "no/.x.wav")
    (folder / "no" / "folder.wav").mkdir()
    clips = read(folder)
    assert said(clips) == [("no/1.flac", "no"), ("top.wav", None), ("yes/1.WAV", "yes"), ("yes/b/2.wav", "yes")]
    assert clips[0] == Clip(folder / "no/1.flac", "no", {}, 0.0, None, "no/1.flac")


def test_a_class_may_be_a_link_to_a_folder(place, tmp_path_factory):
    folder, other = place("no/1.wav"), tmp_path_factory.mktemp("other")
    (other / "1.wav").touch()
    (folder / "yes").symlink_to(other)
    assert said(read(folder)) == [("no/1.wav", "no"), ("yes/1.wav", "yes")]


def test_a_sound_file_has_no_label(place):
    assert said(read(place("yes/1.wav") / "yes/1.wav")) == [("1.wav", None)]


@pytest.mark.parametrize(
    ("given_path", "message"),
    [
        ("absent", "absent is no file or folder: give sound files, a folder of them, or a manifest"),
        ("x" * 300, "is no file or folder"),
        ("empty", "empty holds no sound file: expected one folder per class"),
        ("notes.txt", r"notes.txt is neither a sound file nor a manifest: expected .jsonl, .json, .csv or .tsv"),
    ],
)
def test_paths_that_hold_no_clips(place, given_path, message):
    folder = place("notes.txt")
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        read(folder / given_path)


def test_a_folder_that_may_not_be_read(place, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(InputError, match=r"cannot be read: .*Permission denied"):
        read(place("1.wav"))


def test_no_paths():
    with pytest.raises(ConfigError, match=r"data\.paths: no data; give sound files"):
        read()


def test_a_class_name_must_fit_into_a_table(place):
    folder = place("y\tes/1.wav")
    with pytest.raises(InputError, match=r"1\.wav: label 'y\\+tes': expected a name without tabs and line ends"):
        read(folder)
    assert said(read(folder, label_from="name:{label}")) == [("y\tes/1.wav", "1")]


def test_a_clip_given_twice_is_taken_once_and_logged(place, caplog):
    folder = place("yes/1.wav", "yes/2.wav")
    lines = manifest(folder, "list.csv", "path,label\nyes/1.wav,yes\nyes/../yes/1.wav,yes\n")
    with caplog.at_level(logging.WARNING):
        assert said(read(folder, lines)) == [("yes/1.wav", "yes"), ("yes/2.wav", "yes")]
    assert caplog.messages == ["2 clips are given more than once and taken once: 'yes/1.wav', 'yes/../yes/1.wav'"]


def test_a_clip_with_two_labels_is_refused(place):
    folder = place("yes/1.wav")
    with pytest.raises(InputError, match=r"yes/1\.wav is labelled 'yes' and 'no': list a clip once"):
        read(folder, manifest(folder, "list.csv", "path,label\nyes/1.wav,no\n"))


# Manifests


def test_json_lines_of_nemo(place):
    folder = place("1.wav", "2.wav", "sub/3.wav")
    lines = [
        {"audio_filepath": "1.wav", "duration": 0.5, "label": "yes", "offset": 1.25, "speaker": "ann", "take": 3},
        {
            "audio_filepath": "1.wav",
            "offset": "2",
            "label": ["no"],
            "good": True,
            "words": [1],
            "more": {},
            "none": None,
        },
        {"audio_filepath": str(folder / "sub/3.wav"), "label": 7, "duration": None},
        {"audio_filepath": "2.wav", "duration": 3, "label": None},
    ]
    text = "\ufeff" + "\r\n".join(map(json.dumps, lines)) + "\r\n\r\n"
    for name in ("list.jsonl", "list.json"):
        clips = read(manifest(folder, name, text))
        assert said(clips) == [("1.wav:1.25-1.75", "yes"), ("1.wav:2-", "no"), ("sub/3.wav", "7"), ("2.wav:0-3", None)]
        assert [(clip.start, clip.seconds) for clip in clips] == [(1.25, 0.5), (2.0, None), (0.0, None), (0.0, 3.0)]
        assert [clip.fields for clip in clips] == [{"speaker": "ann", "take": "3"}, {"good": "true"}, {}, {}]
        assert clips[2].path == folder / "sub/3.wav"


@pytest.mark.parametrize("column", ["audio_filepath", "path", "wav", "file", "filename", "file_name"])
@pytest.mark.parametrize("label", ["label", "labels", "category", "text"])
def test_the_columns_that_are_known(place, column, label):
    folder = place("1.wav")
    assert said(read(manifest(folder, "a.jsonl", json.dumps({column: "1.wav", label: "yes"})))) == [("1.wav", "yes")]
    assert said(read(manifest(folder, "a.tsv", f"{column}\t{label}\n1.wav\tyes"))) == [("1.wav", "yes")]


@pytest.mark.parametrize(
    ("name", "text", "clip"),
    [
        ("a.csv", "ID,duration,wav,label\n7,1.5,1.wav,yes\n", ("1.wav:0-1.5", "yes", {"ID": "7"})),
        ("a.csv", "filename,fold,target,category\n1.wav,5,0,dog\n", ("1.wav", "dog", {"fold": "5", "target": "0"})),
        ("metadata.csv", "file_name,text,label\r\n1.wav,so it is,yes", ("1.wav", "yes", {"text": "so it is"})),
        ("a.tsv", "path\tlabel\tspeaker\n\n1.wav\tdog, barking\tann\n", ("1.wav", "dog, barking", {"speaker": "ann"})),
        ("a.csv", '\ufeffpath,label,said\n"1.wav", "a, b","two\nlines"\n', ("1.wav", "a, b", {"said": "two\nlines"})),
        ("a.csv", ",path,label\n17,1.wav,yes\n", ("1.wav", "yes", {})),
        ("a.csv", "path\n1.wav\n", ("1.wav", None, {})),
        ("a.csv", "path,offset,duration\n1.wav,0.1,0.2\n", ("1.wav:0.1-0.3", None, {})),
        ("a.CSV", "path,offset,duration\n1.wav,,\n", ("1.wav", None, {})),
        ("a.tsv", ".\n1.wav\t16000\n", ("1.wav", None, {"frames": "16000"})),
        ("a.json", '{"data": [{"wav": "1.wav", "labels": "/m/068hy"}]}', ("1.wav", "/m/068hy", {})),
    ],
)
def test_the_forms_of_others(place, name, text, clip):
    (read_one,) = read(manifest(place("1.wav"), name, text))
    assert (read_one.name, read_one.label, read_one.fields) == clip


def test_the_root_of_fairseq_is_where_paths_start(place, tmp_path_factory):
    folder = place("ann/1.wav")
    lines = manifest(tmp_path_factory.mktemp("lists"), "train.tsv", f"{folder}\nann/1.wav\t16000\n")
    (clip,) = read(lines)
    assert (clip.name, clip.path) == ("ann/1.wav", folder / "ann/1.wav")


def test_files_that_do_not_exist_are_counted_and_named(place):
    folder = place("1.wav")
    rows = ["1.wav", *(f"{number}.wav" for number in range(2, 7))]
    with pytest.raises(InputError) as caught:
        read(manifest(folder, "a.csv", "path\n" + "\n".join(rows)))
    assert str(caught.value) == (
        f"{folder}/a.csv: 5 of 6 files do not exist, first line 3: {folder}/2.wav; line 4: {folder}/3.wav; line 5: "
        f"{folder}/4.wav; relative paths start at {folder}"
    )


def test_problems_of_a_manifest_come_together_up_to_a_number(place):
    folder = place("1.wav")
    with pytest.raises(InputError) as caught:
        read(manifest(folder, "a.jsonl", '{"path": "2.wav"}\n{"path": "1.wav", "offset": -1}\n[]\n'))
    assert str(caught.value).splitlines() == [
        f"{folder}/a.jsonl, line 2: offset: expected seconds, 0 or more, found -1",
        f'{folder}/a.jsonl, line 3: expected {{"audio_filepath": "a.wav", "label": "yes"}}, found \'[]\'',
        f"{folder}/a.jsonl: 1 of 3 files do not exist, first line 1: {folder}/2.wav; relative paths start at {folder}",
    ]
    with pytest.raises(InputError) as caught:
        read(manifest(folder, "a.jsonl", "[]\n" * 30))
    assert len(str(caught.value).splitlines()) == 9
    assert str(caught.value).endswith("and 22 more")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "a.csv is empty: expected a header such as filename,label"),
        ("a.csv", "path,label\n", "a.csv lists no clip: expected one per line"),
        ("a.jsonl", "\n", "a.jsonl lists no clip"),
        ("a.json", '{"data": []}', "a.json lists no clip"),
        ("a.csv", "path,x,x\n1.wav,1,2\n", "line 1: column 'x' is there twice"),
        (
            "a.csv",
            "path;label\n",
            "line 1: found the columns 'path;label'; expected a header with one of audio_filepath,",
        ),
        ("a.tsv", "/absent\n1.wav\t3\n", "line 1: found the columns '/absent'; .* or the root folder of a fairseq"),
        ("a.tsv", ".\n1.wav\n", r"line 2: 1 cells, expected 2 \(path, frames\)"),
        ("a.csv", "path,label\n1.wav\n", r"line 2: 1 cells, expected 2 \(path, label\); quote cells with separators"),
        ("a.csv", "path,label\n1.wav,a,b\n", "line 2: 3 cells, expected 2"),
        ("a.csv", 'path,label\n1.wav,"a\n', "line 2: unexpected end of data; is a quote open"),
        ("a.csv", "path,label\n,a\n", "line 2: no file: expected a path as path, found ''"),
        ("a.csv", b"path,label\n1.wav,\xe9t\xe9\n", "line 2: byte 0xe9 is not UTF-8; save it as UTF-8"),
        ("a.csv", "path,label\n1.wav,\n", "line 2: label '': expected a name"),
        ("a.csv", "path,label\n1.wav,a\tb\n", r"line 2: label 'a\\+tb': expected a name without tabs and line ends"),
        ("a.csv", 'path,label\n1.wav,"a\nb"\n', r"line 3: label 'a\\+nb'"),
        ("a.jsonl", '{"path": "1.wav", "label": "a\\u0007"}', r"line 1: label 'a\\+x07'"),
        ("a.jsonl", '{"path": "1.wav", "label": {}}', "line 1: label {}: expected a name"),
        ("a.jsonl", '{"path": "1.wav", "label": []}', "line 1: an empty list of labels: name one at least, or leave"),
        (
            "a.jsonl",
            '{"path": "1.wav", "label": ["a", ""]}',
            r"line 1: an empty label \(''\) among those of \['a', ''\]",
        ),
        (
            "a.jsonl",
            '{"path": "1.wav", "label": ["a", 3, "a"]}',
            r"label 'a' stands twice in \['a', 3, 'a'\]: name each",
        ),
        ("a.json", '{"data": [{"wav": "1.wav", "labels": "a,,b"}]}', "entry 1: an empty label .* remove it or its sep"),
        ("a.json", '{"data": [1]}', r'entry 1: expected {"audio_filepath": "a.wav", "label": "yes"}, found \'1\''),
        ("a.csv", "path,labels\n1.wav,a|b;a\n", r"line 2: label 'a' stands twice in 'a\|b;a'"),
        ("a.jsonl", "{", r"line 1: no JSON, Expecting property name enclosed in double quotes at column 2: '{'"),
        ("a.jsonl", "[" * 100_000, "line 1: nested too deep"),
        ("a.jsonl", '{"label": "a"}', "line 1: no file: expected a path as audio_filepath or path or"),
        ("a.jsonl", '{"path": 3}', "line 1: no file: expected a path as path, found 3"),
        ("a.jsonl", '{"path": "\\u0000"}', "1 of 1 files do not exist"),
        ("a.csv", "path\n" + "x" * 300, "1 of 1 files do not exist"),
        ("a.csv", "path,offset\n1.wav,x\n", "line 2: offset: expected seconds, 0 or more, found 'x'"),
        ("a.csv", "path,start\n1.wav,-0.5\n", "line 2: start: expected seconds, 0 or more, found '-0.5'"),
        ("a.csv", "path,duration\n1.wav,nan\n", "line 2: duration: expected seconds"),
        ("a.csv", "path,duration\n1.wav,inf\n", "line 2: duration: expected seconds"),
        ("a.csv", "path,duration\n1.wav,0\n", "line 2: duration: 0 s hold no sound"),
        ("a.jsonl", '{"path": "1.wav", "offset": NaN}', "line 1: offset: expected seconds"),
        ("a.jsonl", '{"path": "1.wav", "offset": true}', "line 1: offset: expected seconds, 0 or more, found True"),
        ("a.jsonl", '{"path": "1.wav", "offset": []}', "line 1: offset: expected seconds"),
        ("a.jsonl", '{"path": "1.wav", "offset": 1' + "0" * 400 + "}", "line 1: offset: expected seconds"),
        ("a.csv", "wav,start,stop\n1.wav,0,48000\n", "line 2: `start` and `stop` may be samples or seconds"),
    ],
)
def test_bad_manifests_name_the_line(place, name, text, message):
    with pytest.raises(InputError, match=message):
        read(manifest(place("1.wav"), name, text))


def test_a_manifest_that_is_too_large(place, monkeypatch):
    monkeypatch.setattr("seqdomains.audio.manifests._LARGEST_LIST", 8)
    with pytest.raises(InputError, match=r"a\.csv cannot be read: over 8 bytes"):
        read(manifest(place("1.wav"), "a.csv", "path\n1.wav\n"))


TEXTS = {
    "a.jsonl": '{"audio_filepath": "1.wav", "duration": 1.5, "label": "yes", "offset": 0}\n{"path": "1.wav"}\n',
    "a.json": '{"data": [{"wav": "1.wav", "labels": "a"}]}',
    "a.csv": 'path,label,offset,duration\n1.wav,"a, b",0.5,1\n',
    "a.tsv": ".\n1.wav\t16000\n",
}


@pytest.fixture(scope="module")
def one_sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    (folder / "1.wav").touch()
    return folder


@given(
    st.sampled_from(sorted(TEXTS)),
    st.lists(st.tuples(st.integers(0, 90), st.integers(0, 4), st.binary(max_size=6)), max_size=4),
    st.sampled_from([None, "folder", "field:label", "name:{a}", "name:{label}.{b}"]),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_gives_clips_or_a_sentence(one_sound, name, changes, label_from):
    text = TEXTS[name].encode()
    for at, removed, added in changes:
        text = text[:at] + added + text[at + removed :]
    path = manifest(one_sound, name, text)
    try:
        clips = read(path, label_from=label_from)
    except InputError:
        return
    assert all(clip.path.is_file() and clip.start >= 0 and (clip.label or "x").isprintable() for clip in clips)


# Labels said elsewhere


@pytest.mark.parametrize(
    ("label_from", "name", "label", "fields"),
    [
        ("name:{label}_{speaker}_{take}", "yes/7_ann_0.wav", "7", {"speaker": "ann", "take": "0"}),
        ("name:{speaker}_nohash_{take}", "yes/a_b_nohash_1.wav", "yes", {"speaker": "a_b", "take": "1"}),
        ("name:{fold}-{clip}-{take}-{label}", "x/1-100-A-0.wav", "0", {"fold": "1", "clip": "100", "take": "A"}),
        ("name:take.{take}.5", "yes/take.1.5.wav", "yes", {"take": "1"}),
        ("folder", "yes/deeper/1.wav", "deeper", {}),
    ],
)
def test_labels_of_names_and_folders(place, label_from, name, label, fields):
    (clip,) = read(place(name), label_from=label_from)
    assert (clip.label, clip.fields) == (label, fields)


def test_names_that_do_not_match_are_gathered(place):
    folder = place("7_ann_0.wav", "7_ann_bob_0.wav", "7.wav")
    with pytest.raises(InputError) as caught:
        read(folder, label_from="name:{label}_{speaker}_{take}")
    assert str(caught.value).splitlines() == [
        f"{folder}/7.wav: '7' is not of the form {{label}}_{{speaker}}_{{take}}, where no part has the text that ends "
        "it",
        f"{folder}/7_ann_bob_0.wav: '7_ann_bob_0' is not of the form {{label}}_{{speaker}}_{{take}}, where no part has "
        "the text that ends it",
    ]


def test_a_column_may_be_the_label(place):
    text = "path,label,speaker,category\n1.wav,,ann,dog\n"
    lines = manifest(place("1.wav"), "a.csv", text)
    (clip,) = read(lines, label_from="field:speaker")
    assert (clip.label, clip.fields) == ("ann", {"label": "", "speaker": "ann", "category": "dog"})
    assert read(lines, label_from="field:category")[0].label == "dog"
    with pytest.raises(
        InputError, match=r"1\.wav: no field 'speker' \(did you mean 'speaker'\?\); it has label, speaker"
    ):
        read(lines, label_from="field:speker")
    with pytest.raises(InputError, match=r"1\.wav: label '': expected a name"):
        read(lines, label_from="field:label")


@pytest.mark.parametrize(
    "label_from",
    [
        "",
        "folders",
        "field:",
        "name:",
        "name:label",
        "name:{a}{b}",
        "name:{a}_{a}",
        "name:{a_{b}",
        "name:{1}",
        "name:{a}}",
    ],
)
def test_forms_of_label_from_are_checked(place, label_from):
    with pytest.raises(ConfigError, match=r"data\.label_from: expected folder, field:KEY, or name:PATTERN such as"):
        read(place("1.wav"), label_from=label_from)


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        ("a.jsonl", '{"path": "1.wav", "label": ["dog", " rain "]}', {}),
        ("a.jsonl", '{"path": "1.wav", "tags": ["dog", "rain"]}', {"label_from": "field:tags"}),
        ("a.json", '{"data": [{"wav": "1.wav", "labels": "dog,rain"}]}', {}),
        ("a.csv", 'path,labels\n1.wav,"dog,rain"\n', {}),
        ("a.tsv", "path\tlabels\n1.wav\tdog;rain\n", {}),
        ("a.tsv", "path\tlabels\n1.wav\tdog | rain\n", {}),
        ("a.csv", "path,label\n1.wav,dog+rain\n", {"separator": "+"}),
        ("a.csv", "path,tags\n1.wav,dog^rain\n", {"separator": "^", "label_from": "field:tags"}),
    ],
)
def test_several_labels_of_a_clip(place, name, text, options):
    folder = place("1.wav")
    (clip,) = read(manifest(folder, name, text), **options)
    assert clip.labels == ("dog", "rain")
    assert classes_of([clip]) == ("dog", "rain")


def test_a_separator_that_is_not_stated_is_a_part_of_the_label(place):
    folder = place("1.wav", "2.wav", "yes;no/3.wav")
    assert read(manifest(folder, "a.csv", "path,label\n1.wav,dog;rain\n"))[0].labels == ("dog;rain",)
    assert read(manifest(folder, "a.csv", "path,labels\n1.wav,a;b|c\n"), separator="|")[0].labels == ("a;b", "c")
    assert read(folder / "yes;no", label_from="folder", separator=";")[0].labels == ("yes;no",)
    table = manifest(folder, "t.tsv", "1.wav\tdog;rain\n2.wav\tdog\nyes;no/3.wav\tdog\n")
    assert [clip.labels for clip in read(folder, labels=table)] == [("dog;rain",), ("dog",), ("dog",)]
    told = [clip.labels for clip in read(folder, labels=table, separator=";")]
    assert told == [("dog", "rain"), ("dog",), ("dog",)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.tsv", "yes/1.wav\tA\nno/1.wav\tB\n2.wav\tC c\n"),
        ("labels.csv", "file,label\n./yes/1.wav,A\nno/1.wav,B\n2.wav,C c\n"),
        ("labels.txt", "\ufefffilename\tlabel\r\nyes/1.wav\tA\r\nno/1.wav\tB\r\nno/2.wav\tC c\r\nno/2.wav\tC c\r\n"),
    ],
)
def test_labels_of_a_table(place, name, text):
    folder = place("yes/1.wav", "no/1.wav", "no/2.wav")
    table = manifest(folder, name, text)
    assert said(read(folder, labels=table)) == [("no/1.wav", "B"), ("no/2.wav", "C c"), ("yes/1.wav", "A")]


def test_a_table_labels_while_names_say_the_rest(place):
    folder = place("ann-1.wav")
    (clip,) = read(folder, labels=manifest(folder, "l.csv", "ann-1.wav,yes\n"), label_from="name:{speaker}-{take}")
    assert (clip.label, clip.fields["speaker"]) == ("yes", "ann")
    with pytest.raises(ConfigError, match=r"data\.label_from: folder and the table .*l\.csv both say the classes"):
        read(folder, labels=folder / "l.csv", label_from="folder")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2.wav\tA\n1.wav\tA\n", "2 of 3 clips have no label in .*, first 'no/1.wav', 'yes/1.wav': add their paths"),
        ("", "3 of 3 clips have no label"),
        ("no/1.wav\tA\nyes/1.wav\tA\n2.wav\tA\n9.wav\tA\n", "labels 1 files that are not there: '9.wav'; remove"),
        ("2.wav A\n", "line 1: expected `file<TAB>label`, or file,label in a .csv, found '2.wav A'"),
        ("2.wav\tA\tB\n", "line 1: expected `file<TAB>label`"),
        ("2.wav\t\n", "line 1: label ''"),
        ("2.wav\tA\n2.wav\tB\n", "line 2: '2.wav' is labelled 'A' and 'B'"),
    ],
)
def test_bad_tables(place, text, message):
    folder = place("no/1.wav", "yes/1.wav", "yes/2.wav")
    with pytest.raises(InputError, match=message):
        read(folder, labels=manifest(folder, "labels.tsv", text))


def test_a_table_that_is_not_there(place):
    with pytest.raises(InputError, match=r"absent\.tsv cannot be read: .*No such file"):
        read(place("1.wav"), labels=place() / "absent.tsv")


# Classes


def clips_of(*labels):
    return [Clip(Path(f"{number}.wav"), label, {}, name=f"{number}.wav") for number, label in enumerate(labels)]


def test_classes_are_in_natural_order_or_as_wanted():
    clips = clips_of("10", "2", "b", "a", "2")
    assert classes_of(clips) == ("2", "10", "a", "b")
    assert classes_of(clips, ["b", "a", "10", "2"]) == ("b", "a", "10", "2")
    assert classes_of(clips_of("1" * 5000, "9")) == ("9", "1" * 5000)


@pytest.mark.parametrize(
    ("labels", "wanted", "message"),
    [
        (["a", None, None, None, None], None, "4 of 5 clips have no label, first '1.wav', '2.wav', '3.wav' and 1 more"),
        (
            ["stop", "go"],
            ["stpo", "go"],
            r"not among the wanted classes: 'stop' \(did you mean 'stpo'\?\); the classes",
        ),
        (
            ["stop", "go"],
            ["stop", "go", "goo"],
            r"no clip of the wanted class 'goo' \(did you mean 'go'\?\); add clips",
        ),
    ],
)
def test_bad_classes(labels, wanted, message):
    with pytest.raises(InputError, match=message):
        classes_of(clips_of(*labels), wanted)
