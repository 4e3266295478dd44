"""The pictures and the page. Reads results; computes none."""
