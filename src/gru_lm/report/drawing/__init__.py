"""Drawing functions of the pictures by topic, and the sentences in their titles."""
