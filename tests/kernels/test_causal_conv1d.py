"""Laws of the causal convolution on a CPU: values and gradients of the reference and of the numba kernels."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqdomains.kernels import causal_conv1d
from seqdomains.kernels.causal_conv1d import reference

pytestmark = pytest.mark.usefixtures("poisoned")


def make(B, L, D, W, *, seed=0, dtype=torch.float32, absent=(), sequences=None):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"x": (B, L, D), "weight": (D, W), "bias": (D,), "state": (sequences or B, W - 1, D)}
    return {
        name: None if name in absent else torch.randn(*shape, generator=generator, dtype=dtype)
        for name, shape in shapes.items()
    }


def cast(inputs, dtype):
    return {name: None if tensor is None else tensor.to(dtype) for name, tensor in inputs.items()}


def gradients(inputs, dy, dstate, *, activation="silu", **options):
    leaves = {name: None if x is None else x.detach().clone().requires_grad_() for name, x in inputs.items()}
    y, state = causal_conv1d(**leaves, activation=activation, return_state=True, **options)
    present = {name: leaf for name, leaf in leaves.items() if leaf is not None}
    found = torch.autograd.grad((y, state), list(present.values()), (dy.to(y.dtype), dstate.to(state.dtype)))
    return {"y": y.detach(), "new_state": state.detach(), **dict(zip(present, found, strict=True))}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    length=st.sampled_from([1, 2, 3, 4, 5, 40]),
    channels=st.sampled_from([15, 16, 17, 63, 64, 65]),
    width=st.integers(2, 4),
    batch=st.integers(1, 3),
    absent=st.sets(st.sampled_from(["bias", "state"])),
    activation=st.sampled_from(["silu", None]),
    reverse=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_equals_float64(length, channels, width, batch, absent, activation, reverse, seed, assert_close, monkeypatch):
    inputs = make(batch, length, channels, width, seed=seed, absent=absent)
    generator = torch.Generator().manual_seed(seed + 1)
    dy = torch.randn(batch, length, channels, generator=generator)
    dstate = torch.randn(batch, width - 1, channels, generator=generator)
    results = {}
    for name, dtype in (("cpu", torch.float32), ("reference", torch.float32), ("exact", torch.float64)):
        monkeypatch.setenv("SEQDOMAINS_KERNELS", "auto" if name == "exact" else name)
        results[name] = gradients(cast(inputs, dtype), dy, dstate, activation=activation, reverse=reverse)
    for key, exact in results["exact"].items():
        assert_close(results["cpu"][key], results["reference"][key], exact, key, floor=1e-5)


def turned(inputs, *, sequences=False):
    """The inputs with time turned around; states are in the order of processing already."""
    flipped = {**inputs, "x": inputs["x"].flip(1)}
    if sequences and inputs["state"] is not None:
        flipped["state"] = inputs["state"].flip(0)
    return flipped


@pytest.mark.parametrize("length", [1, 2, 3, 70])
@pytest.mark.parametrize("width", [2, 3, 4])
def test_reverse_is_flip_convolve_flip(length, width, implementation_name, assert_close):
    inputs = make(2, length, 17, width)
    dy, dstate = torch.randn(2, length, 17), torch.randn(2, width - 1, 17)
    found = gradients(inputs, dy, dstate, reverse=True)
    expected = turned(gradients(turned(inputs), dy.flip(1), dstate))
    expected["y"] = expected["y"].flip(1)
    for name, tensor in expected.items():
        assert_close(found[name], tensor, tensor, name)


# Empty sequences, shorter ones than the filter, and one of more steps than a CPU task walks at a time.
LENGTHS = st.lists(st.sampled_from([0, 1, 2, 3, 4, 7, 70]), min_size=1, max_size=80).filter(sum)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=LENGTHS,
    channels=st.sampled_from([1, 16, 65]),
    width=st.integers(2, 4),
    absent=st.sets(st.sampled_from(["bias", "state"])),
    reverse=st.booleans(),
    dtype=st.sampled_from([torch.int32, torch.int64]),
    name=st.sampled_from(["reference", "cpu"]),
)
def test_packed_equals_separate(lengths, channels, width, absent, reverse, dtype, name, assert_close, monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", name)
    borders = torch.tensor([0, *lengths], dtype=dtype).cumsum(0, dtype=dtype)
    length, sequences = sum(lengths), len(lengths)
    inputs = make(1, length, channels, width, absent=absent, sequences=sequences)
    dy, dstate = torch.randn(1, length, channels), torch.randn(sequences, width - 1, channels)
    found = gradients(inputs, dy, dstate, cu_seqlens=borders, reverse=reverse)

    def separately(**tensors):
        outputs = []
        for s, (start, end) in enumerate(pairwise(borders)):
            own = {"x": tensors["x"][:, start:end]}
            if tensors["state"] is not None:
                own["state"] = tensors["state"][s : s + 1]
            outputs.append(causal_conv1d(**{**tensors, **own}, activation="silu", return_state=True, reverse=reverse))
        return torch.cat([y for y, _ in outputs], 1), torch.cat([state for _, state in outputs], 0)

    leaves = {name: None if x is None else x.clone().requires_grad_() for name, x in inputs.items()}
    y, state = separately(**leaves)
    present = {name: leaf for name, leaf in leaves.items() if leaf is not None}
    expected = {"y": y, "new_state": state}
    expected |= zip(present, torch.autograd.grad((y, state), list(present.values()), (dy, dstate)), strict=True)
    for key, tensor in expected.items():
        # Sums over time may cancel, above all those of a single channel, and are added in another order here.
        floor = 1e-5 if key in ("weight", "bias") else 1e-6
        assert_close(found[key], tensor.detach(), tensor.detach(), key, floor=floor)


def test_packed_reverse_turns_the_order_of_sequences_too(implementation_name, assert_close):
    borders = torch.tensor([0, 5, 5, 6, 20])
    inputs = make(1, 20, 17, 4, sequences=4)
    found = causal_conv1d(**inputs, cu_seqlens=borders, reverse=True)
    flipped = turned(inputs, sequences=True)
    expected = causal_conv1d(**flipped, cu_seqlens=20 - borders.flip(0)).flip(1)
    assert_close(found, expected, expected, "y")


def test_equals_torch_conv1d(implementation_name):
    """Against torch's own convolution, whose weight has the same order of taps."""
    inputs = make(2, 30, 17, 4, absent=("state",))
    padded = F.pad(inputs["x"].transpose(1, 2), (3, 0))
    expected = F.silu(F.conv1d(padded, inputs["weight"][:, None], inputs["bias"], groups=17)).transpose(1, 2)
    torch.testing.assert_close(causal_conv1d(**inputs, activation="silu"), expected)


