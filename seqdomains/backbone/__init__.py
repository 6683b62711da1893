"""The Mamba backbone: configuration, block, model, heads, inference state, artefacts."""
