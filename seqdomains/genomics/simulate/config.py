"""What a user may choose of a simulation."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from seqdomains.genomics.simulate.constraint import ConstraintConfig
from seqdomains.genomics.simulate.tree import SPECIES


class SimulationConfig(BaseModel):
    """Settings of the great-ape simulator.

    Parameters
    ----------
    species : tuple of str
        Which of the five species to write. The sequence of a species does not depend on which others are asked for.
    chromosomes : tuple of int
        Human-homologous chromosome numbers (hsa), 1 to 22. Chromosomes are independent of each other.
    chromosome_length : int
        Length of each ancestral chromosome in bp; the descendants differ by their indels, insertions and caps.
    density : float
        How many times as dense as published the lineage-specific insertions are. Nothing else is multiplied.
    seed : int
        The same settings give the same bytes.
    constraint : ConstraintConfig or None
        Motif instances that purifying selection keeps; None plants none.

    Examples
    --------
    >>> SimulationConfig(chromosomes=(2, 5), chromosome_length=50_000, density=64).species
    ('human', 'chimpanzee', 'gorilla', 'orangutan', 'bonobo')
    >>> SimulationConfig(species=("human", "gibbon"))
    Traceback (most recent call last):
    ...
    pydantic_core._pydantic_core.ValidationError: 1 validation error for SimulationConfig
    species
      Value error, unknown species 'gibbon'; known: human, chimpanzee, gorilla, orangutan, bonobo ...
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    species: Annotated[tuple[str, ...], Field(min_length=1)] = SPECIES
    chromosomes: Annotated[tuple[Annotated[int, Field(ge=1, le=22)], ...], Field(min_length=1)] = (2, 4, 6, 8, 5, 7)
    # The upper bound keeps alignment columns within 32 bits, whatever the density.
    chromosome_length: Annotated[int, Field(ge=10_000, le=250_000_000)] = 1_000_000
    density: Annotated[float, Field(ge=1, le=256)] = 1.0
    seed: Annotated[int, Field(ge=0)] = 0
    constraint: ConstraintConfig | None = None

    @field_validator("species")
    @classmethod
    def _known_species(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in SPECIES:
                raise ValueError(f"unknown species {name!r}; known: {', '.join(SPECIES)}")
        if len(set(value)) != len(value):
            raise ValueError("a species is named twice")
        return value

    @field_validator("chromosomes")
    @classmethod
    def _distinct_chromosomes(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a chromosome is named twice")
        return value
