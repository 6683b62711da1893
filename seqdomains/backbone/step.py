"""One token after another through a language model whose memory is changed in place, as a CUDA graph can hold it."""

from __future__ import annotations

from itertools import takewhile

import torch
from torch import Tensor, nn

from seqdomains.backbone.block import Block
from seqdomains.backbone.heads import MambaLM
from seqdomains.backbone.precision import full_precision
from seqdomains.backbone.stages import PoolIn, PoolOut
from seqdomains.backbone.state import InferenceState, PoolState
from seqdomains.kernels.block_step import BlockStep, BlockWeights, chosen_step
from seqdomains.kernels.row_product import RowProduct, RowWeights


def rows_apart(model: MambaLM, device: torch.device | str) -> bool:
    """Whether what a `Stepper` says of a row is the same to the bit however many rows there are.

    The kernels keep rows apart. Plain torch does not, which runs in float64, without Triton, and on a GPU for very wide
    models.

    Parameters
    ----------
    model : MambaLM
    device : torch.device or str
        Where it will run.
    """
    innermost = model.config.stage(len(model.config.pool))
    return chosen_step(innermost.d_inner, device, model.lm_head.weight.dtype) != "reference"


class Stepper:
    """A language model that reads a token of each of some sequences at a time, from a state on.

    `MambaLM.forward` with a state says the same to rounding; this allocates nothing that outlives a step, and what does
    not change from step to step is computed once. The inner stages of a model with stages run when a token makes a
    group whole, so that there are as many kinds of step as stages: `depth` tells which one is next. What a kind of step
    does on the device is always the same, `advance`, and `tick` counts it.

    Parameters
    ----------
    model : MambaLM
        In evaluation mode; a change of its parameters afterwards is not seen.
    state : InferenceState
        Memory of the tokens before, of one sequence or of as many as `rows`.
    rows : int
        Sequences that are continued.

    Examples
    --------
    >>> from seqdomains.backbone import MambaConfig
    >>> model = MambaLM(MambaConfig(d_model=16, n_layer=2)).eval()
    >>> tokens = torch.randint(4, (1, 20))
    >>> with torch.inference_mode():
    ...     _, state = model(tokens[:, :19], return_state=True)
    ...     logits = Stepper(model, state, rows=3)(tokens[0, 19:].expand(3))
    ...     whole = model(tokens)[0, 19]
    >>> tuple(logits.shape), torch.allclose(logits[2], whole, atol=1e-4)
    ((3, 16), True)
    """

    def __init__(self, model: MambaLM, state: InferenceState, *, rows: int) -> None:
        self._embed = model.backbone.embed
        config, blocks = model.config, list(model.backbone.layers)
        with torch.no_grad():
            layers = [_step_of(block, rows) for block in blocks]
        self._visits = [layers[first : first + config.n_layer] for first in range(0, len(layers), config.n_layer)]
        borders = zip(model.backbone.pools_in, model.backbone.pools_out, state.pools, strict=True)
        self._borders = [_Border(inwards, outwards, pool, rows) for inwards, outwards, pool in borders]
        norm, head = model.backbone.norm_f, model.lm_head
        self._tell = RowProduct(RowWeights(head.weight, head.bias, norm.weight, norm.eps))
        self.load(state)

    def load(self, state: InferenceState) -> None:
        """Put the memory of a state into that of each sequence, where it lies."""
        for layer, layer_state in zip((one for visit in self._visits for one in visit), state.layers, strict=True):
            layer.memory.load(*layer_state)
        for border, pool in zip(self._borders, state.pools, strict=True):
            border.load(pool)

    @property
    def depth(self) -> int:
        """How many stages inwards of the outermost the next token goes."""
        whole = (border.phase + 1 == border.factor for border in self._borders)
        return sum(1 for _ in takewhile(bool, whole))

    def tick(self) -> None:
        """Count a token that `advance` has read."""
        for border in self._borders[: self.depth + 1]:
            border.phase = (border.phase + 1) % border.factor

    def __call__(self, tokens: Tensor) -> Tensor:
        """Read a token of each sequence, shape (rows,); returns the next ones' logits, (rows, vocab_size), fp32."""
        logits = self.advance(tokens, self.depth).clone()
        self.tick()
        return logits

    def advance(self, tokens: Tensor, depth: int) -> Tensor:
        """Do on the device what a token asks for that goes `depth` stages inwards; see `__call__`.

        The logits lie where those of the next call will.
        """
        with torch.no_grad():
            return full_precision(self._tell(*self._run(0, self._embed(tokens[:, None])[:, 0], depth)))

    def _run(self, stage: int, hidden: Tensor, depth: int) -> tuple[Tensor, Tensor | None]:
        """Run a stage and those within; returns the last output and what it is to be added to."""
        residual: Tensor | None = None
        for layer in self._visits[stage]:
            hidden, residual = layer(hidden, residual)
        if stage == len(self._borders):
            return hidden, residual
        border, stream = self._borders[stage], _sum(hidden, residual)
        # What is told may be overwritten by what the group that is whole now has to say.
        hidden, residual = border.exchange(stream), stream
        if depth > stage:
            hidden = hidden.clone()
            border.hold(_sum(*self._run(stage + 1, border.pooled(), depth)))
        for layer in self._visits[-1 - stage]:
            hidden, residual = layer(hidden, residual)
        return hidden, residual


