from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pysam
import pytest

from seqdomains.download import Downloader
from seqdomains.errors import InputError
from seqdomains.genomics import assemblies
from seqdomains.genomics.assemblies import Shelf, fetched_genomes
from seqdomains.genomics.contigs import read_aliases
from seqdomains.genomics.corpus import read_corpus
from seqdomains.genomics.data_config import SpeciesData
from seqdomains.genomics.faidx import FastaFile
from seqdomains.genomics.registry import Assembly, AssemblySet

ROOT = Path(__file__).parents[2]
LENGTHS = {"chr4_hap1_hsa5": 800_000, "chr3_hap1_hsa4": 700_000}
BLOCK = 1 << 18  # bytes that are written at once
TEXTS = {
    name: "".join(np.random.default_rng(length).choice(list("ACGTacgt"), length)) for name, length in LENGTHS.items()
}
FASTA = "".join(
    f">NC_{number}.1 chromosome {number}\n" + "".join(f"{text[at : at + 60]}\n" for at in range(0, len(text), 60))
    for number, text in enumerate(TEXTS.values())
).encode()
PACKED = gzip.compress(FASTA, mtime=0)
REPORT = "# Sequence-Name\tetc\r\n" + "".join(
    f"{name}\tassembled-molecule\t4\tChromosome\tCP{number}.1\t=\tNC_{number}.1\tPrimary\t{length}\tna\r\n"
    for number, (name, length) in enumerate(LENGTHS.items())
)
FOLDER = "GCF/1/GCF_1.2_NHGRI_mMini-v2.1_pri"
GENOME = "GCF_1.2_NHGRI_mMini-v2.1_pri_genomic.fna.gz"


def md5(content):
    return hashlib.md5(content).hexdigest()  # noqa: S324


def files(content=PACKED, **more):
    return {
        "GCF/1/": b'<a href="../">up</a> <a href="GCF_1.2_NHGRI_mMini-v2.1_pri/">x</a> <a href="GCF_1.1_old/">y</a>',
        f"{FOLDER}/md5checksums.txt": f"{md5(content)}  ./{GENOME}\n".encode(),
        f"{FOLDER}/GCF_1.2_NHGRI_mMini-v2.1_pri_assembly_report.txt": REPORT.encode(),
        f"{FOLDER}/{GENOME}": content,
    } | more


def mini(**changes):
    facts = {
        "name": "mMini",
        "species": "chimpanzee",
        "accession": "GCF_1.2",
        "folder": "GCF/1/GCF_1.2_*",
        "genome": "{folder}_genomic.fna.gz",
        "checksums": "md5checksums.txt",
        "report": "{folder}_assembly_report.txt",
        "chromosomes": {"5": 800_000, "4": 700_000},
    }
    return Assembly(**(facts | changes))


def shelf(site, folder, **options):
    options = {"downloader": Downloader(attempts=2, timeout=5, wait=lambda seconds: None)} | options
    return Shelf(folder, site.url, **options)


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != assemblies.LOCK)


