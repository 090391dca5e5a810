"""The transformer's own parts: fused kernels, attention, modulation, recomputation."""
