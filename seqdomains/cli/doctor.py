"""What runs here and whether it computes right: versions, devices, kernels, a self-check against the references."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

import torch
from torch import Tensor

from seqdomains import __version__
from seqdomains.errors import SeqdomainsError
from seqdomains.kernels import causal_conv1d, implementation, rms_norm, selective_scan, selective_scan_step
from seqdomains.kernels.block_step import BlockMemory, BlockStep, BlockWeights
from seqdomains.kernels.block_step import reference as block_reference
from seqdomains.kernels.causal_conv1d import reference as conv_reference
from seqdomains.kernels.dispatch import OPS, STEPS, VARIABLE
from seqdomains.kernels.rms_norm import reference as norm_reference
from seqdomains.kernels.row_product import RowProduct, RowWeights
from seqdomains.kernels.row_product import reference as row_reference
from seqdomains.kernels.selective_scan import fast_path
from seqdomains.kernels.selective_scan import reference as scan_reference
from seqdomains.kernels.selective_scan_step import reference as step_reference
from seqdomains.kernels.token_draw import Sampling, TokenDraw

DISTRIBUTIONS = ("torch", "triton", "numba", "numpy", "pydantic", "pysam", "safetensors", "scikit-learn")
# float32 against float64 over 67 steps: 1e-6 is usual; a wrong formula is off by 1e-2 or more.
BOUND = 1e-4


@dataclass(frozen=True)
class Case:
    """An op on inputs of an odd size, beside its reference.

    Parameters
    ----------
    op : callable
        Takes the inputs and returns outputs; runs what the dispatch chooses.
    reference : callable
        The same in plain torch.
    inputs : sequence of Tensor
        float64 on the CPU.
    gradients : bool
        Whether the op has any.
    """

    op: Callable[..., Sequence[Tensor]]
    reference: Callable[..., Sequence[Tensor]]
    inputs: Sequence[Tensor]
    gradients: bool = True


def examine(out: TextIO) -> bool:
    """Write the report on this machine.

    Parameters
    ----------
    out : TextIO
        Where to write.

    Returns
    -------
    bool
        Whether every op agrees with its reference on every device.

    Examples
    --------
    >>> import io
    >>> out = io.StringIO()
    >>> examine(out)
    True
    >>> "selective_scan" in out.getvalue()
    True
    """
    out.write(f"seqdomains {__version__}, Python {platform.python_version()}, {platform.platform()}\n")
    out.write(", ".join(f"{name} {_version(name)}" for name in DISTRIBUTIONS) + "\n\ndevices\n")
    devices = list(_devices())
    for device, description in devices:
        out.write(f"  {device:<8} {description}\n")
    if len(devices) == 1:
        out.write(f"  no GPU   {_why_no_gpu()}\n")
    out.write(f"\nkernels ({VARIABLE}={os.environ.get(VARIABLE, 'auto')}), self-check in float32 against float64\n")
    healthy = True
    for device, _ in devices:
        for op in (*OPS, *STEPS):
            try:
                chosen = implementation(op, device, torch.float32)
                error = self_check(op, device)
            except SeqdomainsError as problem:
                healthy = False
                out.write(f"  {op:<19} {device:<8} FAILED     {problem}\n")
            except Exception as problem:  # noqa: BLE001 - whatever broke, the report goes on and says so
                healthy = False
                out.write(f"  {op:<19} {device:<8} FAILED     {type(problem).__name__}: {problem}\n")
            else:
                healthy &= error <= BOUND
                out.write(f"  {op:<19} {device:<8} {chosen:<10} {_verdict(error)} ({_reason(chosen)})\n")
    for device, _ in devices[1:]:
        well, found = _fast_path(device)
        healthy &= well
        out.write(f"  {'selective_scan':<19} {device:<8} {found}\n")
    out.write("\nall well\n" if healthy else "\nsomething is wrong: see FAILED above\n")
    return healthy


def _verdict(error: float) -> str:
    return f"error {error:.1e}, bound {BOUND:.0e}: {'ok' if error <= BOUND else 'FAILED'}"


def self_check(op: str, device: str, channels: int = 9) -> float:
    """Compare an op in float32 on a device with its reference in float64, outputs and gradients.

    Parameters
    ----------
    op : str
        A name of `seqdomains.kernels.dispatch.OPS` or `STEPS`.
    device : str
        Where to run it.
    channels : int, default 9
        Odd, so that the last tile is not full; the scan's fast kernels want a multiple of 16.

    Returns
    -------
    float
        The largest relative error (root mean square) over outputs and gradients; infinite if one isn't finite.

    Examples
    --------
    >>> self_check("rms_norm", "cpu") < 1e-4
    True
    """
    case = _cases(channels)[op]
    outputs = _outputs_and_gradients if case.gradients else lambda op, inputs: op(*inputs)
    expected = outputs(case.reference, case.inputs)
    found = outputs(case.op, [tensor.to(device, torch.float32) for tensor in case.inputs])
    errors = [
        float((ours.cpu().double() - truth).norm() / truth.norm()) for ours, truth in zip(found, expected, strict=True)
    ]
    return max(error if error == error else float("inf") for error in errors)


def _outputs_and_gradients(op: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> list[Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    outputs = op(*leaves)
    # Unequal weights, so that errors of opposite sign can't cancel in the gradient.
    weighted = [
        (output * torch.linspace(0.5, 1.5, output.numel()).reshape(output.shape).to(output)).sum() for output in outputs
    ]
    return [*(output.detach() for output in outputs), *torch.autograd.grad(torch.stack(weighted).sum(), leaves)]


def _step(step: Callable[..., Tensor]) -> Callable[..., Sequence[Tensor]]:
    """Return a function of what changes a state in place that leaves its arguments as they are."""

    def call(state: Tensor, *inputs: Tensor) -> Sequence[Tensor]:
        state = state.clone()
        return step(state, *inputs), state

    return call


def _block(
    hidden: Tensor, norm: Tensor, inner: Tensor, taps: Tensor, taps_bias: Tensor, to_scan: Tensor, to_step: Tensor,
    step_bias: Tensor, A: Tensor, skip: Tensor, out: Tensor, states: Tensor, conv: Tensor,
) -> tuple[BlockWeights, BlockMemory]:  # fmt: skip
    weights = BlockWeights(
        norm, 1e-5, inner, None, taps, taps_bias, to_scan, to_step, step_bias, A, None, None, skip, out, None
    )
    memory = BlockMemory.empty(weights, len(hidden))
    memory.load(conv, states)
    return weights, memory


def block_step(hidden: Tensor, *others: Tensor) -> Sequence[Tensor]:
    """Return what a block's step says of each row, and what it leaves."""
    weights, before = _block(hidden, *others)
    step = BlockStep(weights, rows=len(hidden))
    step.memory.conv.copy_(before.conv)
    step.memory.states.copy_(before.states)
    return *step(hidden, hidden), step.memory.conv, step.memory.states


