"""Which species, or which of the user's classes, is a window of DNA from: the task that pipelines train on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqdomains.errors import InputError
from seqdomains.genomics.alphabet import SIGNATURE, VOCAB_SIZE, N, reverse_complement
from seqdomains.genomics.corpus import Corpus, read_corpus
from seqdomains.genomics.data_config import SpeciesData
from seqdomains.genomics.sequences import SequenceStore
from seqdomains.genomics.splits import Split, sex_groups, split_corpus
from seqdomains.genomics.substitutions import substitute
from seqdomains.genomics.windows import write_bed
from seqdomains.sampling import below, counter_words, uniform
from seqdomains.task import Batch

# Streams of random words under one seed; a redraw for too many N adds its number, so each purpose has room for 2**32.
# Substitutions have 2 << 32.
_DRAW_STREAM = 0
_TEST_STREAM = 3 << 32
_PROBE_STREAM = 4 << 32
_WORDS = 4
_CLASS, _POSITION, _STRAND = range(3)
# Of a class with 1 clean window in 20, 500 draws in a row all miss once in 10^11 samples.
_MOST_DRAWS = 500
_PROBES = 64
# Per class; fewer where the windows are so long that they would take more than 16 MB of each class.
_BASELINE_WINDOWS = 1000
_BASELINE_LEAST_WINDOWS = 50
_BASELINE_BASES = 1 << 24


class Loci:
    """Where windows of one length may start: uniform over all starts of a class's records.

    Parameters
    ----------
    usable : ndarray of bool, shape (records,)
        Records of this side of the split.
    class_of : ndarray of int64, shape (records,)
    lengths : ndarray of int64, shape (records,)
        In bp.
    classes : int
    window : int
        In bp; a record shorter than this has no start.

    Examples
    --------
    >>> loci = Loci(np.array([True, True]), np.array([0, 1]), np.array([10, 5]), classes=2, window=4)
    >>> loci.starts.tolist(), [place.tolist() for place in loci.locate(np.array([0, 1]), np.array([0.999, 0.0]))]
    ([7, 2], [[0, 1], [6, 0]])
    """

    def __init__(
        self,
        usable: NDArray[np.bool_],
        class_of: NDArray[np.int64],
        lengths: NDArray[np.int64],
        *,
        classes: int,
        window: int,
    ) -> None:
        counts = np.where(usable, np.maximum(0, lengths - window + 1), 0)
        self._records = np.argsort(class_of, kind="stable")
        ordered = counts[self._records]
        self._before = np.concatenate([[0], np.cumsum(ordered)]).astype(np.int64)
        self.starts: NDArray[np.int64] = np.bincount(class_of, weights=counts, minlength=classes).astype(np.int64)
        self._class_first = np.concatenate([[0], np.cumsum(self.starts)[:-1]]).astype(np.int64)

    def locate(
        self, targets: NDArray[np.int64], fraction: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Turn a class and a number in [0, 1) into a record and a 0-based start within it."""
        place = self._class_first[targets] + below(fraction, self.starts[targets])
        slot = np.searchsorted(self._before, place, side="right") - 1
        return self._records[slot], place - self._before[slot]


@dataclass(frozen=True)
class TestWindows:
    """The fixed test windows, class by class in the order in which they were drawn."""

    __test__ = False

    targets: NDArray[np.int64]
    records: NDArray[np.int64]
    starts: NDArray[np.int64]


