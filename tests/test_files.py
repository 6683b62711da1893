"""Files are whole or absent, whatever fails between; the cache folder follows the environment."""

from contextlib import suppress

from seqdomains.files import atomic_file, atomic_folder, cache_folder


def test_what_fails_leaves_the_file_before_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with suppress(ZeroDivisionError), atomic_file(path) as partial:
        partial.write_text("half")
        partial.write_text(f"{1 / 0}")
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("a.txt", "before")]


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
