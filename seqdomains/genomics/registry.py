"""Registries of assemblies: where each is, how it is checked, and which of its chromosomes is homologous to which."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from seqdomains.errors import ConfigError, reason
from seqdomains.files import read_bounded
from seqdomains.strict_yaml import LARGEST, load_yaml

BUILT_IN = "great-apes"

# One file or folder name: no slash, no "..", nothing hidden.
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]*$"
# The same with {folder} for the name of the assembly's folder.
_FILE = r"^(\{folder\}|[A-Za-z0-9])[A-Za-z0-9._+-]*$"
# Such names below each other; the last may end with a star.
_FOLDER = r"^([A-Za-z0-9][A-Za-z0-9._+-]*/)*[A-Za-z0-9][A-Za-z0-9._+-]*\*?$"
_HSA = r"^(\d{1,2}|\d{1,2}x\d{1,2}|2A|2B|X|Y)$"
_MD5 = r"^[0-9a-f]{32}$"
_SHA256 = r"^[0-9a-f]{64}$"
_EXPECTED = {
    _NAME: "a plain name of letters, digits and ._+-, which begins with one of the first two",
    _FILE: "a plain name, with or without {folder} at its beginning",
    _FOLDER: "plain names divided by /, below base_url; the last may end with a star",
    _HSA: "the number of a human chromosome, 2A, 2B, X, Y, or two numbers such as 5x17",
    _MD5: "32 digits 0-9a-f",
    _SHA256: "64 digits 0-9a-f",
}
_URL = re.compile(r"^https?://[^\s/?#]+(/[^\s?#]*)?$")

Name = Annotated[str, Field(pattern=_NAME, max_length=100)]
FileName = Annotated[str, Field(pattern=_FILE, max_length=100)]
Homologue = Annotated[str, Field(pattern=_HSA)]
Positive = Annotated[int, Field(gt=0)]


class Assembly(BaseModel):
    """One assembly.

    Parameters
    ----------
    name : str
        Its own name, such as mPanTro3; the genome is kept as ``<species>.<name>.fa.gz``.
    species : str
        The class that it is of.
    accession : str or None
    folder : str
        Its folder below the set's address. A star at the end is looked up in the listing of the folder above.
    genome : str
        FASTA, plain, gzip or bgzip, in that folder. ``{folder}`` stands for the folder's own name.
    checksums : str or None
        The provider's file of MD5 or SHA-256 sums, lines of ``sum  name``.
    report : str or None
        The provider's list of contigs with their lengths: NCBI's assembly report, or UCSC's ``chrom.sizes``.
    aliases : str or None
        UCSC's ``chromAlias.txt``.
    size : int or None
        Of the genome's file in bytes, where known.
    md5, sha256 : str or None
        Of the genome's file, where known; else `checksums` has to tell.
    chromosomes : mapping of str to int, or None
        Length in bp of the chromosome homologous to each human one; these must be among the contigs.
    extra : bool
        Fetched only where it is asked for by name.

    Examples
    --------
    >>> Assembly(name="mini", species="human", folder="mini", genome="{folder}.fa.gz", md5="0" * 32).stem
    'human.mini'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    species: Name
    accession: Name | None = None
    folder: Annotated[str, Field(pattern=_FOLDER, max_length=200)]
    genome: FileName
    checksums: FileName | None = None
    report: FileName | None = None
    aliases: FileName | None = None
    size: Positive | None = None
    md5: Annotated[str, Field(pattern=_MD5)] | None = None
    sha256: Annotated[str, Field(pattern=_SHA256)] | None = None
    chromosomes: Mapping[Homologue, Positive] | None = None
    extra: bool = False

    @model_validator(mode="after")
    def _can_be_checked(self) -> Assembly:
        if self.md5 is None and self.sha256 is None and self.checksums is None:
            raise ValueError("no md5, sha256 or checksums: what is fetched could not be checked")
        return self

    @property
    def stem(self) -> str:
        """What the names of its files begin with."""
        return f"{self.species}.{self.name}"


class AssemblySet(BaseModel):
    """Assemblies of one provider, one or more of each species.

    Parameters
    ----------
    base_url : str
        What all folders are below; http or https.
    assemblies : tuple of Assembly
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str
    assemblies: tuple[Assembly, ...]

    @model_validator(mode="after")
    def _consistent(self) -> AssemblySet:
        check_address(self.base_url)
        if not self.assemblies:
            raise ValueError("assemblies: expected one at least, found none")
        stems = [assembly.stem for assembly in self.assemblies]
        if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
            raise ValueError(f"{twice[0]} stands twice")
        return self

    def chosen(self, only: Sequence[str] = ()) -> tuple[Assembly, ...]:
        """Return the assemblies that are named by species or by name; without names all but the extra ones.

        Raises
        ------
        ConfigError
            A name is not in the set.
        """
        known = [name for assembly in self.assemblies for name in (assembly.species, assembly.name)]
        if unknown := [name for name in only if name not in known]:
            names = ", ".join(dict.fromkeys(known))
            raise ConfigError(f"--only {unknown[0]}: no assembly or species of this set; there are {names}")
        return tuple(
            assembly
            for assembly in self.assemblies
            if assembly.name in only or (not assembly.extra and (not only or assembly.species in only))
        )


def check_address(url: str) -> str:
    """Return an address of http or https without its last slash.

    Raises
    ------
    ValueError
        It is none, or has a query.

    Examples
    --------
    >>> check_address("https://example.org/genomes/")
    'https://example.org/genomes'
    """
    if not _URL.match(url) or "/.." in url:
        raise ValueError(f"expected an address such as https://example.org/genomes/, found {url!r}")
    return url.rstrip("/")


def read_registry(path: Path | None = None) -> dict[str, AssemblySet]:
    """Read a registry: its sets by name.

    Parameters
    ----------
    path : Path or None
        A YAML file; None reads that of the great apes, which comes with the package.

    Raises
    ------
    ConfigError
        It cannot be read, or has a key, name or address that it may not have; all problems at once.

    Examples
    --------
    >>> [(name, len(found.chosen())) for name, found in read_registry().items()]
    [('t2t', 5), ('ucsc', 5)]
    """
    if path is None:
        origin = f"registry {BUILT_IN}"
        text = resources.files("seqdomains.genomics").joinpath(f"{BUILT_IN}.yaml").read_text(encoding="utf-8")
    else:
        origin = f"--registry {path}"
        try:
            text = read_bounded(path, LARGEST).decode("utf-8")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{origin}: cannot be read ({reason(error)})") from None
    tree = load_yaml(text, origin=origin)
    if not isinstance(tree, dict) or not tree:
        raise ConfigError(f"{origin}: expected sets of assemblies by name, found {type(tree).__name__}")
    if unfit := [name for name in tree if not re.match(_NAME, name)]:
        raise ConfigError(f"{origin}: {unfit[0]!r} is no name of a set: letters, digits and ._+- only")
    sets, problems = {}, []
    for name, content in tree.items():
        try:
            sets[name] = AssemblySet.model_validate(content)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                place = ".".join(map(str, (name, *detail["loc"])))
                text = detail["msg"].removeprefix("Value error, ")
                if detail["type"] == "string_pattern_mismatch":
                    text = f"expected {_EXPECTED[detail['ctx']['pattern']]}; found {detail['input']!r}"
                problems.append(f"{origin}: {place}: {text}")
    if problems:
        raise ConfigError(problems)
    return sets
