"""The models: shared code, and one folder per variant."""
