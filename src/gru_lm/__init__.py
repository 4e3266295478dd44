"""Gated recurrent unit (GRU) language models.

This file imports nothing. Importing a module loads only what it needs, so a pipeline stage depends
on exactly the files that it uses.
"""
