"""The five great apes: names, assemblies, and the chromosome lengths by which a T2T assembly is recognised."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from seqdomains.errors import InputError
from seqdomains.genomics.registry import read_registry


@dataclass(frozen=True)
class Species:
    """A species of the registry.

    Parameters
    ----------
    name : str
        The class name.
    scientific_name : str
    accessions : tuple of str
        GenBank/RefSeq numbers of its T2T assemblies, without GCA_ or GCF_.
    aliases : tuple of str
        Other names that a file may carry: UCSC databases, assembly names, scientific names.
    homologue_of_length : mapping of int to str
        For each chromosome of the T2T assemblies, its length in bp and the human chromosome (`hsa`) it is homologous
        to, from the registry of assemblies.
    """

    name: str
    scientific_name: str
    accessions: tuple[str, ...]
    aliases: tuple[str, ...]
    homologue_of_length: Mapping[int, str]


_ASSEMBLIES = tuple(assembly for found in read_registry().values() for assembly in found.assemblies)


def _lengths(species: str) -> Mapping[int, str]:
    return MappingProxyType(
        {
            length: hsa
            for assembly in _ASSEMBLIES
            if assembly.species == species
            for hsa, length in (assembly.chromosomes or {}).items()
        }
    )


GREAT_APES: tuple[Species, ...] = (
    Species(
        "human",
        "Homo sapiens",
        ("009914755",),
        ("hg38", "GRCh38", "000001405", "hs1", "CHM13", "chm13v2", "T2T CHM13v2"),
        _lengths("human"),
    ),
    Species(
        "chimpanzee",
        "Pan troglodytes",
        ("028858775",),
        ("chimp", "panTro6", "Clint PTRv2", "002880755", "mPanTro3"),
        _lengths("chimpanzee"),
    ),
    Species(
        "bonobo",
        "Pan paniscus",
        ("029289425",),
        ("panPan3", "Mhudiblu PPA", "013052645", "mPanPan1"),
        _lengths("bonobo"),
    ),
    Species(
        "gorilla",
        "Gorilla gorilla",
        ("029281585",),
        ("gorGor6", "Kamilah GGO", "008122165", "mGorGor1"),
        _lengths("gorilla"),
    ),
    Species(
        "orangutan",
        "Pongo abelii",
        ("028885655", "028885625"),
        ("orang", "Pongo pygmaeus", "ponAbe3", "Susie PABv2", "002880775", "mPonAbe1", "mPonPyg2"),
        _lengths("orangutan"),
    ),
)
"""The registry, in the order of classes: human and its relatives by distance."""

SPECIES_NAMES: tuple[str, ...] = tuple(species.name for species in GREAT_APES)


def _words(text: str) -> str:
    return f" {' '.join(re.findall(r'[a-z0-9]+', text.lower()))} "


def find_species(text: str) -> Species | None:
    """Recognise a species in a file name or label: its name, scientific name, assembly or accession.

    Raises
    ------
    InputError
        More than one species is named.

    Examples
    --------
    >>> [find_species(name).name for name in ("hg38", "GCF_028858775.2_NHGRI_mPanTro3-v2.0_pri", "Pongo_abelii.ASM")]
    ['human', 'chimpanzee', 'orangutan']
    >>> find_species("lemur") is None
    True
    """
    words = _words(text)
    found = [
        species
        for species in GREAT_APES
        if any(
            _words(alias) in words
            for alias in (species.name, species.scientific_name, *species.accessions, *species.aliases)
        )
    ]
    if len(found) > 1:
        raise InputError(f"{text!r} names more than one species: {', '.join(species.name for species in found)}")
    return found[0] if found else None


def class_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Order class names: as in the registry when all are great apes, else alphabetically.

    Examples
    --------
    >>> class_order({"gorilla", "human"}), class_order({"b", "a"})
    (('human', 'gorilla'), ('a', 'b'))
    """
    distinct = set(labels)
    if distinct <= set(SPECIES_NAMES):
        return tuple(name for name in SPECIES_NAMES if name in distinct)
    return tuple(sorted(distinct))
