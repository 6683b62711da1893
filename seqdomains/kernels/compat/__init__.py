"""The functions of `mamba_ssm` and `causal_conv1d` in their own signatures and layouts, run by our kernels.

Of the two single steps only `cache_seqlens`, `conv_state_indices` and `state_batch_indices` are missing.

Tensors are (batch, dim, L) here, time last. The kernels read them channels last: a transposed view of a channels-last
tensor, which is what a linear layer leaves, passes without a copy, and so does what the functions return.
`patch_transformers` gives them to the Mamba models of transformers.
"""

from __future__ import annotations

from seqdomains.kernels.compat.convolution import causal_conv1d_fn, causal_conv1d_update
from seqdomains.kernels.compat.inner import mamba_inner_fn
from seqdomains.kernels.compat.scan import selective_scan_fn, selective_state_update
from seqdomains.kernels.compat.transformers_patch import TransformersPatch, patch_transformers

__all__ = [
    "TransformersPatch",
    "causal_conv1d_fn",
    "causal_conv1d_update",
    "mamba_inner_fn",
    "patch_transformers",
    "selective_scan_fn",
    "selective_state_update",
]
