"""What a Mamba model remembers of the tokens it has read: the same object for prefill, streaming and single steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class LayerState(NamedTuple):
    """Memory of one block.

    Parameters
    ----------
    conv : Tensor, shape (B, d_conv - 1, d_inner)
        The last inputs of the convolution, in their own dtype.
    ssm : Tensor, shape (B, d_inner, d_state)
        State of the scan, fp32 or complex64: in bf16 its small updates are lost.
    """

    conv: Tensor
    ssm: Tensor


class PoolState(NamedTuple):
    """Memory between two stages.

    Parameters
    ----------
    pending : Tensor, shape (B, k, d_model of the outer stage)
        Vectors of a group that is not yet whole; k is below the pooling factor.
    held : Tensor, shape (B, 1, pooling factor * d_model of the outer stage)
        What the inner stage has said of the last whole group, for the positions of the next; zero before the first.
    """

    pending: Tensor
    held: Tensor


@dataclass(frozen=True)
class InferenceState:
    """Memory of a whole model, one entry per block; a call returns a new one and leaves the old one as it was.

    Its size does not depend on how many tokens were read. Gradients flow through it, so a sequence may be trained in
    chunks; `detach` cuts them.

    Parameters
    ----------
    layers : tuple of LayerState
        In the order of the blocks.
    pools : tuple of PoolState
        Of a model with stages, from the outermost border to the innermost.

    Examples
    --------
    >>> import torch
    >>> from seqdomains.backbone import MambaConfig, MambaLM
    >>> model = MambaLM(MambaConfig(d_model=16, n_layer=2)).eval()
    >>> tokens = torch.tensor([[0, 1, 2, 3, 0, 1]])
    >>> with torch.no_grad():
    ...     whole = model(tokens)
    ...     _, state = model(tokens[:, :5], return_state=True)
    ...     step, state = model(tokens[:, 5:], state=state, return_state=True)
    >>> torch.allclose(step[:, 0], whole[:, 5], rtol=1e-5, atol=1e-5)
    True
    """

    layers: tuple[LayerState, ...]
    pools: tuple[PoolState, ...] = ()

    def tensors(self) -> list[Tensor]:
        """Return all its tensors in a fixed order; `with_tensors` is the other way."""
        return [one for part in (*self.layers, *self.pools) for one in part]

    def with_tensors(self, tensors: Sequence[Tensor]) -> InferenceState:
        """Return a state of the same form that holds other tensors."""
        pairs = list(zip(tensors[::2], tensors[1::2], strict=True))
        blocks = len(self.layers)
        return InferenceState(
            tuple(LayerState(*pair) for pair in pairs[:blocks]), tuple(PoolState(*pair) for pair in pairs[blocks:])
        )

    def detach(self) -> InferenceState:
        """Return the same state cut from the graph that computed it."""
        return self.with_tensors([one.detach() for one in self.tensors()])
