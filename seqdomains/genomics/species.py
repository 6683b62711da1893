"""The five great apes: names, assemblies, and the chromosome lengths by which a T2T assembly is recognised."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from seqdomains.errors import InputError


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
        to. Lengths are from Makova et al. 2024 (doi:10.1038/s41586-024-07473-2), as listed in makovalab-psu's
        T2T_primate_nonB, helpfiles/all_lengths.txt.
    """

    name: str
    scientific_name: str
    accessions: tuple[str, ...]
    aliases: tuple[str, ...]
    homologue_of_length: Mapping[int, str]


def _lengths(*tables: str) -> Mapping[int, str]:
    pairs = (entry.split(":") for table in tables for entry in table.split())
    return MappingProxyType({int(length): hsa for hsa, length in pairs})


_HUMAN = """1:248387328 2:242696752 3:201105948 4:193574945 5:182045439 6:172126628 7:160567428 8:146259331 9:150617247
10:134758134 11:135127769 12:133324548 13:113566686 14:101161492 15:99753195 16:96330374 17:84276897 18:80542538
19:61707364 20:66210255 21:45090682 22:51324926 X:154259566 Y:62460029"""
_CHIMPANZEE = """1:231299448 3:201579334 4:191670129 5:178964043 6:183320697 7:174648847 8:155691389 10:146288486
11:136991367 12:140160335 9:118863153 2A:122853238 2B:144476839 13:120149342 14:104701121 15:93846347 18:90695042
16:94528409 17:99595324 19:68087067 20:78115444 21:51350302 22:59520411 X:153896354 Y:36447294"""
_BONOBO = """1:227705052 3:196431891 4:188614375 5:176551333 6:191151712 7:196309857 8:162793952 10:147028407
11:135750398 12:141815175 9:124758961 2A:126551469 2B:144872268 13:116126430 14:108452746 15:91859929 18:98270466
16:100427192 17:100792412 19:70721293 20:76791327 21:48483276 22:65052380 X:160241051 Y:46954669"""
_GORILLA = """1:243847345 3:215253457 4:215373162 17x5:195332687 6:199452338 7:170803427 8:158533252 10:150804130
11:147876701 12:154228409 2B:150248535 2A:145906006 9:134695396 13:132018348 14:131692671 15:107915467 18:116054869
16:131347499 5x17:120452965 19:80312928 20:84443219 21:59507314 22:54769797 X:177558554 Y:67405748"""
_SUMATRAN = """1:233795519 3:209544987 4:212916775 5:190378904 6:172605363 7:156966991 8:161631396 10:140854135
11:138471021 12:132281717 2B:146197178 2A:133183124 9:129618170 13:120579848 14:111741659 15:105333845 18:95460129
16:89553113 17:98669288 19:65400147 20:68750668 21:57143103 22:57593421 X:162586321 Y:67827326"""
_BORNEAN = """1:230807400 3:209442601 4:203829688 5:186348328 6:171334878 7:158534780 8:158152001 10:139209255
11:137033130 12:132184685 2B:143261986 2A:134313182 9:128999004 13:124308952 14:106409199 15:107891546 18:95557242
16:87425153 17:101496854 19:65241172 20:67026804 21:59678711 22:62059721 X:160969493 Y:49419398"""

GREAT_APES: tuple[Species, ...] = (
    Species(
        "human",
        "Homo sapiens",
        ("009914755",),
        ("hg38", "GRCh38", "000001405", "hs1", "CHM13", "chm13v2", "T2T CHM13v2"),
        _lengths(_HUMAN),
    ),
    Species(
        "chimpanzee",
        "Pan troglodytes",
        ("028858775",),
        ("chimp", "panTro6", "Clint PTRv2", "002880755", "mPanTro3"),
        _lengths(_CHIMPANZEE),
    ),
    Species(
        "bonobo",
        "Pan paniscus",
        ("029289425",),
        ("panPan3", "Mhudiblu PPA", "013052645", "mPanPan1"),
        _lengths(_BONOBO),
    ),
    Species(
        "gorilla",
        "Gorilla gorilla",
        ("029281585",),
        ("gorGor6", "Kamilah GGO", "008122165", "mGorGor1"),
        _lengths(_GORILLA),
    ),
    Species(
        "orangutan",
        "Pongo abelii",
        ("028885655", "028885625"),
        ("orang", "Pongo pygmaeus", "ponAbe3", "Susie PABv2", "002880775", "mPonAbe1", "mPonPyg2"),
        _lengths(_SUMATRAN, _BORNEAN),
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