def test_fetched_bgzipped_indexed_and_recorded(serve, tmp_path):
    shown = []
    own = shelf(serve(files()), tmp_path, show=lambda *words: shown.append(words))
    assert own.state(mini()) == "absent"
    genome = own.fetch(mini())
    assert genome == tmp_path / "chimpanzee.mMini.fa.gz"
    assert gzip.decompress(genome.read_bytes()) == FASTA
    assert pysam.FastaFile(str(genome)).fetch("NC_0.1", 100, 160) == TEXTS["chr4_hap1_hsa5"][100:160]
    assert FastaFile(genome).lengths == (800_000, 700_000)
    assert visible(tmp_path) == [
        *(f"chimpanzee.mMini.{end}" for end in ("checksums.txt", "chromAlias.txt", "fa.gz", "fa.gz.fai", "fa.gz.gzi")),
        *(f"chimpanzee.mMini.{end}" for end in ("json", "report.txt")),
    ]
    assert "chr4_hap1_hsa5" in read_aliases(tmp_path / "chimpanzee.mMini.chromAlias.txt")["NC_0.1"]
    # RefSeq's names tell no homologue; the report's names do.
    assert read_corpus(SpeciesData(paths=(genome,)), least_classes=1).homologues == ("5", "4")
    record = json.loads((tmp_path / "chimpanzee.mMini.json").read_text())
    assert record["url"].endswith(f"{FOLDER}/{GENOME}")
    assert record["download"] == {
        "size": len(PACKED),
        "md5": md5(PACKED),
        "sha256": hashlib.sha256(PACKED).hexdigest(),
    }
    assert record["genome"]["sha256"] == hashlib.sha256(genome.read_bytes()).hexdigest()
    assert (record["genome"]["contigs"], record["genome"]["bases"]) == (2, 1_500_000)
    assert set(record["beside"]) == {name for name in visible(tmp_path) if name.endswith(".txt")}
    assert list(dict.fromkeys(stage for stage, _, _ in shown)) == [
        f"{what} chimpanzee.mMini" for what in ("fetch", "bgzip", "index")
    ]
    assert own.state(mini()) == "fetched"


def test_what_is_here_is_not_fetched_again_and_what_is_damaged_is(serve, tmp_path):
    site = serve(files())
    own = shelf(site, tmp_path)
    genome = own.fetch(mini())
    before = len(site.seen)
    assert own.fetch(mini()) == genome
    assert len(site.seen) == before
    name = "chimpanzee.mMini"
    whole = len(genome.read_bytes())
    for damage, told in (
        (lambda: genome.write_bytes(b"cut"), f"{name}.fa.gz has 3 bytes, and {whole} when it was fetched"),
        (lambda: genome.unlink(), f"{name}.fa.gz is missing"),
        (lambda: (tmp_path / f"{name}.fa.gz.gzi").unlink(), f"{name}.fa.gz.gzi is missing"),
        (
            lambda: (tmp_path / f"{name}.json").write_text('{"genome": [], "download": 1}'),
            f"{name}.json, which says what was fetched, is missing or cannot be read",
        ),
        (
            lambda: (tmp_path / f"{name}.json").unlink(),
            f"{name}.json, which says what was fetched, is missing or cannot be read",
        ),
    ):
        damage()
        assert own.state(mini()) == f"damaged: {told}"
        own.fetch(mini())
        assert gzip.decompress(genome.read_bytes()) == FASTA


def test_another_assembly_of_the_same_name_is_fetched(serve, tmp_path):
    own = shelf(serve(files()), tmp_path)
    own.fetch(mini())
    told = "another: its record has another accession, size or sum than the registry"
    assert own.state(mini(accession="GCF_1.3")) == told
    assert own.state(mini(md5="0" * 32)) == told


@pytest.mark.parametrize("form", ["plain", "bgzip"])
def test_plain_and_bgzip_files(serve, tmp_path, form):
    content = FASTA
    if form == "bgzip":
        with pysam.BGZFile(str(tmp_path / "x.gz"), "wb") as handle:
            handle.write(FASTA)
        content = (tmp_path / "x.gz").read_bytes()
    own = shelf(serve(files(content)), tmp_path / "own")
    with own.locked():
        genome = own.fetch(mini())
    assert gzip.decompress(genome.read_bytes()) == FASTA
    assert form == "plain" or genome.read_bytes() == content


def test_without_a_table_of_aliases(serve, tmp_path, caplog):
    genome = shelf(serve(files()), tmp_path).fetch(mini(aliases="x.chromAlias.txt"))
    assert gzip.decompress(genome.read_bytes()) == FASTA
    assert "chimpanzee.mMini has no table of other names: " in caplog.text
    assert (tmp_path / "chimpanzee.mMini.chromAlias.txt").exists()  # from the report


def test_a_dropped_connection_goes_on(serve, tmp_path):
    site = serve(files(), drop_after=[300_000])
    genome = shelf(site, tmp_path).fetch(mini())
    assert gzip.decompress(genome.read_bytes()) == FASTA
    assert [asked for path, asked in site.seen if path.endswith(GENOME)] == [None, "bytes=300000-"]