def _sum(hidden: Tensor, residual: Tensor | None) -> Tensor:
    return hidden if residual is None else hidden + residual


class _Border:
    """What lies between two stages, in buffers that stay where they are."""

    def __init__(self, inwards: nn.Module, outwards: nn.Module, state: PoolState, rows: int) -> None:
        assert isinstance(inwards, PoolIn)  # noqa: S101 - a list of modules has no type
        assert isinstance(outwards, PoolOut)  # noqa: S101
        self._inwards, self._outwards = (
            RowProduct(RowWeights(one.linear.weight, one.linear.bias)) for one in (inwards, outwards)
        )
        self.factor, self.phase = inwards.factor, 0
        self._pending = state.pending.new_zeros(rows, self.factor, state.pending.shape[2])
        self._held = state.held.new_zeros(rows, self.factor, state.pending.shape[2])
        self._group = self._pending.flatten(1)
        # A recorded step must find its place on the device; elsewhere the number at hand is sooner there.
        recorded = self._held.device.type != "cpu"
        self._place = torch.zeros(1, dtype=torch.int64, device=self._held.device) if recorded else None
        self._steps = torch.arange(self.factor, device=self._held.device)[:, None]

    def load(self, state: PoolState) -> None:
        self.phase = state.pending.shape[1]
        if self._place is not None:
            self._place.fill_(self.phase)
        self._held.copy_(state.held.view(-1, *self._held.shape[1:]).expand_as(self._held))
        early = self._pending[:, : self.phase]
        early.copy_(state.pending.expand_as(early))

    def exchange(self, stream: Tensor) -> Tensor:
        """Take the position that is read, shape (rows, width), and return what it is told, of the same shape."""
        if self._place is None:
            self._pending[:, self.phase] = stream
            return self._held[:, self.phase]
        # index_copy_ would sort the one index to be deterministic.
        torch.where(self._steps == self._place, stream[:, None], self._pending, out=self._pending)
        found = self._held.index_select(1, self._place)[:, 0]
        self._place.add_(1).remainder_(self.factor)
        return found

    def pooled(self) -> Tensor:
        return self._inwards(self._group)

    def hold(self, inner: Tensor) -> None:
        self._held.copy_(self._outwards(inner).view_as(self._held))


def _step_of(block: nn.Module, rows: int) -> BlockStep:
    """Return the step of a block; its matrices are those of the model."""
    assert isinstance(block, Block)  # noqa: S101 - a list of modules has no type
    mixer = block.mixer
    B = C = None
    if not mixer.selective:
        _, B, C = mixer.projections(block.norm.weight.new_empty(0))
    weights = BlockWeights(
        norm=block.norm.weight,
        eps=block.norm.eps,
        to_inner=mixer.in_proj.weight,
        inner_bias=mixer.in_proj.bias,
        taps=mixer.conv1d.weight.squeeze(1),
        taps_bias=mixer.conv1d.bias,
        to_scan=mixer.x_proj.weight if mixer.selective else None,
        to_step=mixer.dt_proj.weight if mixer.selective else None,
        step_bias=mixer.step_bias,
        A=mixer.decay(),
        B=B,
        C=C,
        skip=mixer.D,
        out=mixer.out_proj.weight,
        out_bias=mixer.out_proj.bias,
    )
    return BlockStep(weights, rows=rows)
