"""The training loop, its minibatches, its checkpoints and a run from start to end."""
