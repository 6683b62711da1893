"""What a user may choose of the species task's data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from seqdomains.genomics.alphabet import GapPolicy
from seqdomains.genomics.labels import HEADER_SOURCE
from seqdomains.genomics.simulate.config import SimulationConfig


def _header_source(source: str) -> str:
    if not re.match(HEADER_SOURCE, source):
        raise ValueError(f"expected header:KEY such as header:species; found {source!r}")
    return source


HeaderSource = Annotated[str, AfterValidator(_header_source)]


class SpeciesData(BaseModel):
    """Labelled DNA and how windows are drawn from it.

    Parameters
    ----------
    window : int
        Length of a window in bp.
    paths : tuple of Path
        FASTA or GenBank files, or folders of them. With neither `label_from` nor `labels`, each file is one class,
        recognised by its name (`human.fa`, `hg38.fa.gz`, `mPanTro3.fa`), as a folder of assemblies is.
    label_from : str or None
        ``header:KEY``: the class is the value of ``KEY=value`` in a record's header.
    labels : Path or None
        A table ``record<TAB>class``.
    classes : tuple of str or None
        The classes and their order; None takes those that the data have.
    split : {"auto", "chromosome", "group", "record", "none"}
        What the test windows are held out by. auto: the chromosome where homology to human chromosomes is known, else
        `group` where it is set, else whole records of each class that has at least two.
    group : str or None
        ``header:KEY``: records with the same value, such as a gene, are never on both sides of the split.
    sex_chromosomes : {"test", "train", "drop"}
        Where assemblies are split by chromosome, the side of X and Y. On the test side the result is told with and
        without them.
    held : {"test", "valid"}
        Which held-out part is scored: choose settings on valid, report test.
    test_fraction : float
        Share of the groups or records that is held out.
    test_windows : int
        Test windows per class.
    seed : int
        Decides the held-out groups or records and the test windows.
    reverse_complement : float
        Probability of reading a training window from the other strand.
    substitution : float
        Probability per base of a random substitution in a training window, for individuals that differ.
    transitions : float
        Share of those substitutions that are transitions (A-G, C-T); 1/3 is no preference.
    max_n : float
        A window with a larger share of N or masked bases is dropped: runs of N mark an assembly, not a species.
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
    paths: tuple[Path, ...] = ()
    label_from: HeaderSource | None = None
    labels: Path | None = None
    classes: tuple[str, ...] | None = None
    split: Literal["auto", "chromosome", "group", "record", "none"] = "auto"
    group: HeaderSource | None = None
    sex_chromosomes: Literal["test", "train", "drop"] = "test"
    held: Literal["test", "valid"] = "test"
    test_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.2
    test_windows: Annotated[int, Field(ge=1)] = 200
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
        if self.split == "group" and self.group is None:
            raise ValueError("split is group but group is not set: name its key, such as group: header:gene")
        if self.classes is not None and len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: a class is named twice")
        return self
