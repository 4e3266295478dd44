"""Comparison of the training with the textbook's, and of different seeds."""
