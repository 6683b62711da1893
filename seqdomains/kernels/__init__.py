"""Ops of the backbone, each with a plain reference, a CPU implementation and a Triton one, behind one function.

See README.md in this folder for the recurrence, its adjoint, and which implementation runs when.
"""

from __future__ import annotations

from seqdomains.kernels.causal_conv1d import causal_conv1d
from seqdomains.kernels.dispatch import implementation
from seqdomains.kernels.rms_norm import rms_norm
from seqdomains.kernels.selective_scan import selective_scan
from seqdomains.kernels.selective_scan_step import selective_scan_step

__all__ = ["causal_conv1d", "implementation", "rms_norm", "selective_scan", "selective_scan_step"]