def test_a_wrong_checksum_is_refused_and_leaves_nothing(serve, tmp_path):
    site = serve(files(**{f"{FOLDER}/{GENOME}": PACKED[:-1] + b"x"}))
    with pytest.raises(
        InputError, match=rf"{GENOME}: what came has the md5 \w+, expected {md5(PACKED)}; it was removed"
    ):
        shelf(site, tmp_path).fetch(mini())
    assert visible(tmp_path) == [f"chimpanzee.mMini.{end}.txt" for end in ("checksums", "chromAlias", "report")]


def test_a_part_of_other_bytes_is_fetched_once_more(serve, tmp_path):
    """A mirror without ETags may have changed the file between two days."""
    site = serve(files(**{f"{FOLDER}/{GENOME}": PACKED[::-1]}), drop_after=[300_000], tags=False)
    with pytest.raises(InputError, match="no answer"):
        shelf(site, tmp_path, downloader=Downloader(attempts=1)).fetch(mini())
    site.files[f"{FOLDER}/{GENOME}"] = PACKED
    genome = shelf(site, tmp_path).fetch(mini())
    assert gzip.decompress(genome.read_bytes()) == FASTA
    assert [asked for path, asked in site.seen if path.endswith(GENOME)] == [None, "bytes=300000-", None]


@pytest.mark.parametrize(
    ("changes", "content", "message"),
    [
        ({"md5": "0" * 32}, {}, r"the provider says md5 \w+, the registry 0{32}: the file was changed"),
        ({"sha256": "0" * 64}, {}, r"what came has the sha256 \w+, expected 0{64}"),
        (
            {},
            {f"{FOLDER}/md5checksums.txt": b"nothing\n"},
            r"md5checksums\.txt does not list GCF.*could not be checked",
        ),
        ({}, {"GCF/1/": b"<html>"}, r"/GCF/1/ lists none, expected one folder that begins with GCF_1\.2_"),
        (
            {},
            {"GCF/1/": b'<a href="/x/GCF_1.2_a/"></a><a href=\'GCF_1.2_b\'></a><a href="GCF_1.2_%2e%2e%2fc/"></a>'},
            r"/GCF/1/ has GCF_1\.2_a, GCF_1\.2_b, expected one folder",
        ),
        ({"folder": "GCF/2"}, {}, r"/GCF/2/md5checksums\.txt: the server says 404"),
        ({"chromosomes": {"7": 41}}, {}, r"no contig has the 41 bp of the chromosome homologous to human 7"),
        ({"size": 5}, {}, rf"the server has {len(PACKED):,} bytes, the registry says 5"),
        (
            {},
            {f"{FOLDER}/GCF_1.2_NHGRI_mMini-v2.1_pri_assembly_report.txt": REPORT.replace("800000", "800001").encode()},
            r"contig 'NC_0\.1' has 800,000 bp, the provider's report says 800,001",
        ),
        (
            {},
            {f"{FOLDER}/GCF_1.2_NHGRI_mMini-v2.1_pri_assembly_report.txt": b"<html>moved</html>"},
            r"report\.txt, line 1: expected a contig and its length, found '<html>",
        ),
    ],
)
def test_what_the_provider_may_not_send(serve, tmp_path, changes, content, message):
    with pytest.raises(InputError, match=message):
        shelf(serve(files(**content)), tmp_path).fetch(mini(**changes))
    assert not list(tmp_path.glob("*.fa.gz*"))
    assert not list(tmp_path.glob(".*.work"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PACKED[:-100], r"is no whole gzip file \(Compressed file ended"),
        (gzip.compress(FASTA + b"@@@@\n"), r"'@'"),
        (b"", "is empty"),
    ],
)
def test_bad_genomes_whose_checksum_is_right(serve, tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        shelf(serve(files(content)), tmp_path).fetch(mini())
    assert not list(tmp_path.glob("*.fa.gz*"))


def test_room_is_looked_for_before_the_download(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=600_000))
    site = serve(files())
    with pytest.raises(InputError, match=r"chimpanzee\.mMini takes about 0\.0 GB, 0\.0 GB are free: make room"):
        shelf(site, tmp_path).fetch(mini())
    assert not list(tmp_path.glob(".*.part"))


