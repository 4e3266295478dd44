"""Bytes from outside: where a corpus comes from, and how it is downloaded."""
