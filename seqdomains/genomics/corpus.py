"""The labelled records of a run: from FASTA with labels, from tables, or from one assembly per species."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqdomains.errors import ConfigError, InputError
from seqdomains.genomics.alphabet import GapPolicy, encode, soft_mask
from seqdomains.genomics.contigs import aliases_beside, homologue, read_aliases
from seqdomains.genomics.data_config import SpeciesData
from seqdomains.genomics.faidx import FastaFile
from seqdomains.genomics.fasta import compression
from seqdomains.genomics.labels import (
    PLACES,
    header_key,
    header_value,
    label_of_file,
    labels_from_headers,
    labels_from_table,
)
from seqdomains.genomics.records import is_genbank, is_sequence_file, says_simulated, stream_records
from seqdomains.genomics.sequences import EncodedSequences, IndexedSequences, SequenceStore
from seqdomains.genomics.simulate.run import RECORD
from seqdomains.genomics.species import SPECIES_NAMES, Species, class_order, find_species
from seqdomains.genomics.tables import columns_of, is_table, read_table
from seqdomains.task import Side, side_of

logger = logging.getLogger(__name__)

# gzip holds DNA in about 2.3 bits a base; 4 bases a byte is a safe guess of what a compressed file unpacks to.
_UNPACKED = {"plain": 1, "gzip": 4, "bgzip": 4}
_LABEL_COLUMN = "label"
_SPLIT_COLUMN = "split"


@dataclass(frozen=True)
class Corpus:
    """Labelled records.

    Parameters
    ----------
    classes : tuple of str
    class_of : ndarray of int64, shape (records,)
        Index into `classes`.
    names : tuple of str
    files : tuple of Path
        The file that each record is in.
    homologues : tuple of (str or None)
        Human-homologous chromosome of each record of an assembly; None for other data.
    groups : tuple of str or None
        Group of each record, where the configuration asks for one.
    sides : tuple of str or None
        ``train``, ``valid`` or ``test`` of each record, where the user says it.
    sequences : SequenceStore
    simulated : Path or None
        The simulated folder, where the data are simulated.
    marked : bool
        Whether an assembly's header says that it is simulated, wherever it lies.
    """

    classes: tuple[str, ...]
    class_of: NDArray[np.int64]
    names: tuple[str, ...]
    files: tuple[Path, ...]
    homologues: tuple[str | None, ...]
    groups: tuple[str, ...] | None
    sequences: SequenceStore = field(repr=False)
    simulated: Path | None = None
    marked: bool = False
    sides: tuple[Side, ...] | None = None


@dataclass(frozen=True)
class RecordHeader:
    """What is known of a record before it is labelled; `description` may be empty where nobody asks for it."""

    file: Path
    name: str
    description: str
    length: int
    held: bool = False
    cells: Mapping[str, str] | None = None


def read_corpus(data: SpeciesData, *, least_classes: int = 2) -> Corpus:
    """Read and label all records of a configuration.

    Parameters
    ----------
    data : SpeciesData
    least_classes : int
        1 where the data are only scored: a user's files may all be of one class.

    Raises
    ------
    InputError
        A file is bad, a record has no label, a class has no sequence, or there are too few classes.
    ConfigError
        There are no paths, or files that are neither labelled nor named after a species.
    """
    below = data.label_from == "folder"
    files = sequence_files(data.paths, below=below)
    held = sequence_files(data.test_paths, below=below) if data.test_paths else ()
    if both := [file for file in held if file in files]:
        raise InputError(f"{both[0]} is among the data and among the test data: give it once")
    tables = [file for file in (*files, *held) if is_table(file)]
    labels_in = data.label_from or (f"column:{_LABEL_COLUMN}" if tables and data.labels is None else None)
    split_in = _split_source(data, tables)
    species_of = None if labels_in or data.labels else _species_of_files((*files, *held))
    said = [source for source in (labels_in, split_in, data.group) if source is not None and source not in PLACES]
    marked = any(says_simulated(file) for file in (*files, *held) if not is_table(file))
    # Of simulated genomes only the header tells a gorilla's chromosome 5 from a real one's.
    said += ["header:hsa"] if marked and species_of is not None else []
    columns = list(dict.fromkeys(source.removeprefix("column:") for source in said if source.startswith("column:")))
    headers, sequences = load_sequences(
        files,
        held=held,
        memory_mb=data.memory_mb,
        policy=data.gap_policy,
        needs_headers=any(source.startswith("header:") for source in said),
        sequence_column=data.sequence_column,
        columns=columns,
    )
    if species_of is None:
        labels = _labels(headers, data, labels_in)
    else:
        labels = [species_of[header.file].name for header in headers]
    classes = _classes(labels, data, least_classes)
    homologues = [None if species_of is None else homologue_of(header, species_of[header.file]) for header in headers]
    return Corpus(
        classes=classes,
        class_of=np.array([classes.index(label) for label in labels], dtype=np.int64),
        names=tuple(header.name for header in headers),
        files=tuple(header.file for header in headers),
        homologues=tuple(homologues),
        groups=tuple(_said(headers, data.group, option="data.group")) if data.group else None,
        sides=_sides(headers, split_in),
        sequences=sequences,
        simulated=simulated_folder(files),
        marked=marked,
    )


def sequence_files(paths: Sequence[Path], *, below: bool = False) -> tuple[Path, ...]:
    """List the sequence files and tables of `paths` in a fixed order.

    A folder stands for the sequence files in it, or also in all folders `below` it; tables have to be named.

    Raises
    ------
    ConfigError
        No path is given.
    InputError
        A path does not exist, or a folder holds no FASTA or GenBank file.
    """
    if not paths:
        raise ConfigError("data.paths: no data; give --data FASTA or a folder of assemblies")
    try:
        return tuple(dict.fromkeys(file for path in paths for file in _files_of(path, below)))
    except PermissionError as error:
        raise InputError(f"{error.filename} cannot be read: permission denied") from error


def _files_of(path: Path, below: bool) -> list[Path]:
    if not path.exists():
        raise InputError(f"{path} does not exist: give the path of a FASTA file or of a folder of them")
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path} is a pipe, and training reads its data more than once: give a file")
    entries = path.rglob("*") if below else path.iterdir()
    inside = sorted(entry for entry in entries if entry.is_file() and is_sequence_file(entry))
    if not inside:
        raise InputError(f"{path} holds no sequence file: expected .fa, .fasta, .fna (.gz) or .gb files")
    return inside


def _species_of_files(files: Sequence[Path]) -> dict[Path, Species]:
    found = {file: find_species(file.name) for file in files}
    unknown = [file.name for file, species in found.items() if species is None]
    if unknown:
        raise ConfigError(
            f"data.label_from: no labels for {', '.join(unknown[:3])}; give --label-from header:KEY or --labels TSV, "
            f"or name each file after its species ({', '.join(SPECIES_NAMES)})"
        )
    return {file: species for file, species in found.items() if species is not None}


def _split_source(data: SpeciesData, tables: Sequence[Path]) -> str | None:
    """Return where a record's side is said: where the user names it, or in a column of that name."""
    if data.split not in ("auto", "given") or data.test_paths:
        return None
    if data.split_from is None and any(_SPLIT_COLUMN in columns_of(table) for table in tables):
        return f"column:{_SPLIT_COLUMN}"
    return data.split_from


