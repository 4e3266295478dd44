"""Other implementations: the textbook's package d2l, flashrnn, JAX and Keras."""
