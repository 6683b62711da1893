import pytest

from seqdomains.errors import ConfigError, InputError
from seqdomains.genomics.labels import header_key, header_value, labels_from_headers, labels_from_table, read_labels


@pytest.mark.parametrize(
    ("description", "key", "value"),
    [
        ("species=human", "species", "human"),
        ("x=1 species=human y", "species", "human"),
        ('species="Pan paniscus" x', "species", "Pan paniscus"),
        ("[organism=Pan paniscus] [x=y]", "organism", "Pan paniscus"),
        ("subspecies=x", "species", None),
        ("species= x", "species", None),
        ("a.b=1", "a.b", "1"),
        ("axb=1", "a.b", None),
        ("", "species", None),
    ],
)
def test_header_value(description, key, value):
    assert header_value(description, key) == value


@pytest.mark.parametrize("source", ["species", "header:", "header:a b", "file:x"])
def test_header_source_is_checked(source):
    with pytest.raises(ConfigError, match=r"data\.group: expected header:KEY"):
        header_key(source, option="data.group")


def test_records_without_the_key_are_named_with_the_keys_they_have():
    with pytest.raises(InputError, match=r"1 of 2 records have no `species=`.*'b' \(its header has the keys gene\)"):
        labels_from_headers({"a": "species=human", "b": "gene=RB1"}, "species")
    with pytest.raises(InputError, match="its header has no key"):
        labels_from_headers({"b": "plain words"}, "species")


@pytest.fixture
def table(tmp_path):
    def write(text):
        path = tmp_path / "labels.tsv"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    "text",
    [
        "a\tx\nb\ty\n",
        "record\tlabel\na\tx\nb\ty",
        "#record\tlabel\na\tx\n\nb\ty\n",
        "ID\tspecies\textra\na\tx\t1\nb\ty\t2\n",
        "\ufeffa\tx\r\nb\ty\r\n",
        "a\tx\na\tx\nb\ty\n",
    ],
)
def test_tables_with_and_without_a_header_line(table, text):
    assert read_labels(table(text)) == {"a": "x", "b": "y"}


def test_only_the_first_line_may_be_the_header_line(table):
    assert read_labels(table("a\tx\nname\ty\n")) == {"a": "x", "name": "y"}
    assert read_labels(table("# made by hand\nname\ty\n")) == {"name": "y"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a x\n", "line 1: expected `record<TAB>label`"),
        ("a\tx\nb\t\n", "line 2: expected"),
        ("a\tx\na\ty\n", "line 2: 'a' is labelled 'x' and 'y'"),
        ("record\tlabel\n", "holds no labels"),
        ("", "holds no labels"),
    ],
)
def test_bad_tables_name_the_line(table, text, message):
    with pytest.raises(InputError, match=message):
        read_labels(table(text))


def test_unreadable_tables(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read as a table of labels: No such file or directory$"):
        read_labels(tmp_path / "none.tsv")
    (tmp_path / "binary.tsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as a table"):
        read_labels(tmp_path / "binary.tsv")


def test_every_record_has_a_label_and_every_label_a_record(table):
    path = table("a\tx\nb\ty\n")
    assert labels_from_table({"b": "", "a": ""}, path) == {"b": "y", "a": "x"}
    with pytest.raises(InputError, match=r"1 of 3 records have no label.*'c'"):
        labels_from_table({"a": "", "b": "", "c": ""}, path)
    with pytest.raises(InputError, match="labels 1 records that are in no FASTA file, first 'b'"):
        labels_from_table({"a": ""}, path)


def test_many_open_brackets_are_passed_over_in_time():
    # Followed to the end each, they would take hours.
    assert header_value("x [species=" * 100_000, "species") is None
    assert header_value("[species=Pan paniscus] " + "x [species=" * 100_000, "species") == "Pan paniscus"
