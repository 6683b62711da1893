"""The ops without autograd, in both directions, for functions that write their own backward.

Tensors are given as the public functions take them, but unchecked, and under no autocast. Gradients of absent inputs
are empty tensors.

The scan and its backward take a function `enter` as a keyword, for a part of time whose neighbours are elsewhere: real
A, B and C (B, L, N), in the order of time, not packed. `scan` is then given no h0, tells `enter` where the part leads
from a state of zero, shape (B, D, N), and its sum of d, shape (B, D), and takes what it returns for h0.
`scan_backward` tells it the gradient of the first state if that of the last were zero, and takes what it returns for
dh_last. The GPU kernels find this on their way, between two passes that they make anyway; on a CPU it is one pass more
each way, without outputs.
"""

from __future__ import annotations

from seqdomains.kernels.causal_conv1d import _run as convolve
from seqdomains.kernels.causal_conv1d import _run_backward as convolve_backward
from seqdomains.kernels.rms_norm import _run as normalise
from seqdomains.kernels.rms_norm import _run_again as normalise_again
from seqdomains.kernels.rms_norm import _run_backward as normalise_backward
from seqdomains.kernels.selective_scan import _repeats_output as scan_repeats_output
from seqdomains.kernels.selective_scan import _run as scan
from seqdomains.kernels.selective_scan import _run_backward as scan_backward
from seqdomains.kernels.selective_scan import _run_backward_with_output as scan_backward_with_output

__all__ = [
    "convolve",
    "convolve_backward",
    "normalise",
    "normalise_again",
    "normalise_backward",
    "scan",
    "scan_backward",
    "scan_backward_with_output",
    "scan_repeats_output",
]
