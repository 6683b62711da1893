"""The fused operations under the backbone: selective scan, causal convolution, RMS norm."""
