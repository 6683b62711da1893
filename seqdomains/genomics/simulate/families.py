"""Consensus sequences of the repeat families, and of each lineage's own subfamily.

No sequence here is copied from a database. Each consensus is drawn from a generator with a constant key, with the
length, base composition and structure of the family it stands for, so that training and test chromosomes, and
simulations with different seeds, share it, as real genomes share theirs:

- Alu: 282 bp, two arms of which the right one has 31 bp more, GC 63 %, rich in CpG.
- L1: 6,000 bp, GC 42 %, 40 % A on the sense strand.
- SVA: (CCCTCT)n, an Alu-like part, 37-bp tandem repeats (VNTR) of variable number, 490 bp of SINE-R.
- PtERV1 (Pan and gorilla) and HERV-K (human): two LTRs of 0.4 and 0.97 kb around an internal part, or a solo LTR.
- L1M (the older L1 of mammals) and LTR (450 bp): extinct families, of which all apes share the old copies.

A lineage's subfamily is the family consensus with the lineage's diagnostic sites. Alu: 8 substitutions and one tandem
duplication of 7 bp (as in Yb8), 5 substitutions (as in Ya5) for the two short Pan branches. Other families: 0.35 % of
sites per million years of the branch (assumed: a few per cent). In L1 they are three times as dense in the untranslated
ends as in the reading frames, which are the conserved part (Khan 2006, doi:10.1101/gr.4001406; the factor is assumed).
Chimpanzee and bonobo subfamilies carry the sites of the Pan stem as well.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from seqdomains.genomics.simulate.sequence import Codes

Weights = NDArray[np.float64]

FAMILY_KEY = 0x5EED_0F_A9E5
FAMILIES = ("Alu", "L1", "SVA", "PtERV1", "HERVK", "LTR", "L1M")

BRANCH_MY = {"human": 6.7, "pan": 4.7, "chimpanzee": 2.0, "bonobo": 2.0, "gorilla": 9.1, "orangutan": 15.2}
"""Length in million years of the branches that carry insertions (splits at 2.0, 6.7, 9.1 and 15.2 million years)."""

DIAGNOSTIC_PER_MY = 0.0035
L1_LENGTH = 6_000
L1_UTR = (900, 600)
L1_UTR_RATE = 3.0
"""Lengths of the two untranslated ends of L1, and how much faster they evolve than the reading frames (assumed)."""
LTR_LENGTH = {"PtERV1": 400, "HERVK": 970}
INTERNAL_LENGTH = {"PtERV1": 7_000, "HERVK": 7_500}
VNTR_UNIT, SINE_R = 37, 490


def _rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(FAMILY_KEY, spawn_key=key))


def _draw(rng: np.random.Generator, length: int, frequencies: tuple[float, float, float, float]) -> Codes:
    return rng.choice(4, length, p=frequencies).astype(np.uint8)


def _diverge(rng: np.random.Generator, codes: Codes, sites: int, *, weight: Weights | None = None) -> Codes:
    """Change `sites` different positions, drawn by `weight`, to another base each."""
    at = rng.choice(len(codes), sites, replace=False, p=weight)
    changed = codes.copy()
    changed[at] = (codes[at] + rng.integers(1, 4, sites)) % 4
    return changed


def _l1_weights() -> Weights:
    weight = np.ones(L1_LENGTH)
    weight[: L1_UTR[0]] = weight[-L1_UTR[1] :] = L1_UTR_RATE
    return np.asarray(weight / weight.sum())


@cache
def family_parts(family: str) -> dict[str, Codes]:
    """Return the consensus of a family in its named parts, in the sense orientation.

    Examples
    --------
    >>> {name: len(part) for name, part in family_parts("PtERV1").items()}
    {'ltr': 400, 'internal': 7000}
    """
    rng = _rng(FAMILIES.index(family))
    if family == "Alu":
        arm = _draw(rng, 118, (0.19, 0.31, 0.34, 0.16))
        linker = _draw(rng, 15, (0.8, 0.07, 0.06, 0.07))
        right = _diverge(rng, arm, 24)
        extra = _draw(rng, 31, (0.25, 0.28, 0.30, 0.17))
        return {"body": np.concatenate([arm, linker, right[:60], extra, right[60:]])}
    if family in ("L1", "L1M"):
        return {"body": _draw(rng, L1_LENGTH, (0.40, 0.21, 0.21, 0.18))}
    if family == "LTR":
        return {"body": _draw(rng, 450, (0.27, 0.23, 0.22, 0.28))}
    if family == "SVA":
        return {
            "hexamer": np.array([1, 1, 1, 3, 1, 3], np.uint8),
            "alu": _diverge(rng, family_parts("Alu")["body"], 28),
            "vntr": _draw(rng, VNTR_UNIT, (0.14, 0.37, 0.35, 0.14)),
            "sine": _draw(rng, SINE_R, (0.26, 0.24, 0.25, 0.25)),
        }
    return {
        "ltr": _draw(rng, LTR_LENGTH[family], (0.27, 0.24, 0.22, 0.27)),
        "internal": _draw(rng, INTERNAL_LENGTH[family], (0.31, 0.23, 0.20, 0.26)),
    }


def subfamily_name(branch: str, family: str) -> str:
    """Return the name of a lineage's own subfamily.

    Examples
    --------
    >>> subfamily_name("pan", "Alu")
    'Alu_pan'
    """
    return f"{family}_{branch}"


@cache
def subfamily_parts(branch: str, family: str) -> dict[str, Codes]:
    """Return a lineage's subfamily consensus in its parts.

    Examples
    --------
    >>> master, own = family_parts("L1")["body"], subfamily_parts("orangutan", "L1")["body"]
    >>> int((master != own).sum())
    319
    """
    master = subfamily_parts("pan", family) if branch in ("chimpanzee", "bonobo") else family_parts(family)
    rng = _rng(FAMILIES.index(family), 1 + list(BRANCH_MY).index(branch))
    parts = {}
    for name, codes in master.items():
        if family == "Alu":
            short = branch in ("chimpanzee", "bonobo")
            own = _diverge(rng, codes, 5 if short else 8)
            at = int(rng.integers(20, len(own) - 20))
            parts[name] = own if short else np.concatenate([own[:at], own[at - 7 : at], own[at:]])
        else:
            sites = round(DIAGNOSTIC_PER_MY * BRANCH_MY[branch] * len(codes))
            parts[name] = _diverge(rng, codes, sites, weight=_l1_weights() if family == "L1" else None)
    return parts


@cache
def old_subfamily(family: str, rank: int) -> Codes:
    """Return the consensus of a subfamily that was active before the apes split, `rank` 1 (younger) to 3 (older).

    Each rank differs from the family consensus at another 2.5 % of its sites.
    """
    body = family_parts(family)["body"]
    for step in range(1, rank + 1):
        body = _diverge(_rng(FAMILIES.index(family), 100 + step), body, round(0.025 * len(body)))
    return body


def poly_a(rng: np.random.Generator) -> Codes:
    """Return the A-tail of a fresh copy, 10 to 40 bp."""
    return np.zeros(int(rng.integers(10, 41)), np.uint8)


def truncated(rng: np.random.Generator, codes: Codes, full: float, mean: float, least: int) -> Codes:
    """Return a copy that is full with probability `full`, else cut at its 5' end to an exponential length."""
    if rng.random() < full:
        return codes
    return codes[-min(len(codes), least + int(rng.exponential(mean - least))) :]


