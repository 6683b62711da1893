"""Simulated great-ape genomes: the offline default, always labelled as simulated.

`simulate` draws an ancestral chromosome, evolves it along the published tree, inserts the lineage-specific repeats at
the published rates, and writes FASTA together with the truth about every marker.
"""

from seqdomains.genomics.simulate.config import SimulationConfig
from seqdomains.genomics.simulate.run import simulate

__all__ = ["SimulationConfig", "simulate"]
