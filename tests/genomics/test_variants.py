"""Alleles of a VCF as windows: by hand on strings, at contig ends, under other names, and what has none."""

from __future__ import annotations

import gzip

import numpy as np
import pysam
import pytest

from seqdomains.errors import ConfigError, InputError
from seqdomains.genomics.alphabet import decode, encode, reverse_complement
from seqdomains.genomics.faidx import FastaFile
from seqdomains.genomics.variants import VariantReader, trim

WINDOW = 40
GENOME = "".join(np.random.default_rng(0).choice(list("ACGT"), size=300))
COLUMNS = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


@pytest.fixture
def reader(tmp_path):
    """Write a VCF of (contig, 1-based position, REF, ALT) and a genome, and read them."""

    def make(*records, genome=None, window=WINDOW, strands="forward", **options):
        contigs = {"chr1": GENOME} if genome is None else genome
        fasta, vcf = tmp_path / "r.fa", tmp_path / "v.vcf"
        fasta.with_name("r.fa.fai").unlink(missing_ok=True)
        fasta.write_text("".join(f">{name}\n{letters}\n" for name, letters in contigs.items()))
        rows = "".join(f"{contig}\t{at}\t.\t{ref}\t{alt}\t.\t.\t.\n" for contig, at, ref, alt in records)
        vcf.write_text(f"##fileformat=VCFv4.3\n{COLUMNS}{rows}")
        return VariantReader(vcf, FastaFile(fasta), window=window, strands=strands, **options)

    return make


def windows(reader):
    """The windows of each allele as letters, None for those without."""
    return [tuple(map(decode, variant.pairs[0])) if variant.pairs else None for variant in reader.variants()]


def by_hand(genome, at, ref, alt, window=WINDOW):
    """The two windows of a variant whose alleles share nothing at their ends."""
    start, end = at - 1, at - 1 + len(ref)
    flank = (window - max(len(ref), len(alt))) // 2
    left, right = genome[max(0, start - flank) : start], genome[end : end + flank]
    return left + ref + right, left + alt + right


def other(letter):
    return "ACGT"[("ACGT".index(letter) + 1) % 4]


@pytest.mark.parametrize("at", [1, 2, 15, 150, 299, 300])
def test_substitution(reader, at):
    ref = GENOME[at - 1]
    assert windows(reader(("chr1", at, ref, other(ref)))) == [by_hand(GENOME, at, ref, other(ref))]


@pytest.mark.parametrize("at", [1, 3, 150, 297])
def test_several_bases_at_once(reader, at):
    ref = GENOME[at - 1 : at + 3]
    alt = other(ref[0]) + ref[1:3] + other(ref[3])
    assert windows(reader(("chr1", at, ref, alt))) == [by_hand(GENOME, at, ref, alt)]


@pytest.mark.parametrize("at", [1, 10, 150, 300])
def test_insertion(reader, at):
    anchor = GENOME[at - 1]
    new = "ACG" + other(anchor)
    assert windows(reader(("chr1", at, anchor, anchor + new))) == [by_hand(GENOME, at + 1, "", new)]


@pytest.mark.parametrize("at", [1, 10, 150, 295])
def test_deletion(reader, at):
    ref = GENOME[at - 1 : at + 5]
    offset, gone, left = trim(encode(ref), encode(ref[0]))
    assert (len(gone), len(left)) == (5, 0)
    assert windows(reader(("chr1", at, ref, ref[0]))) == [by_hand(GENOME, at + offset, decode(gone), "")]


def test_spare_bases_around_an_allele_change_nothing(reader):
    ref = GENOME[149]
    bare, padded = (
        ("chr1", 150, ref, other(ref)),
        ("chr1", 147, GENOME[146:154], GENOME[146:149] + other(ref) + GENOME[150:154]),
    )
    first, second = windows(reader(bare, padded))
    assert first == second


