"""Subterminal satellite caps of chimpanzee, bonobo and gorilla.

The caps are arrays of the published 32-bp StSat (pCht) unit and its published variants, in blocks of 15 to 30 kb
between spacers of 2 to 4 kb. Chimpanzee, bonobo and gorilla grew theirs independently; human and orangutan have
none. Caps are 8.5 % of the gorilla genome; 3 % of the chimpanzee's and 2.5 % of the bonobo's are assumed. The unit, its
variants and the spacer are the same for the three: beyond their size the caps carry nothing that tells one species from
another. Copies of the unit differ from it by 2 substitutions per 100 sites (assumed). (AATGG)n and alpha satellites are
left out.
"""

from __future__ import annotations

import numpy as np

from seqdomains.genomics.simulate.evolve import Rates, states_of, substitute
from seqdomains.genomics.simulate.families import FAMILY_KEY
from seqdomains.genomics.simulate.sequence import Codes, Flags

CAP_SHARE = {"gorilla": 0.085, "chimpanzee": 0.03, "bonobo": 0.025}
"""Share of the genome in caps; density does not multiply it."""

UNIT = "AAACATGGAAATATCTACACCGCTATCTGTAT"
VARIANT_ENDS = ("CCGCTATCTGTAT", "CCGCCATCTGTAT", "CAGCCATCTGTAT", "CCGCTATCTCTAT", "CTGCCATCTGTAT")
UNIT_SHARES = (0.5, 0.15, 0.1, 0.15, 0.1)
CAP_DIVERGENCE = 0.02
BLOCK = (15_000, 30_000)
SPACER = (2_000, 4_000)


def units() -> Codes:
    """Return the published unit and its variants, as codes of shape (5, 32).

    Examples
    --------
    >>> units().shape
    (5, 32)
    """
    texts = [UNIT[: -len(end)] + end for end in VARIANT_ENDS]
    return np.array([["ACGT".index(base) for base in text] for text in texts], np.uint8)


def cap_lengths(species: str, length: int, rng: np.random.Generator) -> tuple[int, int]:
    """Return the lengths of the two caps that make up the published share of a chromosome of `length` bp without them.

    Examples
    --------
    >>> left, right = cap_lengths("gorilla", 1_000_000, np.random.default_rng(0))
    >>> round((left + right) / (1_000_000 + left + right), 3)
    0.085
    >>> cap_lengths("human", 1_000_000, np.random.default_rng(0))
    (0, 0)
    """
    share = CAP_SHARE.get(species, 0.0)
    total = round(length * share / (1 - share))
    left = round(total * rng.uniform(0.4, 0.6))
    return left, total - left


def cap(length: int, rng: np.random.Generator) -> tuple[Codes, Flags]:
    """Return the bases and the soft mask of a cap: satellite masked, spacers not."""
    if length == 0:
        return np.zeros(0, np.uint8), np.zeros(0, bool)
    common = np.random.default_rng(np.random.SeedSequence(FAMILY_KEY, spawn_key=(1_000,)))
    spacer = common.choice(4, SPACER[1], p=(0.30, 0.20, 0.20, 0.30)).astype(np.uint8)
    parts: list[Codes] = []
    masks: list[Flags] = []
    done = 0
    while done < length:
        count = int(rng.integers(*BLOCK)) // len(UNIT)
        block = units()[rng.choice(len(VARIANT_ENDS), count, p=UNIT_SHARES)].ravel()
        gap = spacer[: int(rng.integers(*SPACER))]
        parts += [block, gap]
        masks += [np.ones(len(block), bool), np.zeros(len(gap), bool)]
        done += len(block) + len(gap)
    codes = np.concatenate(parts)[:length]
    codes = substitute(codes, CAP_DIVERGENCE, rng, rates=Rates.scaled_to(states_of(codes)))
    return codes, np.concatenate(masks)[:length]
