import pytest

from seqdomains.errors import InputError
from seqdomains.genomics.contigs import aliases_beside, canonical, homologue, read_aliases, resolve_contig
from seqdomains.genomics.species import GREAT_APES, find_species


@pytest.mark.parametrize(
    ("name", "chromosome"),
    [
        ("chr1", "1"),
        ("1", "1"),
        ("chrX", "X"),
        ("x", "X"),
        ("chr2A", "2A"),
        ("2b", "2B"),
        ("chrM", "M"),
        ("MT", "M"),
        ("NC_012920.1", "M"),
        ("NC_000001.11", "1"),
        ("NC_000024.10", "Y"),
        ("CM000663.2", "1"),
        ("CM000686.2", "Y"),
        ("NC_060925.1", "1"),
        ("NC_060948.1", "Y"),
        ("CP068277.2", "1"),
        ("CP068255.2", "X"),
        ("CP086569.2", "Y"),
        ("chr23", None),
        ("chr2C", None),
        ("chrUn_KI270302v1", None),
        ("chr1_KI270706v1_random", None),
        ("scaffold_1", None),
    ],
)
def test_canonical_names(name, chromosome):
    assert canonical(name) == chromosome


def test_t2t_names_tell_the_human_homologue():
    assert homologue("chr8_pat_hsa10") == "10"
    assert homologue("chr12_hap1_hsa2a") == "2A"
    assert homologue("chrX_hap1_hsaX") == "X"
    assert homologue("chr19_pat_hsa5x17") == "5x17"
    assert homologue("chr4_hsa5") == "5"
    assert homologue("chr1522_pat_hsa1421_random_utig4-145") is None


def test_simulated_headers_tell_the_human_homologue():
    assert homologue("anything", description="hsa=7 species=bonobo simulated") == "7"


def test_length_overrules_the_number_of_a_t2t_chromosome():
    gorilla, human = find_species("gorilla"), find_species("human")
    assert homologue("chr13", species=gorilla, length=134_695_396) == "9"
    assert homologue("NC_073230.2", species=gorilla, length=134_695_396) == "9"
    assert homologue("chr13", species=gorilla, length=134_695_397) == "13"
    assert homologue("chr9", species=human, length=150_617_247) == "9"


def test_nearest_names_are_listed():
    with pytest.raises(
        InputError, match=r"a\.fa has no contig 'chr55'; the nearest names are 'chr5', 'chr51', 'chr15'"
    ):
        resolve_contig("chr55", ["chr5", "chr15", "chr51", "chr2"], where="a.fa")


@pytest.mark.parametrize(("asked", "found"), [("5", "chr5"), ("chrM", "MT"), ("chrMT", "MT"), ("NC_000005.10", "chr5")])
def test_other_spellings_are_found(asked, found):
    assert resolve_contig(asked, ["chr5", "chr15", "MT"], where="a.fa") == found


def test_an_ambiguous_name_is_refused():
    with pytest.raises(InputError, match=r"'5' could be any of 'chr5', 'NC_000005.10'"):
        resolve_contig("5", ["chr5", "NC_000005.10"], where="a.fa")


def test_alias_tables(tmp_path):
    path = tmp_path / "mPanTro3.chromAlias.txt"
    path.write_text(
        "# genbank\trefseq\tucsc\nCM068907.2\tNC_072398.2\tchr1_hap1_hsa1\n\nCM068908.2\t\tchr2_hap1_hsa3\n"
    )
    aliases = read_aliases(path)
    assert aliases["CM068907.2"] == {"CM068907.2", "NC_072398.2", "chr1_hap1_hsa1"}
    assert aliases["chr2_hap1_hsa3"] == {"CM068908.2", "chr2_hap1_hsa3"}
    assert resolve_contig("chr1_hap1_hsa1", ["NC_072398.2"], where="a.fa", aliases=aliases) == "NC_072398.2"
    for name in ("mPanTro3.fa", "mPanTro3.fa.gz", "mPanTro3.fna.bgz"):
        assert aliases_beside(tmp_path / name) == path
    assert aliases_beside(tmp_path / "other.fa") is None


def test_bad_alias_tables(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("# a\tb\none two\n")
    with pytest.raises(InputError, match="line 2: expected tab-separated"):
        read_aliases(path)
    with pytest.raises(InputError, match=r"cannot be read as a table of contig aliases: No such file or directory$"):
        read_aliases(tmp_path / "none.txt")


def test_homologues_within_a_species_are_distinct():
    for species in GREAT_APES:
        if species.name != "orangutan":  # two assemblies
            found = list(species.homologue_of_length.values())
            assert len(found) == len(set(found))


def test_an_alias_table_that_names_one_contig_everywhere_is_read_in_time(tmp_path):
    path = tmp_path / "x.chromAlias.txt"
    path.write_text("".join(f"same\t{number}\n" for number in range(20_000)))
    aliases = read_aliases(path)
    assert len(aliases["same"]) == 20_001
    assert aliases["7"] == {"same", "7"}


def test_a_line_of_very_many_aliases_is_refused(tmp_path):
    path = tmp_path / "x.chromAlias.txt"
    path.write_text("\t".join(map(str, range(101))))
    with pytest.raises(InputError, match="line 1: 101 names of one contig, expected at most 100"):
        read_aliases(path)
