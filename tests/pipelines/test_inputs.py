from __future__ import annotations

import pytest

from seqdomains.errors import InputError
from seqdomains.pipelines.inputs import find_inputs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two levels of files, of which .fa are wanted, and the working folder."""
    for name in ("b.fa", "a.fa", "notes.txt", ".hidden.fa", "sub/c.fa", ".git/d.fa", "[odd].fa"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def find(*given, listed_in=None):
    return find_inputs(given, listed_in=listed_in, wanted=lambda path: path.suffix == ".fa", kinds=".fa")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["b.fa", "a.fa"], ["b.fa", "a.fa"]),
        (["."], ["[odd].fa", "a.fa", "b.fa", "sub/c.fa"]),
        (["?.fa"], ["a.fa", "b.fa"]),
        (["**/*.fa"], ["[odd].fa", "a.fa", "b.fa", "sub/c.fa"]),
        (["notes.txt"], ["notes.txt"]),
        (["[odd].fa"], ["[odd].fa"]),
        (["absent.fa", "-", "-"], ["absent.fa", "-", "-"]),
        (["b.fa", "sub", "./b.fa", "*.fa"], ["b.fa", "sub/c.fa", "[odd].fa", "a.fa"]),
    ],
    ids=str,
)
def test_names_folders_and_patterns(folder, given, found):
    assert find(*given) == found


def test_a_file_is_taken_once_and_that_is_said(folder, caplog):
    assert find("a.fa", folder / "a.fa", "a.fa") == ["a.fa"]
    assert "2 files were given more than once" in caplog.text


def test_a_list(folder):
    names = folder / "list.txt"
    names.write_text("# reference\n\n  sub \r\n?.fa\n-\n")
    assert find("b.fa", listed_in=names) == ["b.fa", "sub/c.fa", "a.fa", "-"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a.fa\nempty\n", "list.txt, line 2: folder empty holds no .fa file"),
        (b"\n*.bam\n", "list.txt, line 2: pattern [*].bam matches no file"),
        (b"a.fa\n\xff\n", "list.txt, byte 5: not UTF-8"),
        (b"# nothing\n", "no input"),
    ],
)
def test_a_bad_list_names_the_line(folder, text, message):
    (folder / "empty").mkdir()
    (folder / "list.txt").write_bytes(text)
    with pytest.raises(InputError, match=message):
        find(listed_in=folder / "list.txt")


def test_a_list_that_is_not_there(folder):
    with pytest.raises(InputError, match=r"absent.txt: cannot be read \(No such file"):
        find(listed_in=folder / "absent.txt")
