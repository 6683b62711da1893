import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdomains.errors import InputError
from seqdomains.genomics.alphabet import (
    ALPHABET,
    COMPLEMENT,
    PAD,
    SIGNATURE,
    VOCAB_SIZE,
    N,
    check_signature,
    decode,
    encode,
    first_illegal,
    reverse_complement,
    soft_mask,
)

# What each code stands for, from Cornish-Bowden 1985, independently of the tables under test.
MEANING = {
    "A": "A", "C": "C", "G": "G", "T": "T", "R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC",
    "B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT",
}  # fmt: skip
PAIR = {"A": "T", "C": "G", "G": "C", "T": "A"}
LETTERS = st.text(alphabet=ALPHABET + ALPHABET.lower() + "Uu", max_size=200)


def test_codes_are_pinned_because_artefacts_carry_them():
    assert ALPHABET == "ACGTRYSWKMBDHVN"
    assert (N, PAD, VOCAB_SIZE) == (14, 15, 16)
    assert encode(ALPHABET).tolist() == list(range(15))


def test_every_byte_is_a_base_or_an_error():
    for byte in range(256):
        letter = bytes([byte])
        if chr(byte).upper() in MEANING or chr(byte) in "Uu":
            assert encode(letter)[0] < PAD
        else:
            with pytest.raises(InputError, match="position 1"):
                encode(letter)


def test_complement_of_a_code_stands_for_the_complements_of_its_bases():
    for letter, bases in MEANING.items():
        complement = ALPHABET[COMPLEMENT[ALPHABET.index(letter)]]
        assert set(MEANING[complement]) == {PAIR[base] for base in bases}
    assert COMPLEMENT[PAD] == PAD


@given(LETTERS)
@settings(max_examples=60, deadline=None)
def test_decode_inverts_encode_with_the_soft_mask(text):
    codes = encode(text)
    assert decode(codes, mask=soft_mask(text)) == text.replace("U", "T").replace("u", "t")


@given(LETTERS)
@settings(max_examples=60, deadline=None)
def test_case_never_changes_a_code(text):
    assert encode(text.lower()).tolist() == encode(text.upper()).tolist()


@given(st.lists(st.integers(0, PAD), max_size=100))
@settings(max_examples=60, deadline=None)
def test_reverse_complement_is_an_involution(codes):
    row = np.array(codes, dtype=np.uint8)
    assert reverse_complement(reverse_complement(row)).tolist() == codes


def test_reverse_complement_turns_the_last_axis_only():
    rows = np.stack([encode("AACG"), encode("TTRN")])
    assert [decode(row) for row in reverse_complement(rows)] == ["CGTT", "NYAA"]


def test_reverse_complement_table_serves_torch():
    codes = encode("ACGTRYKMBVDHNSW")
    turned = torch.from_numpy(COMPLEMENT.copy())[torch.from_numpy(codes).long()].flip(-1)
    assert turned.tolist() == reverse_complement(codes).tolist()


@pytest.mark.parametrize("gap", "-.*")
def test_gaps_are_rejected_unless_declared(gap):
    with pytest.raises(InputError, match=r"record 'r1', position 3.*gap_policy"):
        encode(f"AC{gap}T", record="r1")
    assert encode(f"AC{gap}T", policy="mask").tolist() == [0, 1, PAD, 3]


def test_illegal_character_is_named_with_a_hint_of_protein():
    with pytest.raises(InputError, match=r"position 2: 'L' .*protein"):
        encode("ALA")
    with pytest.raises(InputError, match=r"position 3: 'é'"):
        encode("ACé")


def test_first_illegal_agrees_with_encode():
    text = b"ACGTNNNNJACGT"
    assert first_illegal(text) == 8
    assert first_illegal(text[:8]) is None


def test_encoded_codes_may_be_written_to():
    codes = encode("ACGT")
    codes[0] = N
    assert decode(codes) == "NCGT"


@pytest.mark.parametrize("bad", [np.array([16]), np.array([-1]), np.zeros((2, 2), dtype=int)])
def test_decode_refuses_what_is_no_row_of_codes(bad):
    with pytest.raises(ValueError, match="codes"):
        decode(bad)


def test_decode_shows_padding_as_a_gap_whatever_the_mask():
    assert decode(np.array([0, PAD]), mask=np.array([True, True])) == "a-"


@pytest.mark.parametrize(("key", "value"), [("domain", "audio"), ("alphabet", "ACGTN"), ("unit", None)])
def test_an_artefact_of_another_alphabet_is_refused(key, value):
    with pytest.raises(InputError, match=key):
        check_signature({**SIGNATURE, key: value})
