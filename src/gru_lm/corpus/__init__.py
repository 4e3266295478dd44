"""Sources of a corpus, and its download."""
