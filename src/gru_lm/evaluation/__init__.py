"""What a model is worth: perplexity, calibration, further seeds, baselines."""
