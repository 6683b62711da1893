"""`genomics generate` as users call it: FASTA with its settings, bytes by seed, and what is refused."""

from __future__ import annotations

import pytest
import torch

from seqdomains.backbone import MambaConfig, MambaLM
from seqdomains.genomics.alphabet import SIGNATURE
from seqdomains.genomics.fasta import stream_fasta


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    """A language model that would write N and ambiguous codes as readily as bases."""
    model = MambaLM(MambaConfig(d_model=16, n_layer=1), generator=torch.Generator().manual_seed(1))
    folder = tmp_path_factory.mktemp("lm") / "lm"
    model.save_pretrained(folder, signature={**SIGNATURE, "window": 64, "objective": "next-token"})
    return folder


def generated(seqdomains, lm, *options):
    outcome = seqdomains("genomics", "generate", lm, "--device", "cpu", *options)
    assert outcome.code == 0, outcome.err
    return outcome.out


def test_records_hold_bases_alone_and_say_how_they_were_made(seqdomains, lm, tmp_path):
    path = tmp_path / "new.fa"
    options = ("--length", 130, "--count", 3, "--seed", 7, "--temperature", 0.8, "--top-k", 3, "--top-p", 0.95)
    generated(seqdomains, lm, *options, "--prompt", "ACGTacgt", "-o", path)
    records = [(record.name, record.description, record.codes()) for record in stream_fasta(path)]
    assert [name for name, _, _ in records] == ["generated_1", "generated_2", "generated_3"]
    for _, description, codes in records:
        assert len(codes) == 130
        assert set(codes.tolist()) <= {0, 1, 2, 3}
        assert description.startswith("GENERATED seed=7 temperature=0.8 top_k=3 top_p=0.95 codes=ACGT model_sha256=")
        assert description.endswith("prompt=given prompt_bp=8 length=130")
    assert max(map(len, path.read_text().splitlines()[1:3])) == 60


def test_the_same_seed_gives_the_same_bytes_whatever_the_count(seqdomains, lm):
    three, five = (generated(seqdomains, lm, "--length", 80, "--count", count, "--seed", 3) for count in (3, 5))
    assert five.startswith(three)
    assert generated(seqdomains, lm, "--length", 80, "--count", 3, "--seed", 3) == three
    assert generated(seqdomains, lm, "--length", 80, "--count", 3, "--seed", 4) != three


def test_each_prompt_of_a_file_has_its_own(seqdomains, lm, tmp_path):
    prompts = tmp_path / "prompts.fa"
    prompts.write_text(">one\nACGT\n>two x\nGGGGGGGGGG\n")
    text = generated(seqdomains, lm, "--prompt", prompts, "--count", 2, "--length", 20)
    headers = [line for line in text.splitlines() if line.startswith(">")]
    assert [header.split()[0] for header in headers] == [f">generated_{number}" for number in range(1, 5)]
    assert [header.split()[-3] for header in headers] == ["prompt=one"] * 2 + ["prompt=two"] * 2
    bodies = [line for line in text.splitlines() if not line.startswith(">")]
    assert len(set(bodies)) == 4


def test_other_codes_are_written_when_asked_for(seqdomains, lm):
    text = generated(seqdomains, lm, "--any-code", "--length", 300, "--temperature", 3)
    letters = set("".join(line for line in text.splitlines() if not line.startswith(">")))
    assert letters > set("ACGT")
    assert letters <= set("ACGTRYSWKMBDHVN")
    assert "codes=all" in text


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (("--prompt", "ACQT"), 1, "record '--prompt', position 3: 'Q' is not an IUPAC nucleotide code"),
        (("--prompt", "none.fa"), 2, "--prompt none.fa: is neither bases, which are letters alone, nor a file"),
        (("--prompt", "AC GT"), 2, "--prompt AC GT: is neither bases, which are letters alone, nor a file"),
        (("--prompt", ""), 2, "--prompt: is empty; give bases"),
        (("-o", "new.fa.gz"), 2, "-o new.fa.gz: plain text is written; leave out .gz"),
        (("--top-p", 1.5), 2, "--top-p 1.5: expected a number above 0 and up to 1"),
        (("--temperature", "inf"), 2, "--temperature inf: expected a number from 0"),
        (("-o", "none/new.fa"), 1, "cannot write none/new.fa"),
    ],
)
def test_bad_input_is_one_sentence(seqdomains, lm, tmp_path, monkeypatch, options, code, sentence):
    monkeypatch.chdir(tmp_path)
    outcome = seqdomains("genomics", "generate", lm, "--device", "cpu", "--length", 5, *options)
    assert outcome.code == code
    assert sentence in outcome.error
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_the_prompt_is_refused(seqdomains, lm, tmp_path):
    path = tmp_path / "prompt.fa"
    path.write_text(">a\nACGT\n")
    outcome = seqdomains("genomics", "generate", lm, "--prompt", path, "-o", path)
    assert outcome.code == 2
    assert "is also the prompt, which would be lost" in outcome.error


def test_models_that_are_not_asked_the_next_base_are_refused(seqdomains, lm, artefact, tmp_path):
    masked = tmp_path / "masked"
    MambaLM(MambaConfig(d_model=8, n_layer=1)).save_pretrained(
        masked, signature={**SIGNATURE, "window": 64, "objective": "masked"}
    )
    outcome = seqdomains("genomics", "generate", masked)
    assert outcome.code == 1
    assert "the artefact's objective is 'masked'" in outcome.error
    assert "needs a language model (MambaLM)" in seqdomains("genomics", "generate", artefact).error
