"""Which class is a whole record of DNA of: the task where each labelled sequence is one example, of any length."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqdomains.errors import InputError
from seqdomains.genomics.alphabet import PAD, SIGNATURE, VOCAB_SIZE, N, reverse_complement
from seqdomains.genomics.corpus import Corpus, read_corpus
from seqdomains.genomics.data_config import SpeciesData
from seqdomains.genomics.species_task import SpeciesTask
from seqdomains.genomics.splits import Split, split_corpus
from seqdomains.genomics.substitutions import substitute
from seqdomains.genomics.tables import is_table
from seqdomains.genomics.windows import write_bed
from seqdomains.sampling import below, counter_words, uniform
from seqdomains.task import Batch

_DRAW_STREAM = 5 << 32
_BASELINE_STREAM = 6 << 32
_CLASS, _RECORD, _START, _STRAND = range(4)
_BASELINE_RECORDS = 5000
_BASELINE_BASES = 1 << 27
# Of the largest class to the smallest, from which on a result says so.
_UNEQUAL = 1.5


class RecordTask:
    r"""Whole records labelled by class: a `seqdomains.task.ClassificationTask`.

    A training sample takes a class uniformly (or a record, where `balanced` is off), a record of it, and its strand and
    substitutions; all of it is a function of the seed and the sample's index. Records of a batch are padded to the
    longest of them, and the model reads no padding. Of a record longer than the window a part is drawn, and the middle
    is scored.

    Parameters
    ----------
    data : SpeciesData
        What to read and how to draw; `paths` must be set.
    least_classes : int
        1 where the data are only scored, else 2.
    corpus : Corpus, optional
        The records, where they are read already.

    Raises
    ------
    InputError
        Bad data, or a class without a record to train on.
    ConfigError
        No paths, or a split that the data cannot serve.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "four.csv"
    >>> _ = path.write_text("sequence,label,split\nACGTAC,x,train\nAATTA,y,train\nACGT,x,test\nTTAATTA,y,test\n")
    >>> task = RecordTask(SpeciesData(paths=(path,), window=8))
    >>> batch = task.training_batch(seed=1, first=0, count=4)
    >>> task.classes, batch.lengths.tolist(), [test.lengths.tolist() for test in task.test_batches(4)]
    (('x', 'y'), [6, 5, 5, 6], [[4, 7]])
    """

    def __init__(self, data: SpeciesData, *, least_classes: int = 2, corpus: Corpus | None = None) -> None:
        self.data = data
        self._only_scored = least_classes < 2
        self.corpus = corpus or read_corpus(data, least_classes=least_classes)
        self._keys = [_key(self._codes(number)) for number in range(len(self.corpus.names))]
        self.split: Split = split_corpus(self.corpus, data, alike=self._keys)
        self._train = np.flatnonzero(self.split.train)
        held = np.flatnonzero(self.split.held)
        # Records of about one length are padded little.
        self._held = held[np.argsort(self._lengths[held], kind="stable")]
        class_of = self.corpus.class_of
        self._of_class = [self._train[class_of[self._train] == target] for target in range(len(self.classes))]
        for name, own in zip(self.classes, self._of_class, strict=True):
            if not len(own):
                raise InputError(
                    f"class {name!r} has no record to train on (split by {self.split.kind}): give more records or "
                    "another data.split"
                )

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
        """Most bp of a record that are read."""
        return self.data.window

    @property
    def simulated(self) -> bool:
        """Whether the records are simulated."""
        return self.corpus.marked or self.corpus.simulated is not None

    def signature(self) -> Mapping[str, Any]:
        """Return what an artefact carries: domain, alphabet and unit, which an input must match, and what was read."""
        return {**SIGNATURE, "window": self.window, "whole_records": True}

    def training_batch(self, seed: int, first: int, count: int, *, window: int | None = None) -> Batch:
        """Draw samples `first` to `first + count` of the stream that `seed` names, of up to `window` bp each."""
        most = window or self.window
        draws = uniform(counter_words(seed, _DRAW_STREAM, first, count, words=4))
        numbers = self._drawn(draws)
        rows = []
        for number, place in zip(numbers.tolist(), draws[:, _START].tolist(), strict=True):
            length = int(self._lengths[number])
            taken = min(length, most)
            start = min(int(place * (length - taken + 1)), length - taken)
            rows.append(self._codes(number, start, taken))
        strand = draws[:, _STRAND] < self.data.reverse_complement
        rows = [reverse_complement(row) if turned else row for row, turned in zip(rows, strand, strict=True)]
        tokens, lengths = padded(rows)
        data = self.data
        if data.substitution:
            substitute(tokens, rate=data.substitution, transitions=data.transitions, seed=seed, first=first, span=most)
        return Batch(tokens, self.corpus.class_of[numbers], lengths)

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield the held-out records, the shortest first."""
        for first in range(0, len(self._held), batch_size):
            numbers = self._held[first : first + batch_size]
            tokens, lengths = padded([self._middle(number) for number in numbers.tolist()])
            yield Batch(tokens, self.corpus.class_of[numbers], lengths)

    def write_test_windows(self, folder: Path) -> None:
        """Write ``test_windows.bed``: record, 0-based start, end, class, score, strand, file."""
        corpus = self.corpus
        rows = []
        for number in self._held.tolist():
            start, taken = self._scored(number)
            name, file = corpus.names[number], corpus.files[number].name
            rows.append((name, start, start + taken, self.classes[corpus.class_of[number]], 0, "+", file))
        write_bed(folder / "test_windows.bed", rows, header="record\tstart\tend\tclass\tscore\tstrand\tfile")

    def ceiling(self) -> float | None:
        """Return None: nobody knows the best that is possible."""
        return None

    def baseline(self) -> Mapping[str, Any] | None:
        """Fit k-mer logistic regression on training records and score it on the held-out ones."""
        from seqdomains.genomics.kmers import KmerBaseline

        longest = min(int(self._lengths.max()), self.window)
        most = min(_BASELINE_RECORDS, max(len(self.classes), _BASELINE_BASES // longest))
        words = counter_words(self.data.seed, _BASELINE_STREAM, 0, len(self._train), words=4)[:, 0]
        train = np.sort(self._train[np.argsort(words, kind="stable")[:most]])
        targets = self.corpus.class_of[train]
        if len(np.unique(targets)) < 2:
            return None
        baseline = KmerBaseline().fit(padded([self._middle(number) for number in train.tolist()])[0], targets)
        right = sum(
            baseline.score(batch.tokens, batch.targets) * len(batch.targets)
            for batch in self.test_batches(max(1, _BASELINE_BASES // longest))
        )
        return {
            "name": f"{baseline.k}-mer logistic regression",
            "accuracy": float(right / len(self._held)),
            "training_windows": len(train),
        }

    def notes(self) -> tuple[str, ...]:
        """Sentences that must stand beside the results."""
        return (*self.split.notes, *self._notes_on_classes(), *self._notes_on_sequences())

    @property
    def _lengths(self) -> NDArray[np.int64]:
        return self.corpus.sequences.lengths

    def _codes(self, number: int, start: int = 0, length: int | None = None) -> NDArray[np.uint8]:
        taken = int(self._lengths[number]) if length is None else length
        rows = self.corpus.sequences.windows(np.array([number]), np.array([start]), taken)
        return np.asarray(rows[0], dtype=np.uint8)

    def _scored(self, number: int) -> tuple[int, int]:
        """Return start and length of the part of a record that is scored: all of it, or its middle."""
        length = int(self._lengths[number])
        taken = min(length, self.window)
        return (length - taken) // 2, taken

    def _middle(self, number: int) -> NDArray[np.uint8]:
        return self._codes(number, *self._scored(number))

    def _drawn(self, draws: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the record of each sample."""
        if not self.data.balanced:
            return self._train[below(draws[:, _RECORD], len(self._train))]
        targets = below(draws[:, _CLASS], len(self.classes))
        counts = np.array([len(own) for own in self._of_class], np.int64)[targets]
        places = below(draws[:, _RECORD], counts)
        return np.array([self._of_class[one][place] for one, place in zip(targets, places, strict=True)], np.int64)

    def _notes_on_classes(self) -> Iterator[str]:
        counts = [len(own) for own in self._of_class]
        most, least = int(np.argmax(counts)), int(np.argmin(counts))
        if counts[most] >= _UNEQUAL * counts[least] and not self._only_scored:
            drawn = "classes" if self.data.balanced else "records"
            yield (
                f"Classes are unequal: {counts[most]} records of {self.classes[most]} to train on, {counts[least]} of "
                f"{self.classes[least]}; training draws {drawn} alike (data.balanced)."
            )
        held = np.bincount(self.corpus.class_of[self._held], minlength=len(self.classes))
        if held.max() >= _UNEQUAL * held.min():
            share = held.max() / held.sum()
            yield f"Of the held-out records {share:.3f} are {self.classes[int(held.argmax())]}: see macro F1."
        if absent := [name for name, count in zip(self.classes, held, strict=True) if not count]:
            yield f"No record is held out of {', '.join(absent[:3])}{' and others' if absent[3:] else ''}."

    def _notes_on_sequences(self) -> Iterator[str]:
        total = len(self._keys)
        if self.split.kind != "none":
            trained = {self._keys[number] for number in self._train.tolist()}
            if both := sum(self._keys[number] in trained for number in self._held.tolist()):
                yield f"{both} of {len(self._held)} held-out sequences are also among those trained on (either strand)."
        labelled = Counter(key for key, _ in set(zip(self._keys, self.corpus.class_of.tolist(), strict=True)))
        if twice := sum(count > 1 for count in labelled.values()):
            yield f"{twice} sequences have more than one class."
        if longer := int((self._lengths > self.window).sum()):
            drawn = "" if self._only_scored else "training draws a part of them, and "
            yield (
                f"{longer} of {total} records are longer than the window of {self.window} bp: {drawn}their middle is "
                "scored."
            )
        if self.corpus.sequences.may_hold_n:
            unknown = sum(float((self._codes(number) >= N).mean()) > self.data.max_n for number in range(total))
            if unknown:
                yield f"{unknown} of {total} records are N or masked for more than {self.data.max_n:.1%}."


def padded(rows: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Stack rows of any lengths, padded behind with the mask code; returns them and their lengths.

    Examples
    --------
    >>> tokens, lengths = padded([np.array([0, 1, 2], np.uint8), np.array([3], np.uint8)])
    >>> tokens.tolist(), lengths.tolist()
    ([[0, 1, 2], [3, 15, 15]], [3, 1])
    """
    lengths = np.array([row.size for row in rows], dtype=np.int64)
    tokens = np.full((len(rows), int(lengths.max())), PAD, dtype=np.uint8)
    for row, into, length in zip(rows, tokens, lengths.tolist(), strict=True):
        into[:length] = row
    return tokens, lengths


def labelled_task(data: SpeciesData, *, least_classes: int = 2) -> SpeciesTask | RecordTask:
    r"""Read labelled DNA as what `data.unit` says that a sample is.

    Raises
    ------
    InputError, ConfigError
        As `SpeciesTask` and `RecordTask`.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "two.csv"
    >>> _ = path.write_text("sequence,label\nACGTACGTAC,x\nAATTAATTAA,y\n")
    >>> [type(labelled_task(SpeciesData(paths=(path,), window=8, unit=unit))).__name__ for unit in ("auto", "window")]
    ['RecordTask', 'SpeciesTask']
    """
    return (RecordTask if takes_whole_records(data) else SpeciesTask)(data, least_classes=least_classes)


def takes_whole_records(data: SpeciesData) -> bool:
    """Tell whether a sample is a whole record.

    Examples
    --------
    >>> [takes_whole_records(SpeciesData(paths=(Path(name),))) for name in ("train.csv", "human.fa")]
    [True, False]
    """
    return data.unit == "record" or (data.unit == "auto" and bool(data.paths) and all(map(is_table, data.paths)))


def _key(codes: NDArray[np.uint8]) -> str:
    """Return what sequences have in common that are alike as they are or as their other strand."""
    forward = codes.tobytes()
    return hashlib.blake2b(min(forward, reverse_complement(codes).tobytes()), digest_size=16).hexdigest()
