"""The official signatures against float64 torch in the official layout; transformers with ours and without."""

import gc
import importlib
import sys
import weakref

import pytest
import torch
import torch.nn.functional as F

from seqdomains.errors import ConfigError
from seqdomains.kernels.compat import (
    causal_conv1d_fn,
    causal_conv1d_update,
    mamba_inner_fn,
    patch_transformers,
    selective_scan_fn,
    selective_state_update,
)

BATCH, DIM, N, RANK, WIDTH = 2, 6, 3, 2, 5


def plain_scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
    """A loop over time in the official layout; B and C are read per step as (batch, dim, N)."""

    def at(values, t):
        if values.dim() == 2:
            return values
        if A.is_complex() and not values.is_complex():
            values = torch.complex(values[..., 0::2], values[..., 1::2])
        values = values[..., t]
        return values[:, None] if values.dim() == 2 else values.repeat_interleave(DIM // values.shape[1], 1)

    d = delta if delta_bias is None else delta + delta_bias[:, None]
    d = F.softplus(d) if delta_softplus else d
    h, rows = A.new_zeros(u.shape[0], *A.shape), []
    for t in range(u.shape[2]):
        h = torch.exp(d[:, :, t, None] * A) * h + (d * u)[:, :, t, None] * at(B, t)
        y = (h * at(C, t)).sum(-1)
        rows.append(2 * y.real if A.is_complex() else y)
    out = torch.stack(rows, -1) if rows else 0 * u
    out = out if D is None else out + D[:, None] * u
    return (out if z is None else out * F.silu(z)), h


def plain_inner(xz, conv1d_weight, x_proj_weight, delta_proj_weight, out_proj_weight, A, B=None, C=None, **given):
    """`mamba_inner_fn` composed of torch's own operations."""
    x, z = xz.chunk(2, 1)
    u = F.conv1d(x, conv1d_weight, given.get("conv1d_bias"), padding=3, groups=DIM)[..., : xz.shape[2]]
    u = F.silu(u)
    numbers = N * (2 if A.is_complex() else 1)
    projected = u.transpose(1, 2) @ x_proj_weight.T
    delta = projected[..., :RANK] @ delta_proj_weight.T
    if given.get("dt_rms_weight") is not None:
        delta = F.rms_norm(delta, (DIM,), given["dt_rms_weight"], 1e-6)
    projections = []
    for name, fixed, part in (("B", B, slice(RANK, RANK + numbers)), ("C", C, slice(-numbers, None))):
        if fixed is None:
            fixed = projected[..., part]
            bias, norm = given.get(f"{name}_proj_bias"), given.get(f"{name.lower()}_rms_weight")
            fixed = fixed if bias is None else fixed + bias
            fixed = fixed if norm is None else F.rms_norm(fixed, (numbers,), norm, 1e-6)
            fixed = torch.complex(fixed[..., 0::2], fixed[..., 1::2]) if A.is_complex() else fixed
            fixed = fixed.transpose(1, 2)
        projections.append(fixed)
    y, _ = plain_scan(u, delta.transpose(1, 2), A, *projections, given.get("D"), z, given.get("delta_bias"), True)
    return F.linear(y.transpose(1, 2), out_proj_weight, given.get("out_proj_bias"))


def projection(form, length, paired):
    shapes = {"constant": (DIM, N), "varying": (BATCH, N, length), "one group": (BATCH, 1, N, length)}
    shape = shapes.get(form, (BATCH, 3, N, length))
    if form == "constant":
        return torch.randn(*shape, dtype=torch.complex128 if paired else torch.float64)
    return torch.randn(*shape[:-1], shape[-1] * (2 if paired else 1), dtype=torch.float64)


def transition(paired):
    real = -torch.rand(DIM, N, dtype=torch.float64) - 0.1
    return torch.complex(real, torch.randn(DIM, N, dtype=torch.float64)) if paired else real


def scan_inputs(form_B, form_C, length, paired=False):
    u, delta, z = torch.randn(3, BATCH, DIM, length, dtype=torch.float64)
    D, delta_bias = torch.randn(2, DIM, dtype=torch.float64)
    B, C = projection(form_B, length, paired), projection(form_C, length, paired)
    return {"u": u, "delta": delta, "A": transition(paired), "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias}


def rounded(tensor, dtype):
    if tensor is None or tensor.dtype == dtype:
        return tensor
    return tensor.to(dtype.to_complex() if tensor.is_complex() else dtype)


def agree(function, plain, inputs, dtype, allowed, **options):
    """Hold outputs and all gradients of `function` in `dtype` to those of `plain` in float64."""
    found, expected = [], []
    for results, op, kind in ((found, function, dtype), (expected, plain, torch.float64)):
        leaves = {k: None if x is None else rounded(x, kind).detach().requires_grad_() for k, x in inputs.items()}
        outputs = op(**leaves, **options)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        generator = torch.Generator().manual_seed(7)
        seeds = []
        for output in outputs:
            parts = [torch.randn(output.shape, generator=generator, dtype=torch.float64) for _ in range(2)]
            seeds.append(rounded(torch.complex(*parts) if output.is_complex() else parts[0], kind))
        present = {name: leaf for name, leaf in leaves.items() if leaf is not None}
        # The state after no step depends on nothing.
        reached = [i for i, output in enumerate(outputs) if output.requires_grad]
        gradients = torch.autograd.grad(
            [outputs[i] for i in reached], list(present.values()), [seeds[i] for i in reached], allow_unused=True
        )
        results += [("output", o.detach()) for o in outputs] + list(zip(present, gradients, strict=True))
    for (name, ours), (_, exact) in zip(found, expected, strict=True):
        if exact is None or exact.numel() == 0 or not exact.any():
            assert ours is None or not ours.any(), name
            continue
        assert ours.shape == exact.shape, name
        # Relative to everything of this name, and absolute where that is next to nothing.
        error = (ours.to(exact.dtype) - exact).norm() / exact.norm().clamp_min(1e-3)
        assert error <= allowed, f"{name}: {error:.1e}"


def scan_both(**inputs):
    return selective_scan_fn(**inputs, return_last_state=True)


PRECISIONS = [(torch.float64, 1e-12), (torch.float32, 3e-6)]


@pytest.mark.parametrize(("dtype", "allowed"), PRECISIONS, ids=["float64", "float32"])
@pytest.mark.parametrize("paired", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize(
    ("form_B", "form_C"),
    [
        ("constant", "constant"),
        ("varying", "varying"),
        ("one group", "one group"),
        ("groups", "groups"),
        ("constant", "varying"),
        ("groups", "constant"),
    ],
)
def test_scan_equals_a_loop_in_the_official_layout(form_B, form_C, paired, dtype, allowed):
    torch.manual_seed(0)
    agree(scan_both, plain_scan, scan_inputs(form_B, form_C, 11, paired), dtype, allowed, delta_softplus=True)


@pytest.mark.parametrize("length", [0, 1, 70])
@pytest.mark.parametrize("absent", [(), ("D", "z", "delta_bias")], ids=["all", "bare"])
def test_scan_of_any_length_with_and_without_options(length, absent):
    torch.manual_seed(1)
    inputs = scan_inputs("varying", "varying", length)
    inputs["delta"] = inputs["delta"].abs() * 0.3
    inputs |= dict.fromkeys(absent)
    agree(scan_both, plain_scan, inputs, torch.float32, 3e-6)


def test_scan_takes_mixed_dtypes_and_returns_that_of_u():
    torch.manual_seed(2)
    inputs = scan_inputs("varying", "groups", 9)
    kinds = {"u": torch.bfloat16, "delta": torch.float16, "B": torch.bfloat16, "z": torch.float16}
    mixed = {name: x.to(kinds.get(name, torch.float32)) for name, x in inputs.items()}
    out, last_state = selective_scan_fn(**mixed, delta_softplus=True, return_last_state=True)
    assert (out.dtype, last_state.dtype) == (torch.bfloat16, torch.float32)
    exact, state = plain_scan(**{name: x.double() for name, x in mixed.items()}, delta_softplus=True)
    assert (out - exact).norm() <= 4e-3 * exact.norm()
    assert (last_state - state).norm() <= 1e-5 * state.norm()


def test_channels_last_memory_passes_without_a_copy(monkeypatch):
    given = []
    module = importlib.import_module("seqdomains.kernels.compat.scan")
    actual = module.selective_scan
    monkeypatch.setattr(module, "selective_scan", lambda *a, **k: given.extend(a[:2]) or actual(*a, **k))
    u = torch.randn(BATCH, 9, DIM)
    varying = torch.randn(BATCH, N, 9)
    A = rounded(transition(False), torch.float32)
    out = selective_scan_fn(u.transpose(1, 2), torch.rand(BATCH, DIM, 9), A, varying, varying)
    assert given[0].data_ptr() == u.data_ptr()
    assert given[1].is_contiguous()
    assert out.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"delta": torch.ones(BATCH, DIM, 4)}, r"u, delta and z have shapes .*expected \(batch, dim, L\)"),
        ({"B": torch.ones(5)}, r"B has shape \(5,\), expected \(dim, N\)"),
        ({"A": torch.ones(DIM, N, dtype=torch.complex64)}, "C has 5 values per row, expected 2L"),
    ],
)
def test_scan_refuses_what_does_not_fit(change, found):
    inputs = {"u": torch.ones(BATCH, DIM, 5), "delta": torch.ones(BATCH, DIM, 5), "A": -torch.ones(DIM, N)}
    inputs |= {"B": torch.ones(BATCH, N, 10 if "A" in change else 5), "C": torch.ones(BATCH, N, 5)}
    with pytest.raises(ValueError, match=found):
        selective_scan_fn(**(inputs | change))


