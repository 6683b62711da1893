"""What a user may choose of the species task's data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from seqdomains.genomics.alphabet import GapPolicy
from seqdomains.genomics.labels import COLUMN_SOURCE, HEADER_SOURCE, PLACES
from seqdomains.genomics.simulate.config import SimulationConfig


def _said_of_records(source: str) -> str:
    if not (re.match(HEADER_SOURCE, source) or re.match(COLUMN_SOURCE, source)):
        raise ValueError(f"expected header:KEY such as header:species, or column:NAME of a table; found {source!r}")
    return source


def _label_source(source: str) -> str:
    if source in PLACES:
        return source
    try:
        return _said_of_records(source)
    except ValueError:
        raise ValueError(
            f"expected header:KEY such as header:species, column:NAME of a table, file or folder; found {source!r}"
        ) from None


FieldSource = Annotated[str, AfterValidator(_said_of_records)]
LabelSource = Annotated[str, AfterValidator(_label_source)]


class SpeciesData(BaseModel):
    """Labelled DNA and how windows are drawn from it.

    Parameters
    ----------
    window : int
        Length of a window in bp.
    unit : {"auto", "window", "record"}
        What a sample is: a window drawn from anywhere in a class's records, or a record as a whole, of any length up to
        `window`. auto: records where the data are tables, whose rows are examples, else windows.
    paths : tuple of Path
        FASTA or GenBank files, folders of them, or tables (CSV, TSV, also gzip) with a sequence in each row. With
        neither `label_from` nor `labels`, each sequence file is one class, recognised by its name (`human.fa`,
        `hg38.fa.gz`, `mPanTro3.fa`), as a folder of assemblies is, and a table has its classes in the column `label`.
    test_paths : tuple of Path
        More of these, all of whose records are held out, and none of `paths`.
    sequence_column : str
        The column of a table that holds the sequences.
    label_from : str or None
        ``header:KEY``: the class is the value of ``KEY=value`` in a record's header. ``column:NAME``: it is in that
        column of a table. ``file``, ``folder``: it is the name of the record's file, or of the folder of that.
    labels : Path or None
        A table ``record<TAB>class``.
    classes : tuple of str or None
        The classes and their order; None takes those that the data have.
    split : {"auto", "given", "chromosome", "group", "record", "none"}
        What the test windows are held out by. given: `test_paths`, or what `split_from` says. auto: given where it is,
        else `group` where it is set, else the chromosome where homology to human chromosomes is known, else whole
        records of each class that has at least two.
    split_from : str or None
        ``header:KEY`` or ``column:NAME``: says train, valid or test of each record; the column `split` of tables that
        have one, if not given.
    group : str or None
        ``header:KEY`` or ``column:NAME``: records with the same value, such as a gene, are never on both sides of the
        split.
    sex_chromosomes : {"test", "train", "drop"}
        Where assemblies are split by chromosome, the side of X and Y. On the test side the result is told with and
        without them.
    held : {"test", "valid"}
        Which held-out part is scored: choose settings on valid, report test.
    test_fraction : float
        Share of the groups or records that is held out.
    test_windows : int
        Test windows per class; of whole records all that are held out are scored.
    balanced : bool
        Of whole records: whether training draws classes alike, or records alike. Windows are drawn by class.
    seed : int
        Decides the held-out groups or records and the test windows.
    reverse_complement : float
        Probability of reading a training window from the other strand.
    substitution : float
        Probability per base of a random substitution in a training window, for individuals that differ.
    transitions : float
        Share of those substitutions that are transitions (A-G, C-T); 1/3 is no preference.
    max_n : float
        A window with a larger share of N or masked bases is dropped: runs of N mark an assembly, not a species. Whole
        records stay; a note counts them.
    gap_policy : {"reject", "mask"}
        Whether `-`, `.` and `*` in a sequence are an error or the mask code.
    memory_mb : int
        Sequences up to this size are held in memory; larger files are read by position through their index.
    simulation : SimulationConfig or None
        What to simulate where no real data are given.

    Examples
    --------
    >>> SpeciesData(window=128, label_from="header:species").test_windows
    200
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: Annotated[int, Field(ge=8, le=1 << 27)] = 4096
    unit: Literal["auto", "window", "record"] = "auto"
    paths: tuple[Path, ...] = ()
    test_paths: tuple[Path, ...] = ()
    sequence_column: Annotated[str, Field(min_length=1)] = "sequence"
    label_from: LabelSource | None = None
    labels: Path | None = None
    classes: tuple[str, ...] | None = None
    split: Literal["auto", "given", "chromosome", "group", "record", "none"] = "auto"
    split_from: FieldSource | None = None
    group: FieldSource | None = None
    sex_chromosomes: Literal["test", "train", "drop"] = "test"
    held: Literal["test", "valid"] = "test"
    test_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.2
    test_windows: Annotated[int, Field(ge=1)] = 200
    balanced: bool = True
    seed: Annotated[int, Field(ge=0, lt=1 << 64)] = 0
    reverse_complement: Annotated[float, Field(ge=0, le=1)] = 0.5
    substitution: Annotated[float, Field(ge=0, le=0.75)] = 0.0
    transitions: Annotated[float, Field(ge=0, le=1)] = 2 / 3
    max_n: Annotated[float, Field(ge=0, le=1)] = 0.01
    gap_policy: GapPolicy = "reject"
    memory_mb: Annotated[int, Field(ge=0)] = 512
    simulation: SimulationConfig | None = None

    @model_validator(mode="after")
    def _consistent(self) -> SpeciesData:
        if self.label_from is not None and self.labels is not None:
            raise ValueError("label_from and labels are both given: labels come from one of them")
        if self.test_paths and self.split_from is not None:
            raise ValueError("test_paths and split_from are both given: what is held out is said by one of them")
        if self.split == "group" and self.group is None:
            raise ValueError("split is group but group is not set: name its key, such as group: header:gene")
        if self.classes is not None and len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: a class is named twice")
        return self
