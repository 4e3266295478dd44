"""How a corpus is cut into splits."""