def test_a_second_fetch_waits_for_the_first(serve, tmp_path, caplog):
    own = shelf(serve(files()), tmp_path)
    done = []

    def second():
        with own.locked():
            done.append(own.fetch(mini()))

    with caplog.at_level("INFO", "seqdomains"):
        with own.locked():
            thread = threading.Thread(target=second)
            thread.start()
            deadline = time.monotonic() + 10
            while "another command fetches into" not in caplog.text and time.monotonic() < deadline:
                time.sleep(0.01)
            assert not done
            own.fetch(mini())
        thread.join(10)
    assert len(done) == 1
    assert "is here" in caplog.text


def test_a_folder_that_cannot_be_made(tmp_path, serve):
    (tmp_path / "file").write_text("")
    lock = shelf(serve({}), tmp_path / "file" / "x").locked()
    with pytest.raises(InputError, match=r"cannot write .*/file/x: Not a directory; choose another --out"), lock:
        pass


PROGRAM = """
import sys
from pathlib import Path
from seqdomains.genomics.assemblies import Shelf
from seqdomains.genomics.registry import Assembly
def show(what, done, total):
    print(what, done, flush=True)
    if what.startswith(sys.argv[4]):
        sys.stdin.read()
own = Shelf(Path(sys.argv[1]), sys.argv[2], show=show)
with own.locked():
    own.fetch(Assembly.model_validate_json(sys.argv[3]))
"""


@pytest.mark.parametrize("stage", ["fetch", "bgzip", "index"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_anywhere_the_next_fetch_goes_on(serve, tmp_path, stage, how):
    held = threading.Event()
    site = serve(files(), drop_after=[300_000] if stage == "fetch" else [], held=held)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path), site.url, mini().model_dump_json(), stage],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    for line in process.stdout:
        if line.startswith(stage):
            break
    process.send_signal(how)
    process.communicate(timeout=20)
    held.set()
    assert process.returncode != 0
    assert not list(tmp_path.glob("*.fa.gz*"))
    assert shelf(site, tmp_path).state(mini()).startswith("begun")
    with shelf(site, tmp_path).locked():
        genome = shelf(site, tmp_path).fetch(mini())
    assert gzip.decompress(genome.read_bytes()) == FASTA
    assert [name for name in visible(tmp_path) if name.startswith(".")] == []
    asked = [asked for path, asked in site.seen if path.endswith(GENOME)]
    assert asked == ([None, f"bytes={BLOCK}-"] if stage == "fetch" else [None])


def test_stopped_before_the_record_is_written_it_is_no_genome_yet(serve, tmp_path, monkeypatch):
    def stop(record, indent):
        raise KeyboardInterrupt

    site = serve(files())
    with monkeypatch.context() as patch:
        patch.setattr(assemblies, "json", SimpleNamespace(dumps=stop))
        with pytest.raises(KeyboardInterrupt):
            shelf(site, tmp_path).fetch(mini())
    assert (tmp_path / "chimpanzee.mMini.fa.gz").exists()
    assert shelf(site, tmp_path).state(mini()).startswith("begun")
    shelf(site, tmp_path).fetch(mini())
    assert shelf(site, tmp_path).state(mini()) == "fetched"
    assert [asked for path, asked in site.seen if path.endswith(GENOME)] == [None]


def test_fetched_genomes_of_a_set(serve, tmp_path):
    site = serve(files())
    own = AssemblySet(base_url=site.url, assemblies=(mini(), mini(name="other", species="human", extra=True)))
    assert fetched_genomes(tmp_path, own) == {}
    genome = shelf(site, tmp_path).fetch(mini())
    assert fetched_genomes(tmp_path, own) == {"chimpanzee": genome}