@pytest.mark.parametrize("paired", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("form", ["varying", "groups"])
def test_steps_equal_the_scan(form, paired):
    torch.manual_seed(3)
    inputs = scan_inputs(form, form, 8, paired)
    exact, last = plain_scan(**inputs, delta_softplus=True)
    wide = {n: torch.complex(x[..., 0::2], x[..., 1::2]) if paired else x for n, x in inputs.items() if n in "BC"}
    state, rows = torch.zeros_like(last), []
    for t in range(8):
        u, delta, z, B, C = (x[..., t] for x in (inputs["u"], inputs["delta"], inputs["z"], wide["B"], wide["C"]))
        bias = inputs["delta_bias"]
        rows.append(selective_state_update(state, u, delta, inputs["A"], B, C, inputs["D"], z, bias, True))
    torch.testing.assert_close(torch.stack(rows, -1), exact)
    torch.testing.assert_close(state, last)


def test_step_of_heads_equals_the_step_of_their_channels():
    torch.manual_seed(4)
    state, A = torch.randn(BATCH, 3, 2, N), -torch.rand(3, 2, N)
    x, dt, z = torch.randn(3, BATCH, 3, 2)
    D, bias = torch.randn(2, 3, 2)
    B, C = torch.randn(2, BATCH, 3, N)
    flat = state.flatten(1, 2).clone()
    one = selective_state_update(
        flat, x.flatten(1), dt.flatten(1), A.flatten(0, 1), B, C, D.flatten(), z.flatten(1), bias.flatten(), True
    )
    assert torch.equal(selective_state_update(state, x, dt, A, B, C, D, z, bias, True).flatten(1), one)
    assert torch.equal(state.flatten(1, 2), flat)


def plain_conv(x, weight, bias=None, initial_states=None, activation=None):
    width = weight.shape[1]
    past = x.new_zeros(*x.shape[:2], width - 1) if initial_states is None else initial_states
    line = torch.cat([past, x], -1)
    y = F.conv1d(line, weight[:, None], bias, groups=x.shape[1])
    return (F.silu(y) if activation else y), line[..., line.shape[2] - width + 1 :]


@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize("width", [2, 4])
def test_convolution_equals_torch_and_carries_states(length, width):
    torch.manual_seed(5)
    inputs = {"x": torch.randn(BATCH, DIM, length), "weight": torch.randn(DIM, width), "bias": torch.randn(DIM)}
    inputs["initial_states"] = torch.randn(BATCH, DIM, width - 1)
    inputs = {name: x.double() for name, x in inputs.items()}

    def ours(**tensors):
        return causal_conv1d_fn(**tensors, return_final_states=True, activation="swish")

    agree(ours, lambda **t: plain_conv(**t, activation="silu"), inputs, torch.float32, 1e-6)
    target = torch.empty(BATCH, DIM, width - 1, dtype=torch.float64)
    _, states = causal_conv1d_fn(**inputs, return_final_states=True, final_states_out=target)
    assert states is target
    assert torch.equal(target, plain_conv(**inputs)[1])


def test_packed_convolution_keeps_sequences_apart():
    torch.manual_seed(6)
    x, weight, bias = torch.randn(2, DIM, 9), torch.randn(DIM, 4), torch.randn(DIM)
    seq_idx = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 2, -1], [4, 4, 4, 4, 4, 4, 4, 4, 4]], dtype=torch.int32)
    out = causal_conv1d_fn(x, weight, bias, seq_idx, activation="silu")
    for row, begin, end in ((0, 0, 2), (0, 2, 7), (0, 7, 8), (1, 0, 9)):
        alone, _ = plain_conv(x[row : row + 1, :, begin:end], weight, bias, activation="silu")
        torch.testing.assert_close(out[row : row + 1, :, begin:end], alone)
    assert not out[0, :, 8].any()
    with pytest.raises(ValueError, match="seq_idx, whose sequences have no states"):
        causal_conv1d_fn(x, weight, bias, seq_idx, return_final_states=True)
    with pytest.raises(ValueError, match=r"seq_idx has shape \(1, 9\), expected"):
        causal_conv1d_fn(x, weight, bias, seq_idx[:1])


