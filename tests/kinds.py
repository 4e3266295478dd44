"""The GRU variants with each of their options, random models, and sizes for hypothesis."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gru_lm.models.base import build_model
from gru_lm.models.gru.family import GRU

KINDS = {
    "scratch-before": ("scratch", {"reset": "before"}),
    "scratch-after": ("scratch", {"reset": "after"}),
    "fused-before": ("fused", {"reset": "before"}),
    "fused-after": ("fused", {"reset": "after"}),
    "concise": ("concise", {}),
}
each_kind = pytest.mark.parametrize("kind", KINDS)
any_size = given(
    V=st.integers(1, 12),
    H=st.integers(1, 24),
    B=st.integers(1, 6),
    T=st.integers(1, 20),
    seed=st.integers(0, 10_000),
)


def random_model(kind: str, V: int, H: int, seed: int) -> GRU:
    """Return a model with weights large enough that all gates, biases and ``reset`` matter."""
    torch.manual_seed(seed)
    variant, options = KINDS[kind]
    model = build_model(variant, V, hidden_size=H, **options)
    assert isinstance(model, GRU)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 1 / max(1, weight.shape[-1]) ** 0.5)
    return model


def reset_of(kind: str) -> str:
    return KINDS[kind][1].get("reset", "after")
