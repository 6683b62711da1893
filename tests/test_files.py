"""Files are whole or absent, whatever fails between; the cache folder follows the environment."""

from contextlib import suppress

from seqdomains.files import atomic_file, atomic_folder, cache_folder, output_file


def test_what_fails_leaves_the_file_before_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with suppress(ZeroDivisionError), atomic_file(path) as partial:
        partial.write_text("half")
        partial.write_text(f"{1 / 0}")
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("a.txt", "before")]


def test_of_two_that_write_one_file_neither_removes_what_the_other_has_begun(tmp_path):
    path = tmp_path / "[a].tsv"
    with output_file(path) as mine:
        mine.write_text("mine")
        spool = mine.with_name(mine.name.replace(".partial", ".spool.partial"))
        spool.touch()
        with output_file(path) as theirs:
            theirs.write_text("theirs")
            assert mine.read_text() == "mine"
            assert spool.exists()
        assert path.read_text() == "theirs"
        spool.unlink()
    assert path.read_text() == "mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["[a].tsv"]


def test_what_killed_commands_left_of_a_file_goes_and_nothing_else_does(tmp_path):
    left = [".a.tsv.12-00ff00ff.partial", ".a.tsv.12-00ff00ff.spool.partial", ".a.tsv.9-12345678.partial"]
    others = [".b.tsv.12-00ff00ff.partial", ".a.tsv.partial", "a.tsv.12-00ff00ff.partial", ".a.tsv.12-00ff00ff.txt"]
    for name in (*left, *others):
        (tmp_path / name).touch()
    with suppress(ZeroDivisionError), output_file(tmp_path / "a.tsv") as partial:
        partial.write_text(f"{1 / 0}")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(others)


def test_what_fails_leaves_the_folder_before_and_nothing_else(tmp_path):
    with atomic_folder(tmp_path / "a") as partial:
        (partial / "old").touch()
    with suppress(ZeroDivisionError), atomic_folder(tmp_path / "a") as partial:
        (partial / "new").write_bytes(b"x")
        (partial / "newer").write_text(f"{1 / 0}")
    assert sorted(entry.relative_to(tmp_path).as_posix() for entry in tmp_path.rglob("*")) == ["a", "a/old"]
    with atomic_folder(tmp_path / "a") as partial:
        (partial / "new").touch()
    assert sorted(entry.relative_to(tmp_path).as_posix() for entry in tmp_path.rglob("*")) == ["a", "a/new"]


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SEQDOMAINS_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("SEQDOMAINS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "seqdomains"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "seqdomains"
