"""Assemblies of a registry on this machine: fetched, checked, bgzipped and indexed, with a record of their origin."""

from __future__ import annotations

import fcntl
import gzip
import json
import logging
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pooch
import pysam

from seqdomains import __version__
from seqdomains.download import AbsentError, Downloader, discard
from seqdomains.errors import InputError
from seqdomains.files import atomic_file, parse_json, read_bounded, sha256, sync
from seqdomains.genomics.faidx import FastaFile
from seqdomains.genomics.fasta import compression, index_paths
from seqdomains.genomics.provider_files import as_aliases, folder_in_listing, read_contigs, read_sums
from seqdomains.genomics.registry import Assembly, AssemblySet

logger = logging.getLogger(__name__)

LOCK: Final = ".fetch.lock"
_BLOCK = 1 << 20
_LARGEST_RECORD = 1 << 20
# Of a genome's gzip file, what its bgzip form with its indexes may take: blocks of 64 KB pack a little less well.
_RECOMPRESSED = 1.2

# At level 3 in a quarter of the time of the usual 6 and 2 % larger, on random bases; pysam's stub knows no levels.
_BGZIP_MODE: Any = "wb3"

# What is done, how far, and of how much (bytes).
Show = Callable[[str, int, int | None], None]


def _silent(what: str, done: int, total: int | None) -> None:
    pass


