"""What a user may choose of the data that a language model of DNA is pretrained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from seqdomains.genomics.alphabet import GapPolicy
from seqdomains.genomics.simulate.config import SimulationConfig


class Masking(BaseModel):
    """Which bases are hidden for masked training, and what the model reads in their place.

    The defaults are those of BERT (arXiv:1810.04805, section 3.1), which Caduceus (arXiv:2403.03234) takes for DNA.

    Parameters
    ----------
    share : float
        Of the bases A, C, G and T that are asked.
    hidden : float
        Share of those that become the mask code.
    changed : float
        Share of those that become a random base; the rest stays as it is.

    Examples
    --------
    >>> Masking().share
    0.15
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    hidden: Annotated[float, Field(ge=0, le=1)] = 0.8
    changed: Annotated[float, Field(ge=0, le=1)] = 0.1

    @model_validator(mode="after")
    def _at_most_all(self) -> Masking:
        if self.hidden + self.changed > 1 + 1e-9:
            raise ValueError(f"hidden {self.hidden:g} and changed {self.changed:g} are more than 1 together")
        return self


class LanguageData(BaseModel):
    """Unlabelled DNA, what of it is held out, and how windows are drawn from the rest.

    Parameters
    ----------
    window : int
        Length of a window in bp.
    paths : tuple of Path
        FASTA or GenBank files, or folders of them.
    regions : Path or None
        BED: only these parts are read. Where the fourth column of all lines is train, valid or test, it is the split.
    split : {"auto", "held", "named", "homologue", "contig", "fraction"}
        What is held out. held: `held` and `held_regions`; named: by the fourth column of `regions`; homologue: the
        human-homologous chromosomes 5, 7, 9, 10 and 11 of assemblies that are named after their species; contig: a
        `test_fraction` of the contigs, by seed; fraction: the last `test_fraction` of each contig. auto: the first of
        held, named and homologue that the data has, else fraction.
    held : tuple of str
        Contigs, or parts of contigs as `chr1:1,001-2,000` (1-based, both ends included), that are held out.
    held_regions : Path or None
        BED of what is held out.
    gap : int
        bp on both sides of what is held out that are not trained on either.
    part : {"test", "valid"}
        Of the splits named and homologue: choose settings on valid, report test.
    test_fraction : float
        Share of each contig, or of the contigs, that is held out.
    test_windows : int
        How many of the held-out windows are scored.
    seed : int
        Decides the held-out contigs, the test windows and the hidden bases of these.
    reverse_complement : float
        Probability of reading a training window from the other strand.
    soft_mask_weight : float
        What a lower-case (repeat) base counts in training beside an upper-case one. The test counts all alike.
    max_n : float
        Runs of N longer than this share of a window cut a contig. N and other ambiguous bases are read, never asked.
    masking : Masking
        For masked training.
    markov_order : int
        Highest order of the Markov model beside the result; 0 leaves it out.
    gap_policy : {"reject", "mask"}
        Whether `-`, `.` and `*` in a sequence are an error or the mask code.
    memory_mb : int
        Sequences up to this size are held in memory; larger files are read by position through their index.
    simulation : SimulationConfig or None
        What to simulate where no real data are given.

    Examples
    --------
    >>> LanguageData(held=("chr1:1-500",)).window
    4096
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: Annotated[int, Field(ge=8, le=1 << 27)] = 4096
    paths: tuple[Path, ...] = ()
    regions: Path | None = None
    split: Literal["auto", "held", "named", "homologue", "contig", "fraction"] = "auto"
    held: tuple[str, ...] = ()
    held_regions: Path | None = None
    gap: Annotated[int, Field(ge=0)] = 0
    part: Literal["test", "valid"] = "test"
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test_windows: Annotated[int, Field(ge=1)] = 200
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    reverse_complement: Annotated[float, Field(ge=0, le=1)] = 0.5
    soft_mask_weight: Annotated[float, Field(ge=0, le=1)] = 1.0
    max_n: Annotated[float, Field(ge=0, le=1)] = 0.01
    masking: Masking = Masking()
    markov_order: Annotated[int, Field(ge=0, le=12)] = 12
    gap_policy: GapPolicy = "reject"
    memory_mb: Annotated[int, Field(ge=0)] = 512
    simulation: SimulationConfig | None = None

    @model_validator(mode="after")
    def _consistent(self) -> LanguageData:
        holds = bool(self.held or self.held_regions)
        if self.split == "held" and not holds:
            raise ValueError("split is held but neither held nor held_regions says what is")
        if self.split not in ("auto", "held") and holds:
            raise ValueError(f"split is {self.split} and held or held_regions is given too: leave one out")
        if self.split == "named" and self.regions is None:
            raise ValueError("split is named but there are no regions, whose fourth column it is")
        if self.split in ("held", "contig", "fraction") and self.part == "valid":
            raise ValueError(f"part valid: the split {self.split} has a test part alone")
        return self
