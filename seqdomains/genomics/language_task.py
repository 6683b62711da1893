"""What the next base is, or a hidden one: the task that language models of DNA are pretrained on."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from seqdomains.errors import InputError
from seqdomains.genomics.alphabet import PAD, SIGNATURE, VOCAB_SIZE, N, reverse_complement
from seqdomains.genomics.areas import Areas, runs_of_n
from seqdomains.genomics.corpus import load_sequences, sequence_files, simulated_folder
from seqdomains.genomics.language_data import LanguageData
from seqdomains.genomics.language_split import LanguageSplit, split_language
from seqdomains.genomics.markov import BASES, MarkovModel
from seqdomains.genomics.records import says_simulated
from seqdomains.genomics.species_task import Loci
from seqdomains.genomics.windows import write_bed
from seqdomains.sampling import counter_words, uniform
from seqdomains.task import HiddenTokens, Windows

Objective = Literal["next-token", "masked"]

_log = logging.getLogger(__name__)

# Bases that take so long that somebody who waits is told, about 10 s.
_LONG: Final = 500_000_000
_DRAW_STREAM: Final = 0
_MASK_STREAM: Final = 1 << 32
_TEST_STREAM: Final = 2 << 32
_TEST_MASK_STREAM: Final = 3 << 32
_POSITION, _STRAND = range(2)
# Bases of a stretch that the Markov model is given at once, and how many of them its order is chosen on.
_STRETCH: Final = 1 << 22
_CHOSEN_ON: Final = 1 << 20
# More than the human genome, 6 minutes; five apes would take half an hour and teach 67 M contexts little.
_COUNTED: Final = 1 << 32
_BLOCK: Final = 1 << 12
# Share of each record's training part, at its end, that does not count while the order is chosen on its second half.
_TAIL: Final = 0.1


class LanguageTask:
    r"""Windows of DNA whose bases are asked: a `seqdomains.task.PretrainingTask`.

    A training sample takes a start uniformly over all starts in the training areas, then its strand, and in masked
    training which bases are hidden; all of it is a function of the seed and the sample's index. Where the next base is
    asked an N stands in front of each window, wherever it lies, so that its first base is asked too: what came before
    is not known. N and other ambiguous bases are read and never asked.

    Parameters
    ----------
    data : LanguageData
        What to read and how to draw; `paths` must be set.
    objective : {"next-token", "masked"}
        What is asked: each base given those before it, or hidden bases given all others.
    both_sides : bool
        Whether the model that is asked reads what comes behind a base too, for the notes.

    Raises
    ------
    InputError
        Bad data, or no window of this length on a side of the split.
    ConfigError
        No paths, or a split that the data cannot serve.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "one.fa"
    >>> _ = path.write_text(">a\n" + "ACGTTGCA" * 50 + "\n")
    >>> task = LanguageTask(LanguageData(paths=(path,), window=16, held=("a:301-400",), test_windows=3))
    >>> task.training_batch(seed=1, first=0, count=4).tokens.shape, [len(test.tokens) for test in task.test_batches(2)]
    ((4, 17), [2, 1])
    """

    ignored, codes = None, BASES

    def __init__(self, data: LanguageData, objective: Objective = "next-token", *, both_sides: bool = False) -> None:
        self.data = data
        self.objective: Objective = objective
        self._both_sides = both_sides
        files = sequence_files(data.paths)
        self._headers, self._sequences = load_sequences(
            files,
            memory_mb=data.memory_mb,
            policy=data.gap_policy,
            # Only a homologue may stand there.
            needs_headers=data.split in ("auto", "homologue") and not (data.held or data.held_regions),
            cases=True,
        )
        self._simulated = simulated_folder(files) is not None or any(map(says_simulated, files))
        bases = int(self._sequences.lengths.sum())
        if self._sequences.may_hold_n and bases >= _LONG:
            _log.info("looking through %d Mb for runs of N", bases // 1_000_000)
        self.split: LanguageSplit = split_language(self._headers, data)
        runs = runs_of_n(self._sequences, longer_than=int(data.max_n * data.window))
        self._train, self._held = self.split.train.without(runs), self.split.test.without(runs)
        self._check_both_sides()
        self._loci = {data.window: self._places(data.window)}
        self._test = self._choose_test_windows()

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
        return self._simulated

    def signature(self) -> Mapping[str, Any]:
        """Return what an artefact carries: domain, alphabet and unit, the window, and what the model was asked."""
        return {**SIGNATURE, "window": self.window, "objective": self.objective}

    def training_batch(self, seed: int, first: int, count: int, *, window: int | None = None) -> Windows:
        """Draw samples `first` to `first + count` of the stream that `seed` names, in windows of `window` bp.

        Raises
        ------
        InputError
            A record holds an illegal character (files that are read by position are checked as they are read).
        """
        window = window or self.window
        draws = uniform(counter_words(seed, _DRAW_STREAM, first, count, words=4))
        loci = self._loci.setdefault(window, self._places(window))
        areas, offsets = loci.locate(np.zeros(count, np.int64), draws[:, _POSITION])
        records, starts = self._train.records[areas], self._train.starts[areas] + offsets
        tokens = self._sequences.windows(records, starts, window)
        weights = (tokens < BASES).astype(np.float32)
        if self.data.soft_mask_weight != 1:
            soft = self._sequences.soft_masks(records, starts, window)
            weights *= np.where(soft, np.float32(self.data.soft_mask_weight), np.float32(1))
        other = draws[:, _STRAND] < self.data.reverse_complement
        tokens[other], weights[other] = reverse_complement(tokens[other]), weights[other, ::-1]
        return self._asked(tokens, None if bool((weights == 1).all()) else weights, (seed, _MASK_STREAM, first))

    def test_batches(self, batch_size: int) -> Iterator[Windows]:
        """Yield the test windows in order; all bases count alike."""
        for first, tokens in self._test_tokens(batch_size):
            weights = (tokens < BASES).astype(np.float32)
            key = (self.data.seed, _TEST_MASK_STREAM, first)
            yield self._asked(tokens, None if bool(weights.all()) else weights, key)

    def write_test_windows(self, folder: Path) -> None:
        """Write ``test_windows.bed``: contig, 0-based start, end, name of the file."""
        headers = self._headers
        rows = (
            (headers[record].name, start, start + self.window, headers[record].file.name)
            for record, start in self._test.tolist()
        )
        write_bed(folder / "test_windows.bed", rows, header="contig\tstart\tend\tfile")

    def baselines(self) -> Sequence[Mapping[str, Any]]:
        """Count words of the training areas and score them on what the test windows ask: a Markov model, frequencies.

        In masked training too the Markov model reads the true bases before the one that is asked.
        """
        if not self.data.markov_order:
            return []
        model = self._markov()
        bits, positions = np.zeros(2), 0
        for first, tokens in self._test_tokens(256):
            asked = tokens < BASES
            if self.objective == "masked":
                asked = self._hidden(tokens, (self.data.seed, _TEST_MASK_STREAM, first))[0]
            bits += [model.bits(tokens, asked, order=order).sum() for order in (model.order, 0)]
            positions += int(asked.sum())
        names = (model.name, "frequencies of the bases")
        return [{"name": name, "bits": float(cost) / positions} for name, cost in zip(names, bits, strict=True)]

    def notes(self) -> tuple[str, ...]:
        """Sentences that must stand beside the results."""
        notes = [f"Held out by {self.split.kind}.", *self.split.notes]
        wanted, found = self.data.test_windows, len(self._test)
        if found < wanted:
            notes.append(f"What is held out has {found} whole windows of {self.window} bp; {wanted} were asked for.")
        asked = lower = 0
        for first in range(0, len(self._test), 256):
            records, starts = self._test[first : first + 256].T
            bases = self._sequences.windows(records, starts, self.window) < BASES
            asked += int(bases.sum())
            lower += int((bases & self._sequences.soft_masks(records, starts, self.window)).sum())
        other = 1 - asked / (len(self._test) * self.window)
        notes.append(
            f"Of the test windows {other:.2%} are N or ambiguous and never asked; {lower / max(1, asked):.1%} of the "
            "other bases are in lower case and count like the rest."
        )
        if self.data.markov_order and (step := self._counted_stretch()) > 1:
            notes.append(
                f"The Markov model counted one in {step} of the {self._train.bases // 1_000_000} Mb to train on."
            )
        if self.objective == "masked":
            reads = "both sides as far as it can" if self._both_sides else "what stands before a base alone"
            notes.append(
                f"The model reads {reads}, {self.data.masking.share:.0%} of the bases hidden; the Markov model reads "
                "the true bases before the one that is asked, and none behind it."
            )
        return tuple(notes)

    def _asked(
        self, tokens: NDArray[np.uint8], weights: NDArray[np.float32] | None, key: tuple[int, int, int]
    ) -> Windows:
        count, length = tokens.shape
        if self.objective == "masked":
            hidden, read = self._hidden(tokens, key)
            targets = np.where(hidden, tokens, 255).astype(np.int8)
            return HiddenTokens(read, np.full(count, length, np.int64), weights, targets=targets)
        tokens = np.concatenate([np.full((count, 1), N, np.uint8), tokens], axis=1)
        if weights is not None:
            weights = np.concatenate([np.zeros((count, 1), np.float32), weights], axis=1)
        return Windows(tokens, np.full(count, length + 1, np.int64), weights)

    def _hidden(
        self, tokens: NDArray[np.uint8], key: tuple[int, int, int]
    ) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
        """Return which bases are asked and what is read in their place, 16 random bits per base."""
        (seed, stream, first), masking = key, self.data.masking
        count, length = tokens.shape
        words = -(-length // 16) * 4
        bits = counter_words(seed, stream, first, count, words=words).view(np.uint16)[:, :length]
        asked = max(1, round(masking.share * (1 << 16)))
        hidden = (bits < asked) & (tokens < BASES)
        masked = round(asked * masking.hidden)
        changed = masked + round(asked * masking.changed)
        read = np.where(hidden & (bits < masked), np.uint8(PAD), tokens)
        # Among the bases alone: an N would be known for what it is.
        read = np.where(hidden & (bits >= masked) & (bits < changed), (bits & 3).astype(np.uint8), read)
        return hidden, read

    def _places(self, window: int) -> Loci:
        lengths = self._train.lengths
        everything = np.ones(len(lengths), np.bool_)
        return Loci(everything, np.zeros(len(lengths), np.int64), lengths, classes=1, window=window)

    def _check_both_sides(self) -> None:
        for side, areas in (("train on", self._train), ("test on", self._held)):
            longest = int(areas.lengths.max(initial=0))
            if longest < self.window:
                raise InputError(
                    f"no stretch of {self.window} bp to {side} (split by {self.split.kind}); the longest has {longest} "
                    "bp: give more data, a smaller data.window or another data.split"
                )

    def _choose_test_windows(self) -> NDArray[np.int64]:
        """Return record and start of windows side by side in what is held out, some of them by seed, in order."""
        tiles = [
            (record, start + number * self.window)
            for record, start, end in self._held.rows()
            for number in range((end - start) // self.window)
        ]
        order = np.argsort(counter_words(self.data.seed, _TEST_STREAM, 0, len(tiles), words=4)[:, 0], kind="stable")
        return np.array(tiles, np.int64)[np.sort(order[: self.data.test_windows])]

    def _test_tokens(self, batch_size: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        for first in range(0, len(self._test), batch_size):
            records, starts = self._test[first : first + batch_size].T
            yield first, self._sequences.windows(records, starts, self.window)

    def _markov(self) -> MarkovModel:
        """Fit the Markov model.

        Its order is chosen on the ends of the training parts of all records. Orthologous records are long alike, so
        that those ends, and twice as much that is not counted before them, are where the others have theirs: a choice
        on a stretch whose orthologue was counted would take the highest order.
        """
        # Of higher orders hardly a word stands twice, but for long repeats: two more are enough for those.
        most = min(self.data.markov_order, math.ceil(math.log(self._train.bases, BASES)) + 2)
        model = MarkovModel(most=most, both_strands=self.data.reverse_complement > 0)
        chosen_on, tails = (self._train.ends_of_records(share) for share in (_TAIL / 2, _TAIL))
        if self._train.bases >= _LONG:
            _log.info("counting words of %d Mb for the Markov model", self._train.bases // 1_000_000)
        step = self._counted_stretch()
        for number, codes in enumerate(self._stretches(self._train.without(tails), _STRETCH)):
            if number % step == 0:
                model.add(codes)
        every = max(1, chosen_on.bases // _CHOSEN_ON)
        model.choose([codes for number, codes in enumerate(self._stretches(chosen_on, _BLOCK)) if number % every == 0])
        for codes in self._stretches(tails, _STRETCH):
            model.add(codes)
        return model

    def _counted_stretch(self) -> int:
        """Return of how many stretches the Markov model counts one."""
        return math.ceil(self._train.bases / _COUNTED)

    def _stretches(self, areas: Areas, longest: int) -> Iterator[NDArray[np.uint8]]:
        for record, start, end in areas.rows():
            for first in range(start, end, longest):
                yield self._sequences.windows(np.array([record]), np.array([first]), min(longest, end - first))[0]