def _block_step_reference(hidden: Tensor, *others: Tensor) -> Sequence[Tensor]:
    weights, memory = _block(hidden, *others)
    return *block_reference.bind(weights, memory)(hidden, hidden), memory.conv, memory.states


def row_product(hidden: Tensor, residual: Tensor, norm: Tensor, matrix: Tensor, bias: Tensor) -> Sequence[Tensor]:
    """Return a matrix times the norm of each row's sum."""
    return (RowProduct(RowWeights(matrix, bias, norm, 1e-5))(hidden, residual),)


def _row_product_reference(
    hidden: Tensor, residual: Tensor, norm: Tensor, matrix: Tensor, bias: Tensor
) -> Sequence[Tensor]:
    return (row_reference.bind(RowWeights(matrix, bias, norm, 1e-5))(hidden, residual),)


_RULE = Sampling(temperature=0.8, top_p=0.9)


def token_draw(logits: Tensor, draws: Tensor) -> Sequence[Tensor]:
    """Return the token that is drawn in each row, and of how many bits of choice."""
    draw = TokenDraw(_RULE, rows=len(logits), vocabulary=logits.shape[1], block=1, device=logits.device)
    draw.begin(draws[:, None].double())
    draw.logits.copy_(logits)
    draw()
    tokens, bits = draw.drawn()
    return tokens[:, 0].double(), bits[:, 0]


def _token_draw_reference(logits: Tensor, draws: Tensor) -> Sequence[Tensor]:
    tokens, bits = _RULE.choose(logits, draws)
    return tokens.double(), bits


