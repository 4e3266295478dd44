"""The recurrent layers of all variants that have one, with each of their options."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gru_lm.core.variants import known_variants
from gru_lm.models.layer import GRULayer

RESETS = ("before", "after")


def _kinds() -> dict[str, tuple[str, dict[str, Any]]]:
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for variant in known_variants():
        folder = f"gru_lm.models.{variant}"
        if importlib.util.find_spec(f"{folder}.recurrent") is None:
            continue
        options = importlib.import_module(f"{folder}.settings").Options.model_fields
        if "reset" in options:
            found |= {f"{variant}-{reset}": (variant, {"reset": reset}) for reset in RESETS}
        else:
            found[variant] = (variant, {})
    return found


KINDS = _kinds()
each_kind = pytest.mark.parametrize("kind", KINDS)


def random_layer(
    kind: str, input_size: int, hidden_size: int, recurrent_dropout: float = 0.0, seed: int = 5
) -> GRULayer:
    """Return a layer in eval mode with weights large enough that all of them matter."""
    variant, options = KINDS[kind]
    module = importlib.import_module(f"gru_lm.models.{variant}.recurrent")
    torch.manual_seed(seed)
    layer: GRULayer = module.Layer(input_size, hidden_size, recurrent_dropout, **options)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.normal_(0, 0.6)
    return layer.eval()


def reset_of(kind: str) -> str:
    reset: str = KINDS[kind][1].get("reset", "after")
    return reset


def recurrent_parameters(layer: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Return the matrices that multiply the state. The input size must not be H or 3H."""
    H = layer.hidden_size
    square = [(H, H), (3 * H, H)]
    return [weight for weight in layer.parameters() if tuple(weight.shape) in square]


def gru_layer_numpy(
    weights: dict[str, Tensor], inputs: np.ndarray, state: np.ndarray, reset: str
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the GRU's equations for dense inputs (T, B, I) in float64, step by step."""
    w = {name: weight.detach().double().numpy() for name, weight in weights.items()}
    H, outputs = np.asarray(state, np.float64), []
    for X in np.asarray(inputs, np.float64):
        Z = 1 / (1 + np.exp(-(X @ w["W_xz"] + H @ w["W_hz"] + w["b_z"])))
        R = 1 / (1 + np.exp(-(X @ w["W_xr"] + H @ w["W_hr"] + w["b_r"])))
        if reset == "before":
            candidate = np.tanh(X @ w["W_xh"] + (R * H) @ w["W_hh"] + w["b_h"])
        else:
            candidate = np.tanh(X @ w["W_xh"] + w["b_h"] + R * (H @ w["W_hh"] + w["b_hh"]))
        H = Z * H + (1 - Z) * candidate
        outputs.append(H)
    return np.stack(outputs), H
