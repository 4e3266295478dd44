"""The variant concise: torch's own nn.GRU."""
