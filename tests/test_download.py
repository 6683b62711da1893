from __future__ import annotations

import gzip
import io
import json

import numpy as np
import pytest
import requests

from seqdomains import download
from seqdomains.download import Downloader
from seqdomains.errors import InputError

CONTENT = np.random.default_rng(0).bytes(1_000_000)


@pytest.fixture
def part(tmp_path):
    return tmp_path / "genome.part"


@pytest.fixture
def waits():
    return []


@pytest.fixture
def downloader(waits):
    return Downloader(attempts=4, timeout=5, wait=waits.append)


def ranges(site):
    return [asked for path, asked in site.seen if path == "x.gz"]


def test_a_file_comes_whole_and_progress_is_told(serve, part, downloader):
    site, told, asked = serve({"x.gz": CONTENT}), [], []
    came_from = downloader.fetch(
        f"{site.url}/x.gz", part, progress=lambda done, size: told.append((done, size)), room=asked.append
    )
    assert part.read_bytes() == CONTENT
    assert came_from == f"{site.url}/x.gz"
    assert told[-1] == (1_000_000, 1_000_000)
    assert asked == [1_000_000]
    assert ranges(site) == [None]


def test_dropped_connections_go_on_where_they_ended(serve, part, downloader, waits):
    site, asked = serve({"x.gz": CONTENT}, drop_after=[300_000, 0, 400_000]), []
    downloader.fetch(f"{site.url}/x.gz", part, room=asked.append)
    assert part.read_bytes() == CONTENT
    assert ranges(site) == [None, "bytes=300000-", "bytes=300000-", "bytes=700000-"]
    assert waits == [1, 2, 1]
    assert asked == [1_000_000, 700_000, 700_000, 300_000]


def test_a_later_process_goes_on_and_a_whole_file_asks_nothing(serve, part, waits):
    site = serve({"x.gz": CONTENT}, drop_after=[250_000])
    with pytest.raises(InputError, match=r"no answer \(the connection ended early\) in 1 attempts; repeat the command"):
        Downloader(attempts=1, wait=waits.append).fetch(f"{site.url}/x.gz", part)
    assert part.stat().st_size == 250_000
    Downloader(attempts=1).fetch(f"{site.url}/x.gz", part)
    assert part.read_bytes() == CONTENT
    Downloader(attempts=1).fetch(f"{site.url}/x.gz", part)
    assert ranges(site) == [None, "bytes=250000-"]


def test_a_server_without_ranges_sends_it_all_again(serve, part, downloader):
    site = serve({"x.gz": CONTENT}, drop_after=[300_000], ranges=False)
    downloader.fetch(f"{site.url}/x.gz", part)
    assert part.read_bytes() == CONTENT
    assert ranges(site) == [None, "bytes=300000-"]


@pytest.mark.parametrize("tags", [True, False])
def test_a_file_that_changed_in_between_begins_anew(serve, part, downloader, tags):
    site = serve({"x.gz": CONTENT}, drop_after=[300_000], tags=tags)
    with pytest.raises(InputError):
        Downloader(attempts=1).fetch(f"{site.url}/x.gz", part)
    site.files["x.gz"] = CONTENT[::-1] + b"longer"
    downloader.fetch(f"{site.url}/x.gz", part)
    assert part.read_bytes() == CONTENT[::-1] + b"longer"


def test_another_address_begins_anew(serve, part, downloader):
    site = serve({"x.gz": CONTENT, "y.gz": CONTENT[::-1]}, drop_after=[300_000])
    with pytest.raises(InputError):
        Downloader(attempts=1).fetch(f"{site.url}/x.gz", part)
    downloader.fetch(f"{site.url}/y.gz", part)
    assert part.read_bytes() == CONTENT[::-1]
    assert site.seen[-1] == ("y.gz", None)


def test_a_part_that_is_longer_than_the_file_or_without_a_note(serve, part, downloader):
    site = serve({"x.gz": CONTENT}, drop_after=[300_000])
    with pytest.raises(InputError):
        Downloader(attempts=1).fetch(f"{site.url}/x.gz", part)
    part.write_bytes(CONTENT * 2)
    downloader.fetch(f"{site.url}/x.gz", part)
    assert part.read_bytes() == CONTENT
    part.write_bytes(b"stranger")
    part.with_name("genome.part.json").write_text("{}")
    downloader.fetch(f"{site.url}/x.gz", part)
    assert part.read_bytes() == CONTENT


def test_a_length_that_is_not_told(serve, part, downloader):
    site = serve({"x.gz": CONTENT}, chunked=True)
    for _ in range(2):  # the second asks for what follows, and there is nothing
        downloader.fetch(f"{site.url}/x.gz", part)
        assert part.read_bytes() == CONTENT
    assert ranges(site) == [None, "bytes=1000000-"]