@pytest.mark.parametrize("held", [3, 4, 6])
@pytest.mark.parametrize("steps", [None, 1, 5])
def test_convolution_update_equals_the_convolution(held, steps):
    torch.manual_seed(7)
    state, weight, bias = torch.randn(BATCH, DIM, held), torch.randn(DIM, 4), torch.randn(DIM)
    x = torch.randn(BATCH, DIM, steps or 1)
    line = torch.cat([state, x], -1)
    expected, _ = plain_conv(x, weight, bias, state[..., held - 3 :], activation="silu")
    found = causal_conv1d_update(x if steps else x[..., 0], state, weight, bias, "silu")
    torch.testing.assert_close(found, expected if steps else expected[..., 0])
    assert torch.equal(state, line[..., -held:])


def test_convolution_refuses_what_does_not_fit():
    x, weight = torch.ones(1, DIM, 3), torch.ones(DIM, 4)
    with pytest.raises(ValueError, match="activation is 'gelu', expected 'silu', 'swish' or None"):
        causal_conv1d_fn(x, weight, activation="gelu")
    with pytest.raises(ValueError, match=r"conv_state has shape \(1, 6, 2\), expected .* S at least 3"):
        causal_conv1d_update(x, torch.ones(1, DIM, 2), weight)


def inner_inputs(length=9, paired=False, **options):
    numbers = N * (2 if paired else 1)
    shapes = {
        "xz": (BATCH, 2 * DIM, length),
        "conv1d_weight": (DIM, 1, 4),
        "conv1d_bias": (DIM,),
        "x_proj_weight": (RANK + 2 * numbers, DIM),
        "delta_proj_weight": (DIM, RANK),
        "out_proj_weight": (WIDTH, DIM),
        "out_proj_bias": (WIDTH,),
        "D": (DIM,),
        "delta_bias": (DIM,),
        "B_proj_bias": (numbers,),
        "C_proj_bias": (numbers,),
        "b_rms_weight": (numbers,),
        "c_rms_weight": (numbers,),
        "dt_rms_weight": (DIM,),
    }
    inputs = {name: torch.randn(*shape, dtype=torch.float64) for name, shape in shapes.items()}
    return inputs | {"A": transition(paired)} | options


