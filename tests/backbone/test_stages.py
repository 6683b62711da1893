"""Models for sound: stages, complex states and constants hold the laws of the backbone, in every combination."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from seqdomains.backbone import MambaConfig, MambaLM, SequenceClassifier
from seqdomains.backbone.initialisation import no_weight_decay
from seqdomains.backbone.official import official_state_dict
from seqdomains.backbone.rate import rescale_steps
from seqdomains.backbone.sequence_parallel import SequenceShard
from seqdomains.backbone.step import Stepper
from seqdomains.errors import InputError

KINDS = {
    "complex": {"states": "complex"},
    "constant": {"time_invariant": "all"},
    "complex-constant": {"states": "complex", "time_invariant": "all"},
    "stages": {"pool": (4, 3)},
    "piano": {"pool": (4, 3), "states": "complex", "time_invariant": "outer"},
    "three-borders": {"pool": (2, 3, 2), "states": "complex", "pool_expand": 1},
}
LENGTH = 53
every_kind = pytest.mark.parametrize("kind", KINDS)


def config_of(kind):
    return MambaConfig(d_model=8, n_layer=2, vocab_size=11, d_state=3, **KINDS[kind])


def model_of(kind, disturb, device="cpu"):
    model = disturb(MambaLM(config_of(kind), generator=torch.Generator().manual_seed(0))).eval()
    return model.to(device)


def tokens_of(batch=2, length=LENGTH, device="cpu"):
    return torch.randint(11, (batch, length), generator=torch.Generator().manual_seed(2)).to(device)


def streamed(model, tokens, sizes):
    state, parts = None, []
    for chunk in tokens.split(sizes, dim=1):
        part, state = model(chunk, state=state, return_state=True)
        parts.append(part)
    return torch.cat(parts, dim=1), state


def assert_streams_and_steps_agree(model, tokens, sizes):
    with torch.no_grad():
        whole, last = model(tokens, return_state=True)
        parts, state = streamed(model, tokens, sizes)
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)
        for one, other in zip(state.tensors(), last.tensors(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        read = sizes[0]
        _, state = model(tokens[:, :read], return_state=True)
        stepper = Stepper(model, state, rows=len(tokens))
        for at in range(read, tokens.shape[1]):
            torch.testing.assert_close(stepper(tokens[:, at]), whole[:, at], rtol=1e-4, atol=1e-4)
        stepper.load(state)
        torch.testing.assert_close(stepper(tokens[:, read]), whole[:, read], rtol=1e-4, atol=1e-4)


@every_kind
@pytest.mark.parametrize("sizes", [(1,) * LENGTH, (20, 33), (3, 0, 1, 49), (12, 12, 29)], ids=str)
def test_whole_streamed_and_stepped_agree(kind, disturb, sizes):
    assert_streams_and_steps_agree(model_of(kind, disturb), tokens_of(), sizes)


@every_kind
@pytest.mark.gpu
def test_whole_streamed_and_stepped_agree_on_a_gpu(kind, disturb):
    assert_streams_and_steps_agree(model_of(kind, disturb, "cuda"), tokens_of(device="cuda"), (20, 33))


def slopes(model, tokens, **how):
    loss = model.loss(tokens, **how)
    names = [name for name, _ in model.named_parameters()]
    # What inner stages have is not used where no group is whole.
    found = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
    return loss.item(), dict(zip(names, found, strict=True))


def assert_same_slopes(found, expected, tolerance=1e-5, *, least=0.0):
    """Compare gradients; those of less than `least` of the largest need be no closer than that one's would."""
    assert found[0] == pytest.approx(expected[0], rel=tolerance)
    least *= max(slope.norm() for slope in expected[1].values())
    for name, slope in expected[1].items():
        assert (found[1][name] - slope).norm() <= tolerance * max(slope.norm(), least), name


@every_kind
@pytest.mark.parametrize(
    "how", [{"time_chunk": 17}, {"recompute": True}, {"time_chunk": 12, "recompute": True}], ids=str
)
def test_what_saves_memory_has_the_gradients_of_the_whole(kind, disturb, how):
    model, tokens = model_of(kind, disturb), tokens_of()
    assert_same_slopes(slopes(model, tokens, **how), slopes(model, tokens))


@every_kind
@pytest.mark.gpu
def test_gradients_on_a_gpu_are_those_of_a_cpu(kind, disturb):
    expected = slopes(model_of(kind, disturb), tokens_of())
    model, tokens = model_of(kind, disturb, "cuda"), tokens_of(device="cuda")
    for how in ({}, {"time_chunk": 17}, {"recompute": True}):
        loss, found = slopes(model, tokens, **how)
        assert_same_slopes((loss, {name: slope.cpu() for name, slope in found.items()}), expected, 1e-4)
    with torch.autocast("cuda", torch.bfloat16):
        loss, found = slopes(model, tokens)
    found = {name: slope.cpu() for name, slope in found.items()}
    assert_same_slopes((loss, found), expected, 5e-2, least=1e-3)


@settings(max_examples=25, deadline=None)
@given(pool=st.lists(st.integers(2, 5), max_size=3), chunk=st.integers(1, 40), length=st.integers(2, 40))
def test_any_factors_chunks_and_lengths(pool, chunk, length):
    config = MambaConfig(d_model=4, n_layer=1, vocab_size=11, d_state=2, pool=tuple(pool), states="complex")
    model = MambaLM(config, generator=torch.Generator().manual_seed(0)).double()
    tokens = tokens_of(2, length)
    assert_same_slopes(slopes(model, tokens, time_chunk=chunk), slopes(model, tokens), 1e-10)