@pytest.mark.parametrize("cut", [0, 1, 2, 19, 20])
def test_reverse_split_with_carried_state(cut, implementation_name):
    inputs = make(2, 20, 19, 4)
    whole, last = causal_conv1d(**inputs, reverse=True, return_state=True)
    right, state = causal_conv1d(**{**inputs, "x": inputs["x"][:, cut:]}, reverse=True, return_state=True)
    left, state = causal_conv1d(
        **{**inputs, "x": inputs["x"][:, :cut], "state": state}, reverse=True, return_state=True
    )
    torch.testing.assert_close(torch.cat([left, right], 1), whole)
    assert torch.equal(state, last)


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 9, 20])
def test_split_with_carried_state(cut, implementation_name, assert_close):
    inputs = make(2, 20, 19, 4)
    dy, dstate = torch.randn(2, 20, 19), torch.randn(2, 3, 19)
    whole = gradients(inputs, dy, dstate)
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    y1, state = causal_conv1d(**{**leaves, "x": leaves["x"][:, :cut]}, activation="silu", return_state=True)
    right = {**leaves, "x": leaves["x"][:, cut:], "state": state}
    y2, state = causal_conv1d(**right, activation="silu", return_state=True)
    y = torch.cat([y1, y2], 1)
    assert_close(y, whole["y"], whole["y"], "y")
    assert torch.equal(state, whole["new_state"])
    for name, gradient in zip(
        leaves, torch.autograd.grad((y, state), list(leaves.values()), (dy, dstate)), strict=True
    ):
        assert_close(gradient, whole[name], whole[name], name)