def test_reverse_strand_is_the_reverse_complement(reader):
    (variant,) = reader(("chr1", 150, GENOME[149], other(GENOME[149])), strands="both").variants()
    forward, reverse = variant.pairs
    for one, turned in zip(forward, reverse, strict=True):
        np.testing.assert_array_equal(reverse_complement(one), turned)
    assert forward[0][len(forward[0]) // 2] == encode(GENOME[149])[0]


def test_case_and_codes_of_the_reference(reader):
    genome = {"chr1": GENOME[:100].lower() + "R" + GENOME[100:]}
    found = reader(
        ("chr1", 50, GENOME[49], other(GENOME[49])),
        ("chr1", 51, GENOME[50].lower(), other(GENOME[50]).lower()),
        ("chr1", 101, "A", "T"),  # as the specification writes R
        ("chr1", 101, "R", "T"),
        ("chr1", 101, "N", "T"),
        ("chr1", 102, GENOME[100], "N"),
        genome=genome,
    )
    assert [one is not None for one in windows(found)] == [True, True, True, False, False, False]
    assert found.tally == {"scored": 3, "N or another ambiguity code in the allele": 3}


def test_what_is_no_sequence_is_passed_through(reader):
    ref = GENOME[149]
    found = reader(
        ("chr1", 150, ref, f"{other(ref)},*,<DEL>,{ref}]chr1:7],.{ref},[chr1:9[{ref}"),
        ("chr1", 150, ref, "."),
        ("chr1", 150, ref, ref + "ACGT" * 2),
        ("chr1", 150, ref, ref + "ACGT" * 3),
        ("chr1", 1, "N", "<INS>"),
    )
    assert [one is None for one in windows(found)] == [False, *[True] * 6, False, *[True] * 2]
    assert found.tally == {
        "scored": 2,
        "* (deleted by another variant)": 1,
        "symbolic": 2,
        "breakend": 3,
        "no ALT": 1,
        "over 8 bp": 1,
    }
    assert (found.records, found.skipped) == (5, 0)


@pytest.mark.parametrize("name", ["chr1", "1", "NC_000001.11"])
def test_other_names_of_a_contig(reader, name):
    ref = GENOME[149]
    assert windows(reader((name, 150, ref, other(ref)))) == [by_hand(GENOME, 150, ref, other(ref))]


def test_alias_table_beside_the_reference(reader, tmp_path):
    (tmp_path / "r.chromAlias.txt").write_text("# refseq\tucsc\nNC_9.1\tscaffold_9\n")
    found = reader(("NC_9.1", 150, GENOME[149], other(GENOME[149])), genome={"scaffold_9": GENOME})
    assert windows(found)[0] is not None


def wrong(ref):
    return other(other(ref))


MISMATCHES = {
    "REF": (("chr1", 150, wrong(GENOME[149]), other(GENOME[149])), "record 2 (chr1:150): REF"),
    "contig": (("chr7_alt", 5, "A", "C"), "has no contig 'chr7_alt'; the nearest names are 'chr1'"),
    "end": (("chr1", 300, GENOME[299] + "A", "A"), "record 2 (chr1:300): REF of 2 bp is not within the 300 bp"),
    "telomere": (("chr1", 0, "A", "C"), "record 2 (chr1:0): REF of 1 bp is not within"),
}


@pytest.mark.parametrize("kind", MISMATCHES)
def test_mismatches(reader, kind):
    record, words = MISMATCHES[kind]
    good = ("chr1", 10, GENOME[9], other(GENOME[9]))
    with pytest.raises(InputError) as found:
        windows(reader(good, record))
    assert words in str(found.value)
    assert "--on-mismatch" in str(found.value)
    for policy in ("skip", "swap"):
        skipping = reader(good, record, on_mismatch=policy)
        assert [one is None for one in windows(skipping)] == [False, True]
        assert skipping.skipped == 1


def test_swapped_alleles_keep_the_sign_of_the_vcf(reader):
    there = GENOME[149]
    alt = other(there)
    swapped = reader(
        ("chr1", 150, alt, f"{there},{other(alt)}"),  # the second ALT is not what the genome has either
        ("chr1", 150, alt + GENOME[150], there),  # an anchor alone says nothing
        on_mismatch="swap",
    )
    assert windows(swapped) == [tuple(reversed(by_hand(GENOME, 150, there, alt))), None, None]
    assert (swapped.tally["swapped"], swapped.tally["scored"], swapped.skipped) == (1, 1, 2)


def test_swapping_on_a_genome_with_the_allele_swaps_the_windows(reader):
    """The same two windows, whichever allele is called REF: substitution, insertion, deletion."""
    for ref, alt in (
        (GENOME[149], other(GENOME[149])),
        (GENOME[149], GENOME[149] + "TT"),
        (GENOME[149:155], GENOME[149]),
    ):
        changed = {"chr1": GENOME[:149] + alt + GENOME[149 + len(ref) :]}
        (one,) = windows(reader(("chr1", 150, ref, alt)))
        (two,) = windows(reader(("chr1", 150, alt, ref), genome=changed))
        assert one == tuple(reversed(two))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("chr1\tx\t.\tA\tC\t.\t.\t.\n", ["record 2", "cannot be read", "POS"]),
        ("chr1\t5\t.\tA\n", ["record 2", "fewer than 8 columns"]),
        ("chr1 5 . A C . . .\n", ["record 2", "tabs"]),
        ("\n", ["record 2", "blank"]),
        ("chr1\t5\t.\tA!\tC\t.\t.\t.\n", ["record 2 (chr1:5)", "'!' in REF"]),
        ("chr1\t5\t.\t\tC\t.\t.\t.\n", ["record 2 (chr1:5)", "'.' in REF"]),
        ("chr1\t5\t.\tA\tC@\t.\t.\t.\n", ["record 2 (chr1:5)", "'@' in ALT"]),
        ("chr1\t5\t.\tA\t-\t.\t.\t.\n", ["record 2 (chr1:5)", "'-' in ALT"]),
    ],
)
def test_bad_lines(reader, tmp_path, body, words, capfd):
    good = f"chr1\t10\t.\t{GENOME[9]}\t<DEL>\t.\t.\t.\n"
    found = reader()
    (tmp_path / "v.vcf").write_text(f"##fileformat=VCFv4.3\n{COLUMNS}{good}{body}")
    found = VariantReader(tmp_path / "v.vcf", found.reference, window=WINDOW)
    with pytest.raises(InputError) as error:
        windows(found)
    assert all(word in str(error.value) for word in words), error.value
    assert capfd.readouterr().err == ""


