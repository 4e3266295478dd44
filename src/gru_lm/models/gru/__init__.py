"""What the GRU variants share: weights by the textbook's names, and what follows from them."""
