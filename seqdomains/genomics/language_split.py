"""Which parts of a corpus a language model is trained on and which are held out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from seqdomains.errors import ConfigError, InputError
from seqdomains.genomics.areas import Areas
from seqdomains.genomics.contigs import unknown_contig
from seqdomains.genomics.corpus import RecordHeader, homologue_of
from seqdomains.genomics.language_data import LanguageData
from seqdomains.genomics.regions import parse_region
from seqdomains.genomics.spans import resolve_in
from seqdomains.genomics.species import find_species
from seqdomains.genomics.splits import split_by_chromosome, split_by_group
from seqdomains.genomics.windows import Region, read_bed

NAMES = ("train", "valid", "test")
_MAY_BE_HOMOLOGOUS = "Sequences homologous to the test windows may be among those trained on."


@dataclass(frozen=True)
class LanguageSplit:
    """Areas of each side, how they were told apart, and what must stand beside a result."""

    train: Areas
    test: Areas
    kind: str
    notes: tuple[str, ...]


def split_language(headers: Sequence[RecordHeader], data: LanguageData) -> LanguageSplit:
    """Tell training and test areas apart.

    Raises
    ------
    ConfigError
        A split that the data cannot serve.
    InputError
        A region is not within any record, or one side is empty.
    """
    everything = Areas.whole(np.array([header.length for header in headers], dtype=np.int64))
    regions = None if data.regions is None else read_bed(data.regions)
    kept = everything if regions is None else everything.within(place(regions, headers, of=data.regions))
    homologues = _homologues(headers) if data.split in ("auto", "homologue") else []
    kind = data.split
    if kind == "auto":
        named = regions is not None and all(region.name in NAMES for region in regions)
        nuclear = any(hsa not in (None, "M") for hsa in homologues)
        held = data.held or data.held_regions
        kind = "held" if held else "named" if named else "homologue" if nuclear else "fraction"
    if data.part == "valid" and kind not in ("named", "homologue"):
        raise ConfigError(f"data.part: valid is not known to the split {kind}, which these data take")
    notes: tuple[str, ...] = (_MAY_BE_HOMOLOGOUS,) if kind in ("contig", "fraction") else ()
    if kind == "held":
        held_areas = place(_held(data, headers), headers, of=data.held_regions)
        test, train = kept.within(held_areas), kept.without(held_areas, gap=data.gap)
    elif kind == "named":
        if regions is None or any(region.name not in NAMES for region in regions):
            raise ConfigError("data.split: named needs train, valid or test in the fourth column of each region")
        sides = {name: place([one for one in regions if one.name == name], headers, of=data.regions) for name in NAMES}
        test = sides[data.part]
        train = sides["train"]
        for name in ("valid", "test"):
            train = train.without(sides[name], gap=data.gap)
    elif kind == "homologue":
        if not any(homologues):
            raise ConfigError("data.split: homologue needs one assembly per species, each file named after it")
        split = split_by_chromosome(homologues, part=data.part)
        test, train = kept.within(_whole(split.held, headers)), kept.within(_whole(split.train, headers))
        notes = split.notes
    elif kind == "contig":
        names = [header.name for header in headers]
        # One name, such as chr5 in five assemblies, is on one side.
        split = split_by_group(names, fraction=data.test_fraction, seed=data.seed)
        test, train = kept.within(_whole(split.held, headers)), kept.within(_whole(split.train, headers))
    else:
        ends = kept.ends_of_records(data.test_fraction)
        test, train = kept.within(ends), kept.without(ends, gap=data.gap)
    return LanguageSplit(train, test, kind, notes)


def place(regions: Iterable[Region], headers: Sequence[RecordHeader], *, of: Path | None) -> Areas:
    """Find regions in records, each in every file that has its contig; an end of 0 is the contig's own.

    Raises
    ------
    InputError
        No file has a region's contig, or it is not within one.
    """
    files: dict[Path, dict[str, int]] = {}
    numbers = {(header.file, header.name): record for record, header in enumerate(headers)}
    for header in headers:
        files.setdefault(header.file, {})[header.name] = header.length
    rows = []
    for region in regions:
        where = f"{of}, line {region.line}" if region.line else "data.held"
        found = 0
        for file, lengths in files.items():
            try:
                name = resolve_in(region.contig, lengths, file)
            except InputError:
                continue
            length = lengths[name]
            end = region.end or length
            if not region.start < end <= length:
                raise InputError(
                    f"{where}: {region.contig}:{region.start + 1}-{end} is not within the contig, which has {length} "
                    f"bp in {file}"
                )
            rows.append((numbers[file, name], region.start, end))
            found += 1
        if not found:
            names = list(dict.fromkeys(header.name for header in headers))
            raise InputError(f"{where}: {unknown_contig(region.contig, names, where=None)}")
    return Areas.of(rows)


def _held(data: LanguageData, headers: Sequence[RecordHeader]) -> list[Region]:
    """Return what is held out by name; a region that goes to its contig's end does so in each file."""
    regions = [] if data.held_regions is None else list(read_bed(data.held_regions))
    longest: dict[str, int] = {}
    for header in headers:
        longest[header.name] = max(header.length, longest.get(header.name, 0))
    for text in data.held:
        try:
            region = parse_region(text, longest, headers[0].file)
        except InputError as error:
            raise InputError(f"data.held: {error}") from error
        regions.append(replace(region, end=0) if region.end == longest[region.contig] else region)
    return regions


def _homologues(headers: Sequence[RecordHeader]) -> list[str | None]:
    try:
        species = {header.file: find_species(header.file.name) for header in headers}
    except InputError:
        # A file of several species, which says of no record whose it is.
        return [None] * len(headers)
    if None in species.values():
        return [None] * len(headers)
    return [None if (one := species[header.file]) is None else homologue_of(header, one) for header in headers]


def _whole(chosen: np.ndarray[tuple[int], np.dtype[np.bool_]], headers: Sequence[RecordHeader]) -> Areas:
    return Areas.of((record, 0, headers[record].length) for record in np.flatnonzero(chosen).tolist())
