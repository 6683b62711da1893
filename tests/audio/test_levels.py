"""Seconds beside levels worked out by hand, and what is told of sounds that run away and of those that do not."""

from __future__ import annotations

import numpy as np
import pytest

from seqdomains.audio.front_end import SoundInput
from seqdomains.audio.levels import RunawayWatch, Second, SecondMeter

RATE = 1000


def measured(codes, bits, *, codec="mu-law", cut=(10_000,)):
    meter = SecondMeter(SoundInput(rate=RATE, codec=codec))
    parts = zip(np.split(codes, cut), np.split(bits.astype(np.float32), cut), strict=True)
    return [second for part in parts for second in meter.push(*part)] + meter.finish()


@pytest.mark.parametrize("codec", ["mu-law", "linear"])
def test_levels_are_those_of_the_decoded_sound(codec):
    given = SoundInput(rate=RATE, codec=codec)
    sine = np.sin(2 * np.pi * 50 * np.arange(2500) / RATE).astype(np.float32)
    gain = np.repeat([1.0, 0.1, 0.1], 1000)[:2500].astype(np.float32)
    one, two, part = measured(given.encode(sine * gain), np.arange(2500) / 1000, codec=codec)
    assert [(second.start, second.end) for second in (one, two, part)] == [(0, 1000), (1000, 2000), (2000, 2500)]
    assert one.level == pytest.approx(-3.01, abs=0.1)
    assert two.level == pytest.approx(-23.01, abs=0.2)
    assert one.peak == pytest.approx(0, abs=0.01)
    assert two.peak == pytest.approx(-20, abs=0.3)
    assert [second.entropy for second in (one, two, part)] == pytest.approx([0.4995, 1.4995, 2.2495], rel=1e-4)
    assert 0.05 < one.clipped < 0.2
    assert two.clipped == part.clipped == 0


def test_a_sound_is_measured_alike_however_it_is_cut():
    random = np.random.default_rng(0)
    codes, bits = random.integers(0, 256, 5300, dtype=np.uint8), random.random(5300)
    assert measured(codes, bits) == measured(codes, bits, cut=(1, 999, 1000, 1001, 3500))


def test_both_outermost_codes_are_clipped_and_the_next_are_not():
    (second,) = measured(np.array([0, 1, 128, 254, 255], np.uint8), np.zeros(5))
    assert second.clipped == 0.4


def seconds(*states, rate=RATE):
    """Seconds of level, entropy and clipping."""
    return [
        Second(rate * at, rate * at + rate, level, level, entropy, clipped)
        for at, (level, entropy, clipped) in enumerate(states)
    ]


def verdict(states, prompt=()):
    watch = RunawayWatch(RATE, seconds(*prompt))
    for second in seconds(*states):
        watch.see(second)
    return watch.verdict()


USUAL = [(-20, 2.0, 0.0), (-26, 2.4, 0.0), (-23, 2.2, 0.01)]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ((-7.9, 2.0, 0.0), "from 5 s on it is at -7.9 dBFS, and -20.0 at most in its first 3 s"),
        ((-20, 2.0, 0.06), "from 5 s on it is clipped in 6% of its samples"),
        ((-50.1, 2.0, 0.0), "from 5 s on it is at -50.1 dBFS, and -26.0 at least in its first 3 s"),
        ((-20, 3.5, 0.0), "from 5 s on it is drawn with 3.50 bits a sample, and 2.40 at most in its first 3 s"),
        ((-20, 0.9, 0.0), "from 5 s on it is drawn with 0.90 bits a sample, and 2.00 at least in its first 3 s"),
        ((-81, 0.1, 0.0), "-81.0 dBFS, and -26.0 at least in its first 3 s; drawn with 0.10 bits"),
    ],
)
def test_a_state_that_lasts_to_the_end_is_told(state, words):
    assert words in verdict([*USUAL, USUAL[0], USUAL[1], state, state, state])
    # Too short, and over again before the end.
    assert verdict([*USUAL, USUAL[0], state, state]) is None
    assert verdict([*USUAL, state, state, state, state, USUAL[2]]) is None


@pytest.mark.parametrize("state", [(-8.1, 2.0, 0.05), (-49.9, 2.0, 0.0), (-20, 3.4, 0.0), (-20, 1.0, 0.0)])
def test_what_is_within_the_margins_is_not_told(state):
    assert verdict([*USUAL, *[state] * 5]) is None


def test_the_prompt_is_the_reference_if_it_is_long_enough():
    noise = [(-10, 8.0, 0.01)] * 4
    assert verdict(noise) is None
    assert verdict(noise, prompt=USUAL[:2]) is None
    found = verdict(noise, prompt=USUAL)
    assert found is not None
    assert found.startswith("from 0 s on it is ")
    assert "drawn with 8.00 bits a sample, and 2.40 at most in the prompt" in found


def test_a_prompt_that_is_clipped_excuses_no_less():
    loud = [(-3, 2.0, 0.2)] * 3
    assert verdict([(-3, 2.0, 0.2)] * 5, prompt=loud) is None
    assert "clipped in 30%" in str(verdict([(-3, 2.0, 0.3)] * 5, prompt=loud))


def test_the_part_of_a_second_at_the_end_changes_nothing():
    watch = RunawayWatch(RATE, seconds(*USUAL))
    for second in [*seconds(*[(-81, 2.0, 0.0)] * 3), Second(3000, 3400, -20, -20, 2.0, 0.0)]:
        watch.see(second)
    assert "from 0 s on it is at -81.0 dBFS" in str(watch.verdict())
