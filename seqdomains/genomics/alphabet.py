"""One token per base: the 15 IUPAC nucleotide codes and one code for padding and masked positions.

Upper and lower case share a token; the case itself, the soft mask of repeats, is read by `soft_mask`. U is read as T.
The order is fixed because artefacts carry it: A C G T are 0 to 3, N is 14, PAD is 15.

References
----------
Cornish-Bowden, Nomenclature for incompletely specified bases in nucleic acid sequences, 1985, doi:10.1093/nar/13.9.3021
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from seqdomains.errors import InputError

ALPHABET = "ACGTRYSWKMBDHVN"
N = ALPHABET.index("N")
PAD = len(ALPHABET)
VOCAB_SIZE = PAD + 1

GapPolicy = Literal["reject", "mask"]
"""What `-`, `.` and `*` are: an error, or the mask code. They are never dropped, for that would shift coordinates."""

GAPS = "-.*"
SIGNATURE: Mapping[str, Any] = {"domain": "genomics", "alphabet": ALPHABET, "unit": "bp"}

_ILLEGAL = 255
_LETTERS = ALPHABET.encode() + b"U"
_SIXTEEN = [*range(len(ALPHABET)), ALPHABET.index("T")]
_COMPLEMENT_LETTERS = "TGCAYRSWMKVHDBN"


def _byte_table(gap_code: int) -> bytes:
    table = np.full(256, _ILLEGAL, dtype=np.uint8)
    for letters in (_LETTERS, _LETTERS.lower()):
        table[list(letters)] = _SIXTEEN
    table[list(GAPS.encode())] = gap_code
    return table.tobytes()


_TABLES: Mapping[GapPolicy, bytes] = {"reject": _byte_table(_ILLEGAL), "mask": _byte_table(PAD)}
_LEGAL: Mapping[GapPolicy, bytes] = {
    policy: bytes(byte for byte in range(256) if table[byte] != _ILLEGAL) for policy, table in _TABLES.items()
}
_DECODE = np.frombuffer((ALPHABET + "-").encode(), dtype=np.uint8)

COMPLEMENT: NDArray[np.uint8] = np.array([*(ALPHABET.index(letter) for letter in _COMPLEMENT_LETTERS), PAD], np.uint8)
"""Code of the complementary base of each code; PAD stays PAD."""
COMPLEMENT.flags.writeable = False
_COMPLEMENT_BYTES = COMPLEMENT.tobytes() + bytes(range(VOCAB_SIZE, 256))


def first_illegal(text: bytes, policy: GapPolicy = "reject") -> int | None:
    """Return the 0-based index of the first byte that is no base under `policy`, or None.

    Examples
    --------
    >>> first_illegal(b"ACGTNacgtn"), first_illegal(b"AC-GT"), first_illegal(b"AC-GT", "mask")
    (None, 2, None)
    """
    illegal = text.translate(None, _LEGAL[policy])
    return text.index(illegal[:1]) if illegal else None


def illegal_character(character: str, *, record: str, position: int, line: int | None = None) -> InputError:
    """Build the error for a character that is no base; `position` is 1-based within the record.

    Examples
    --------
    >>> print(illegal_character("-", record="chr1", position=7, line=3))
    record 'chr1', position 7 (line 3): '-' is a gap, not a base; remove it or set data.gap_policy=mask
    """
    where = f"record {record!r}, position {position}" + (f" (line {line})" if line is not None else "")
    if character in GAPS:
        return InputError(f"{where}: {character!r} is a gap, not a base; remove it or set data.gap_policy=mask")
    hint = "; it is an amino acid: is this a protein file?" if character.upper() in "EFILPQ" else "; correct the file"
    return InputError(f"{where}: {character!r} is not an IUPAC nucleotide code (ACGTU RYSWKM BDHV N){hint}")


def encode(sequence: bytes | str, *, policy: GapPolicy = "reject", record: str = "sequence") -> NDArray[np.uint8]:
    """Turn letters into codes.

    Parameters
    ----------
    sequence : bytes or str
        IUPAC letters in either case, U read as T.
    policy : {"reject", "mask"}
        Whether `-`, `.` and `*` are an error or become PAD.
    record : str
        Name of the record, for the error.

    Returns
    -------
    ndarray of uint8, shape (len(sequence),)

    Raises
    ------
    InputError
        A character is no IUPAC code; the message names record, 1-based position and character.

    Examples
    --------
    >>> encode("ACGTacguN").tolist()
    [0, 1, 2, 3, 0, 1, 2, 3, 14]
    """
    text = sequence.encode("utf-8") if isinstance(sequence, str) else bytes(sequence)
    codes = np.frombuffer(bytearray(text.translate(_TABLES[policy])), dtype=np.uint8)
    if codes.size and int(codes.max()) == _ILLEGAL:
        at = int(np.argmax(codes == _ILLEGAL))
        character = sequence[at] if isinstance(sequence, str) else chr(text[at])
        raise illegal_character(character, record=record, position=at + 1)
    return codes


def soft_mask(sequence: bytes | str) -> NDArray[np.bool_]:
    """Return which letters are lower case: repeats, in the convention of UCSC and Ensembl.

    Examples
    --------
    >>> soft_mask("ACgtN").tolist()
    [False, False, True, True, False]
    """
    text = sequence.encode("ascii") if isinstance(sequence, str) else sequence
    letters = np.frombuffer(text, dtype=np.uint8)
    return (letters >= ord("a")) & (letters <= ord("z"))


def decode(codes: NDArray[Any], *, mask: NDArray[np.bool_] | None = None) -> str:
    """Turn codes into letters, PAD into `-`; positions where `mask` is true become lower case.

    Raises
    ------
    ValueError
        `codes` is not one-dimensional or holds values outside 0 to 15.

    Examples
    --------
    >>> decode(encode("ACGUNryk"))
    'ACGTNRYK'
    >>> decode(encode("ACgt"), mask=soft_mask("ACgt"))
    'ACgt'
    """
    if codes.ndim != 1 or (codes.size and (int(codes.min()) < 0 or int(codes.max()) >= VOCAB_SIZE)):
        raise ValueError(f"decode expects one row of codes from 0 to {VOCAB_SIZE - 1}")
    letters = _DECODE[codes]
    if mask is not None:
        letters = np.where(mask & (letters != ord("-")), letters | 0x20, letters)
    return str(letters.tobytes(), "ascii")


def reverse_complement(codes: NDArray[Any]) -> NDArray[np.uint8]:
    """Read the other strand: complement each code (R to Y, B to V, ...) and reverse the last axis.

    For a torch tensor: ``torch.from_numpy(COMPLEMENT.copy())[codes].flip(-1)``.

    Examples
    --------
    >>> decode(reverse_complement(encode("AACGRN")))
    'NYCGTT'
    """
    # A table of bytes is twice as fast as an array that is indexed.
    other = np.frombuffer(np.asarray(codes, np.uint8).tobytes().translate(_COMPLEMENT_BYTES), np.uint8)
    return np.ascontiguousarray(other.reshape(codes.shape)[..., ::-1])


def check_signature(signature: Mapping[str, Any]) -> None:
    """Refuse an artefact that was not made for this alphabet.

    Raises
    ------
    InputError
        The artefact's domain, alphabet or unit differs.

    Examples
    --------
    >>> check_signature({"domain": "genomics", "alphabet": "ACGTRYSWKMBDHVN", "unit": "bp", "window": 128})
    """
    for key, expected in SIGNATURE.items():
        found = signature.get(key)
        if found != expected:
            raise InputError(
                f"the artefact's {key} is {found!r} and this command reads {expected!r}: "
                "use an artefact that this version of `seqdomains genomics` made"
            )
