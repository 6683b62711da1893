import csv
import gzip

import pytest

from seqdomains.errors import InputError
from seqdomains.genomics.alphabet import decode
from seqdomains.genomics.tables import columns_of, read_table

HEADER = "id,sequence,label\n"


def write(path, text):
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", HEADER + "r1,ACGTN,x\n\nr2, acgu ,y y\n"),
        ("a.tsv", HEADER.replace(",", "\t") + "r1\tACGTN\tx\nr2\tacgu\ty y\n"),
        ("a.csv.gz", HEADER + 'r1,"ACGTN",x\r\nr2,"acgu","y y"\r\n'),
        ("A.CSV", "\ufeff" + HEADER + "r1,ACGTN,x\nr2,acgu,y y\n,,\n"),
        ("b.csv", "label,more,sequence,name\nx,1,ACGTN,r1\ny y,2,acgu,r2\n"),
    ],
)
def test_rows_of_every_form(tmp_path, name, text):
    rows = read_table(write(tmp_path / name, text), columns=["label"])
    assert [(row.name, decode(row.codes), dict(row.cells)) for row in rows] == [
        ("r1", "ACGTN", {"label": "x"}),
        ("r2", "ACGT", {"label": "y y"}),
    ]


def test_rows_without_a_name_are_called_by_their_line(tmp_path):
    rows = read_table(write(tmp_path / "a.csv", "seq\nACGT\n\nAC\n"), sequence_column="seq")
    assert [(row.name, row.line) for row in rows] == [("line2", 2), ("line4", 4)]
    assert columns_of(tmp_path / "a.csv") == ("seq",)


def test_long_sequences_are_read_and_the_limit_of_csv_is_given_back(tmp_path):
    before = csv.field_size_limit()
    rows = read_table(write(tmp_path / "a.csv", f"sequence\n{'ACGT' * 50_000}\n"))
    assert rows[0].codes.size == 200_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["a.csv is empty", "expected"]),
        (HEADER, ["a header and no row"]),
        ("id,seq,label\nr1,ACGT,x\n", ["line 1: no column 'sequence'", "'id', 'seq', 'label'", "--sequence-column"]),
        ("id,sequence,kind\nr1,ACGT,x\n", ["line 1: no column 'label'", "--label-from column:NAME"]),
        ("id;sequence;label\nr1;ACGT;x\n", ["is `;` the separator? save it with commas"]),
        ("sequence,label,label\nACGT,x,y\n", ["column 'label' is there twice"]),
        (HEADER + "r1,ACGT,x\nr2,ACGT\n", ["line 3: 2 cells, expected 3"]),
        (HEADER + "r1,ACGT,x,\n", ["line 2: 4 cells, expected 3"]),
        (HEADER + "r1,,x\n", ["line 2: the column 'sequence' is empty"]),
        (HEADER + "r1,ACGT,\n", ["line 2: the column 'label' is empty", "remove the row"]),
        (HEADER + "r1,ACJT,x\n", ["line 2: record 'r1', position 3: 'J' is not an IUPAC"]),
        (HEADER + "r1,AC-T,x\n", ["line 2", "position 3", "set data.gap_policy=mask"]),
        (HEADER + 'r1,"ACGT,x\n', ["line 2", "is a quote open"]),
        (HEADER + "r1,ACGT,x\rr2,ACGT,y\r", ["line 2", "old Macs"]),
    ],
)
def test_what_is_wrong_is_named_by_its_line(tmp_path, text, words):
    path = write(tmp_path / "a.csv", text)
    with pytest.raises(InputError) as error:
        read_table(path, columns=["label"])
    assert all(word in str(error.value) for word in words), error.value


def test_all_bad_rows_are_told_at_once_up_to_eight(tmp_path):
    path = write(tmp_path / "a.csv", "sequence\n" + "ACGT\nAXGT\n" * 10)
    with pytest.raises(InputError) as error:
        read_table(path)
    lines = str(error.value).splitlines()
    assert [line.split(", ")[1][:7].rstrip(":") for line in lines[:2]] == ["line 3", "line 5"]
    assert (len(lines), lines[-1]) == (9, "and 2 more")


def test_bytes_that_are_no_utf8_and_cut_gzip(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(HEADER.encode() + b"r\xff,ACGT,x\n")
    with pytest.raises(InputError, match="line 2: byte 0xff is not UTF-8; save it as UTF-8"):
        read_table(path)
    whole = write(tmp_path / "a.csv.gz", HEADER + "r1,ACGTACGTAC,x\n" * 100)
    whole.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(InputError, match="truncated or damaged gzip"):
        read_table(whole)


def test_gaps_are_masked_where_that_is_declared(tmp_path):
    rows = read_table(write(tmp_path / "a.csv", "sequence\nAC-T\n"), policy="mask")
    assert rows[0].codes.tolist() == [0, 1, 15, 3]