@dataclass(frozen=True)
class Shelf:
    """A folder of assemblies of one set, and how it is filled.

    Parameters
    ----------
    folder : Path
    base_url : str
        What the addresses of the set's folders begin with.
    downloader : Downloader
    show : callable
        Is told what is done, the bytes done, and of how many.

    Examples
    --------
    >>> import tempfile
    >>> shelf = Shelf(Path(tempfile.mkdtemp()), "https://example.org/genomes")
    >>> mini = Assembly(name="mini", species="human", folder="mini", genome="mini.fa.gz", md5="0" * 32)
    >>> shelf.state(mini), shelf.genome(mini).name
    ('absent', 'human.mini.fa.gz')
    """

    folder: Path
    base_url: str
    downloader: Downloader = field(default_factory=Downloader)
    show: Show = _silent

    def genome(self, assembly: Assembly) -> Path:
        """Return where the genome is kept."""
        return self.folder / f"{assembly.stem}.fa.gz"

    def part(self, assembly: Assembly) -> Path:
        """Return where the download grows."""
        return self.folder / f".{assembly.stem}.part"

    def state(self, assembly: Assembly) -> str:
        """Tell whether an assembly is here: fetched, begun (with the bytes that are there), damaged, another or absent.

        What is damaged, or not what the registry speaks of, is fetched again.
        """
        genome = self.genome(assembly)
        record, fault = read_record(genome)
        if record is not None and _is_of(record, assembly):
            return "fetched"
        part = self.part(assembly)
        if part.exists():
            return f"begun, {part.stat().st_size / 1e6:.0f} MB are here"
        if record is not None:
            return "another: its record has another accession, size or sum than the registry"
        return f"damaged: {fault}" if genome.exists() or _record_path(genome).exists() else "absent"

    def fetch(self, assembly: Assembly) -> Path:
        """Bring an assembly here, or what is left of it, and return its genome: bgzip with ``.fai`` and ``.gzi``.

        Raises
        ------
        InputError
            The provider does not answer, has not what the registry says, or sends what does not fit its checksum; the
            FASTA is bad; there is no room.
        """
        genome = self.genome(assembly)
        if self.state(assembly) == "fetched":
            logger.info("%s is here: %s", assembly.stem, genome)
            return genome
        _record_path(genome).unlink(missing_ok=True)
        folder = self._folder(assembly)
        beside = self._provider_files(assembly, folder)
        name = _named(assembly.genome, folder)
        expected = _expected(assembly, name, beside, url=f"{self.base_url}/{folder}")
        part = self.part(assembly)
        came_from, sums = self._download(assembly, f"{self.base_url}/{folder}/{name}", part, expected)
        with self._workplace(assembly) as workplace:
            fresh = workplace / genome.name
            _as_bgzip(part, fresh, progress=lambda done, total: self.show(f"bgzip {assembly.stem}", done, total))
            self.show(f"index {assembly.stem}", 0, None)
            fasta = FastaFile(fresh)
            _check_lengths(fasta, assembly, beside, came_from)
            record = {
                "name": assembly.name,
                "species": assembly.species,
                "accession": assembly.accession,
                "url": came_from,
                "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
                "download": {"size": part.stat().st_size, **sums},
                "genome": {
                    "size": fresh.stat().st_size,
                    "sha256": sha256(fresh),
                    "contigs": len(fasta.names),
                    "bases": sum(fasta.lengths),
                },
                "beside": {path.name: sha256(path) for path in beside.values()},
                "seqdomains": __version__,
            }
            # The record is written last: what has none is not taken for whole.
            for path in (*index_paths(fresh)[::-1], fresh):
                sync(path)
                path.replace(self.folder / path.name)
        with atomic_file(_record_path(genome)) as partial:
            partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        discard(part)
        return genome

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, and keep other fetches out of it; waits while one is at work.

        Raises
        ------
        InputError
            The folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / LOCK).open("a")
        except OSError as error:
            raise InputError(
                f"cannot write {self.folder}: {error.strerror or error}; choose another --out, or another "
                "SEQDOMAINS_CACHE"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("another command fetches into %s: waiting for it", self.folder)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _folder(self, assembly: Assembly) -> str:
        """Return the assembly's folder below the address; a star is looked up."""
        if not assembly.folder.endswith("*"):
            return assembly.folder
        above, _, prefix = assembly.folder.removesuffix("*").rpartition("/")
        url = f"{self.base_url}/{above}/" if above else f"{self.base_url}/"
        name = folder_in_listing(self.downloader.text(url), prefix, url=url)
        return f"{above}/{name}" if above else name

    def _provider_files(self, assembly: Assembly, folder: str) -> Mapping[str, Path]:
        """Keep what the provider says of the assembly beside it; returns the files by what they are."""
        kept = {}
        for kind, template, name in (
            ("checksums", assembly.checksums, f"{assembly.stem}.checksums.txt"),
            ("report", assembly.report, f"{assembly.stem}.report.txt"),
            ("aliases", assembly.aliases, f"{assembly.stem}.chromAlias.txt"),
        ):
            if template is None:
                continue
            try:
                text = self.downloader.text(f"{self.base_url}/{folder}/{_named(template, folder)}")
            except AbsentError as error:
                if kind != "aliases":
                    raise
                logger.warning("%s has no table of other names: %s", assembly.stem, error)
                continue
            kept[kind] = _write(self.folder / name, text)
        if "report" in kept and "aliases" not in kept:
            contigs = read_contigs(kept["report"].read_text(encoding="utf-8"), url=str(kept["report"]))
            if any(len(contig.names) > 1 for contig in contigs):
                kept["aliases"] = _write(self.folder / f"{assembly.stem}.chromAlias.txt", as_aliases(contigs))
        return kept

    def _download(
        self, assembly: Assembly, url: str, part: Path, expected: Mapping[str, str]
    ) -> tuple[str, dict[str, str]]:
        """Bring a file to `part`; returns the address that it came from, and its sums, which are those expected."""

        def room(coming: int) -> None:
            here = part.stat().st_size if part.exists() else 0
            if assembly.size is not None and coming + here != assembly.size and not here:
                raise InputError(f"{url}: the server has {coming:,} bytes, the registry says {assembly.size:,}")
            needed, free = int(coming + _RECOMPRESSED * (coming + here)), shutil.disk_usage(self.folder).free
            if needed > free:
                raise InputError(
                    f"{self.folder}: {assembly.stem} takes about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free: "
                    "make room, or choose another --out"
                )

        def bring() -> str:
            return self.downloader.fetch(
                url, part, progress=lambda done, total: self.show(f"fetch {assembly.stem}", done, total), room=room
            )

        in_parts = part.exists()
        came_from, sums = bring(), _sums(part)
        if in_parts and not expected.items() <= sums.items():
            logger.warning("%s does not fit its checksum; it came in parts, so it is fetched once more", part.name)
            discard(part)
            came_from, sums = bring(), _sums(part)
        for algorithm, known in expected.items():
            if sums[algorithm] != known:
                discard(part)
                raise InputError(
                    f"{url}: what came has the {algorithm} {sums[algorithm]}, expected {known}; it was removed: repeat "
                    "the command, or give a mirror with --base-url"
                )
        return came_from, sums

    @contextmanager
    def _workplace(self, assembly: Assembly) -> Iterator[Path]:
        """Give an empty folder for what is not whole yet; the lock's holder alone is in it."""
        workplace = self.folder / f".{assembly.stem}.work"
        shutil.rmtree(workplace, ignore_errors=True)
        try:
            workplace.mkdir()
            yield workplace
        except OSError as error:
            raise InputError(
                f"{self.folder}: {assembly.stem} cannot be written ({error.strerror or error}); make room and repeat"
            ) from error
        finally:
            shutil.rmtree(workplace, ignore_errors=True)


def read_record(genome: Path) -> tuple[dict[str, Any] | None, str]:
    """Return the record of a genome that is whole with its indexes, or None and what is wrong with it.

    Examples
    --------
    >>> read_record(Path("human.none.fa.gz"))
    (None, 'human.none.json, which says what was fetched, is missing or cannot be read')
    """
    path = _record_path(genome)
    try:
        record = dict(parse_json(read_bounded(path, _LARGEST_RECORD)))
        size, came = record["genome"]["size"], record["download"]
    except (OSError, ValueError, KeyError, TypeError):
        return None, f"{path.name}, which says what was fetched, is missing or cannot be read"
    if not isinstance(came, dict):
        return None, f"{path.name} does not say what was fetched"
    try:
        found = genome.stat().st_size
    except OSError:
        return None, f"{genome.name} is missing"
    if found != size:
        return None, f"{genome.name} has {found} bytes, and {size} when it was fetched"
    missing = [one.name for one in index_paths(genome) if not one.exists()]
    return (None, f"{missing[0]} is missing") if missing else (record, "")


def fetched_genomes(folder: Path, assemblies: AssemblySet) -> dict[str, Path]:
    """Return the genomes that were fetched into a folder, by species; extra assemblies are left out.

    Examples
    --------
    >>> from seqdomains.genomics.registry import read_registry
    >>> fetched_genomes(Path("nowhere"), read_registry()["t2t"])
    {}
    """
    shelf = Shelf(folder, assemblies.base_url)
    return {
        assembly.species: shelf.genome(assembly)
        for assembly in assemblies.chosen()
        if shelf.state(assembly) == "fetched"
    }


def _record_path(genome: Path) -> Path:
    return genome.with_name(f"{genome.name.removesuffix('.fa.gz')}.json")


def _is_of(record: Mapping[str, Any], assembly: Assembly) -> bool:
    """Tell whether a record speaks of the assembly that the registry describes now."""
    came = record["download"]
    return record.get("accession") == assembly.accession and all(
        known is None or came.get(algorithm) == known
        for algorithm, known in (("md5", assembly.md5), ("sha256", assembly.sha256), ("size", assembly.size))
    )


def _named(template: str, folder: str) -> str:
    return template.replace("{folder}", folder.rpartition("/")[2])


def _write(path: Path, text: str) -> Path:
    try:
        with atomic_file(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); make room and repeat") from error
    return path


def _expected(assembly: Assembly, name: str, beside: Mapping[str, Path], *, url: str) -> dict[str, str]:
    """Return what is known of the sums of the genome's file, by algorithm."""
    known = {
        algorithm: value
        for algorithm, value in (("md5", assembly.md5), ("sha256", assembly.sha256))
        if value is not None
    }
    if "checksums" in beside:
        told = read_sums(beside["checksums"].read_text(encoding="utf-8")).get(name, {})
        for algorithm, value in told.items():
            if known.get(algorithm, value) != value:
                raise InputError(
                    f"{url}/{name}: the provider says {algorithm} {value}, the registry {known[algorithm]}: the file "
                    "was changed, or is not the one that is meant"
                )
        known |= told
    if not known:
        raise InputError(f"{url}/{assembly.checksums} does not list {name}, so it could not be checked")
    return known


def _sums(path: Path) -> dict[str, str]:
    return {algorithm: pooch.file_hash(str(path), alg=algorithm) for algorithm in ("md5", "sha256")}


def _as_bgzip(source: Path, target: Path, *, progress: Callable[[int, int], None]) -> None:
    """Write a plain, gzip or bgzip file as bgzip."""
    if compression(source) == "bgzip":
        shutil.copyfile(source, target)
        return
    size = source.stat().st_size
    try:
        with source.open("rb") as raw, pysam.BGZFile(str(target), _BGZIP_MODE, index=None) as out:
            packed = raw.peek(2)[:2] == b"\x1f\x8b"
            handle = gzip.GzipFile(fileobj=raw) if packed else raw
            while block := handle.read(_BLOCK):
                out.write(block)
                progress(raw.tell(), size)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{source} is no whole gzip file ({error}), though its checksum is right") from error


def _check_lengths(fasta: FastaFile, assembly: Assembly, beside: Mapping[str, Path], url: str) -> None:
    """Hold the contigs to the provider's report and to the registry."""
    if "report" in beside:
        report = read_contigs(beside["report"].read_text(encoding="utf-8"), url=str(beside["report"]))
        lengths = {name: contig.length for contig in report for name in contig.names}
        for name, length in zip(fasta.names, fasta.lengths, strict=True):
            if lengths.get(name, length) != length:
                raise InputError(
                    f"{url}: contig {name!r} has {length:,} bp, the provider's report says {lengths[name]:,}"
                )
        if strangers := [name for name in fasta.names if name not in lengths]:
            logger.warning("%s: %d contigs are not in the report, first %s", url, len(strangers), strangers[0])
    absent = {hsa: bp for hsa, bp in (assembly.chromosomes or {}).items() if bp not in fasta.lengths}
    if absent:
        hsa, length = next(iter(absent.items()))
        raise InputError(
            f"{url}: no contig has the {length:,} bp of the chromosome homologous to human {hsa} ({len(absent)} such): "
            f"this is not the {assembly.name} that the registry describes"
        )