PLAIN = dict.fromkeys(("B_proj_bias", "C_proj_bias", "b_rms_weight", "c_rms_weight", "dt_rms_weight"))
INNER = {
    "as Mamba": {**PLAIN, "out_proj_bias": None},
    "bias": PLAIN,
    "norms": {"out_proj_bias": None},
    "nothing optional": {**PLAIN, **dict.fromkeys(("out_proj_bias", "conv1d_bias", "D", "delta_bias"))},
    "complex": {**PLAIN, "paired": True},
    "constant B": {**PLAIN, "B": "constant"},
    "grouped C": {**PLAIN, "C": "groups"},
    "one step": {"length": 1},
}


def inner_case(name):
    options = dict(INNER[name])
    for key in ("B", "C"):
        if key in options:
            options[key] = projection(options[key], 9, False)
    return inner_inputs(**options)


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("name", INNER)
def test_inner_equals_composed_torch(name, level):
    torch.manual_seed(8)
    inputs = inner_case(name)

    for dtype, allowed in PRECISIONS:
        # A loss of digits of its own: norms over three numbers that nearly vanish.
        agree(
            lambda **t: mamba_inner_fn(**t, checkpoint_lvl=level),
            plain_inner,
            inputs,
            dtype,
            10 * allowed if name in ("norms", "one step") else allowed,
        )