def draw_copy(rng: np.random.Generator, parts: dict[str, Codes], family: str) -> Codes:
    """Return one fresh copy in the sense orientation, with its A-tail where the family has one.

    Alu copies are full at 85 %; L1 copies are cut at the 5' end at 90 %, to 0.9 kb on average; SVA copies have 5 to 20
    hexamers and 10 to 45 VNTR units (1.3 to 2.6 kb); half the ERV copies are solo LTRs, the others have an internal
    part of 4.2 kb to its full length (5 to 9.4 kb in all).

    Examples
    --------
    >>> copy = draw_copy(np.random.default_rng(1), subfamily_parts("gorilla", "PtERV1"), "PtERV1")
    >>> len(copy) == 400 or 5_000 <= len(copy) <= 7_800
    True
    """
    if family == "Alu":
        return np.concatenate([truncated(rng, parts["body"], 0.85, 180, 60), poly_a(rng)])
    if family == "L1":
        return np.concatenate([truncated(rng, parts["body"], 0.10, 900, 150), poly_a(rng)])
    if family == "SVA":
        repeats = [np.tile(parts["hexamer"], int(rng.integers(5, 21))), parts["alu"]]
        return np.concatenate([*repeats, np.tile(parts["vntr"], int(rng.integers(10, 46))), parts["sine"], poly_a(rng)])
    if rng.random() < 0.5:
        return parts["ltr"]
    internal = parts["internal"][: int(rng.integers(4_200, len(parts["internal"]) + 1))]
    return np.concatenate([parts["ltr"], internal, parts["ltr"]])


def reverse_complement(codes: Codes) -> Codes:
    """Return the other strand of codes 0 to 3."""
    return np.asarray(3 - codes[::-1], np.uint8)
