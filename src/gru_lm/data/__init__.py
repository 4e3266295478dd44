"""Text, vocabulary and token arrays."""