@pytest.mark.parametrize("level", [0, 1])
def test_inner_of_no_step(level):
    leaves = {name: x.requires_grad_() for name, x in inner_inputs(length=0).items()}
    out = mamba_inner_fn(**leaves, checkpoint_lvl=level)
    assert out.shape == (BATCH, 0, WIDTH)
    out.sum().backward()
    assert not any(leaf.grad is not None and leaf.grad.any() for leaf in leaves.values())


def single(name):
    """The tensors of a case as leaves in float32."""
    inputs = inner_case(name)
    return {key: None if x is None else rounded(x, torch.float32).requires_grad_() for key, x in inputs.items()}


@pytest.mark.parametrize("level", [0, 1])
def test_inner_scans_once_and_level_one_keeps_neither_convolution_nor_step(level, monkeypatch):
    torch.manual_seed(9)
    module = importlib.import_module("seqdomains.kernels.compat.inner")
    cpu = importlib.import_module("seqdomains.kernels.selective_scan.cpu")
    kept, scans, scan, forward = [], [], module.selective_scan, cpu.forward

    def watched(u, delta, *arguments, **options):
        kept.append((weakref.ref(u), weakref.ref(delta)))
        return scan(u, delta, *arguments, **options)

    monkeypatch.setattr(module, "selective_scan", watched)
    monkeypatch.setattr(cpu, "forward", lambda *arguments: scans.append(1) or forward(*arguments))
    inputs = single("bias")
    out = mamba_inner_fn(**inputs, checkpoint_lvl=level)
    gc.collect()
    assert [tensor() is None for tensor in kept[0]] == [level == 1, level == 1]
    present = [x for x in inputs.values() if x is not None]
    found = torch.autograd.grad(out.square().sum(), present)
    assert len(scans) == 1
    expected = torch.autograd.grad(mamba_inner_fn(**inputs, checkpoint_lvl=0).square().sum(), present)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("level", [0, 1])
def test_inner_under_autocast(level):
    torch.manual_seed(10)
    leaves = single("bias")
    with torch.autocast("cpu", torch.bfloat16):
        out = mamba_inner_fn(**leaves, checkpoint_lvl=level)
    assert out.dtype == torch.bfloat16
    exact = mamba_inner_fn(**leaves).detach()
    assert (out - exact).norm() <= 2e-2 * exact.norm()
    out.float().sum().backward()
    for name, leaf in leaves.items():
        assert leaf is None or (leaf.grad.dtype == torch.float32 and leaf.grad.isfinite().all()), name


@pytest.mark.parametrize("level", [0, 1])
def test_inner_compiles_to_one_graph(level):
    torch.manual_seed(11)
    inputs = single("bias")
    compiled = torch.compile(mamba_inner_fn, backend="aot_eager", fullgraph=True)
    for found, expected in zip(
        *(
            torch.autograd.grad(f(**inputs, checkpoint_lvl=level).square().sum(), [inputs["xz"], inputs["A"]])
            for f in (compiled, mamba_inner_fn)
        ),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)


def test_inner_refuses_what_does_not_fit():
    inputs = inner_inputs(**PLAIN)
    with pytest.raises(ValueError, match="checkpoint_lvl is 2, expected 0 or 1"):
        mamba_inner_fn(**inputs, checkpoint_lvl=2)
    with pytest.raises(ValueError, match=r"xz has shape \(2, 11, 9\), expected \(batch, 2 dim, L\) with dim = 6"):
        mamba_inner_fn(**(inputs | {"xz": inputs["xz"][:, 1:]}))


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers", reason="the dev dependency transformers is not installed")


