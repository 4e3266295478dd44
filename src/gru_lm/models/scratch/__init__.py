"""The variant scratch: the GRU's equations, written out."""
