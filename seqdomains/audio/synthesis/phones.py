"""The sounds that the simulated words are made of.

Vowels have the mean formants of men's voices of Peterson and Barney 1952 (doi:10.1121/1.1906875); consonants, with
their fricative bands rounded, those of Klatt 1980 (doi:10.1121/1.383940, table III). Durations follow Klatt 1976
(doi:10.1121/1.380986) roughly: stressed vowels of 120 to 150 ms, consonants of 60 to 120 ms.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """A stretch with one target.

    Parameters
    ----------
    seconds : float
        Duration at an even pace, in s.
    formants : tuple of float
        First to third formant in Hz.
    voice : float
        Amplitude of the glottal source, 1 in vowels.
    friction : float
        Amplitude of the noise of a constriction.
    band : tuple of float
        Middle and width (standard deviation) of that noise in Hz.
    """

    seconds: float
    formants: tuple[float, float, float]
    voice: float = 0.0
    friction: float = 0.0
    band: tuple[float, float] = (4_000.0, 2_000.0)


def _vowel(seconds: float, *formants: float) -> Segment:
    first, second, third = formants
    return Segment(seconds, (first, second, third), voice=1.0)


PHONES: dict[str, tuple[Segment, ...]] = {
    "iy": (_vowel(0.16, 270, 2290, 3010),),
    "ih": (_vowel(0.12, 390, 1990, 2550),),
    "eh": (_vowel(0.14, 530, 1840, 2480),),
    "ah": (_vowel(0.14, 640, 1190, 2390),),
    "ao": (_vowel(0.16, 570, 840, 2410),),
    "uw": (_vowel(0.18, 300, 870, 2240),),
    "ay": (_vowel(0.11, 730, 1090, 2440), _vowel(0.10, 390, 1990, 2550)),
    "ey": (_vowel(0.09, 530, 1840, 2480), _vowel(0.11, 270, 2290, 3010)),
    "ow": (_vowel(0.10, 570, 840, 2410), _vowel(0.11, 440, 1020, 2240)),
    "w": (Segment(0.07, (290, 610, 2150), voice=0.6),),
    "r": (Segment(0.07, (310, 1060, 1380), voice=0.6),),
    "n": (Segment(0.08, (480, 1340, 2470), voice=0.4),),
    "v": (Segment(0.06, (220, 1100, 2080), voice=0.4, friction=0.05, band=(4_000, 3_000)),),
    "z": (Segment(0.09, (240, 1390, 2530), voice=0.3, friction=0.3, band=(5_500, 1_500)),),
    "s": (Segment(0.11, (320, 1390, 2530), friction=0.5, band=(5_500, 1_500)),),
    "f": (Segment(0.10, (340, 1100, 2080), friction=0.12, band=(4_500, 4_000)),),
    "th": (Segment(0.09, (320, 1290, 2540), friction=0.1, band=(6_000, 3_000)),),
    # A stop is a closure and a burst.
    "t": (Segment(0.05, (400, 1600, 2600)), Segment(0.025, (400, 1600, 2600), friction=0.6, band=(4_000, 1_500))),
    "k": (Segment(0.05, (300, 1990, 2850)), Segment(0.03, (300, 1990, 2850), friction=0.6, band=(2_000, 500))),
}

SPELLING = {
    "zero": ("z", "ih", "r", "ow"),
    "one": ("w", "ah", "n"),
    "two": ("t", "uw"),
    "three": ("th", "r", "iy"),
    "four": ("f", "ao", "r"),
    "five": ("f", "ay", "v"),
    "six": ("s", "ih", "k", "s"),
    "seven": ("s", "eh", "v", "n"),
    "eight": ("ey", "t"),
    "nine": ("n", "ay", "n"),
}