def bad_file(folder, kind):
    """Write a bad file; returns it with the words that its error must hold."""
    path = folder / "bad.vcf.gz"
    rows = "".join(f"chr1\t{at}\t.\tA\t<DEL>\t.\t.\t.\n" for at in range(1, 20_000))
    (folder / "good.vcf").write_text(f"##fileformat=VCFv4.3\n{COLUMNS}{rows}")
    pysam.tabix_compress(str(folder / "good.vcf"), str(path), force=True)
    data = path.read_bytes()
    if kind == "absent":
        return folder / "absent.vcf", "does not exist"
    if kind == "folder":
        return folder, "is a folder: give the path of a VCF file"
    if kind == "empty":
        path.write_bytes(b"")
        return path, "is not VCF"
    if kind == "fasta":
        return folder / "r.fa", "is not VCF"
    if kind == "truncated":
        path.write_bytes(data[:-100])
        return path, "compress it again"
    if kind == "cut":
        path.write_bytes(data[:-100] + data[-28:])
        return path, "damaged"
    if kind == "flipped":
        path.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 255]) + data[len(data) // 2 + 1 :])
        return path, "damaged"
    path.write_bytes(gzip.compress((folder / "good.vcf").read_bytes()))
    return path, "bgzip"


@pytest.mark.parametrize("kind", ["absent", "folder", "empty", "fasta", "truncated", "cut", "flipped", "gzip"])
def test_bad_files(reader, tmp_path, kind, capfd):
    reference = reader().reference
    path, words = bad_file(tmp_path, kind)
    with pytest.raises(InputError) as error:
        windows(VariantReader(path, reference, window=WINDOW))
    assert words in str(error.value)
    assert str(path) in str(error.value)
    assert capfd.readouterr().err == ""


def test_reference_with_a_gap_is_an_error_under_every_policy(reader, tmp_path):
    vcf, path = reader(("chr1", 150, GENOME[149], other(GENOME[149]))).path, tmp_path / "gap.fa"
    path.write_text(f">chr1\n{GENOME[:155]}-{GENOME[156:]}\n")
    pysam.faidx(str(path))
    with pytest.raises(InputError, match="'-' is a gap"):
        windows(VariantReader(vcf, FastaFile(path), window=WINDOW, on_mismatch="skip"))


def test_window_without_room(reader):
    with pytest.raises(ConfigError, match="--window 32: expected at least 33"):
        reader(window=32)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            b"##fileformat=VCFv4.3\n",
            b"##fileformat=VCFv4.3\n##source=M\xfcller\n",
            "the header is not UTF-8, as VCF has to",
        ),
        (b"chr1\t5\t.\tG", b"chr\xfc\t5\t.\tG", "record 1 cannot be read: .* letters that are not UTF-8"),
        (b"\t.\t.\t.\n", b"\t.\t.\tsource=M\xfcller\n", "record 1 cannot be read: .* letters that are not UTF-8"),
    ],
)
def test_text_that_is_not_utf8(tmp_path, before, after, message):
    content = b"##fileformat=VCFv4.3\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\nchr1\t5\t.\tG\tT\t.\t.\t.\n"
    (tmp_path / "r.fa").write_text(">chr1\nAACCGGTTAC\n")
    (tmp_path / "v.vcf").write_bytes(content.replace(before, after))
    assert before in content
    with pytest.raises(InputError, match=message):
        list(VariantReader(tmp_path / "v.vcf", FastaFile(tmp_path / "r.fa"), window=40).variants())
