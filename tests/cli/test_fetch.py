"""genomics fetch, and the whole way from a registry to classes, on small local assemblies over HTTP."""

from __future__ import annotations

import gzip
import hashlib
import json
import signal
import threading

import pytest

from seqdomains.cli import assemblies
from seqdomains.genomics.registry import read_registry
from seqdomains.genomics.simulate import SimulationConfig, simulate
from seqdomains.genomics.species import SPECIES_NAMES
from seqdomains.strict_yaml import dump_yaml

# T2T apes number their chromosomes by size, so that number and human homologue differ.
T2T_NAMES = {2: "chr3_hap1_hsa{}", 4: "chr4_hap1_hsa{}", 5: "chr5_pat_hsa{}", 7: "chr6_hap1_hsa{}"}


@pytest.fixture(scope="session")
def small_assemblies(tmp_path_factory):
    """Files of a site with an assembly of each species, SIMULATED, whose chromosomes are named as in T2T assemblies."""
    folder = tmp_path_factory.mktemp("small") / "apes"
    simulate(SimulationConfig(chromosomes=(2, 4, 5, 7), chromosome_length=20_000, density=256), folder)
    files = {}
    for species in SPECIES_NAMES:
        text = (folder / f"{species}.fa").read_text()
        lines, lengths = [], {}
        for line in text.splitlines():
            if line.startswith(">"):
                hsa = int(line.split()[0].removeprefix(">chr"))
                name = T2T_NAMES[hsa].format("17x5" if (species, hsa) == ("gorilla", 4) else hsa)
                lines.append(f">{name} SIMULATED")
            else:
                lengths[name] = lengths.get(name, 0) + len(line)
                lines.append(line)
        content = gzip.compress("\n".join([*lines, ""]).encode(), mtime=0)
        md5 = hashlib.md5(content).hexdigest()  # noqa: S324
        files[f"{species}/x.fa.gz"] = content
        files[f"{species}/md5sum.txt"] = f"{md5}  x.fa.gz\n".encode()
        files[f"{species}/sizes"] = "".join(f"{name}\t{length}\n" for name, length in lengths.items()).encode()
    return files


@pytest.fixture
def registry(serve, small_assemblies, tmp_path):
    """Return a site with these assemblies, and the registry that names them."""

    def make(species=SPECIES_NAMES, **options):
        site = serve(dict(small_assemblies), **options)
        entries = [
            {
                "name": "mini",
                "species": name,
                "folder": name,
                "genome": "x.fa.gz",
                "checksums": "md5sum.txt",
                "report": "sizes",
            }
            for name in species
        ]
        path = tmp_path / "registry.yaml"
        path.write_text(dump_yaml({"local": {"base_url": site.url, "assemblies": entries}}))
        return site, path

    return make


def test_dry_run_names_addresses_and_asks_nobody(seqdomains, registry, tmp_path):
    site, path = registry()
    outcome = seqdomains("genomics", "fetch", "--registry", path, "--out", tmp_path / "own", "--dry-run")
    assert outcome.code == 0, outcome.err
    lines = [line.split("\t") for line in outcome.out.splitlines()]
    assert lines[0] == ["#assembly", "species", "accession", "from", "to", "state"]
    assert lines[1][3:] == [f"{site.url}/human/", str(tmp_path / "own" / "human.mini.fa.gz"), "absent"]
    assert not site.seen
    assert not (tmp_path / "own").exists()
    built_in = seqdomains(
        "genomics", "fetch", "--assemblies", "ucsc", "--base-url", "https://mirror.example/g/", "--dry-run"
    )
    assert "https://mirror.example/g/hg38/bigZips/\t" in built_in.out
    assert built_in.out.count("\n") == 6


