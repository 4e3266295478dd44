"""The variant scratch, which writes out the GRU's equations."""
