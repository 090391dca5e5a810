"""What runs inside the transformer: fused kernels, attention, modulation, recomputation."""
