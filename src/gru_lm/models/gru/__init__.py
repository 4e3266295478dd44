"""Code shared by the GRU variants, based on weights with the textbook's names."""
