"""The labelled records of a run: from FASTA with labels, or from one assembly per species."""

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
from seqdomains.genomics.labels import header_key, header_value, labels_from_headers, labels_from_table
from seqdomains.genomics.records import is_genbank, is_sequence_file, says_simulated, stream_records
from seqdomains.genomics.sequences import EncodedSequences, IndexedSequences, SequenceStore
from seqdomains.genomics.simulate.run import RECORD
from seqdomains.genomics.species import SPECIES_NAMES, Species, class_order, find_species

logger = logging.getLogger(__name__)

# gzip holds DNA in about 2.3 bits a base; 4 bases a byte is a safe guess of what a compressed file unpacks to.
_UNPACKED = {"plain": 1, "gzip": 4, "bgzip": 4}


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


@dataclass(frozen=True)
class RecordHeader:
    """What is known of a record before it is labelled; `description` may be empty where nobody asks for it."""

    file: Path
    name: str
    description: str
    length: int


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
    files = sequence_files(data.paths)
    species_of = None if data.label_from or data.labels else _species_of_files(files)
    marked = species_of is not None and any(map(says_simulated, files))
    # Of simulated genomes only the header tells a gorilla's chromosome 5 from a real one's.
    needs_headers = data.label_from is not None or data.group is not None or marked
    headers, sequences = load_sequences(
        files, memory_mb=data.memory_mb, policy=data.gap_policy, needs_headers=needs_headers
    )
    labels = _labels(headers, data) if species_of is None else [species_of[header.file].name for header in headers]
    classes = _classes(labels, data, least_classes)
    homologues = [None if species_of is None else homologue_of(header, species_of[header.file]) for header in headers]
    return Corpus(
        classes=classes,
        class_of=np.array([classes.index(label) for label in labels], dtype=np.int64),
        names=tuple(header.name for header in headers),
        files=tuple(header.file for header in headers),
        homologues=tuple(homologues),
        groups=_groups(headers, data.group) if data.group else None,
        sequences=sequences,
        simulated=simulated_folder(files),
        marked=marked,
    )


def sequence_files(paths: Sequence[Path]) -> tuple[Path, ...]:
    """List the sequence files of `paths`, looking into folders, in a fixed order.

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
        return tuple(dict.fromkeys(file for path in paths for file in _files_of(path)))
    except PermissionError as error:
        raise InputError(f"{error.filename} cannot be read: permission denied") from error


def _files_of(path: Path) -> list[Path]:
    if not path.exists():
        raise InputError(f"{path} does not exist: give the path of a FASTA file or of a folder of them")
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path} is a pipe, and training reads its data more than once: give a file")
    inside = sorted(entry for entry in path.iterdir() if entry.is_file() and is_sequence_file(entry))
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


def load_sequences(
    files: Sequence[Path], *, memory_mb: int, policy: GapPolicy, needs_headers: bool, cases: bool = False
) -> tuple[list[RecordHeader], SequenceStore]:
    """Read all records of files into memory, or open their index where they are larger than `memory_mb`.

    Parameters
    ----------
    files : sequence of Path
    memory_mb : int
    policy : {"reject", "mask"}
        Whether gap characters are an error or become the mask code.
    needs_headers : bool
        Whether the descriptions are wanted: of indexed files that takes a pass over all of them.
    cases : bool
        Whether the soft mask is wanted; it takes an eighth more memory.

    Raises
    ------
    InputError
        A file is bad.
    """
    kinds = {file: compression(file) for file in files}
    size = sum(file.stat().st_size * _UNPACKED[kinds[file]] for file in files)
    by_position = all(kind != "gzip" and not is_genbank(file) for file, kind in kinds.items())
    if size > memory_mb << 20 and by_position:
        return _open_indexed(files, policy, needs_headers=needs_headers)
    if size > memory_mb << 20:
        logger.warning("holding about %d MB of sequence in memory: plain gzip and GenBank have no index", size >> 20)
    headers: list[RecordHeader] = []
    arrays: list[NDArray[np.uint8]] = []
    masks: list[NDArray[np.uint8]] = []
    for file in files:
        for record in stream_records(file, policy=policy):
            if cases:
                text = b"".join(record.pieces)
                arrays.append(encode(text, policy=policy, record=record.name))
                # GenBank writes all in lower case, which says nothing.
                masks.append(np.packbits(soft_mask(text.upper() if is_genbank(file) else text)))
            else:
                arrays.append(record.codes())
            headers.append(RecordHeader(file, record.name, record.description, arrays[-1].size))
    return headers, EncodedSequences(arrays, masks if cases else None)


def _open_indexed(
    files: Sequence[Path], policy: GapPolicy, *, needs_headers: bool
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
            headers.append(RecordHeader(file, name, descriptions.get(name, ""), length))
    return headers, IndexedSequences(records)


def _labels(headers: Sequence[RecordHeader], data: SpeciesData) -> list[str]:
    descriptions: dict[str, str] = {}
    for header in headers:
        if header.name in descriptions:
            raise InputError(f"{header.file}: record {header.name!r} is also in another file; labels need unique names")
        descriptions[header.name] = header.description
    if data.label_from is not None:
        of_name = labels_from_headers(descriptions, header_key(data.label_from))
    elif data.labels is not None:
        of_name = labels_from_table(descriptions, data.labels)
    else:
        raise ValueError("labels need label_from or labels")
    return [of_name[header.name] for header in headers]


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


def _groups(headers: Sequence[RecordHeader], source: str) -> tuple[str, ...]:
    key = header_key(source, option="data.group")
    groups = [header_value(header.description, key) for header in headers]
    missing = [header.name for header, group in zip(headers, groups, strict=True) if group is None]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(headers)} records have no `{key}=` in their header, first "
            f"{', '.join(map(repr, missing[:3]))}: data.group needs it on every record"
        )
    return tuple(group for group in groups if group is not None)


def simulated_folder(files: Sequence[Path]) -> Path | None:
    """Return the folder of a simulation that files are of, if they all are."""
    folders = {file.parent for file in files if (file.parent / RECORD).exists()}
    return next(iter(folders)) if len(folders) == 1 else None
