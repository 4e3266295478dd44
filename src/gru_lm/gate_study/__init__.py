"""Analysis of the gates of trained models."""
