"""What `genomics explain` does: a model, a reference and regions, joined."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from seqdomains.backbone import LoadedModel, MambaLM
from seqdomains.cli.models import (
    choose_device,
    classifier_of,
    load_model,
    next_token_model_of,
    trained_window,
    windows_at_once,
)
from seqdomains.errors import ConfigError
from seqdomains.genomics.alphabet import ALPHABET, COMPLEMENT, N, decode
from seqdomains.genomics.faidx import FastaFile
from seqdomains.genomics.records import says_simulated
from seqdomains.genomics.regions import covered, merged, overlap, parse_region, place_windows, within_file
from seqdomains.genomics.simulate.run import RECORD
from seqdomains.genomics.windows import Region, read_bed
from seqdomains.pipelines.changes import open_changes
from seqdomains.pipelines.explain import (
    ExplainedStretch,
    ExplainedWindow,
    Explainer,
    Method,
    concatenated,
    explain,
    recovery,
    require_both_kinds,
)
from seqdomains.pipelines.figures import BLUE, GREEN, ORANGE, VERMILLION
from seqdomains.pipelines.logo import FORMS, logo_figure, write_figure
from seqdomains.pipelines.tables import STDOUT, TABLE_SUFFIXES, Table, check_name
from seqdomains.pipelines.tracks import TRACK_SUFFIXES, is_bigwig, open_track

logger = logging.getLogger(__name__)

MOST_LETTERS: Final = 200
_BASES: Final = (0, 1, 2, 3)
_COLOURS: Final = {"A": GREEN, "C": BLUE, "G": ORANGE, "T": VERMILLION}
_STEPS: Final = 32


def run_explain(
    path: Path,
    *,
    reference: Path,
    named: Sequence[str],
    regions: Path | None,
    method: Method,
    class_name: str | None,
    both_strands: bool,
    steps: int | None,
    window: int | None,
    outputs: Sequence[str],
    figure: Path | None,
    truth: Path | None,
    device: str | None,
) -> None:
    """Write the importance of each base of the regions; tell how well it agrees with a truth, draw it."""
    _refuse_clashes(
        [*outputs, *([] if figure is None else [str(figure)])],
        [reference, *(one for one in (regions, truth) if one is not None)],
    )
    if steps is not None and method != "integrated-gradients":
        raise ConfigError("--steps: goes with --method integrated-gradients")
    if not named and regions is None:
        raise ConfigError("no region: give --region CONTIG:START-END, 1-based, or a BED with --regions")
    if figure is not None and figure.suffix.lower() not in FORMS:
        raise ConfigError(f"--figure {figure}: expected a file {', '.join(FORMS[:-1])} or {FORMS[-1]}")
    for output in outputs:
        check_name(output, suffixes=(*TRACK_SUFFIXES, *TABLE_SUFFIXES), stdout="bedGraph")
    where = choose_device(device)
    loaded = load_model(path, device=where)
    number = _class_of(loaded, class_name)
    fasta = FastaFile(reference)
    lengths = dict(zip(fasta.names, fasta.lengths, strict=True))
    asked = [parse_region(text, lengths, reference) for text in named]
    asked += within_file(read_bed(regions), lengths, reference) if regions is not None else []
    wanted = merged(asked)
    known = merged(within_file(read_bed(truth), lengths, reference)) if truth is not None else []
    positions = sum(region.end - region.start for region in wanted)
    if truth is not None:
        # Before anything is computed, which may take hours.
        require_both_kinds(sum(overlap(region, known) for region in wanted), positions)
    if figure is not None and (len(wanted) > 1 or positions > MOST_LETTERS):
        raise ConfigError(
            f"--figure: a logo shows one region of at most {MOST_LETTERS} bp; found {len(wanted)} regions of "
            f"{positions} bp"
        )
    length = window or trained_window(loaded)
    explainer = Explainer(
        next_token_model_of(loaded) if isinstance(loaded.model, MambaLM) else classifier_of(loaded),
        method,
        codes=_BASES,
        device=where,
        number=number,
        complement=tuple(COMPLEMENT.tolist()) if both_strands else None,
        ignored=N,
        before=N,
        steps=steps or _STEPS,
        at_once=windows_at_once(where, length),
    )
    kept = _Kept() if figure is not None or truth is not None else None
    outcome = explain(
        explainer,
        [(str(reference), _windows(wanted, fasta, lengths, length))],
        _open_outputs(outputs, lengths, kept),
        total=positions,
    )
    simulated = any((file.parent / RECORD).exists() for file in (reference, truth) if file is not None)
    simulated = simulated or says_simulated(reference)
    logger.info("explained %d bases%s", outcome.windows, " of SIMULATED sequences" if simulated else "")
    if outcome.windows < positions:
        logger.warning("%d positions are no A, C, G or T, have no alternatives and no row", positions - outcome.windows)
    if method == "integrated-gradients":
        logger.info(
            "completeness: importance adds up to the score's difference from the blank window's to %.3g of %.3g, in "
            "the window where that is worst; --steps brings it nearer",
            explainer.completeness.gap,
            abs(explainer.completeness.difference),
        )
    if kept is None:
        return
    if figure is not None:
        _draw(figure, wanted[0], fasta, kept, known, simulated=simulated)
    if truth is not None:
        inside = concatenated([covered(record, starts, known) for record, starts, _ in kept.rows]).astype(bool)
        found = recovery(concatenated([values for *_, values in kept.rows]), inside)
        line = (
            f"{'SIMULATED truth' if simulated else 'truth'}: average precision {found['average_precision']:.4f} of the "
            f"importance, {found['of_magnitude']:.4f} of its magnitude; chance {found['chance']:.4f}, the share of "
            f"{found['positions']} positions that it holds\n"
        )
        (sys.stderr if STDOUT in outputs else sys.stdout).write(line)


def _class_of(loaded: LoadedModel, name: str | None) -> int | None:
    if isinstance(loaded.model, MambaLM):
        if name is not None:
            raise ConfigError(f"--class {name}: the model is a language model, whose log-likelihood is explained")
        return None
    classes = classifier_of(loaded).classes
    if name is not None and name not in classes:
        raise ConfigError(f"--class {name}: the model knows {', '.join(classes)}")
    return None if name is None else classes.index(name)


def _windows(
    regions: Sequence[Region], fasta: FastaFile, lengths: Mapping[str, int], window: int
) -> Iterator[ExplainedWindow]:
    for region in regions:
        if lengths[region.contig] < window:
            logger.warning(
                "%s has %d bp, less than the window of %d bp: it is read as it is",
                region.contig,
                lengths[region.contig],
                window,
            )
        for one in place_windows(region, window=window, length=lengths[region.contig]):
            tokens = fasta.codes(one.contig, one.start, one.end)
            yield ExplainedWindow(one.contig, one.start, tokens, one.first - one.start, one.last - one.start)


class _Kept:
    """Keeps what a figure or a comparison needs: 17 bytes a base."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, NDArray[np.int64], NDArray[np.float64]]] = []

    def begin_input(self) -> None:
        return

    def write(self, spans: ExplainedStretch, values: NDArray[np.float64]) -> None:
        self.rows.append((spans.record, spans.starts, values[:, 0].copy()))

    def drop_input(self) -> bool:
        return False


