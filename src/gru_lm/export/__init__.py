"""Export of a trained model to ONNX, and the check that its results are the same."""