def load_sequences(
    files: Sequence[Path],
    *,
    held: Sequence[Path] = (),
    memory_mb: int,
    policy: GapPolicy,
    needs_headers: bool,
    cases: bool = False,
    sequence_column: str = "sequence",
    columns: Sequence[str] = (),
) -> tuple[list[RecordHeader], SequenceStore]:
    """Read all records of files into memory, or open their index where they are larger than `memory_mb`.

    Parameters
    ----------
    files : sequence of Path
    held : sequence of Path
        Further ones, whose records come behind those of the others and are marked.
    memory_mb : int
    policy : {"reject", "mask"}
        Whether gap characters are an error or become the mask code.
    needs_headers : bool
        Whether the descriptions are wanted: of indexed files that takes a pass over all of them.
    cases : bool
        Whether the soft mask is wanted; it takes an eighth more memory.
    sequence_column, columns
        Of tables: see `seqdomains.genomics.tables.read_table`.

    Raises
    ------
    InputError
        A file is bad.
    """
    every = (*files, *held)
    kinds = {file: compression(file) for file in every}
    size = sum(file.stat().st_size * _UNPACKED[kinds[file]] for file in every)
    by_position = not any(kind == "gzip" or is_genbank(file) or is_table(file) for file, kind in kinds.items())
    if size > memory_mb << 20 and by_position:
        return _open_indexed(every, held, policy, needs_headers=needs_headers)
    if size > memory_mb << 20:
        logger.warning(
            "holding about %d MB of sequence in memory: plain gzip, GenBank and tables have no index", size >> 20
        )
    headers: list[RecordHeader] = []
    arrays: list[NDArray[np.uint8]] = []
    masks: list[NDArray[np.uint8]] = []
    for number, file in enumerate(every):
        apart = number >= len(files)
        if is_table(file):
            for row in read_table(file, sequence_column=sequence_column, columns=columns, policy=policy):
                arrays.append(row.codes)
                headers.append(RecordHeader(file, row.name, "", row.codes.size, apart, row.cells))
                if cases:  # a table's letters are of one case by convention, which says nothing
                    masks.append(np.zeros(-(-row.codes.size // 8), np.uint8))
            continue
        for record in stream_records(file, policy=policy):
            if cases:
                text = b"".join(record.pieces)
                arrays.append(encode(text, policy=policy, record=record.name))
                # GenBank writes all in lower case, which says nothing.
                masks.append(np.packbits(soft_mask(text.upper() if is_genbank(file) else text)))
            else:
                arrays.append(record.codes())
            headers.append(RecordHeader(file, record.name, record.description, arrays[-1].size, apart))
    return headers, EncodedSequences(arrays, masks if cases else None)


def _open_indexed(
    files: Sequence[Path], held: Sequence[Path], policy: GapPolicy, *, needs_headers: bool
) -> tuple[list[RecordHeader], SequenceStore]:
    headers: list[RecordHeader] = []
    records: list[tuple[FastaFile, str]] = []
    for file in files:
        fasta = FastaFile(file, policy=policy)
        descriptions: Mapping[str, str] = {}
        if needs_headers:  # an index keeps names only
            descriptions = {record.name: record.description for record in stream_records(file, policy=policy)}
        for name, length in zip(fasta.names, fasta.lengths, strict=True):
            records.append((fasta, name))
            headers.append(RecordHeader(file, name, descriptions.get(name, ""), length, file in held))
    return headers, IndexedSequences(records)


def _labels(headers: Sequence[RecordHeader], data: SpeciesData, source: str | None) -> list[str]:
    if source in PLACES:
        return [label_of_file(header.file, source) for header in headers]
    if source is not None and source.startswith("column:"):
        return _said(headers, source, option="data.label_from")
    descriptions: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for header in headers:
        if header.name in descriptions[header.held]:
            raise InputError(f"{header.file}: record {header.name!r} is also in another file; labels need unique names")
        descriptions[header.held][header.name] = header.description
    if data.labels is not None:
        of_name = (labels_from_table(descriptions[0] | descriptions[1], data.labels),) * 2
    elif source is not None:
        key = header_key(source)
        of_name = (labels_from_headers(descriptions[0], key), labels_from_headers(descriptions[1], key))
    else:
        raise ValueError("labels need a source or a table")
    return [of_name[header.held][header.name] for header in headers]


def _said(headers: Sequence[RecordHeader], source: str, *, option: str) -> list[str]:
    """Return what each record's header or row says."""
    kind, _, key = source.partition(":")
    values = [
        header_value(header.description, key) if kind == "header" else (header.cells or {}).get(key)
        for header in headers
    ]
    missing = [header.name for header, value in zip(headers, values, strict=True) if value is None]
    if missing:
        what = f"`{key}=` in their header" if kind == "header" else f"column {key!r}, since they are in no table"
        raise InputError(
            f"{len(missing)} of {len(headers)} records have no {what}, first {', '.join(map(repr, missing[:3]))}: "
            f"{option} needs it on every record"
        )
    return [value for value in values if value is not None]


def _sides(headers: Sequence[RecordHeader], source: str | None) -> tuple[Side, ...] | None:
    if source is None:
        return tuple("test" if header.held else "train" for header in headers) if headers[-1].held else None
    said = _said(headers, source, option="data.split_from")
    sides = [side_of(word) for word in said]
    if unknown := sorted({word for word, side in zip(said, sides, strict=True) if side is None}):
        raise InputError(
            f"{source} says {', '.join(map(repr, unknown[:3]))} of records; expected train, valid or test: rename "
            "them, or split otherwise, such as with data.split=record"
        )
    return tuple(side for side in sides if side is not None)


def _classes(labels: Sequence[str], data: SpeciesData, least: int) -> tuple[str, ...]:
    present = class_order(labels)
    if unfit := [label for label in present if not label.isprintable()]:
        raise InputError(f"label {unfit[0]!r}: a class name goes into tables, expected one without tabs and line ends")
    if data.classes is not None:
        foreign = [label for label in present if label not in data.classes]
        if foreign:
            raise InputError(
                f"the data have labels that are not in data.classes: {', '.join(map(repr, foreign[:3]))}; "
                f"the classes are {', '.join(data.classes)}"
            )
        empty = [name for name in data.classes if name not in present]
        if empty:
            raise InputError(f"no sequence for {', '.join(map(repr, empty))} of data.classes: add records or remove it")
    classes = data.classes or present
    if len(classes) < least:
        raise InputError(f"the data have one class, {classes[0]!r}: at least two are needed to tell apart")
    return classes


def homologue_of(header: RecordHeader, species: Species) -> str | None:
    """Return the human-homologous chromosome of a record of an assembly, or None where it is not known."""
    table = _alias_table(header.file)
    names = sorted(table.get(header.name, {header.name}) | {header.name})
    found = {
        homologue(name, description=header.description, species=species, length=header.length) for name in names
    } - {None}
    # An alias may be a plain number of the assembly's own; a name with hsa or the length decides first.
    if len(found) > 1:
        exact = {homologue(name) for name in names if "_hsa" in name} - {None}
        found = exact or {homologue(header.name, species=species, length=header.length)}
    return next(iter(found)) if len(found) == 1 else None


@functools.cache
def _alias_table(file: Path) -> Mapping[str, frozenset[str]]:
    beside = aliases_beside(file)
    return read_aliases(beside) if beside else {}


def simulated_folder(files: Sequence[Path]) -> Path | None:
    """Return the folder of a simulation that files are of, if they all are."""
    folders = {file.parent for file in files if (file.parent / RECORD).exists()}
    return next(iter(folders)) if len(folders) == 1 else None
