import pytest

from seqdomains.errors import InputError
from seqdomains.genomics.species import GREAT_APES, SPECIES_NAMES, class_order, find_species
from seqdomains.genomics.splits import TEST_HOMOLOGUES, TRANSLOCATED

# genomics notes 1.7: lengths of the test group hsa 5, 7, 9, 10, 11 and sums over all chromosomes of the assemblies.
TEST_LENGTHS = {
    "human": [182_045_439, 160_567_428, 150_617_247, 134_758_134, 135_127_769],
    "chimpanzee": [178_964_043, 174_648_847, 118_863_153, 146_288_486, 136_991_367],
    "bonobo": [176_551_333, 196_309_857, 124_758_961, 147_028_407, 135_750_398],
    "gorilla": [None, 170_803_427, 134_695_396, 150_804_130, 147_876_701],
    "orangutan": [190_378_904, 156_966_991, 129_618_170, 140_854_135, 138_471_021],
}
TOTALS = {
    "human": 3_117_275_501,
    "chimpanzee": 3_177_739_762,
    "bonobo": 3_244_508_021,
    "gorilla": 3_545_834_224,
    "orangutan": 3_259_084_148 + 3_220_935_163,
}


@pytest.mark.parametrize("name", SPECIES_NAMES)
def test_chromosome_lengths_are_locked(name):
    lengths = find_species(name).homologue_of_length
    for hsa, length in zip(("5", "7", "9", "10", "11"), TEST_LENGTHS[name], strict=True):
        if length is None:
            assert hsa not in lengths.values()
            assert set(lengths.values()) >= TRANSLOCATED
        else:
            assert lengths[length] == hsa
    assert sum(lengths) == TOTALS[name]
    assert set(lengths.values()) & TEST_HOMOLOGUES


@pytest.mark.parametrize(
    ("name", "species"),
    [
        ("human.fa", "human"),
        ("chm13v2.0.fa.gz", "human"),
        ("GCA_009914755.4_T2T-CHM13v2.0_genomic.fna.gz", "human"),
        ("mPanTro3.pri.cur.20231122.fasta.gz", "chimpanzee"),
        ("GCF_028858775.2.fa.gz", "chimpanzee"),
        ("panPan3.fa", "bonobo"),
        ("Pan_paniscus.fna", "bonobo"),
        ("gorGor6.fa.gz", "gorilla"),
        ("mPonPyg2.fa", "orangutan"),
        ("GCF_028885655.2_NHGRI_mPonAbe1-v2.0_pri_genomic.fna", "orangutan"),
        ("humanoid.fa", None),
        ("refs.fasta", None),
    ],
)
def test_species_by_file_name(name, species):
    found = find_species(name)
    assert (found.name if found else None) == species


def test_a_name_of_two_species_is_refused():
    with pytest.raises(InputError, match="more than one species: human, chimpanzee"):
        find_species("human_chimp.fa")


def test_class_order():
    assert class_order(["orangutan", "human", "human", "bonobo"]) == ("human", "bonobo", "orangutan")
    assert class_order(["gorilla", "human", "gibbon"]) == ("gibbon", "gorilla", "human")
    assert [species.name for species in GREAT_APES] == list(SPECIES_NAMES)
