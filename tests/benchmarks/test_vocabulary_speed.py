"""The benchmark of large vocabularies, with small real measurements."""

from __future__ import annotations

import sys

import pytest
import torch

from benchmarks.speed import vocabulary


def test_a_point_measures_speed_and_memory(monkeypatch):
    monkeypatch.setattr(vocabulary, "OURS", {"adaptive, bf16": ("adaptive", "bf16")})
    monkeypatch.setattr(vocabulary, "PLAIN", ("plain, fp32",))
    point = vocabulary.measure_point(28, 1, 1)
    for name in ("plain, fp32", "adaptive, bf16"):
        assert point["tokens_per_second"][name]["median"] > 0
        if sys.platform == "linux":
            assert 100_000_000 < point["peak_bytes"][name] < 4_000_000_000
    assert "adaptive, bf16" in vocabulary.table([point])


def test_target_needs_speed_and_memory():
    def point(speed: float, peak: int) -> dict[str, object]:
        speeds = {name: {"median": speed} for name in vocabulary.OURS}
        peaks = dict.fromkeys(vocabulary.OURS, peak)
        return {"vocabulary": 50_000, "tokens_per_second": speeds, "peak_bytes": peaks}

    for speed, peak, met in ((3_000, 10**9, True), (2_999, 10**9, False), (3_000, 2**31, False)):
        assert set(vocabulary.reached([point(speed, peak)]).values()) == {met}
    assert set(vocabulary.reached([]).values()) == {None}


def test_tokens_are_as_frequent_as_words():
    tokens = torch.cat(
        [part.flatten() for X, Y in vocabulary.zipf_minibatches(1_000, 40) for part in (X, Y)]
    )
    counts = torch.bincount(tokens, minlength=1_000).double()
    expected = 1 / sum(1 / rank for rank in range(1, 1_001))
    assert counts[0] / len(tokens) == pytest.approx(expected, rel=0.05)
    assert counts[1] / counts[0] == pytest.approx(1 / 2, rel=0.1)
