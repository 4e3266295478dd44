"""GRUs and a text for the tests of gates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gru_lm.models.base import build_model
from gru_lm.models.gru.equations import Equations
from gru_lm.models.gru.family import GRU

V, H, N = 7, 10, 300
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("scratch", {"reset": "before"}),
    ("scratch", {"reset": "after"}),
    ("concise", {}),
    ("fused", {"reset": "before"}),
    ("fused", {"reset": "after"}),
]


def random_model(variant="scratch", vocab_size=V, hidden_size=H, **options: Any) -> GRU:
    torch.manual_seed(5)
    model = build_model(variant, vocab_size, hidden_size=hidden_size, **options)
    assert isinstance(model, GRU)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.7)
    return model


def random_stream() -> Tensor:
    return torch.randint(V, (N,), generator=torch.Generator().manual_seed(6))


def plain_gates(**biases: Tensor) -> Equations:
    """Return a GRU without recurrence whose gates depend on biases only. Token v drives unit v."""
    zeros = torch.zeros(V, V)
    w = {f"W_{kind}{gate}": zeros.clone() for kind in "xh" for gate in "zrh"}
    w |= {f"b_{gate}": torch.zeros(V) for gate in "zrh"}
    w |= {"W_xh": torch.eye(V) * 20, "W_hq": torch.eye(V), "b_q": torch.zeros(V)}  # tanh(20) = 1
    return Equations(w | biases)
