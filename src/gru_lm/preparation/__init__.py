"""Preparation of the corpus: the vocabulary and the splits."""
