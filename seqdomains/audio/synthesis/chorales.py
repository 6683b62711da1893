"""Bach's chorales as notes, from the scores that music21 carries: MusicXML, read without music21's own code."""

from __future__ import annotations

import zipfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

# The files are those of an installed package, whose code would be trusted too.
from xml.etree import ElementTree

from seqdomains.errors import InputError

ATTRIBUTION = (
    "J. S. Bach, chorales in four voices; most were encoded by Margaret Greentree and are carried by music21, whose "
    "corpus/license.txt says that some encodings may not be used commercially"
)

_VOICES = 4
# Notes of the upper voice by whose intervals two settings of one tune are known.
_TUNE = 12
_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


@dataclass(frozen=True)
class Note:
    """A note of a score.

    Parameters
    ----------
    start, end : float
        In quarters from the beginning.
    key : int
        As in MIDI: 60 is middle C.
    voice : int
        0 is the highest.
    """

    start: float
    end: float
    key: int
    voice: int


@dataclass(frozen=True)
class Chorale:
    """A score with its repeats played.

    Parameters
    ----------
    name : str
        Such as bwv10.7.
    notes : tuple of Note
        In the order of their starts.
    """

    name: str
    notes: tuple[Note, ...]

    @property
    def quarters(self) -> float:
        """Length in quarters."""
        return max(note.end for note in self.notes)

    @property
    def tune(self) -> tuple[int, ...]:
        """The first steps of the upper voice in semitones, which settings of one tune share in any key."""
        keys = [note.key for note in self.notes if note.voice == 0][: _TUNE + 1]
        return tuple(after - before for before, after in pairwise(keys))


def require(package: str) -> Path:
    """Return the folder of a package that `seqdomains[piano]` brings, without importing it.

    Raises
    ------
    InputError
        It is not installed.
    """
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise InputError(f"kind piano needs {package}, which is not installed: pip install 'seqdomains[piano]'")
    return Path(found.submodule_search_locations[0])


def installed(package: str) -> str:
    """Return the version of an installed package, or what it is when it says none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"


@cache
def chorales() -> tuple[Chorale, ...]:
    """Return the chorales of four voices in music21's corpus, by name; each score once.

    Raises
    ------
    InputError
        music21 is not installed, or came without its corpus.
    """
    folder = require("music21") / "corpus" / "bach"
    paths = sorted(folder.glob("*.mxl"))
    once = {chorale.notes: chorale for path in reversed(paths) if (chorale := read_chorale(path)) is not None}
    if len(once) < 2:
        raise InputError(
            f"music21 has {len(once)} chorales in {folder}, expected hundreds; install the distribution with its corpus"
        )
    return tuple(sorted(once.values(), key=lambda chorale: chorale.name))


def by_tune(scores: tuple[Chorale, ...]) -> list[list[Chorale]]:
    """Group chorales by tune, in the order of their first names.

    Examples
    --------
    >>> def scale(name, first):
    ...     return Chorale(name, tuple(Note(n, n + 1, first + n, 0) for n in range(20)))
    >>> low, high, other = scale("a", 60), scale("b", 65), Chorale("c", (Note(0, 1, 60, 0), Note(1, 2, 60, 0)))
    >>> [[one.name for one in group] for group in by_tune((low, other, high))]
    [['a', 'b'], ['c']]
    """
    groups: dict[tuple[int, ...], list[Chorale]] = defaultdict(list)
    for chorale in scores:
        groups[chorale.tune].append(chorale)
    return list(groups.values())


def read_chorale(path: Path) -> Chorale | None:
    """Read a compressed score of MusicXML; None where it has not four voices.

    Raises
    ------
    InputError
        It is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(one for one in archive.namelist() if one.endswith("ml") and not one.startswith("META"))
            root = ElementTree.fromstring(archive.read(name))  # noqa: S314
        parts = [list(part.iter("measure")) for part in root.iter("part")]
        if len(parts) != _VOICES or len({len(part) for part in parts}) != 1:
            return None
        return Chorale(path.stem, tuple(_notes(parts)))
    except (OSError, StopIteration, ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is no score that can be read ({error}); install music21 anew") from error
    except ElementTree.ParseError as error:
        raise InputError(f"{path} is no MusicXML ({error}); install music21 anew") from error


def _notes(parts: list[list[ElementTree.Element]]) -> list[Note]:
    """Return what all parts play, measure by measure: voices that differ in length begin the next one together."""
    read = [list(_measures(part)) for part in parts]
    begin, notes = 0.0, []
    for number in _played(parts[0]):
        lengths = []
        for voice, measures in enumerate(read):
            length, inside = measures[number]
            lengths.append(length)
            notes += [(begin + start, begin + start + long, key, voice, tied) for start, long, key, tied in inside]
        begin += max(lengths)
    return _joined(sorted(notes))


def _measures(part: list[ElementTree.Element]) -> Iterator[tuple[float, list[tuple[float, float, int, bool]]]]:
    """Yield the length of each measure in quarters and start, length, key, and whether it goes on, of its notes."""
    divisions = 1.0
    for measure in part:
        at = longest = before = 0.0
        inside: list[tuple[float, float, int, bool]] = []
        for element in measure:
            if (said := element.findtext("divisions")) is not None:
                divisions = float(said)
            long = float(element.findtext("duration") or 0) / divisions
            if element.tag == "backup":
                at -= long
            elif element.tag == "forward":
                at += long
            elif element.tag == "note":
                # A note of a chord begins with the one before it; a grace note has no duration, and is left out.
                start = before if element.find("chord") is not None else at
                pitch = element.find("pitch")
                if pitch is not None and long:
                    goes_on = any(tie.get("type") == "start" for tie in element.iter("tie"))
                    inside.append((start, long, _key(pitch), goes_on))
                before, at = start, max(at, start + long)
            longest = max(longest, at)
        yield longest, inside


def _key(pitch: ElementTree.Element) -> int:
    step, octave = pitch.findtext("step") or "", int(pitch.findtext("octave") or "")
    return 12 * (octave + 1) + _STEPS[step] + round(float(pitch.findtext("alter") or 0))


def _played(measures: list[ElementTree.Element]) -> Iterator[int]:
    """Yield the numbers of the measures as they are played: each repeat once more, whatever the ending."""
    again = 0
    for number, measure in enumerate(measures):
        directions = [repeat.get("direction") for repeat in measure.iter("repeat")]
        if "forward" in directions:
            again = number
        yield number
        if "backward" in directions:
            yield from range(again, number + 1)
            again = number + 1


def _joined(notes: list[tuple[float, float, int, int, bool]]) -> list[Note]:
    """Join notes that are tied."""
    done: list[Note] = []
    open_: dict[tuple[int, int], int] = {}
    for start, end, key, voice, goes_on in notes:
        place = open_.pop((key, voice), None)
        if place is not None and abs(done[place].end - start) < 1e-6:
            done[place] = Note(done[place].start, end, key, voice)
        else:
            place = len(done)
            done.append(Note(start, end, key, voice))
        if goes_on:
            open_[key, voice] = place
    return done