FAMILIES = ("Mamba", "FalconMamba")
TOKENS, VOCABULARY = 17, 11


def language_model(transformers, family="Mamba", **options):
    torch.manual_seed(12)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=VOCABULARY, hidden_size=24, num_hidden_layers=2, state_size=5, time_step_rank=3, **options
    )
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():  # biases begin at zero
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def tokens(rows=2, length=TOKENS):
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(13))


def padding():
    mask = torch.ones(2, TOKENS, dtype=torch.long)
    mask[0, :5] = 0
    return mask


def logits_and_gradients(model, mask=None):
    model.zero_grad()
    out = model(tokens().to(model.device), attention_mask=mask, labels=tokens().to(model.device))
    out.loss.backward()
    return {"logits": out.logits.detach()} | {n: p.grad.clone() for n, p in model.named_parameters()}


def same(found, expected, allowed=1e-5):
    assert found.keys() == expected.keys()
    for name, exact in expected.items():
        assert (found[name] - exact).abs().max() <= allowed * exact.abs().max(), name


def mixer_module(family="mamba"):
    return importlib.import_module(f"transformers.models.{family}.modeling_{family}")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [{}, {"use_bias": True}, {"use_conv_bias": False}], ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
@pytest.mark.parametrize("mask", [None, padding()], ids=["whole", "padded"])
def test_transformers_gives_the_same_logits_and_gradients(transformers, family, options, training, mask):
    model = language_model(transformers, family, **options).train(training)
    expected = logits_and_gradients(model, mask)
    with patch_transformers():
        same(logits_and_gradients(model, mask), expected)


@pytest.mark.parametrize("options", [{"conv_kernel": 6}, {"hidden_act": "gelu"}, {"use_mambapy": True}], ids=str)
def test_transformers_keeps_what_the_kernels_do_not_cover(transformers, options):
    model = language_model(transformers, **options).train()
    expected = logits_and_gradients(model)
    with patch_transformers():
        same(logits_and_gradients(model), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_generates_the_same_tokens_with_a_cache(transformers, family):
    model = language_model(transformers, family).eval()
    options = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    for length in (1, 3, 9):  # shorter and longer than the convolution
        # Without a cache: with one, Falcon-Mamba of 4.48 continues a prompt of one token by others.
        expected = model.generate(tokens(length=length), use_cache=False, **options)
        assert length == 1 or torch.equal(model.generate(tokens(length=length), **options), expected)
        with patch_transformers():
            assert torch.equal(model.generate(tokens(length=length), **options), expected)
            assert torch.equal(model.generate(tokens(length=length), use_cache=False, **options), expected)


def test_transformers_trains_through_the_inner_function_where_it_may(transformers, monkeypatch):
    module = importlib.import_module("seqdomains.kernels.compat.transformers_patch")
    calls = []
    monkeypatch.setattr(module, "mamba_inner_fn", lambda *a, **k: calls.append(1) or mamba_inner_fn(*a, **k))
    model = language_model(transformers).train()
    with patch_transformers():
        logits_and_gradients(model)
        assert len(calls) == 2
        logits_and_gradients(model, padding())
        model.eval()(tokens())
        assert len(calls) == 2
        # A hook on a projection must be heard, as an adapter must.
        model.train().backbone.layers[0].mixer.out_proj.register_forward_hook(lambda *_: calls.append("hook"))
        logits_and_gradients(model)
    assert calls == [1, 1, "hook", 1]


@pytest.mark.parametrize("reentrant", [True, False])
def test_transformers_gradient_checkpointing_gives_the_same(transformers, reentrant):
    model = language_model(transformers).train()
    expected = logits_and_gradients(model)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    with patch_transformers():
        same(logits_and_gradients(model), expected)


def test_transformers_patched_model_compiles(transformers):
    model = language_model(transformers).eval()
    with torch.no_grad(), patch_transformers():
        compiled = torch.compile(model, backend="eager")
        torch.testing.assert_close(compiled(tokens(), use_cache=False).logits, model(tokens(), use_cache=False).logits)
    torch._dynamo.reset()


def everything(transformers):
    language_model(transformers)  # older versions fill their module as the first mixer is built
    language_model(transformers, "FalconMamba")
    found = {}
    for family, name in (("mamba", "MambaMixer"), ("falcon_mamba", "FalconMambaMixer")):
        module = mixer_module(family)
        found |= {(family, key): value for key, value in vars(module).items() if not key.startswith("__")}
        found[name] = getattr(module, name).forward
    return found


def test_transformers_patch_is_undone(transformers):
    before = everything(transformers)

    def restored():
        now = everything(transformers)
        return now.keys() == before.keys() and all(now[key] is value for key, value in before.items())

    with patch_transformers():
        assert mixer_module().MambaMixer.forward is not before["MambaMixer"]
    assert restored()
    with pytest.raises(KeyError, match="ours"), patch_transformers():
        raise KeyError("ours")
    assert restored()
    # As a call, twice, undone in any order; the last one restores.
    first, second = patch_transformers(), patch_transformers()
    first.undo()
    first.undo()
    assert mixer_module().MambaMixer.forward is not before["MambaMixer"]
    second.undo()
    assert restored()


def test_transformers_of_another_arrangement_is_refused_and_left_alone(transformers, monkeypatch):
    falcon = mixer_module("falcon_mamba")
    # The second family fails after the first has been replaced.
    with monkeypatch.context() as changed:
        changed.setattr(falcon.FalconMambaMixer, "forward", lambda self, hidden_states: hidden_states)
        changed.delattr(falcon.FalconMambaMixer, "cuda_kernels_forward", raising=False)
        before = mixer_module().MambaMixer.forward
        with pytest.raises(ConfigError, match=r"transformers \d.*does not call .*knows 4\.48 to 5\.24; install one"):
            patch_transformers()
        assert mixer_module().MambaMixer.forward is before
        changed.delattr(falcon, "FalconMambaMixer")
        with pytest.raises(ConfigError, match="no FalconMambaMixer in transformers"):
            patch_transformers()
    patch_transformers().undo()


def test_without_transformers_the_patch_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="pip install transformers"):
        patch_transformers()


