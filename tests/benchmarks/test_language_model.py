"""The benchmark of layers at the sizes of a language model, with small real measurements."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.speed import language_model


def test_a_point_measures_every_layer_in_both_precisions(tmp_path):
    threads = torch.get_num_threads()
    try:
        point = language_model.measure_point(16, 1, 1, 1, tmp_path)
    finally:
        torch.set_num_threads(threads)
    speeds = point["tokens_per_second"]
    for layer in ("nn.GRU", "fused"):
        for precision in language_model.PRECISIONS:
            assert speeds[f"{layer}-{precision}"]["median"] > 0
    assert "not a virtual environment" in point["missing"]["jax"]
    reached = {row["to"]: row["met"] for row in point["targets"]}
    assert reached.pop("jax") is None
    assert all(isinstance(met, bool) for met in reached.values())
    assert "fused-bf16" in language_model.table([point])


def test_targets_compare_medians():
    speeds = {"fused-fp32": [3.0, 30.0, 2.0], "nn.GRU-fp32": [2.0, 1.0, 2.0], "jax": [4.0] * 3}
    speeds |= {"fused-bf16": [1.0] * 3}
    rows = list(language_model.judge(speeds))
    assert [(row["ratio"], row["met"]) for row in rows] == [
        (1.5, True),
        (0.75, False),
        (None, None),
    ]


@pytest.mark.parametrize("precision", language_model.PRECISIONS)
def test_the_reference_is_nn_gru(precision):
    torch.manual_seed(0)
    layer, inputs, state = language_model.TorchGRU(4, 8), torch.randn(5, 3, 4), torch.randn(3, 8)
    assert isinstance(layer.gru, nn.GRU)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        outputs, last = layer(inputs, state)
    expected, expected_last = layer.gru(inputs, state[None])
    tolerance = 1e-6 if precision == "fp32" else 0.03
    torch.testing.assert_close(outputs.float(), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(last.float(), expected_last[0], rtol=0, atol=tolerance)
