"""The variant concise, based on torch's nn.GRU."""