@pytest.mark.parametrize("shape", [(2, 0, 3, 4), (0, 5, 3, 4), (2, 5, 0, 2)])
def test_nothing_to_convolve(shape, implementation_name):
    empty = torch.zeros(3, dtype=torch.int64)
    packed = make(1, 0, 3, 4, sequences=2)
    assert torch.equal(causal_conv1d(**packed, cu_seqlens=empty, return_state=True)[1], packed["state"])
    inputs = make(*shape)
    y, state = causal_conv1d(**inputs, return_state=True)
    assert y.shape == inputs["x"].shape
    if shape[1] == 0:
        assert torch.equal(state, inputs["state"])
    assert state.shape == inputs["state"].shape


def test_two_runs_and_any_threads_are_bit_equal(threads, monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "cpu")
    inputs, dy, dstate = make(3, 50, 150, 4), torch.randn(3, 50, 150), torch.randn(3, 3, 150)
    results = []
    for count in (1, 1, 2, 3):
        threads(count)
        results.append(gradients(inputs, dy, dstate))
    for other in results[1:]:
        for key, tensor in results[0].items():
            assert torch.equal(tensor, other[key]), key


@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize(
    "options",
    [{}, {"reverse": True}, {"cu_seqlens": torch.tensor([0, 0, 1, 3, 8]), "reverse": True}],
    ids=["forth", "reverse", "packed"],
)
def test_gradcheck_in_float64(width, options):
    packed = "cu_seqlens" in options
    inputs = make(*((1, 8) if packed else (2, 5)), 3, width, dtype=torch.float64, sequences=4 if packed else None)
    leaves = [x.requires_grad_() for x in inputs.values()]
    assert torch.autograd.gradcheck(
        lambda x, weight, bias, state: causal_conv1d(
            x, weight, bias, activation="silu", state=state, return_state=True, **options
        ),
        leaves,
    )
    assert torch.autograd.gradgradcheck(
        lambda x, weight, bias, state: reference.causal_conv1d(x, weight, bias, state=state, silu=True, **options),
        leaves,
    )


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_mixed_dtypes(low, implementation_name, assert_close):
    inputs = make(2, 20, 17, 4)
    inputs["x"] = inputs["x"].to(low)
    inputs["state"] = inputs["state"].to(low)
    dy, dstate = torch.randn(2, 20, 17).to(low), torch.randn(2, 3, 17).to(low)
    found = gradients(inputs, dy, dstate)
    wide = gradients(cast(inputs, torch.float32), dy.float(), dstate.float())
    for name, tensor in inputs.items():
        assert found[name].dtype == tensor.dtype
        assert_close(found[name], wide[name].to(tensor.dtype), wide[name], name)
    assert found["y"].dtype == found["new_state"].dtype == low
    assert_close(found["y"], wide["y"].to(low), wide["y"], "y")


def test_autocast_keeps_dtypes(implementation_name):
    inputs = make(1, 9, 5, 3)
    with torch.autocast("cpu", torch.bfloat16):
        y = causal_conv1d(**inputs)
    assert y.dtype == torch.float32
    assert torch.equal(y, causal_conv1d(**inputs))


