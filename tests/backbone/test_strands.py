"""Equivariance under reverse complement: embedding, each block, final norm, heads; odd lengths and padding."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from seqdomains.backbone import MambaBackbone, MambaConfig, MambaLM, SequenceClassifier, from_pretrained
from seqdomains.backbone.strands import other_strand, turned

COMPLEMENT = (3, 2, 1, 0, 5, 4, 6, 7)
SIZES = {"d_model": 24, "n_layer": 3, "vocab_size": 8, "d_state": 5, "complement": COMPLEMENT}
BOTH = pytest.mark.parametrize("bidirectional", [False, True], ids=["one direction", "bidirectional"])
PADDED = pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])


def build(kind, disturb, **options):
    bidirectional = options.pop("bidirectional", False)
    config = MambaConfig(**SIZES, bidirectional=bidirectional)
    return disturb(kind(config, generator=torch.Generator().manual_seed(0), **options)).eval()


def windows(padded):
    tokens = torch.randint(8, (4, 37), generator=torch.Generator().manual_seed(1))
    return tokens, torch.tensor([37, 36, 11, 1]) if padded else None


def reversed_rows(values, lengths):
    """Reverse time of the real positions, row by row: a second way to write `turned`."""
    counts = [values.shape[1]] * len(values) if lengths is None else lengths.tolist()
    return torch.stack(
        [torch.cat([row[:count].flip(0), row[count:]]) for row, count in zip(values, counts, strict=True)]
    )


def real(values, lengths):
    return values if lengths is None else values[torch.arange(values.shape[1]) < lengths[:, None]]


@PADDED
def test_the_other_strand_of_the_other_strand_is_the_first(padded):
    tokens, lengths = windows(padded)
    other = other_strand(tokens, lengths, complement=COMPLEMENT)
    assert torch.equal(other, reversed_rows(torch.tensor(COMPLEMENT)[tokens], lengths))
    assert torch.equal(other_strand(other, lengths, complement=COMPLEMENT), tokens)
    mixture = torch.nn.functional.one_hot(tokens, 8).float()
    found = other_strand(mixture, lengths, complement=COMPLEMENT)
    assert torch.equal(found, torch.nn.functional.one_hot(other, 8).float())
    assert torch.equal(turned(mixture, lengths), reversed_rows(mixture, lengths))


@BOTH
@PADDED
@pytest.mark.parametrize("blocks", [0, 1, 2, 3, None])
@torch.no_grad()
def test_every_layer_is_equivariant(disturb, bidirectional, padded, blocks):
    """Vectors of the reverse complement are those of the window with time and channels reversed."""
    backbone = build(MambaBackbone, disturb, bidirectional=bidirectional)
    tokens, lengths = windows(padded)
    other = other_strand(tokens, lengths, complement=COMPLEMENT)
    found = backbone(tokens, lengths=lengths, blocks=blocks)
    assert found.shape[-1] == 2 * 24
    turned_back = reversed_rows(backbone(other, lengths=lengths, blocks=blocks), lengths).flip(-1)
    assert (real(found, lengths) - real(turned_back, lengths)).abs().max() < 1e-5
    assert found.abs().max() > 1e-2


@BOTH
@PADDED
@torch.no_grad()
def test_a_language_model_is_equivariant(disturb, bidirectional, padded):
    model = build(MambaLM, disturb, bidirectional=bidirectional)
    tokens, lengths = windows(padded)
    other = other_strand(tokens, lengths, complement=COMPLEMENT)
    found, of_other = model(tokens, lengths=lengths), model(other, lengths=lengths)
    expected = reversed_rows(of_other, lengths)[..., list(COMPLEMENT)]
    assert (real(found, lengths) - real(expected, lengths)).abs().max() < 1e-5
    assert found.std() > 1e-3


@BOTH
@PADDED
@pytest.mark.parametrize("pooling", ["last", "mean", "both"])
@torch.no_grad()
def test_a_classifier_is_invariant(disturb, bidirectional, padded, pooling):
    model = build(SequenceClassifier, disturb, bidirectional=bidirectional, classes=("a", "b"), pooling=pooling)
    tokens, lengths = windows(padded)
    other = other_strand(tokens, lengths, complement=COMPLEMENT)
    found = model(tokens, lengths)
    assert (found - model(other, lengths)).abs().max() < 1e-5
    one_strand = SequenceClassifier(model.config.model_copy(update={"complement": None}), classes=("a", "b"))
    one_strand.pooling, one_strand.head = pooling, model.head
    one_strand.backbone.load_state_dict(model.backbone.state_dict())
    apart = one_strand(tokens, lengths), one_strand(other, lengths)
    assert torch.allclose(found, sum(apart) / 2, atol=1e-5)
    assert (apart[0] - apart[1]).abs().max() > 1e-3  # of one strand alone the test would see a difference


@BOTH
@torch.no_grad()
def test_padding_changes_nothing(disturb, bidirectional):
    model = build(SequenceClassifier, disturb, bidirectional=bidirectional, classes=("a", "b"), pooling="both")
    tokens, lengths = windows(True)
    filled = tokens.masked_fill(torch.arange(37) >= lengths[:, None], 5)
    assert torch.equal(model(tokens, lengths), model(filled, lengths))
    for row, length, logits in zip(tokens, lengths.tolist(), model(tokens, lengths), strict=True):
        assert torch.allclose(model(row[None, :length])[0], logits, atol=1e-5)


def test_gradients_of_both_strands_go_to_the_same_weights(disturb):
    """An equivariant model and one strand after the other have the same gradients, recomputed or not."""
    tokens, lengths = windows(True)
    found = []
    for recompute in (False, True):
        model = build(SequenceClassifier, disturb, bidirectional=True, classes=("a", "b"))
        model(tokens, lengths, recompute=recompute).logsumexp(1).sum().backward()
        found.append([one.grad for one in model.parameters()])
    for one, other in zip(*found, strict=True):
        assert float((one - other).abs().max() / other.abs().max()) < 1e-5


def test_mixtures_of_codes_are_read_like_codes(disturb):
    model = build(SequenceClassifier, disturb, bidirectional=True, classes=("a", "b"))
    tokens, lengths = windows(True)
    mixture = torch.nn.functional.one_hot(tokens, 8).float().requires_grad_()
    logits = model(mixture, lengths)
    assert torch.allclose(logits, model(tokens, lengths), atol=1e-5)
    logits[:, 0].sum().backward()
    behind = torch.arange(37) >= lengths[:, None]
    assert not mixture.grad[behind].any()
    assert mixture.grad[~behind].abs().sum(-1).min() > 0


def test_an_artefact_comes_back(tmp_path, disturb):
    model = build(MambaLM, disturb)
    model.save_pretrained(tmp_path / "model", signature={})
    loaded = from_pretrained(tmp_path / "model").model
    assert loaded.config == model.config
    tokens, _ = windows(False)
    with torch.no_grad():
        assert torch.equal(loaded(tokens), model(tokens))


@pytest.mark.parametrize(
    ("complement", "options", "sentence"),
    [
        ((3, 2, 1), {}, "expected the partner of each of the 8 codes"),
        ((1, 2, 0, 3, 4, 5, 6, 7), {}, "each to be its partner's"),
        ((9, 2, 1, 0, 5, 4, 6, 7), {}, "each to be its partner's"),
        (COMPLEMENT, {"features": 2}, "codes have partners, and the model reads features"),
    ],
)
def test_what_is_no_complement_is_refused(complement, options, sentence):
    with pytest.raises(ValidationError, match=sentence):
        MambaConfig(d_model=8, n_layer=1, vocab_size=8, complement=complement, **options)


def test_it_has_no_state():
    model = MambaLM(MambaConfig(**SIZES))
    tokens, _ = windows(False)
    with pytest.raises(ValueError, match="has no state"):
        model(tokens, return_state=True)
    with pytest.raises(ValueError, match="has seen the next token"):
        model.loss(tokens)
    with pytest.raises(ValueError, match="expected integers of shape"):
        model(torch.zeros(2, 5))


@pytest.mark.gpu
@BOTH
@PADDED
def test_a_gpu_says_what_a_cpu_says(disturb, bidirectional, padded):
    """Logits, invariance, and gradients with and without recomputation; d_state 16 takes the fast kernels."""
    tokens, lengths = windows(padded)
    other = other_strand(tokens, lengths, complement=COMPLEMENT)
    config = MambaConfig(d_model=32, n_layer=2, vocab_size=8, bidirectional=bidirectional, complement=COMPLEMENT)
    generator = torch.Generator().manual_seed(0)
    model = disturb(SequenceClassifier(config, classes=("a", "b"), pooling="both", generator=generator))
    on_cpu = model(tokens, lengths)
    expected = torch.autograd.grad(on_cpu.logsumexp(1).sum(), list(model.parameters()))
    model.cuda()
    for recompute in (False, True):
        found = model(tokens.cuda(), lengths, recompute=recompute)
        assert (found.cpu() - on_cpu).abs().max() < 1e-4
        gradients = torch.autograd.grad(found.logsumexp(1).sum(), list(model.parameters()))
        for one, known in zip(gradients, expected, strict=True):
            assert float((one.cpu() - known).abs().max() / known.abs().max()) < 1e-3
    with torch.no_grad():
        assert (model(tokens.cuda(), lengths) - model(other.cuda(), lengths)).abs().max() < 1e-5
