"""Speed of training and sampling, compared with other implementations, and peak memory."""