def test_busy_servers_are_asked_again_when_they_say(serve, part, downloader, waits):
    site = serve({"x.gz": CONTENT}, statuses=[503, 429])
    downloader.fetch(f"{site.url}/x.gz", part)
    assert part.read_bytes() == CONTENT
    assert waits == [7, 7]


def test_servers_that_stay_busy_are_given_up(serve, part, downloader, waits):
    site = serve({"x.gz": CONTENT}, statuses=[500] * 9)
    with pytest.raises(InputError, match=r"x\.gz: no answer \(the server says 500\) in 4 attempts"):
        downloader.fetch(f"{site.url}/x.gz", part)
    assert len(waits) == 3


def test_a_server_that_answered_once_is_asked_longer(serve, part, waits):
    cold = Downloader(timeout=5, wait=waits.append)
    site = serve({"x.gz": CONTENT}, statuses=[503] * 4)
    with pytest.raises(InputError, match="in 4 attempts"):
        cold.fetch(f"{site.url}/x.gz", part)
    site.drop_after = [300_000]
    site.statuses = []
    with pytest.raises(InputError, match="in 1 attempts"):
        Downloader(attempts=1).fetch(f"{site.url}/x.gz", part)
    site.statuses = [503] * 7
    cold.fetch(f"{site.url}/x.gz", part)
    assert part.read_bytes() == CONTENT


def test_what_is_not_there_is_not_asked_for_again(serve, part, downloader, waits):
    site = serve({})
    with pytest.raises(InputError, match="the server says 404 Not Found; it may have moved: give a mirror"):
        downloader.fetch(f"{site.url}/x.gz", part)
    assert not waits
    assert not part.exists()


def test_redirections_are_followed_and_endless_ones_are_not(serve, part, downloader):
    site = serve({"x.gz": CONTENT})
    site.redirect = {"old.gz": f"{site.url}/x.gz", "round.gz": f"{site.url}/round.gz"}
    assert downloader.fetch(f"{site.url}/old.gz", part) == f"{site.url}/x.gz"
    assert part.read_bytes() == CONTENT
    with pytest.raises(InputError, match=r"round\.gz: cannot be fetched \(Exceeded 30 redirects"):
        downloader.fetch(f"{site.url}/round.gz", part)


def test_what_cannot_be_written_is_named(serve, part, downloader, monkeypatch):
    site = serve({"x.gz": CONTENT})
    with pytest.raises(InputError, match=r"absent/genome\.part: cannot be written \(No such file or directory\); make"):
        downloader.fetch(f"{site.url}/x.gz", part.parent / "absent" / part.name)


def test_room_is_asked_for_before_bytes_come(serve, part, downloader):
    def refuse(size):
        raise InputError(f"no room for {size}")

    with pytest.raises(InputError, match="no room for 1000000"):
        downloader.fetch(f"{serve({'x.gz': CONTENT}).url}/x.gz", part, room=refuse)
    assert not part.exists()


def test_texts(serve, downloader, monkeypatch):
    site = serve({"a.txt": b"x" * 20_000, "b.txt": b"caf\xe9"}, drop_after=[5_000])
    assert downloader.text(f"{site.url}/a.txt") == "x" * 20_000
    assert downloader.text(f"{site.url}/b.txt") == "caf\ufffd"
    monkeypatch.setattr(download, "_MOST_TEXT", 1_000)
    with pytest.raises(InputError, match="expected a list of files or of contigs"):
        downloader.text(f"{site.url}/a.txt")


def test_a_packed_file_stays_packed(serve, part, downloader):
    """Some servers say that a .gz is encoded by gzip, upon which a client would unpack it."""
    content = gzip.compress(b">chr1\nACGT\n" * 1000)
    site = serve({"x.gz": content}, headers={"Content-Encoding": "gzip"})
    downloader.fetch(f"{site.url}/x.gz", part)
    assert part.read_bytes() == content


def test_the_note_says_where_a_part_is_from(serve, part, downloader):
    site = serve({"x.gz": CONTENT})
    downloader.fetch(f"{site.url}/x.gz", part)
    note = json.loads(part.with_name("genome.part.json").read_text())
    assert (note["url"], note["size"]) == (f"{site.url}/x.gz", 1_000_000)
    assert note["validator"].startswith('"')
    download.discard(part)
    assert not list(part.parent.iterdir())


def test_no_way_leads_from_https_to_http(part, downloader, monkeypatch):
    def answer(url, **options):
        response = requests.Response()
        response.status_code, response.url, response.raw = 200, "http://mirror.example/x.gz", io.BytesIO(b"x")
        return response

    monkeypatch.setattr(requests, "get", answer)
    with pytest.raises(InputError, match=r"leads to http://mirror\.example/x\.gz, which is not encrypted"):
        downloader.fetch("https://example.org/x.gz", part)
    assert not part.exists()
