"""A trained model outside torch, and the check that it computes the same."""