def test_fetch_some_then_the_rest(seqdomains, registry, tmp_path):
    site, path = registry(drop_after=[3_000])
    some = seqdomains("genomics", "fetch", "--registry", path, "--out", tmp_path / "own", "--only", "gorilla")
    assert some.code == 0, some.err
    assert some.out == f"gorilla\t{tmp_path / 'own' / 'gorilla.mini.fa.gz'}\n"
    assert "the connection ended early; again in 1 s" in some.err
    everything = seqdomains("genomics", "fetch", "--registry", path, "--out", tmp_path / "own")
    assert everything.code == 0, everything.err
    assert everything.out.count("\n") == 5
    assert f"--species great-apes --data {tmp_path / 'own'}" in everything.err
    assert len([name for name, _ in site.seen if name == "gorilla/x.fa.gz"]) == 2


def test_one_that_fails_leaves_the_others(seqdomains, registry, tmp_path):
    site, path = registry(species=SPECIES_NAMES[:3])
    site.files["chimpanzee/x.fa.gz"] = site.files["human/x.fa.gz"]
    one = seqdomains("genomics", "fetch", "--registry", path, "--out", tmp_path / "own")
    assert one.code == 1
    assert one.err.count("chimpanzee/x.fa.gz: what came has the md5") == 1
    assert "1 of 3 assemblies not fetched" in one.error
    assert [line.split("\t")[0] for line in one.out.splitlines()] == ["human", "bonobo"]
    del site.files["human/x.fa.gz"], site.files["bonobo/x.fa.gz"]
    for species in ("human", "bonobo"):
        (tmp_path / "own" / f"{species}.mini.json").unlink()
    several = seqdomains("genomics", "fetch", "--registry", path, "--out", tmp_path / "own")
    assert several.code == 1
    assert "3 of 3 assemblies not fetched" in several.error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--assemblies", "hg19"], "--assemblies hg19: no such set of assemblies; there are t2t, ucsc"),
        (["--only", "gibbon"], "--only gibbon: no assembly or species of this set"),
        (["--base-url", "ftp://x"], "--base-url: expected an address such as https://example.org/genomes/"),
        (["--registry", "none.yaml"], "--registry none.yaml: cannot be read"),
    ],
)
def test_bad_commands(seqdomains, options, message):
    outcome = seqdomains("genomics", "fetch", *options)
    assert outcome.code == 2
    assert message in outcome.error


def test_a_registry_of_ones_own_needs_a_folder_and_a_choice(seqdomains, registry, tmp_path):
    _, path = registry()
    outcome = seqdomains("genomics", "fetch", "--registry", path)
    assert outcome.code == 2
    assert "--registry goes with --out" in outcome.error
    path.write_text(path.read_text() + path.read_text().replace("local:", "other:"))
    outcome = seqdomains("genomics", "fetch", "--registry", path, "--out", tmp_path / "own")
    assert outcome.code == 2
    assert "has local, other; choose one of them" in outcome.error


def test_species_that_train_would_not_recognise(seqdomains, registry, tmp_path):
    _, path = registry(species=("human", "gorilla"))
    path.write_text(path.read_text().replace("species: human", "species: gibbon").replace("name: mini", "name: hg38"))
    outcome = seqdomains("genomics", "fetch", "--registry", path, "--out", tmp_path / "own")
    assert outcome.code == 2
    assert "'gibbon' is none of the species human, chimpanzee" in outcome.err
    assert "'gorilla.hg38' names more than one species: human, gorilla" in outcome.err


def test_interrupted_the_same_command_goes_on(start, seqdomains, registry, tmp_path):
    held = threading.Event()
    site, path = registry(species=("human",), drop_after=[12_000], held=held)
    command = ("genomics", "fetch", "--registry", path, "--out", tmp_path / "own")
    process = start(*command)
    while not any(name == "human/x.fa.gz" for name, _ in site.seen):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    held.set()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert seqdomains(*command).code == 0
    record = json.loads((tmp_path / "own" / "human.mini.json").read_text())
    assert record["download"]["size"] == len(site.files["human/x.fa.gz"])


@pytest.fixture
def fetched(seqdomains, registry, tmp_path):
    """Return the registry, and a folder of what it names."""
    _, path = registry()
    outcome = seqdomains("genomics", "fetch", "--registry", path, "--out", tmp_path / "own")
    assert outcome.code == 0, outcome.err
    return path, tmp_path / "own"