def padded_u_net(model, tokens):
    """SaShiMi's way: lengths that all factors divide, and what a stage says moved on by a group."""
    backbone, config = model.backbone, model.config
    reach = 1
    for factor in config.pool:
        reach *= factor
    length = tokens.shape[1]
    hidden = backbone.embed(torch.nn.functional.pad(tokens, (0, -length % reach), value=7))

    def through(blocks, hidden):
        residual = None
        for block in blocks:
            hidden, residual, _ = block(hidden, residual)
        return hidden + residual

    def stage(number, hidden):
        n, last = config.n_layer, len(config.order) - 1
        hidden = through(backbone.layers[number * n : (number + 1) * n], hidden)
        if number == len(config.pool):
            return hidden
        batch, count, width = hidden.shape
        factor = config.pool[number]
        groups = hidden.reshape(batch, count // factor, factor * width)
        told = backbone.pools_out[number].linear(stage(number + 1, backbone.pools_in[number].linear(groups)))
        told = torch.cat([torch.zeros_like(told[:, :1]), told[:, :-1]], dim=1).reshape(batch, count, width)
        visit = last - number
        return through(backbone.layers[visit * n : (visit + 1) * n], hidden + told)

    out = stage(0, hidden)
    return model.logits(backbone.norm_f(out, None)[0])[:, :length]


@pytest.mark.parametrize("kind", ["stages", "piano", "three-borders"])
@pytest.mark.parametrize("length", [1, 3, 24, LENGTH])
def test_it_is_the_padded_u_net_without_the_padding(kind, disturb, length):
    model, tokens = model_of(kind, disturb), tokens_of(length=length)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), padded_u_net(model, tokens), rtol=1e-5, atol=1e-5)


@every_kind
def test_nothing_is_seen_before_its_time_and_everything_after(kind, disturb):
    model = model_of(kind, disturb)
    tokens = tokens_of(1)
    with torch.no_grad():
        before = model(tokens)
        for changed in (0, 11, 23, 24, 40):
            other = tokens.clone()
            other[:, changed] = (other[:, changed] + 1) % 11
            difference = (model(other) - before).abs().amax(dim=(0, 2))
            assert (difference[:changed] == 0).all()
            assert difference[changed] > 0
            # Through the innermost stage at the latest.
            assert difference[-1] > 0


@every_kind
def test_an_artefact_and_a_classifier_of_it(kind, disturb, tmp_path):
    model, tokens = model_of(kind, disturb), tokens_of()
    model.save_pretrained(tmp_path / "model", signature={})
    again = MambaLM.from_pretrained(tmp_path / "model")
    assert again.config == model.config
    with torch.no_grad():
        assert torch.equal(again(tokens), model(tokens))
    torch.manual_seed(0)
    classifier = SequenceClassifier(model.config, classes="ab", pooling="both").eval()
    lengths = torch.tensor([LENGTH, 30])
    with torch.no_grad():
        both = classifier(tokens, lengths)
        torch.testing.assert_close(classifier(tokens[1:, :30])[0], both[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "parameters"),
    [
        (KINDS["piano"] | {"d_model": 64, "n_layer": 3, "pool": (16, 16), "d_state": 8}, 3509824),
        ({"d_model": 64, "n_layer": 8, "pool": (4, 4)}, 6238400),
        ({"d_model": 96, "n_layer": 15, "pool": (4, 4)}, 24826080),
    ],
    ids=["3.5M", "6.1M", "24.3M"],
)  # fmt: skip
def test_the_published_sizes(sizes, parameters):
    with torch.device("meta"):
        model = MambaLM(MambaConfig(vocab_size=256, **sizes))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@every_kind
def test_what_a_state_space_has_as_its_own_is_not_decayed(kind):
    model = MambaLM(config_of(kind))
    free = no_weight_decay(model)
    own = {name for name, _ in model.named_parameters() if name.rpartition(".")[2] in {"A_imag", "A_log", "B", "C"}}
    assert own <= free
    assert {name for name, _ in model.named_parameters() if name.endswith("linear.weight")}.isdisjoint(free)


@pytest.mark.parametrize("kind", ["complex", "constant", "complex-constant"])
def test_steps_of_twice_the_length_are_those_of_twice_the_bias(kind):
    """Where the steps are constants, twice the step is what rescaling must give."""
    config = config_of(kind)
    torch.manual_seed(0)
    one, other = MambaLM(config), MambaLM(config)
    other.load_state_dict(one.state_dict())
    rescale_steps(other, 2)
    x = torch.randn(1, 20, 16)
    for path, twice in zip(one.backbone.layers, other.backbone.layers, strict=True):
        A, B = path.mixer.decay(), path.mixer.projections(x)[1]
        torch.testing.assert_close(twice.mixer.decay(), 2 * A)
        torch.testing.assert_close(twice.mixer.projections(x)[1], 2 * B)


def test_what_cannot_be_is_refused(disturb):
    with pytest.raises(ValidationError, match="stages take positions in one direction"):
        MambaConfig(d_model=8, n_layer=1, pool=(4,), bidirectional=True)
    with pytest.raises(ValidationError, match="there is one stage alone"):
        MambaConfig(d_model=8, n_layer=1, time_invariant="outer")
    model = model_of("piano", disturb)
    with pytest.raises(InputError, match="no Mamba-1 elsewhere"):
        official_state_dict(model)
    with pytest.raises(ValueError, match="different widths"):
        model.backbone(tokens_of(), blocks=1)
    with pytest.raises(ValueError, match="one stage of selective blocks"):
        model.backbone(tokens_of(), shard=SequenceShard(None, 0, 2))
    with torch.no_grad():
        _, state = model_of("complex", disturb)(tokens_of(), return_state=True)
    with pytest.raises(ValueError, match="blocks and this model has"):
        model(tokens_of(), state=state)
