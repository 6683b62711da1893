from __future__ import annotations

import pytest

from seqdomains.errors import ConfigError
from seqdomains.genomics.registry import read_registry
from seqdomains.genomics.species import SPECIES_NAMES, find_species

MINI = """
mini:
  base_url: http://127.0.0.1/genomes/
  assemblies:
    - {name: one, species: human, folder: a/b, genome: '{folder}.fa.gz', checksums: md5sum.txt}
"""


@pytest.fixture
def registry(tmp_path):
    def read(text):
        path = tmp_path / "registry.yaml"
        path.write_text(text)
        return read_registry(path)

    return read


def test_the_great_apes_have_every_species_in_each_set():
    sets = read_registry()
    assert list(sets) == ["t2t", "ucsc"]
    for found in sets.values():
        assert [assembly.species for assembly in found.chosen()] == list(SPECIES_NAMES)
        for assembly in found.assemblies:
            assert find_species(f"{assembly.stem}.fa.gz").name == assembly.species
            digits = assembly.accession.split("_")[1].split(".")[0]
            assert find_species(assembly.accession).name == assembly.species
            if found is sets["t2t"]:
                assert assembly.folder.startswith(f"{assembly.accession[:3]}/{digits[:3]}/{digits[3:6]}/{digits[6:]}/")
                assert len(assembly.chromosomes) == (24 if assembly.species == "human" else 25)


def test_known_checksums_are_locked():
    """Publicly confirmed for hg38 and CHM13; of the others the provider's own file has to tell."""
    known = {
        one.name: (one.size, one.md5, one.sha256) for found in read_registry().values() for one in found.assemblies
    }
    assert known.pop("hg38") == (
        983_659_424,
        "1c9dcaddfa41027f17cd8f7a82c7293b",
        "c1dd87068c254eb53d944f71e51d1311964fce8de24d6fc0effc9c61c01527d4",
    )
    assert known.pop("CHM13v2") == (None, "9280657210e4161147cbe13b022225b9", None)
    assert set(known.values()) == {(None, None, None)}


def test_only_names_species_or_assemblies():
    t2t = read_registry()["t2t"]
    assert [one.name for one in t2t.chosen(["orangutan"])] == ["mPonAbe1"]
    assert [one.name for one in t2t.chosen(["mPonPyg2", "human"])] == ["CHM13v2", "mPonPyg2"]
    with pytest.raises(
        ConfigError, match="--only gibbon: no assembly or species of this set; there are human, CHM13v2"
    ):
        t2t.chosen(["human", "gibbon"])


def test_a_registry_of_ones_own(registry):
    (found,) = registry(MINI).values()
    assert found.assemblies[0].stem == "human.one"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("name: one", "name: ../one", r"mini\.assemblies\.0\.name: expected a plain name .*; found '\.\./one'"),
        ("name: one", "name: .one", r"name: expected a plain name of letters, digits and"),
        ("species: human", "species: a/b", r"species: expected a plain name"),
        ("folder: a/b", "folder: a/../../b", r"folder: expected plain names divided by /, below base_url"),
        ("folder: a/b", "folder: .", r"folder: expected plain names divided by /, below base_url; .*; found '\.'"),
        ("folder: a/b", "folder: /etc", r"folder: expected plain names divided by /, below base_url"),
        ("folder: a/b", "folder: a*/b", r"folder: expected plain names divided by /, below base_url"),
        ("'{folder}.fa.gz'", "'../x.fa.gz'", r"genome: expected a plain name, with or without {folder}"),
        ("'{folder}.fa.gz'", "'{folder}/x.fa.gz'", r"genome: expected a plain name, with or without {folder}"),
        (", checksums: md5sum.txt", "", "no md5, sha256 or checksums: what is fetched could not be checked"),
        ("checksums:", "md5: abc, checksums:", r"md5: expected 32 digits 0-9a-f; found 'abc'"),
        ("checksums:", "checksum:", r"mini\.assemblies\.0\.checksum: Extra inputs are not permitted"),
        ("checksums:", "chromosomes: {'99x': 5}, checksums:", r"chromosomes\.99x.*: expected the number of a human"),
        ("checksums:", "chromosomes: {'5': 0}, checksums:", r"chromosomes\.5: Input should be greater than 0"),
        ("http://127.0.0.1/genomes/", "file:///etc/", "expected an address such as https://example"),
        ("http://127.0.0.1/genomes/", "http://a/../b", "expected an address such as https://example"),
        ("mini:", "../mini:", r"'../mini' is no name of a set"),
        (MINI, "[]", "expected sets of assemblies by name, found list"),
        (MINI, "mini: {base_url: 'http://a', assemblies: []}", "expected one at least, found none"),
    ],
)
def test_what_a_registry_may_not_say(registry, before, after, message):
    assert before in MINI
    with pytest.raises(ConfigError, match=message):
        registry(MINI.replace(before, after))


def test_one_assembly_twice(registry):
    with pytest.raises(ConfigError, match=r"mini: human\.one stands twice"):
        registry(MINI + MINI.splitlines()[-1] + "\n")


def test_all_problems_at_once(registry):
    with pytest.raises(ConfigError) as caught:
        registry(MINI.replace("name: one", "name: /").replace("folder: a/b", "folder: /"))
    assert len(caught.value.problems) == 2


def test_a_registry_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"--registry .*none\.yaml: cannot be read \(No such file or directory\)$"):
        read_registry(tmp_path / "none.yaml")
