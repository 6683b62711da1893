"""One token after another through a language model whose memory is changed in place, as a CUDA graph can hold it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from seqdomains.backbone.block import Block
from seqdomains.backbone.heads import MambaLM
from seqdomains.backbone.precision import full_precision
from seqdomains.backbone.state import InferenceState
from seqdomains.kernels import rms_norm, selective_scan_step


class Stepper:
    """A language model that reads a token of each of some sequences at a time, from a state on.

    `MambaLM.forward` with a state says the same to rounding; this allocates nothing that outlives a step, and what does
    not change from step to step is computed once.

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
        with torch.no_grad():
            self._layers = [_Layer(block) for block in model.backbone.layers if isinstance(block, Block)]
        self._conv = [one.conv.expand(rows, -1, -1).clone() for one in state.layers]
        self._ssm = [one.ssm.expand(rows, -1, -1).contiguous().clone() for one in state.layers]

    def load(self, state: InferenceState) -> None:
        """Put the memory of a state into that of each sequence, where it lies."""
        for own, conv, layer in zip(self._ssm, self._conv, state.layers, strict=True):
            own.copy_(layer.ssm.expand_as(own))
            conv.copy_(layer.conv.expand_as(conv))

    def __call__(self, tokens: Tensor) -> Tensor:
        """Read a token of each sequence, shape (rows,); returns the next ones' logits, (rows, vocab_size), fp32."""
        hidden: Tensor = self._model.backbone.embed(tokens[:, None])
        residual: Tensor | None = None
        for layer, conv, ssm in zip(self._layers, self._conv, self._ssm, strict=True):
            hidden, residual = layer(hidden, residual, conv, ssm)
        hidden, _ = self._model.backbone.norm_f(hidden, residual)
        return full_precision(self._model.lm_head(hidden))[:, 0]


class _Layer:
    """A block's step; its matrices are those of the model."""

    def __init__(self, block: Block) -> None:
        mixer = block.mixer
        self._block = block
        self._filter = mixer.conv1d.weight.detach().squeeze(1).t().contiguous()
        self._A = -torch.exp(full_precision(mixer.A_log.detach()))

    def __call__(self, hidden: Tensor, residual: Tensor | None, conv: Tensor, ssm: Tensor) -> tuple[Tensor, Tensor]:
        block, mixer = self._block, self._block.mixer
        normed, stream = rms_norm(
            hidden, block.norm.weight, residual=residual, eps=block.norm.eps, return_residual=True
        )
        x, z = linear(normed[:, 0], mixer.in_proj.weight, mixer.in_proj.bias).chunk(2, dim=-1)
        window = torch.cat([conv, x[:, None]], dim=1)
        conv.copy_(window[:, 1:])
        mixed = (window * self._filter).sum(1)
        u = silu(mixed if mixer.conv1d.bias is None else mixed + mixer.conv1d.bias)
        dt, B, C = mixer.x_proj(u).split(mixer.split, dim=-1)
        y = selective_scan_step(
            ssm,
            u,
            linear(dt, mixer.dt_proj.weight),
            self._A,
            B[:, None],
            C[:, None],
            mixer.D,
            z,
            mixer.dt_proj.bias,
            softplus=True,
        )
        return mixer.out_proj(y)[:, None], stream
