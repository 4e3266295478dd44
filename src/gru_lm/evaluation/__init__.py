"""Evaluation: perplexity, uncertainty, seeds and baselines."""
