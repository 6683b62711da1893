"""Genomics and audio on one Mamba backbone, with selective-scan kernels that install without a compiler."""

__version__ = "0.1.0.dev0"
