"""The Mamba mixer: gate, short convolution and selective scan, channels last from end to end."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from seqdomains.backbone.config import MambaConfig
from seqdomains.backbone.parameters import unset
from seqdomains.backbone.precision import full_precision
from seqdomains.backbone.sequence_parallel import SequenceShard
from seqdomains.backbone.state import LayerState
from seqdomains.kernels import causal_conv1d, selective_scan


class MambaMixer(nn.Module):
    """Selective state-space mixer with the parameter names of the official code.

    Parameters are left unset: `seqdomains.backbone.initialisation.initialise` fills a whole model.

    Parameters
    ----------
    config : MambaConfig
        Sizes; D below is `config.d_inner`, N is `config.d_state`, R is `config.rank`, W is `config.d_conv`.

    References
    ----------
    Gu and Dao, arXiv:2312.00752, figure 3 and algorithm 2.

    Examples
    --------
    >>> from seqdomains.backbone.initialisation import initialise
    >>> config = MambaConfig(d_model=8, n_layer=1)
    >>> mixer = MambaMixer(config)
    >>> initialise(mixer, config)
    >>> out, state = mixer(torch.zeros(2, 5, 8), return_state=True)
    >>> tuple(out.shape), tuple(state.conv.shape), tuple(state.ssm.shape)
    ((2, 5, 8), (2, 3, 16), (2, 16, 16))
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        d, D, N, R = config.d_model, config.d_inner, config.d_state, config.rank
        self.split = (R, N, N)
        self.biased = config.bias
        self.in_proj = unset(nn.Linear, d, 2 * D, bias=config.bias)
        # conv1d and dt_proj hold parameters under their official names; the kernels apply them.
        self.conv1d = unset(nn.Conv1d, D, D, config.d_conv, groups=D, bias=config.conv_bias)
        self.x_proj = unset(nn.Linear, D, R + 2 * N, bias=False)
        self.dt_proj = unset(nn.Linear, R, D)
        self.A_log = nn.Parameter(torch.empty(D, N))
        self.D = nn.Parameter(torch.empty(D))
        self.out_proj = unset(nn.Linear, D, d, bias=config.bias)

    def forward(
        self,
        hidden: Tensor,
        state: LayerState | None = None,
        *,
        return_state: bool = False,
        shard: SequenceShard | None = None,
    ) -> tuple[Tensor, LayerState | None]:
        """Mix `hidden` over time.

        Parameters
        ----------
        hidden : Tensor, shape (B, L, d_model)
            Normalised input.
        state : LayerState, optional
            Memory of the tokens before; none means the sequence begins here.
        return_state : bool
            Whether to give back the memory after the last token.
        shard : SequenceShard, optional
            Which part of the sequence `hidden` is, where other ranks have the rest; the states are those before and
            after all of it.

        Returns
        -------
        hidden : Tensor, shape (B, L, d_model)
        state : LayerState or None
        """
        x, z = self._project_in(hidden)
        before = None if state is None else state.conv.to(x.dtype)
        after = None
        if shard is not None:
            before, after = shard.tails(x, before, self.conv1d.kernel_size[0] - 1)
        u, conv = causal_conv1d(
            x,
            self.conv1d.weight.squeeze(1),
            self.conv1d.bias,
            activation="silu",
            state=before,
            return_state=True,
        )
        dt, B, C = self.x_proj(u).split(self.split, dim=-1)
        # exp of a bf16 A_log would be off by up to 0.8 % for the fastest states; float64 models stay in float64.
        A = -torch.exp(full_precision(self.A_log))
        # The product with a contiguous transpose of this small matrix is 1 ms of 20 faster on a CPU (width 64).
        dt = dt @ self.dt_proj.weight.t().contiguous()
        h0 = None if state is None else state.ssm
        if shard is None:
            y, ssm = selective_scan(
                u, dt, A, B, C, self.D, z, self.dt_proj.bias, softplus=True, h0=h0, return_state=True
            )
        else:
            y, ssm = shard.scan(u, dt, A, B, C, self.D, z, self.dt_proj.bias, h0=h0)
        return self.out_proj(y), LayerState(conv if after is None else after, ssm) if return_state else None

    def _project_in(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Give the scan's input and its gate, each (B, L, D) and contiguous.

        Two products with the halves of the weight instead of one whose halves are strided views: the kernels read
        contiguous memory, and copying both halves costs more than the second read of `hidden`.
        """
        to_x, to_z = self.in_proj.weight.chunk(2)
        bias_x, bias_z = self.in_proj.bias.chunk(2) if self.biased else (None, None)
        return linear(hidden, to_x, bias_x), linear(hidden, to_z, bias_z)
