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


class ScanPath(nn.Module):
    """One direction of a mixer: a convolution, what tells the scan its step, B and C, and the scan, officially named.

    Step, B and C are projections of the convolution's output, `x_proj` and `dt_proj`; or, where the path is
    time-invariant, the parameters `dt_bias`, `B` and `C`, and the path is then the state space model that S4D is
    (arXiv:2206.11893). Complex ones are kept as their real parts and behind them the imaginary ones.
    """

    split: tuple[int, int, int]
    conv1d: nn.Conv1d
    x_proj: nn.Linear
    dt_proj: nn.Linear
    A_log: nn.Parameter
    D: nn.Parameter
    A_imag: nn.Parameter | None
    B: nn.Parameter
    C: nn.Parameter
    dt_bias: nn.Parameter

    def add_parameters(self, config: MambaConfig) -> None:
        """Give the path its parameters, unset."""
        D, N, R = config.d_inner, config.d_state, config.rank
        self.plain, self.selective = config.plain, config.time_invariant == "none"
        complex_ = config.states == "complex"
        # conv1d and dt_proj hold parameters under their official names; the kernels apply them.
        self.conv1d = unset(nn.Conv1d, D, D, config.d_conv, groups=D, bias=config.conv_bias)
        numbers = 2 * N if complex_ else N
        if self.selective:
            self.split = (R, numbers, numbers)
            self.x_proj = unset(nn.Linear, D, R + 2 * numbers, bias=False)
            self.dt_proj = unset(nn.Linear, R, D)
        else:
            self.B = nn.Parameter(torch.empty(D, numbers))
            self.C = nn.Parameter(torch.empty(D, numbers))
            self.dt_bias = nn.Parameter(torch.empty(D))
        self.A_log = nn.Parameter(torch.empty(D, N))
        self.A_imag = nn.Parameter(torch.empty(D, N)) if complex_ else None
        self.D = nn.Parameter(torch.empty(D))

    @property
    def step_bias(self) -> Tensor:
        """What is added to the step before softplus, shape (D,)."""
        return self.dt_proj.bias if self.selective else self.dt_bias

    def decay(self) -> Tensor:
        """Return A, shape (D, N): real, or complex."""
        # exp of a bf16 A_log would be off by up to 0.8 % for the fastest states; float64 models stay in float64.
        real = -torch.exp(full_precision(self.A_log))
        return real if self.A_imag is None else torch.complex(real, full_precision(self.A_imag))

    def projections(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the step before its bias, B and C, as the scan takes them.

        Parameters
        ----------
        u : Tensor, shape (B, L, D)
            The convolution's output.
        """
        if not self.selective:
            return u.new_zeros(()).expand(u.shape), self._numbers(self.B), self._numbers(self.C)
        dt, B, C = self.x_proj(u).split(self.split, dim=-1)
        # The product with a contiguous transpose of this small matrix is 1 ms of 20 faster on a CPU (width 64).
        return dt @ self.dt_proj.weight.t().contiguous(), self._numbers(B), self._numbers(C)

    def _numbers(self, values: Tensor) -> Tensor:
        return values if self.A_imag is None else torch.complex(*full_precision(values).chunk(2, dim=-1))

    def run(
        self,
        x: Tensor,
        z: Tensor,
        state: LayerState | None = None,
        *,
        shard: SequenceShard | None = None,
        reverse: bool = False,
        padding: Tensor | None = None,
    ) -> tuple[Tensor, LayerState]:
        """Convolve `x`, scan it and gate it with `z`, in one direction of time.

        Parameters
        ----------
        x, z : Tensor, shape (B, L, D)
            Halves of the inner projection.
        state, shard
            See `MambaMixer.forward`.
        reverse : bool
            Whether to run from the last position to the first.
        padding : Tensor of bool, shape (B, L, 1), optional
            Positions before which a reversed scan is to be as if they were not there; `x` is zero at them.

        Returns
        -------
        y : Tensor, shape (B, L, D)
        state : LayerState
            Behind the last position processed.
        """
        before = None if state is None else state.conv.to(x.dtype)
        weight, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        if shard is None:
            u, conv = causal_conv1d(
                x, weight, bias, activation="silu", state=before, return_state=True, reverse=reverse
            )
        else:
            u, conv = shard.convolve(x, weight, bias, before)
        if padding is not None:
            # The convolution's bias would move the state away from the zero that it begins with.
            u = u.masked_fill(padding, 0)
        dt, B, C = self.projections(u)
        A = self.decay()
        h0 = None if state is None else state.ssm
        if shard is None:
            y, ssm = selective_scan(
                u,
                dt,
                A,
                B,
                C,
                self.D,
                z,
                self.step_bias,
                softplus=True,
                h0=h0,
                return_state=True,
                reverse=reverse,
            )
        else:
            y, ssm = shard.scan(u, dt, A, B, C, self.D, z, self.step_bias, h0=h0)
        return y, LayerState(conv, ssm)


class ReversePath(ScanPath):
    """The path of a bidirectional mixer that runs from the last position to the first.

    Parameters
    ----------
    config : MambaConfig
        Sizes.
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.add_parameters(config)


class MambaMixer(ScanPath):
    """Selective state-space mixer with the parameter names of the official code.

    A bidirectional one has a second path of its own, `reverse`, with its own convolution, projections and decays; both
    read the same inner projection, and their sum goes through the same outer one (BiMamba with tied projections,
    arXiv:2403.03234, section 3.1). Parameters are left unset: `seqdomains.backbone.initialisation.initialise` fills a
    whole model.

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
        self.biased = config.bias
        self.in_proj = unset(nn.Linear, config.d_model, 2 * config.d_inner, bias=config.bias)
        self.add_parameters(config)
        self.out_proj = unset(nn.Linear, config.d_inner, config.d_model, bias=config.bias)
        self.reverse = ReversePath(config) if config.bidirectional else None

    @property
    def paths(self) -> tuple[ScanPath, ...]:
        """Its directions, the one from the first position to the last before the other."""
        return (self,) if self.reverse is None else (self, self.reverse)

    def refuse_state(self, state: object, *, return_state: bool, shard: object = None) -> None:
        """Raise ValueError where a bidirectional mixer is asked to go on, or to be gone on from."""
        if self.reverse is not None and (state is not None or return_state or shard is not None):
            raise ValueError("a bidirectional mixer reads whole sequences: it has no state to begin with or to leave")

    def forward(
        self,
        hidden: Tensor,
        state: LayerState | None = None,
        *,
        return_state: bool = False,
        shard: SequenceShard | None = None,
        padding: Tensor | None = None,
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
        padding : Tensor of bool, shape (B, L, 1), optional
            Positions behind the end of each sequence: what they hold changes nothing before them. Only a bidirectional
            mixer needs to be told.

        Returns
        -------
        hidden : Tensor, shape (B, L, d_model)
        state : LayerState or None

        Raises
        ------
        ValueError
            A bidirectional mixer is given a state or a shard, or asked for a state.
        """
        self.refuse_state(state, return_state=return_state, shard=shard)
        x, z = self._project_in(hidden)
        if self.reverse is None:
            y, after = self.run(x, z, state, shard=shard)
            return self.out_proj(y), after if return_state else None
        if padding is not None:
            x = x.masked_fill(padding, 0)
        y = self.run(x, z)[0] + self.reverse.run(x, z, reverse=True, padding=padding)[0]
        return self.out_proj(y), None

    def _project_in(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Give the scan's input and its gate, each (B, L, D) and contiguous.

        Two products with the halves of the weight instead of one whose halves are strided views: the kernels read
        contiguous memory, and copying both halves costs more than the second read of `hidden`.
        """
        to_x, to_z = self.in_proj.weight.chunk(2)
        bias_x, bias_z = self.in_proj.bias.chunk(2) if self.biased else (None, None)
        return linear(hidden, to_x, bias_x), linear(hidden, to_z, bias_z)
