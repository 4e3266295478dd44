"""Gated recurrent unit (GRU) language models.

This file imports nothing, so that importing one module of the package loads only what that
module needs, and a pipeline stage depends on exactly the files it uses.
"""
