"""The variant fused: a backward pass derived by hand, with kernels for CPU and GPU."""
