"""The variant fused, with a hand-derived backward pass and kernels for CPU and GPU."""
