"""The tree of the great apes: branch lengths, and how incomplete lineage sorting changes them along the genome.

Branch lengths are those of the Ensembl primate EPO tree, in substitutions per site:
(((bonobo .00333, chimpanzee .00221) .00431, human .00660) .00186, gorilla .00856) .00848, orangutan .01607.

Incomplete lineage sorting. Blocks of the genome follow one of three gene trees: human with Pan (concordant), human with
gorilla, or Pan with gorilla, the latter two each with probability D / 2. In every block the two sisters share an
internal edge of length s, and the third lineage runs an edge of the same length alone. Published lengths are averages
over the genome, so the edges inside the blocks must be such that all average pairwise distances come out as published.
Writing h, p, g for the edges below (human, Pan stem, gorilla), R for the edge above and 0 for the published tree,

    human-Pan      h + p + 2 s D            = h0 + p0
    human-gorilla  h + g + 2 s - s D        = h0 + s0 + g0
    human-orang    R + s + h                = R0 + s0 + h0
    gorilla-orang  R + s + g                = R0 + g0

has the one solution s = s0 / (1 - 3 D / 2), h = h0 - D s, p = p0 - D s, g = g0 + s0 - 2 s (1 - D),
R = R0 + s0 - s (1 - D). By the coalescent 3 D / 2 = exp(-T), where T is the stem in units of 2 N generations.

Published lengths come from models that know no CpG effect, and so miss most repeated changes of CpGs. The simulator
makes a few more substitutions than the tree says, such that the distances one measures on its output are the tree's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SPECIES = ("human", "chimpanzee", "gorilla", "orangutan", "bonobo")

PUBLISHED_LENGTHS = {
    "bonobo": 0.00333033,
    "chimpanzee": 0.00220967,
    "pan": 0.00431356,
    "human": 0.00659644,
    "stem": 0.00186391,
    "gorilla": 0.0085649,
    "african": 0.00847511,
    "orangutan": 0.0160698,
}
"""Branches by name: `pan` above the two Pan species, `stem` above human and Pan, `african` above these and gorilla."""

PATHS = {
    "human": ("african", "stem", "human"),
    "chimpanzee": ("african", "stem", "pan", "chimpanzee"),
    "bonobo": ("african", "stem", "pan", "bonobo"),
    "gorilla": ("african", "gorilla"),
    "orangutan": ("orangutan",),
}
"""The branches from the root to each species."""

HIDDEN = {"orangutan": 1.07, "african": 1.07}
HIDDEN_ELSEWHERE = 1.03
"""Substitutions made per substitution seen: measured 1.02 for chimpanzee-bonobo to 1.06 for human-orangutan."""

STEM_YEARS = 2.4e6
GENERATION_YEARS = 25.0
ANCESTRAL_SIZE = 60_000
MEAN_BLOCK = 2_000
"""Mean length in bp of a block with one gene tree (published: about one to a few kb)."""


def discordance(*, stem_years: float = STEM_YEARS, size: float = ANCESTRAL_SIZE) -> float:
    """Return the share of the genome whose gene tree differs from the species tree.

    Parameters
    ----------
    stem_years : float
        Time between the gorilla and the human-Pan split, in years (TimeTree: 9.1 less 6.7 million).
    size : float
        Effective size of the human-Pan ancestor.

    Examples
    --------
    >>> round(discordance(), 2)
    0.3
    """
    return 2 / 3 * math.exp(-stem_years / (2 * size * GENERATION_YEARS))


@dataclass(frozen=True)
class BlockLengths:
    """Edges of the gene trees inside blocks, in substitutions per site (see the module's text)."""

    african: float
    internal: float
    human: float
    pan: float
    gorilla: float


def block_lengths(discordant: float) -> BlockLengths:
    """Return the edges that give the published average distances when a share `discordant` of blocks is discordant.

    Examples
    --------
    >>> edges = block_lengths(0.3)
    >>> average = edges.human + edges.pan + 2 * edges.internal * 0.3
    >>> round(average / (PUBLISHED_LENGTHS["human"] + PUBLISHED_LENGTHS["pan"]), 12)
    1.0
    """
    length = PUBLISHED_LENGTHS
    internal = length["stem"] / (1 - 1.5 * discordant)
    return BlockLengths(
        african=length["african"] + length["stem"] - internal * (1 - discordant),
        internal=internal,
        human=length["human"] - discordant * internal,
        pan=length["pan"] - discordant * internal,
        gorilla=length["gorilla"] + length["stem"] - 2 * internal * (1 - discordant),
    )


def made(branch: str, length: float) -> float:
    """Return the substitutions per site to make on a branch so that `length` of them are seen."""
    return HIDDEN.get(branch, HIDDEN_ELSEWHERE) * length


def published_distance(first: str, second: str) -> float:
    """Return the sum of published branch lengths between two species, in substitutions per site.

    Examples
    --------
    >>> round(published_distance("human", "chimpanzee"), 4)
    0.0131
    """
    shared = set(PATHS[first]) & set(PATHS[second])
    branches = [branch for name in (first, second) for branch in PATHS[name] if branch not in shared]
    return sum(PUBLISHED_LENGTHS[branch] for branch in branches)
