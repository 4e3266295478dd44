"""Kernels that are not part of the library, and their timing against the library's."""
