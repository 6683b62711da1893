from __future__ import annotations

import pytest
import torch

from seqdomains.backbone import MambaBackbone, MambaConfig, MambaLM

# arXiv:2312.00752, table 7 and section E.3: width and blocks of the DNA models; counts at a vocabulary of 16.
PUBLISHED = [
    (64, 8, 262_720),
    (96, 10, 684_192),
    (128, 12, 1_401_472),
    (192, 14, 3_527_232),
    (256, 16, 7_012_608),
    (384, 20, 19_291_008),
    (512, 24, 40_694_272),
]


@pytest.mark.parametrize(("width", "blocks", "count"), PUBLISHED)
def test_published_sizes_count_exactly(width, blocks, count):
    with torch.device("meta"):
        model = MambaLM(MambaConfig(d_model=width, n_layer=blocks, vocab_size=16))
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_parameter_names_are_the_official_ones(config):
    mixer = ["A_log", "D", "in_proj.weight", "conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight"]
    mixer += ["dt_proj.bias", "out_proj.weight"]
    names = {"backbone.embedding.weight", "backbone.norm_f.weight", "lm_head.weight"}
    for index in range(config.n_layer):
        names.add(f"backbone.layers.{index}.norm.weight")
        names |= {f"backbone.layers.{index}.mixer.{name}" for name in mixer}
    assert set(MambaLM(config).state_dict()) == names


def test_the_model_is_causal(model, tokens):
    changed = tokens.clone()
    changed[:, 20] = (changed[:, 20] + 1) % 11
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20], after[:, 20])
    assert not torch.allclose(before[:, 36], after[:, 36])


def test_sequences_of_a_batch_do_not_meet(model, tokens):
    order = torch.tensor([1, 0])
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[order], model(tokens[order]), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model(tokens)[:1], model(tokens[:1]), rtol=1e-5, atol=1e-6)


def test_training_and_evaluation_compute_the_same(model, tokens):
    with torch.no_grad():
        assert torch.equal(model.train()(tokens), model.eval()(tokens))


def test_two_runs_are_bit_equal(model, tokens):
    runs = []
    for _ in range(2):
        model.zero_grad()
        logits = model(tokens)
        logits.square().mean().backward()
        runs.append([logits.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_codes_of_any_integer_dtype(model, tokens, dtype):
    with torch.no_grad():
        assert torch.equal(model(tokens.to(dtype)), model(tokens))


def test_no_tokens_give_no_logits_and_leave_the_state(model, tokens):
    empty = tokens[:, :0]
    with torch.no_grad():
        assert model(empty).shape == (2, 0, 11)
        _, before = model(tokens, return_state=True)
        _, after = model(empty, state=before, return_state=True)
    for first, second in zip(before.layers, after.layers, strict=True):
        assert torch.equal(first.conv, second.conv)
        assert torch.equal(first.ssm, second.ssm)


@pytest.mark.parametrize(
    "bad", [torch.zeros(4, dtype=torch.long), torch.zeros(1, 4), torch.zeros(1, 4, dtype=torch.bool)]
)
def test_tokens_must_be_a_matrix_of_integers(model, bad):
    with pytest.raises(ValueError, match=r"integers of shape \(B, L\)"):
        model(bad)


def test_fp32_is_as_close_to_fp64_as_rounding_allows(config, model, tokens):
    double = MambaLM(config).double()
    double.load_state_dict(model.state_dict())
    single = model(tokens)
    exact = double(tokens)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-6)
    single.square().sum().backward()
    exact.square().sum().backward()
    for (name, parameter), twin in zip(model.named_parameters(), double.parameters(), strict=True):
        error = (parameter.grad - twin.grad).norm() / twin.grad.norm()
        assert error < 1e-5, name
    with torch.no_grad():
        double.backbone.layers[0].mixer.A_log += 1e-12
        assert not torch.equal(double(tokens), exact)


def test_autocast_keeps_weights_residual_and_state_in_fp32(model, tokens):
    totals = []
    model.backbone.norm_f.register_forward_hook(lambda module, inputs, outputs: totals.append(outputs[1]))
    with torch.autocast("cpu", torch.bfloat16):
        logits, state = model(tokens, return_state=True)
    assert logits.dtype == torch.float32
    assert totals[0].dtype == torch.float32
    assert state.layers[0].ssm.dtype == torch.float32
    assert state.layers[0].conv.dtype == torch.bfloat16
    logits.square().mean().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())
    with torch.no_grad():
        exact = model(tokens)
        # A state of bf16 inputs continues in fp32.
        assert model(tokens, state=state).isfinite().all()
    error = (logits - exact).norm() / exact.norm()
    assert 1e-5 < error < 2e-2


def test_every_parameter_learns_with_biases_too(tokens, disturb):
    config = MambaConfig(d_model=24, n_layer=2, vocab_size=11, d_state=5, bias=True, tie_embeddings=False)
    model = disturb(MambaLM(config, generator=torch.Generator().manual_seed(0)))
    target = tokens.roll(-1, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.shape == parameter.shape, name
            assert parameter.grad.abs().max() > 0, name
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_bias_gradients_match_finite_differences(tokens):
    config = MambaConfig(d_model=8, n_layer=1, vocab_size=11, d_state=2, bias=True)
    model = MambaBackbone(config, generator=torch.Generator().manual_seed(0)).double()
    mixer = model.layers[0].mixer
    probe = torch.randn(2, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def value():
        return (model(tokens[:, :5]) * probe).sum()

    value().backward()
    for bias in (mixer.in_proj.bias, mixer.out_proj.bias, mixer.dt_proj.bias):
        with torch.no_grad():
            for index in (0, bias.numel() - 1):
                bias[index] += 1e-6
                above = value()
                bias[index] -= 2e-6
                below = value()
                bias[index] += 1e-6
                assert bias.grad[index].item() == pytest.approx(((above - below) / 2e-6).item(), rel=1e-5, abs=1e-8)