def test_a_dry_run_says_what_is_damaged(seqdomains, fetched):
    path, own = fetched
    (own / "human.mini.fa.gz").write_bytes(b"cut")
    (own / "bonobo.mini.fa.gz").unlink()
    (own / "bonobo.mini.json").unlink()
    outcome = seqdomains("genomics", "fetch", "--registry", path, "--out", own, "--dry-run")
    assert outcome.code == 0, outcome.err
    states = {line.split("\t")[1]: line.split("\t")[-1] for line in outcome.out.splitlines()[1:]}
    assert states.pop("human").startswith("damaged: human.mini.fa.gz has 3 bytes, and ")
    assert states.pop("bonobo") == "absent"
    assert set(states.values()) == {"fetched"}


def test_fetch_then_train_then_predict(seqdomains, fetched, tmp_path):
    """From a registry to classes; the assemblies are SIMULATED, their files are as real ones are."""
    _, own = fetched
    # Read by position, as genomes of gigabytes are.
    trained = seqdomains(
        *("genomics", "train", "--species", "great-apes", "--preset", "tiny", "--set", "data.memory_mb=0"),
        *("--data", own, "--out", tmp_path / "run"),
    )
    assert trained.code == 0, trained.err
    assert "working on SIMULATED" not in trained.err
    assert "SIMULATED data" in trained.out  # their headers say so
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert result["classes"] == list(SPECIES_NAMES)
    assert f"Assemblies: {', '.join(sorted(f'{name}.mini.fa.gz' for name in SPECIES_NAMES))}." in result["notes"]
    assert any(note.startswith("1 of 20 contigs are on neither side of the split") for note in result["notes"])
    windows = [line.split("\t") for line in (tmp_path / "run" / "test_windows.bed").read_text().splitlines()[1:]]
    assert {row[0] for row in windows} == {"chr5_pat_hsa5", "chr6_hap1_hsa7"}
    predicted = seqdomains("genomics", "predict", tmp_path / "run", own / "gorilla.mini.fa.gz", "--stride", "5000")
    assert predicted.code == 0, predicted.err
    header, *rows = predicted.out.splitlines()
    assert header.split("\t")[4:] == [f"p_{name}" for name in SPECIES_NAMES]
    assert {row.split("\t")[0] for row in rows} == {
        "chr3_hap1_hsa2", "chr4_hap1_hsa17x5", "chr5_pat_hsa5", "chr6_hap1_hsa7",
    }  # fmt: skip


def test_train_takes_what_was_fetched(seqdomains, fetched, monkeypatch):
    path, own = fetched
    sets, paths = read_registry(path), []
    monkeypatch.setattr(assemblies, "read_registry", lambda: sets)
    monkeypatch.setattr(assemblies, "assemblies_folder", lambda name: own)
    monkeypatch.setattr(
        "seqdomains.cli.species.train_and_evaluate",
        lambda config, *words, **more: paths.append(list(config.data.paths)),
    )

    def train(*options):
        outcome = seqdomains("genomics", "train", "--species", "great-apes", *options)
        assert outcome.code == 0, outcome.err
        return outcome.err, paths.pop()

    genomes = [own / f"{name}.mini.fa.gz" for name in SPECIES_NAMES]
    told, taken = train()
    assert f"working on the REAL assemblies in {own}; --set data.paths=[] takes SIMULATED ones" in told
    assert taken == genomes
    for choice in (["--set", "data.paths=[]"], ["--set", "data.simulation.seed=3"], ["--data", own]):
        told, taken = train(*choice)
        assert "REAL" not in told
        assert taken == choice[1:] * (choice[0] == "--data")
    (own / "gorilla.mini.json").unlink()
    told, taken = train()
    assert (
        f"{own} has bonobo, chimpanzee, human, orangutan: too few for great apes; `seqdomains genomics fetch`" in told
    )
    assert taken == []
