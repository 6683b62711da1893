"""Laws of the convolution's and the norm's Triton kernels on a GPU, at real sizes, against float64 computed there."""

import pytest
import torch

from seqdomains.kernels import causal_conv1d, rms_norm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.usefixtures("poisoned"),
]


def normal(seed):
    """A source of normal numbers that are the same on every machine of one kind."""
    generator = torch.Generator("cuda").manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, device="cuda")


def conv_inputs(B, L, D, W, *, low=None, absent=(), sequences=None):
    draw = normal(0)
    inputs = {"x": draw(B, L, D), "weight": draw(D, W), "bias": draw(D), "state": draw(sequences or B, W - 1, D)}
    if low is not None:
        inputs |= {name: inputs[name].to(low) for name in ("x", "state")}
    return {name: None if name in absent else tensor for name, tensor in inputs.items()}


def conv_cotangents(inputs, sequences=None):
    draw, x = normal(1), inputs["x"]
    last = draw(sequences or x.shape[0], inputs["weight"].shape[1] - 1, x.shape[2])
    return draw(*x.shape).to(x.dtype), last.to(x.dtype)


def borders_of(lengths, dtype=torch.int32):
    return torch.tensor([0, *lengths], device="cuda").cumsum(0).to(dtype)


def drawn_lengths(sequences, most, seed=0):
    """Lengths from none to `most`, every fifth of them empty or shorter than the filter."""
    lengths = torch.randint(0, most, (sequences,), generator=torch.Generator().manual_seed(seed))
    lengths[::5] %= 4
    return lengths.tolist()


@pytest.mark.parametrize("reverse", [False, True], ids=["forth", "reverse"])
@pytest.mark.parametrize(
    ("shape", "low", "absent"),
    [
        ((8, 2048, 1536, 4), None, ()),
        ((8, 2048, 1536, 4), torch.bfloat16, ()),
        ((1, 65536, 256, 4), torch.bfloat16, ("state",)),
        ((4, 4099, 192, 3), torch.float16, ()),
        ((2, 5000, 100, 2), torch.bfloat16, ("bias",)),
        ((3, 2, 2050, 4), None, ()),
        ((4000, 3, 24, 4), None, ()),
    ],
    ids=str,
)
def test_convolution_equals_float64(shape, low, absent, reverse, hold):
    inputs = conv_inputs(*shape, low=low, absent=absent)
    hold(causal_conv1d, inputs, conv_cotangents(inputs), activation="silu", return_state=True, reverse=reverse)


@pytest.mark.parametrize("reverse", [False, True], ids=["forth", "reverse"])
@pytest.mark.parametrize(
    ("lengths", "channels", "width", "low", "absent", "dtype"),
    [
        (drawn_lengths(40, 2000), 256, 4, torch.bfloat16, (), torch.int32),
        (drawn_lengths(3000, 20), 1536, 4, torch.bfloat16, ("state",), torch.int64),
        (drawn_lengths(200, 300), 100, 3, None, ("bias",), torch.int32),
        ([0, 0, 70000, 0, 1, 0], 192, 4, None, (), torch.int64),
        ([1] * 5000, 8, 2, torch.float16, (), torch.int32),
        ([128] * 64, 64, 4, torch.bfloat16, (), torch.int32),
    ],
    ids=["mixed", "short", "narrow", "one among empty", "single steps", "whole chunks"],
)
def test_packed_convolution_equals_float64(lengths, channels, width, low, absent, dtype, reverse, hold):
    sequences = len(lengths)
    inputs = conv_inputs(1, sum(lengths), channels, width, low=low, absent=absent, sequences=sequences)
    hold(
        causal_conv1d,
        inputs,
        conv_cotangents(inputs, sequences),
        activation="silu",
        return_state=True,
        reverse=reverse,
        cu_seqlens=borders_of(lengths, dtype),
    )


@pytest.mark.parametrize("reverse", [False, True], ids=["forth", "reverse"])
def test_one_packed_sequence_is_a_row(reverse, run):
    inputs = conv_inputs(1, 40000, 256, 4, low=torch.bfloat16)
    options = {"activation": "silu", "return_state": True, "reverse": reverse}
    row = run(causal_conv1d, inputs, conv_cotangents(inputs), **options)
    packed = run(causal_conv1d, inputs, conv_cotangents(inputs), cu_seqlens=borders_of([40000]), **options)
    assert all(torch.equal(value, packed[name]) for name, value in row.items())


def test_packed_calls_do_not_wait_for_the_gpu(run):
    """Neither the grid nor the states need the borders' values on the host."""
    lengths = drawn_lengths(100, 500)
    inputs = conv_inputs(1, sum(lengths), 256, 4, low=torch.bfloat16, sequences=100)
    cotangents, borders = conv_cotangents(inputs, 100), borders_of(lengths)
    options = {"activation": "silu", "return_state": True, "reverse": True, "cu_seqlens": borders}
    run(causal_conv1d, inputs, cotangents, **options)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(causal_conv1d, inputs, cotangents, **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("low", [None, torch.bfloat16, torch.float16], ids=str)
def test_runs_are_bit_equal(low, run):
    lengths = drawn_lengths(60, 400)
    inputs = conv_inputs(1, sum(lengths), 416, 4, low=low, sequences=60)
    options = {"activation": "silu", "return_state": True, "cu_seqlens": borders_of(lengths)}
    first, second = (run(causal_conv1d, inputs, conv_cotangents(inputs, 60), **options) for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    draw = normal(2)
    inputs = {"x": draw(4, 2049, 416), "weight": draw(416), "residual": draw(4, 2049, 416)}
    inputs["x"] = inputs["x"] if low is None else inputs["x"].to(low)
    cotangents = (inputs["x"].flip(1), draw(4, 2049, 416))
    first, second = (run(rms_norm, inputs, cotangents, return_residual=True) for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize(
    "shape", [(8, 2048, 1536), (1, 65536, 256), (3, 4099, 768), (2, 1000, 1000), (50000, 3, 24), (1, 70, 9000)], ids=str
)
@pytest.mark.parametrize("low", [None, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("given", [True, False], ids=["residual", "alone"])
def test_norm_equals_float64(shape, low, given, hold):
    draw = normal(0)
    inputs = {"x": draw(*shape), "weight": draw(shape[-1]), "residual": draw(*shape) if given else None}
    if low is not None:
        inputs["x"] = inputs["x"].to(low)
    found = hold(rms_norm, inputs, (draw(*shape).to(inputs["x"].dtype), draw(*shape)), return_residual=True)
    assert all(found[f"gradient of {name}"].dtype == x.dtype for name, x in inputs.items() if x is not None)


def test_backward_of_the_norm_needs_no_memory_beside_its_gradients(run):
    """The gradient of x is written in x's dtype, not converted afterwards."""
    draw = normal(0)
    shape = (1, 1 << 17, 256)
    inputs = {"x": draw(*shape).bfloat16(), "weight": draw(256), "residual": draw(*shape)}
    cotangents = (draw(*shape).bfloat16(), draw(*shape))
    elements = inputs["x"].numel()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run(rms_norm, inputs, cotangents, return_residual=True)
    # Copies of x and residual as leaves, y and the sum, and the two gradients: 2 + 4 bytes each per element.
    assert torch.cuda.max_memory_allocated() - before <= 1.05 * 3 * 6 * elements