def test_strided_inputs(implementation_name):
    inputs = make(2, 20, 17, 4)
    dy, dstate = torch.randn(2, 20, 17), torch.randn(2, 3, 17)
    plain = gradients(inputs, dy, dstate)
    strided = {
        "x": torch.cat([inputs["x"], inputs["x"]], -1)[..., :17],
        "weight": inputs["weight"].t().contiguous().t(),
        "bias": inputs["bias"].repeat_interleave(2)[::2],
        "state": torch.cat([inputs["state"], inputs["state"]], -1)[..., :17],
    }
    leaves = [x.requires_grad_() for x in strided.values()]
    y, state = causal_conv1d(**strided, activation="silu", return_state=True)
    assert torch.equal(y, plain["y"])
    for name, gradient in zip(strided, torch.autograd.grad((y, state), leaves, (dy, dstate)), strict=True):
        assert torch.equal(gradient, plain[name]), name


def test_opcheck(implementation_name):
    inputs = make(2, 5, 3, 2)
    for absent in ((), ("bias", "state")):
        args = [None if name in absent else x.clone().requires_grad_() for name, x in inputs.items()]
        torch.library.opcheck(torch.ops.seqdomains.causal_conv1d.default, (*args, True))
    packed = make(1, 9, 3, 2, sequences=3)
    args = [x.requires_grad_() for x in packed.values()]
    torch.library.opcheck(
        torch.ops.seqdomains.causal_conv1d.default, (*args, True, True, torch.tensor([0, 4, 4, 9]), True)
    )


@pytest.mark.parametrize("options", [{}, {"reverse": True, "cu_seqlens": torch.tensor([0, 5])}], ids=["row", "packed"])
def test_compiles_to_one_graph(implementation_name, options):
    torch._dynamo.reset()
    inputs = make(1, 5, 3, 2)
    compiled = torch.compile(causal_conv1d, fullgraph=True, backend="aot_eager")
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    y, state = compiled(**leaves, activation="silu", return_state=True, **options)
    dy, dstate = torch.randn(1, 5, 3), torch.randn(1, 1, 3)
    expected = gradients(inputs, dy, dstate, **options)
    found = torch.autograd.grad((y, state), list(leaves.values()), (dy, dstate))
    assert torch.equal(y, expected["y"])
    for name, gradient in zip(leaves, found, strict=True):
        assert torch.equal(gradient, expected[name]), name


def test_second_derivative_is_refused(implementation_name):
    leaves = {name: x.requires_grad_() for name, x in make(1, 3, 2, 2).items()}
    y = causal_conv1d(**leaves, activation="silu")
    (gradient,) = torch.autograd.grad(y.sum(), leaves["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="has no second derivative"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("borders", "message"),
    [
        ([0, 3], "rise from 0 to L = 5"),
        ([1, 5], "rise from 0 to L = 5"),
        ([0, 4, 3, 5], "rise from 0 to L = 5"),
        ([5], "cu_seqlens has shape"),
        ([0.0, 5.0], "cu_seqlens has shape"),
    ],
    ids=str,
)
def test_wrong_borders(borders, message):
    inputs = make(1, 5, 3, 2, absent=("state",))
    with pytest.raises(ValueError, match=message):
        causal_conv1d(**inputs, cu_seqlens=torch.tensor(borders))


def test_packed_sequences_lie_in_one_row():
    with pytest.raises(ValueError, match="in one"):
        causal_conv1d(**make(2, 5, 3, 2), cu_seqlens=torch.tensor([0, 5]))
    with pytest.raises(ValueError, match="state has shape"):
        causal_conv1d(**make(1, 5, 3, 2), cu_seqlens=torch.tensor([0, 2, 5]))


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("x", torch.zeros(2, 3), "expected x of shape"),
        ("weight", torch.zeros(3, 5), "W from 2 to 4"),
        ("bias", torch.zeros(4), "bias has shape"),
        ("state", torch.zeros(1, 2, 3), "state has shape"),
        ("activation", "relu", "activation is 'relu'"),
    ],
)
def test_wrong_arguments(name, wrong, message):
    with pytest.raises(ValueError, match=message):
        causal_conv1d(**{**make(1, 5, 3, 2), name: wrong})