@pytest.mark.gpu
@pytest.mark.parametrize("level", [0, 1])
def test_inner_in_bfloat16_on_a_gpu(level):
    torch.manual_seed(14)
    inputs = {n: None if x is None else rounded(x, torch.bfloat16).cuda() for n, x in inner_case("bias").items()}
    inputs["A"] = inputs["A"].float()
    exact = mamba_inner_fn(**{n: None if x is None else x.double() for n, x in inputs.items()})
    leaves = {name: None if x is None else x.requires_grad_() for name, x in inputs.items()}
    out = mamba_inner_fn(**leaves, checkpoint_lvl=level)
    assert (out - exact).norm() <= 2e-2 * exact.norm()
    out.float().sum().backward()
    assert all(leaf is None or leaf.grad.isfinite().all() for leaf in leaves.values())


@pytest.mark.gpu
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
def test_transformers_in_bfloat16_on_a_gpu_is_as_close_to_float32(transformers, training):
    exact = logits_and_gradients(language_model(transformers).cuda().train(training))
    model = language_model(transformers).cuda().bfloat16().train(training)
    theirs = logits_and_gradients(model)
    with patch_transformers():
        ours = logits_and_gradients(model)
    for name, values in exact.items():
        error, allowed = ((found[name].float() - values).norm() / values.norm() for found in (ours, theirs))
        assert error <= max(2 * allowed, 2e-2), f"{name}: {error:.1e} > 2 x {allowed:.1e}"


@pytest.mark.gpu
def test_transformers_on_a_gpu_equals_its_own_in_float32(transformers):
    model = language_model(transformers).cuda().train()
    expected = logits_and_gradients(model)
    with patch_transformers():
        same(logits_and_gradients(model), expected, allowed=1e-4)
    model.eval()
    options = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    expected = model.generate(tokens(length=5).cuda(), **options)
    with patch_transformers():
        assert torch.equal(model.generate(tokens(length=5).cuda(), **options), expected)