def _cases(channels: int) -> dict[str, Case]:
    """Odd sizes, so that the last chunk is not full."""
    batch, length, states, width = 2, 67, 16, 4
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, weight, bias = draw(batch, length, channels), draw(channels, width), draw(channels)
    scale, residual = draw(channels), draw(batch, length, channels)
    u, dt, z = draw(batch, length, channels), draw(batch, length, channels), draw(batch, length, channels)
    a, b, c = -draw(channels, states).exp(), draw(batch, length, states), draw(batch, length, states)
    skip, shift, h0 = draw(channels), draw(channels), draw(batch, channels, states)
    return {
        "selective_scan": Case(
            lambda u, dt, a, b, c, skip, z, shift, h0: selective_scan(
                u, dt, a, b, c, skip, z, shift, h0=h0, return_state=True
            ),
            lambda u, dt, a, b, c, skip, z, shift, h0: scan_reference.selective_scan(
                u, dt, a, b, c, skip, z, shift, h0=h0
            ),
            (u, dt, a, b, c, skip, z, shift, h0),
        ),
        "causal_conv1d": Case(
            lambda x, weight, bias: (causal_conv1d(x, weight, bias, activation="silu"),),
            lambda x, weight, bias: (conv_reference.causal_conv1d(x, weight, bias, silu=True),),
            (x, weight, bias),
        ),
        "rms_norm": Case(
            lambda x, scale, residual: rms_norm(x, scale, residual=residual, return_residual=True),
            lambda x, scale, residual: norm_reference.rms_norm(x, scale, residual=residual),
            (x, scale, residual),
        ),
        "selective_scan_step": Case(
            _step(lambda *inputs: selective_scan_step(*inputs)),
            _step(
                lambda state, u, dt, a, b, c, skip, z, shift: step_reference.forward(
                    state, u, dt, a, b[:, None], c[:, None], skip, z, shift, True
                )
            ),
            (h0, u[:, 0], dt[:, 0], a, b[:, 0], c[:, 0], skip, z[:, 0], shift),
            gradients=False,
        ),
        "block_step": Case(
            lambda *inputs: block_step(*inputs),
            _block_step_reference,
            (
                x[:, 0],
                scale,
                draw(2 * channels, channels),
                weight,
                bias,
                draw(1 + 2 * states, channels) / 3,
                draw(channels, 1),
                shift,
                a,
                skip,
                draw(channels, channels),
                h0,
                draw(batch, width - 1, channels),
            ),
            gradients=False,
        ),
        "row_product": Case(
            lambda *inputs: row_product(*inputs),
            _row_product_reference,
            (x[:, 0], residual[:, 0], scale, draw(2 * channels, channels), draw(2 * channels)),
            gradients=False,
        ),
        "token_draw": Case(
            lambda *inputs: token_draw(*inputs),
            _token_draw_reference,
            (3 * draw(length, channels), torch.rand(length, generator=generator, dtype=torch.float64)),
            gradients=False,
        ),
    }


def _devices() -> Iterator[tuple[str, str]]:
    yield "cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            capability = f"compute capability {card.major}.{card.minor}"
            yield f"cuda:{index}", f"{card.name}, {card.total_memory / 2**30:.0f} GiB, {capability}"


def _why_no_gpu() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return "this torch was built for the CPU alone"
    return f"torch was built for {'CUDA ' + torch.version.cuda if torch.version.cuda else 'ROCm'} but finds no device"


def _fast_path(device: str) -> tuple[bool, str]:
    """Say whether the fast kernels of the scan run on a CUDA device and compute right, having run them once."""
    if os.environ.get(VARIABLE, "auto") not in ("auto", "gluon"):
        return True, f"fast path  off ({VARIABLE} asks for it)"
    index, error = torch.device(device).index or 0, 0.0
    problem = fast_path.unavailable(index)
    if not problem:
        error = self_check("selective_scan", device, channels=16)
        problem = fast_path.unavailable(index)
    if problem:
        return True, f"fast path  absent: {problem}; the portable kernels run, several times slower"
    where = "Gluon kernels, for N = 16 and 64 where B and C vary and nothing is packed"
    return error <= BOUND, f"fast path  {_verdict(error)} ({where})"


def _reason(chosen: str) -> str:
    if os.environ.get(VARIABLE, "auto") != "auto":
        return f"{VARIABLE} asks for it"
    return {
        "cpu": "numba kernels, chosen on a CPU",
        "triton": "Triton kernels, chosen on a GPU",
        "reference": "plain torch, because no kernel is here for this device",
    }[chosen]


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