class _All:
    """Gives several tables the same rows."""

    def __init__(self, tables: Sequence[Table[ExplainedStretch]]) -> None:
        self._tables = tables

    def begin_input(self) -> None:
        for table in self._tables:
            table.begin_input()

    def write(self, spans: ExplainedStretch, values: NDArray[np.float64]) -> None:
        if len(spans):
            for table in self._tables:
                table.write(spans, values)

    def drop_input(self) -> bool:
        dropped = [table.drop_input() for table in self._tables]
        return all(dropped)


@contextmanager
def _open_outputs(
    outputs: Sequence[str], lengths: Mapping[str, int], kept: _Kept | None
) -> Iterator[Table[ExplainedStretch]]:
    in_order = dict(sorted(lengths.items(), key=lambda item: item[0].encode()))
    with ExitStack() as held:
        tables: list[Table[Any]] = [] if kept is None else [kept]
        for output in outputs:
            if output != STDOUT and Path(output).suffix.lower() in TABLE_SUFFIXES:
                tables.append(held.enter_context(open_changes(Path(output), letters=ALPHABET[: len(_BASES)])))
            else:
                of_track = in_order if is_bigwig(output) else None
                tables.append(held.enter_context(open_track(output, value="importance", lengths=of_track)))
        yield _All(tables)


def _draw(
    path: Path, region: Region, fasta: FastaFile, kept: _Kept, known: Sequence[Region], *, simulated: bool
) -> None:
    importance = np.full(region.end - region.start, np.nan)
    for _, starts, values in kept.rows:
        importance[starts - region.start] = values
    marked = [
        (max(one.start, region.start) + 1, min(one.end, region.end))
        for one in known
        if one.contig == region.contig and one.start < region.end and one.end > region.start
    ]
    figure = logo_figure(
        decode(fasta.codes(region.contig, region.start, region.end)),
        importance,
        start=region.start + 1,
        colours=_COLOURS,
        title=f"{region.contig}:{region.start + 1:,}-{region.end:,}{' (SIMULATED)' if simulated else ''}",
        marked=marked,
    )
    write_figure(figure, path)


def _refuse_clashes(outputs: Sequence[str], sources: Sequence[Path]) -> None:
    """Refuse an output that would replace an input, or be written twice."""
    if len(set(outputs)) < len(outputs):
        raise ConfigError("-o, --figure: a file is named twice")
    for output in outputs:
        if output != STDOUT and Path(output).is_file():
            for source in sources:
                if source.exists() and source.samefile(output):
                    raise ConfigError(f"{output}: is also an input, which would be lost; choose another file")
