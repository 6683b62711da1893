"""Simulated sound: the offline default of the audio domain, always labelled as simulated.

Clips of three kinds, tones, spoken words and melodies, each a function of the settings and its number alone, with the
truth about what sounds when. `synthesize` writes them as WAV files with a manifest.
"""

from seqdomains.audio.synthesis.clips import clip
from seqdomains.audio.synthesis.config import SynthesisConfig
from seqdomains.audio.synthesis.write import synthesize

__all__ = ["SynthesisConfig", "clip", "synthesize"]
