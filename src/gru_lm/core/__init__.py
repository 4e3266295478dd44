"""Errors, files, params.yaml and the names of the variants: what every stage uses."""
