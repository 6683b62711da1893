"""One token after another through a language model whose memory is changed in place, as a CUDA graph can hold it."""

from __future__ import annotations

from itertools import takewhile

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from seqdomains.backbone.block import Block
from seqdomains.backbone.heads import MambaLM
from seqdomains.backbone.precision import full_precision
from seqdomains.backbone.stages import PoolIn, PoolOut
from seqdomains.backbone.state import InferenceState, LayerState, PoolState
from seqdomains.kernels import rms_norm, selective_scan_step


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
        self._model = model
        config, blocks = model.config, list(model.backbone.layers)
        with torch.no_grad():
            layers = [_Layer(block, layer, rows) for block, layer in zip(blocks, state.layers, strict=True)]
        self._visits = [layers[first : first + config.n_layer] for first in range(0, len(layers), config.n_layer)]
        borders = zip(model.backbone.pools_in, model.backbone.pools_out, state.pools, strict=True)
        self._borders = [_Border(inwards, outwards, pool, rows) for inwards, outwards, pool in borders]
        self.load(state)

    def load(self, state: InferenceState) -> None:
        """Put the memory of a state into that of each sequence, where it lies."""
        for layer, layer_state in zip((one for visit in self._visits for one in visit), state.layers, strict=True):
            layer.load(layer_state)
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
        logits = self.advance(tokens, self.depth)
        self.tick()
        return logits

    def advance(self, tokens: Tensor, depth: int) -> Tensor:
        """Do on the device what a token asks for that goes `depth` stages inwards; see `__call__`."""
        hidden: Tensor = self._model.backbone.embed(tokens[:, None])
        hidden, residual = self._run(0, hidden, depth)
        hidden, _ = self._model.backbone.norm_f(hidden, residual)
        return full_precision(self._model.lm_head(hidden))[:, 0]

    def _run(self, stage: int, hidden: Tensor, depth: int) -> tuple[Tensor, Tensor | None]:
        """Run a stage and those within; returns the last output and what it is to be added to."""
        residual: Tensor | None = None
        for layer in self._visits[stage]:
            hidden, residual = layer(hidden, residual)
        if stage == len(self._borders):
            return hidden, residual
        border, stream = self._borders[stage], _sum(hidden, residual)
        hidden, residual = border.told(), stream
        border.take(stream)
        if depth > stage:
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
        self._inwards, self._outwards = inwards, outwards
        self.factor, self.phase = inwards.factor, 0
        self._pending = state.pending.new_zeros(rows, self.factor, state.pending.shape[2])
        self._held = state.held.new_zeros(rows, self.factor, state.pending.shape[2])
        self._place = torch.zeros(1, dtype=torch.int64, device=state.held.device)

    def load(self, state: PoolState) -> None:
        self.phase = state.pending.shape[1]
        self._place.fill_(self.phase)
        self._held.copy_(state.held.view(-1, *self._held.shape[1:]).expand_as(self._held))
        # The last of a group come to lie at the end, as `take` puts them.
        late = self._pending[:, self.factor - self.phase :]
        late.copy_(state.pending.expand_as(late))

    def told(self) -> Tensor:
        """Return what the position is told that is read, shape (rows, 1, width), and go on to the next one."""
        found = self._held.index_select(1, self._place)
        self._place.add_(1).remainder_(self.factor)
        return found

    def take(self, stream: Tensor) -> None:
        self._pending.copy_(torch.cat([self._pending[:, 1:], stream], dim=1))

    def pooled(self) -> Tensor:
        found: Tensor = self._inwards.linear(self._pending.flatten(1)[:, None])
        return found

    def hold(self, inner: Tensor) -> None:
        self._held.copy_(self._outwards.linear(inner).view_as(self._held))


class _Layer:
    """A block's step, and its memory of each sequence; the matrices are those of the model."""

    def __init__(self, block: nn.Module, state: LayerState, rows: int) -> None:
        assert isinstance(block, Block)  # noqa: S101 - a list of modules has no type
        mixer = block.mixer
        self._block = block
        self._filter = mixer.conv1d.weight.detach().squeeze(1).t().contiguous()
        self._A = mixer.decay().detach()
        self._conv = state.conv.new_empty(rows, *state.conv.shape[1:])
        self._ssm = state.ssm.new_empty(rows, *state.ssm.shape[1:])
        self._constant: tuple[Tensor, Tensor, Tensor] | None = None
        if not mixer.selective:
            dt, B, C = (one.detach() for one in mixer.projections(self._conv[:, 0]))
            # Of each row: with as many rows as channels nobody could tell which of both is meant.
            self._constant = (dt, B.expand(rows, -1, -1), C.expand(rows, -1, -1))

    def load(self, state: LayerState) -> None:
        self._conv.copy_(state.conv.expand_as(self._conv))
        self._ssm.copy_(state.ssm.expand_as(self._ssm))

    def __call__(self, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        block, mixer = self._block, self._block.mixer
        normed, stream = rms_norm(
            hidden, block.norm.weight, residual=residual, eps=block.norm.eps, return_residual=True
        )
        x, z = linear(normed[:, 0], mixer.in_proj.weight, mixer.in_proj.bias).chunk(2, dim=-1)
        window = torch.cat([self._conv, x[:, None]], dim=1)
        self._conv.copy_(window[:, 1:])
        mixed = (window * self._filter).sum(1)
        u = silu(mixed if mixer.conv1d.bias is None else mixed + mixer.conv1d.bias)
        if self._constant is None:
            dt, B, C = mixer.projections(u)
            B, C = B[:, None], C[:, None]
        else:
            dt, B, C = self._constant
        y = selective_scan_step(self._ssm, u, dt, self._A, B, C, mixer.D, z, mixer.step_bias, softplus=True)
        return mixer.out_proj(y)[:, None], stream
