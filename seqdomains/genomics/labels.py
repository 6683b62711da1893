"""Where a record's class comes from: a key in its header, a column, its file's name, or a table of record names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from seqdomains.errors import ConfigError, InputError, reason

HEADER_SOURCE = r"^header:[A-Za-z0-9_.\-]+$"
COLUMN_SOURCE = r"^column:[^\t\r\n]+$"
# A record's class is the name of its file, or of the folder that this is in.
PLACES = ("file", "folder")
_HEADER_LINE_NAMES = frozenset({"record", "name", "id", "contig", "sequence", "sample"})


def header_value(description: str, key: str) -> str | None:
    """Read ``key=value``, ``key="a value"`` or NCBI's ``[key=a value]`` from a FASTA description.

    Examples
    --------
    >>> header_value("species=human gene=RB1 complete", "gene"), header_value("[organism=Pan paniscus] x", "organism")
    ('RB1', 'Pan paniscus')
    >>> header_value("subspecies=human", "species") is None
    True
    """
    escaped = re.escape(key)
    # Up to the last bracket: without one behind them, each of many `[key=` would be followed to the end.
    bracketed = description[: description.rfind("]") + 1]
    for pattern, text in (
        (rf"\[{escaped}=([^\]]+)\]", bracketed),
        (rf'(?:^|\s){escaped}="([^"]*)"', description),
        (rf"(?:^|\s){escaped}=(\S+)", description),
    ):
        if match := re.search(pattern, text):
            return match.group(1).strip() or None
    return None


def header_key(source: str, *, option: str = "data.label_from") -> str:
    """Return KEY of ``header:KEY``.

    Raises
    ------
    ConfigError
        The source has another form.

    Examples
    --------
    >>> header_key("header:species")
    'species'
    """
    if not re.match(HEADER_SOURCE, source):
        raise ConfigError(f"{option}: expected header:KEY such as header:species, found {source!r}")
    return source.removeprefix("header:")


def label_of_file(path: Path, place: str) -> str:
    """Return what a file's own name, or that of its folder, says its records are.

    Examples
    --------
    >>> label_of_file(Path("promoters/TATA.fa.gz"), "file"), label_of_file(Path("promoters/TATA.fa.gz"), "folder")
    ('TATA', 'promoters')
    """
    if place == "folder":
        return path.absolute().parent.name
    return re.sub(r"(\.[A-Za-z0-9]+?)(\.(gz|bgz))?$", "", path.name, flags=re.IGNORECASE)


def labels_from_headers(descriptions: Mapping[str, str], key: str) -> dict[str, str]:
    """Read each record's label from its description.

    Parameters
    ----------
    descriptions : mapping of record name to description

    Raises
    ------
    InputError
        Records without the key; the first three are named, with the keys that they do have.

    Examples
    --------
    >>> labels_from_headers({"a": "species=human", "b": "species=gorilla"}, "species")
    {'a': 'human', 'b': 'gorilla'}
    """
    labels = {record: header_value(description, key) for record, description in descriptions.items()}
    missing = [record for record, label in labels.items() if label is None]
    if missing:
        present = re.findall(r"(?:^|[\s\[])([A-Za-z0-9_.\-]+)=", descriptions[missing[0]])
        keys = f"its header has the keys {', '.join(dict.fromkeys(present))}" if present else "its header has no key"
        raise InputError(
            f"{len(missing)} of {len(labels)} records have no `{key}=` in their header, first "
            f"{', '.join(map(repr, missing[:3]))} ({keys}): add it, or give a table with --labels"
        )
    return {record: label for record, label in labels.items() if label is not None}


def read_labels(path: Path) -> dict[str, str]:
    r"""Read a table ``record<TAB>label``, with or without a header line.

    A first line that begins with `#`, or whose first field is record, name, id, contig, sequence or sample, is the
    header line. Blank lines and later `#` lines are skipped.

    Raises
    ------
    InputError
        Unreadable file, a line without two fields, an empty field, a record given twice, or no record at all.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "labels.tsv"
    >>> _ = path.write_text("record\tlabel\nseq1\thuman\nseq2\tgorilla\n")
    >>> read_labels(path)
    {'seq1': 'human', 'seq2': 'gorilla'}
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a table of labels: {reason(error)}") from error
    labels: dict[str, str] = {}
    first = True
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            first = first and not line.strip()
            continue
        fields = [word.strip() for word in line.split("\t")]
        if len(fields) < 2 or not fields[0] or not fields[1]:
            raise InputError(f"{path}, line {number}: expected `record<TAB>label`, found {line!r}")
        record, label = fields[:2]
        if first and record.lower() in _HEADER_LINE_NAMES:
            first = False
            continue
        first = False
        if labels.get(record, label) != label:
            raise InputError(f"{path}, line {number}: {record!r} is labelled {labels[record]!r} and {label!r}")
        labels[record] = label
    if not labels:
        raise InputError(f"{path} holds no labels: expected lines of `record<TAB>label`")
    return labels


def labels_from_table(records: Mapping[str, str], path: Path) -> dict[str, str]:
    """Label every record by a table.

    Parameters
    ----------
    records : mapping of record name to description
        What the FASTA files hold.

    Raises
    ------
    InputError
        A record without a label, or a label for a record that no file holds.
    """
    table = read_labels(path)
    unlabelled = [record for record in records if record not in table]
    if unlabelled:
        raise InputError(
            f"{len(unlabelled)} of {len(records)} records have no label in {path}, first "
            f"{', '.join(map(repr, unlabelled[:3]))}: add them to the table or remove them from the FASTA"
        )
    unknown = [record for record in table if record not in records]
    if unknown:
        raise InputError(
            f"{path} labels {len(unknown)} records that are in no FASTA file, first "
            f"{', '.join(map(repr, unknown[:3]))}: names must match the header up to its first blank"
        )
    return {record: table[record] for record in records}
