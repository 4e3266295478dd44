"""The pictures by topic, and the sentences in their titles."""