class SpeciesTask:
    r"""Windows of DNA labelled by class: a `seqdomains.task.ClassificationTask`.

    A training sample takes a class uniformly, then a start uniformly over all starts of the class's training records,
    then its strand and substitutions; all of it is a function of the seed and the sample's index.

    Parameters
    ----------
    data : SpeciesData
        What to read and how to draw; `paths` must be set.
    least_classes : int
        1 where the data are only scored, else 2.

    Raises
    ------
    InputError
        Bad data, or a class from which no window of this length can be drawn.
    ConfigError
        No paths, or a split that the data cannot serve.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "two.fa"
    >>> _ = path.write_text(">a kind=x\n" + "ACGT" * 20 + "\n>b kind=y\n" + "AATT" * 20 + "\n")
    >>> task = SpeciesTask(SpeciesData(paths=(path,), label_from="header:kind", window=16, test_windows=3))
    >>> batch = task.training_batch(seed=1, first=0, count=4)
    >>> task.classes, batch.tokens.shape, [test.targets.tolist() for test in task.test_batches(4)]
    (('x', 'y'), (4, 16), [[0, 0, 0, 1], [1, 1]])
    """

    def __init__(self, data: SpeciesData, *, least_classes: int = 2) -> None:
        self.data = data
        self.corpus: Corpus = read_corpus(data, least_classes=least_classes)
        self.split: Split = split_corpus(self.corpus, data)
        self._check_every_class_has_windows()
        self._train = {self.window: self._loci(self.split.train)}
        self._clean = not self._sequences.may_hold_n
        self._check_training_windows_are_clean()
        self.test = self._draw_test_windows()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the targets."""
        return self.corpus.classes

    @property
    def vocab_size(self) -> int:
        """Number of codes: 15 IUPAC codes and the mask."""
        return VOCAB_SIZE

    @property
    def window(self) -> int:
        """Length of a window in bp."""
        return self.data.window

    @property
    def simulated(self) -> bool:
        """Whether the genomes are simulated."""
        return self.corpus.marked or self.corpus.simulated is not None

    def signature(self) -> Mapping[str, Any]:
        """Return what an artefact carries: domain, alphabet and unit, which an input must match, and the window."""
        return {**SIGNATURE, "window": self.window}

    def training_batch(self, seed: int, first: int, count: int, *, window: int | None = None) -> Batch:
        """Draw samples `first` to `first + count` of the stream that `seed` names, in windows of `window` bp.

        Raises
        ------
        InputError
            A record holds an illegal character (files that are read by position are checked as they are read).
        """
        window = window or self.window
        draws = uniform(counter_words(seed, _DRAW_STREAM, first, count, words=_WORDS))
        targets = below(draws[:, _CLASS], len(self.classes))
        tokens = self._draw_windows(seed, first, targets, draws, window)
        strand = draws[:, _STRAND] < self.data.reverse_complement
        tokens[strand] = reverse_complement(tokens[strand])
        if self.data.substitution:
            data = self.data
            substitute(tokens, rate=data.substitution, transitions=data.transitions, seed=seed, first=first)
        return Batch(tokens, targets, np.full(count, window, dtype=np.int64))

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield the test windows, class by class."""
        for first in range(0, len(self.test.targets), batch_size):
            part = slice(first, first + batch_size)
            tokens = self._sequences.windows(self.test.records[part], self.test.starts[part], self.window)
            targets = self.test.targets[part]
            yield Batch(tokens, targets, np.full(len(targets), self.window, dtype=np.int64))

    def write_test_windows(self, folder: Path) -> None:
        """Write ``test_windows.bed``: contig, 0-based start, end, class, score, strand, file."""
        corpus = self.corpus
        rows = (
            (
                corpus.names[record],
                start,
                start + self.window,
                self.classes[target],
                0,
                "+",
                corpus.files[record].name,
            )
            for target, record, start in self._test_rows()
        )
        write_bed(folder / "test_windows.bed", rows, header="contig\tstart\tend\tclass\tscore\tstrand\tfile")

    def ceiling(self) -> float | None:
        """Return the marker oracle's accuracy on the test windows of simulated genomes, else None."""
        if self.corpus.simulated is None:
            return None
        from seqdomains.genomics.oracle import marker_oracle

        windows = [
            (self.classes[target], self.corpus.names[record], start, start + self.window)
            for target, record, start in self._test_rows()
        ]
        return marker_oracle(self.corpus.simulated, windows, self.classes).accuracy

    def baseline(self) -> Mapping[str, Any] | None:
        """Fit k-mer logistic regression on training windows and score it on the test windows."""
        from seqdomains.genomics.kmers import KmerBaseline

        baseline = KmerBaseline()
        return self._reference(baseline, f"{baseline.k}-mer logistic regression")

    def controls(self) -> tuple[Mapping[str, Any], ...]:
        """Fit and score what sees the gaps of the assemblies alone, where there are any."""
        from seqdomains.genomics.gaps import GapClassifier

        if self._clean or self.split.kind != "chromosome":
            return ()
        return (self._reference(GapClassifier(), GapClassifier.name),)

    def test_groups(self) -> tuple[str, ...] | None:
        """Say of each test window whether it is on a sex chromosome, where some are."""
        return sex_groups(self.corpus.homologues, self.test.records)

    def _reference(self, model: Any, name: str) -> dict[str, Any]:
        most = max(_BASELINE_LEAST_WINDOWS, _BASELINE_BASES // self.window)
        count = min(_BASELINE_WINDOWS, most) * len(self.classes)
        train = self.training_batch(self.data.seed, 0, count)
        model.fit(train.tokens, train.targets)
        right = sum(model.score(batch.tokens, batch.targets) * len(batch.targets) for batch in self.test_batches(count))
        return {"name": name, "accuracy": float(right / len(self.test.targets)), "training_windows": count}

    def notes(self) -> tuple[str, ...]:
        """Sentences that must stand beside the results."""
        notes = list(self.split.notes)
        if self.split.kind == "chromosome" and self.corpus.simulated is None:
            notes.insert(0, f"Assemblies: {', '.join(dict.fromkeys(path.name for path in self.corpus.files))}.")
        if self.split.kind == "record" and self.data.label_from is None and self.data.labels is None:
            notes.append("The human homologues of the contigs are not known: the same locus may be on both sides.")
        short = int((self._sequences.lengths < self.window).sum())
        if short:
            total = len(self.corpus.names)
            notes.append(
                f"{short} of {total} records are shorter than the {self.window} bp window and unused; "
                "data.unit=record takes each record as a whole."
            )
        few = np.bincount(self.test.targets, minlength=len(self.classes))
        if int(few.min()) < self.data.test_windows:
            name = self.classes[int(few.argmin())]
            notes.append(f"Only {int(few.min())} distinct test windows could be drawn for {name}.")
        return tuple(notes)

    @property
    def _sequences(self) -> SequenceStore:
        return self.corpus.sequences

    def _loci(self, usable: NDArray[np.bool_], window: int | None = None) -> Loci:
        length = self.window if window is None else window
        return Loci(usable, self.corpus.class_of, self._sequences.lengths, classes=len(self.classes), window=length)

    def _test_rows(self) -> Iterator[tuple[int, int, int]]:
        yield from zip(self.test.targets.tolist(), self.test.records.tolist(), self.test.starts.tolist(), strict=True)

    def _check_every_class_has_windows(self) -> None:
        longest = int(self._sequences.lengths.max(initial=0))
        if longest < self.window:
            raise InputError(
                f"the window of {self.window} bp is longer than every contig (the longest has {longest} bp): "
                f"set data.window to {longest} or less, or data.unit to record to take each record as a whole"
            )
        for side, usable in (("train on", self.split.train), ("test on", self.split.held)):
            starts = self._loci(usable).starts
            for name, count in zip(self.classes, starts.tolist(), strict=True):
                if not count:
                    raise InputError(
                        f"class {name!r} has no record of {self.window} bp or more to {side} "
                        f"(split by {self.split.kind}): give longer records or a smaller data.window"
                    )

    def _check_training_windows_are_clean(self) -> None:
        """Refuse a class that hardly has a clean window now rather than in the middle of a run."""
        if self._clean:
            return
        for target, name in enumerate(self.classes):
            fraction = uniform(counter_words(self.data.seed, _PROBE_STREAM + target, 0, _PROBES, words=4))[:, 0]
            records, starts = self._train[self.window].locate(np.full(_PROBES, target), fraction)
            if float(_masked_share(self._sequences.windows(records, starts, self.window)).min()) > self.data.max_n:
                raise self._too_many_n(name, _PROBES)

    def _too_many_n(self, name: str, draws: int) -> InputError:
        return InputError(
            f"class {name!r}: none of {draws} windows of {self.window} bp holds at most {self.data.max_n:.1%} N: "
            "raise data.max_n, shorten data.window or give a better assembly"
        )

    def _draw_windows(
        self, seed: int, first: int, targets: NDArray[np.int64], draws: NDArray[np.float64], window: int
    ) -> NDArray[np.uint8]:
        """Draw a window for each target, and again where it holds too many N, from the redraw's own stream."""
        count = len(targets)
        loci = self._train.setdefault(window, self._loci(self.split.train, window))
        records, starts = loci.locate(targets, draws[:, _POSITION])
        tokens = self._sequences.windows(records, starts, window)
        if self._clean:
            return tokens
        pending = np.flatnonzero(_masked_share(tokens) > self.data.max_n)
        for attempt in range(1, _MOST_DRAWS):
            if not pending.size:
                return tokens
            again = uniform(counter_words(seed, _DRAW_STREAM + attempt, first, count, words=4))[pending, _POSITION]
            records, starts = loci.locate(targets[pending], again)
            tokens[pending] = self._sequences.windows(records, starts, window)
            pending = pending[_masked_share(tokens[pending]) > self.data.max_n]
        raise self._too_many_n(self.classes[int(targets[pending[0]])], _MOST_DRAWS)

    def _draw_test_windows(self) -> TestWindows:
        loci = self._loci(self.split.held)
        parts = [self._draw_class_windows(loci, target) for target in range(len(self.classes))]
        targets = np.concatenate([np.full(len(records), target) for target, (records, _) in enumerate(parts)])
        return TestWindows(
            targets.astype(np.int64),
            np.concatenate([part[0] for part in parts]),
            np.concatenate([part[1] for part in parts]),
        )

    def _draw_class_windows(self, loci: Loci, target: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw distinct, clean windows of one class."""
        wanted = self.data.test_windows
        kept: dict[tuple[int, int], None] = {}
        drawn = 0
        while len(kept) < wanted and drawn < 50 * wanted + 1000:
            count = max(2 * (wanted - len(kept)), 64)
            fraction = uniform(counter_words(self.data.seed, _TEST_STREAM + target, drawn, count, words=4))[:, 0]
            drawn += count
            records, starts = loci.locate(np.full(count, target), fraction)
            clean = np.ones(count, dtype=bool)
            if not self._clean:
                clean = _masked_share(self._sequences.windows(records, starts, self.window)) <= self.data.max_n
            for place in zip(records[clean].tolist(), starts[clean].tolist(), strict=True):
                kept.setdefault(place)
        if not kept:
            raise self._too_many_n(self.classes[target], drawn)
        places = np.array(list(kept)[:wanted], dtype=np.int64)
        return places[:, 0], places[:, 1]


def _masked_share(tokens: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray((tokens >= N).mean(axis=1), dtype=np.float64)
