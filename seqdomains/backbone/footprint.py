"""How much memory a step of training takes: what autograd keeps of each token, counted tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from seqdomains.backbone.config import MambaConfig
from seqdomains.kernels.selective_scan.fast_path import STATES
from seqdomains.kernels.selective_scan.plan import GLUON_SCRATCH, STRIDE

# Steps between two states that the scan keeps: 32 on a CPU, 384 to 1,536 on a GPU.
_STEPS_A_STATE = {"cpu": 32, "cuda": 512}


@dataclass(frozen=True)
class Footprint:
    """Bytes of a training step at its peak, where the backward pass is in the last block.

    Parameters
    ----------
    weights : int
        float32 weights, their gradients and AdamW's two moments.
    kept : int
        What the forward pass leaves for the backward.
    working : int
        Gradients and scratch of the block that the backward pass is in, and of the residual stream.
    """

    weights: int
    kept: int
    working: int

    @property
    def total(self) -> int:
        """All of it; the device's own needs, some hundred MiB on a GPU, come on top."""
        return self.weights + self.kept + self.working


def footprint(
    config: MambaConfig,
    *,
    parameters: int,
    tokens: int,
    precision: Literal["fp32", "bf16"],
    device: str = "cuda",
    recompute: bool = False,
    shared: bool = False,
) -> Footprint:
    """Estimate the peak memory of a training step.

    Each block keeps, of each token, five tensors of the inner width (the convolution's input and output, the step, the
    gate and the gated output), its normed input, the float32 residual stream, the projections to the step, B and C, and
    states at the borders of the scan's chunks. Time-invariant blocks have no step and no projections. The other
    direction of a bidirectional block has a convolution's output, a step, projections and states of its own.

    Parameters
    ----------
    config : MambaConfig
        Sizes.
    parameters : int
        Of the whole model.
    tokens : int
        On the device at once: windows times their length, or times the length of a time chunk.
    precision : {"fp32", "bf16"}
        Of what lies between the weights.
    device : str
        Its type.
    recompute : bool
        Whether blocks keep the residual stream alone, and the gated output where the fast kernels don't run; see
        `lean`. Blocks that are not plain keep what they begin with, and their working memory is all of one block.
    shared : bool
        Whether ranks share each sequence: the scan's backward then takes its scratch whole on a GPU, since what enters
        a rank's part from its end is known only when all of it has been swept forward.

    Examples
    --------
    >>> found = footprint(MambaConfig(d_model=128, n_layer=12), parameters=1_401_472, tokens=2**20, precision="bf16")
    >>> round(found.total / 2**30, 1)
    44.3
    """
    kept = working = 0
    tokens *= config.strands
    for number, factor in enumerate((1, *config.pool)):
        tokens //= factor
        found = _stage(config.stage(number), precision=precision, device=device, recompute=recompute)
        visits = 1 if number == len(config.pool) else 2
        kept += tokens * visits * config.n_layer * found.kept
        if visits == 2:
            # The stream that goes around the stages within, and what is pooled of it.
            d = config.stage(number).d_model
            kept += tokens * (4 * d + (2 * d if precision == "bf16" else 0))
        width, whole = 2 if precision == "bf16" else 4, shared and device == "cuda"
        scratch = _scratch(tokens, found.channels, found.numbers, width, whole=whole)
        working = max(working, tokens * found.working + scratch)
    return Footprint(16 * parameters, kept, working)


class _OfToken(NamedTuple):
    """Bytes of a token in a block, and the sizes of the block's scan."""

    kept: int
    working: int
    channels: int
    numbers: int


def _stage(config: MambaConfig, *, precision: Literal["fp32", "bf16"], device: str, recompute: bool) -> _OfToken:
    """Count what a token takes in a block of one stage."""
    d, D = config.d_model, config.d_inner
    complex_, selective = config.states == "complex", config.time_invariant == "none"
    N = config.d_state * (2 if complex_ else 1)
    width = 2 if precision == "bf16" else 4
    paths = 1 + config.bidirectional
    lean = recompute and config.plain
    repeated = device == "cuda" and N in STATES and D % 16 == 0
    # Without a projection there is no step of each token either.
    whole = (3 + paths * (1 + selective)) * D + d + paths * selective * (config.rank + (2 if complex_ else 4) * N)
    states = 4 * paths * N * D // _STEPS_A_STATE.get(device, 512)
    # Complex B and C are in single precision.
    all_of_it = width * whole + states + (paths * 4 * 2 * N if complex_ and selective else 0)
    block = width * d if recompute else all_of_it
    if lean:
        block = width * (0 if repeated else D) + states
    # Gradients of the scan's input, step and gate and of the convolution's input, and the residual stream's gradient.
    working = width * 4 * D + 4 * d
    if config.bidirectional:
        # The other direction's gradients of input and gate wait to be added.
        working += width * 2 * D
    if lean:
        working += width * ((5 if repeated else 4) * D + d + config.rank + 2 * N)
    elif recompute:
        working += all_of_it
    return _OfToken(block + 4 * (d + 1), working, D, N)


def _scratch(tokens: int, D: int, N: int, width: int, *, whole: bool) -> int:
    """Return what the scan's backward takes for itself: a state every `STRIDE` steps and sums over 32 channels.

    Unless it has to be `whole`, slabs are taken where that is too much, of a bit more than a tensor of the inner width;
    see `gluon_plan`.
    """
    everything = 4 * N * (D // STRIDE + D // 32) * tokens
    return everything if whole else min(everything, max(GLUON_SCRATCH, width * D * tokens + D * tokens // 2))
