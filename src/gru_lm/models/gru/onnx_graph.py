"""Convert a GRU to ONNX's GRU operator.

The graph, for B sequences of T steps, V tokens in the vocabulary and H hidden units::

    tokens (B, T) → Transpose → OneHot (T, B, V) → GRU → Squeeze (T, B, H) → Transpose (B, T, H)
    state (B, H) → Unsqueeze (1, B, H) ───────────↗ ↘      → MatMul → Add → logits (B, T, V)
                                                     Squeeze → next_state (B, H)

The operator computes the equations of ``scratch/model.py`` with the reset gate before or after the
product (``linear_before_reset``): https://onnx.ai/onnx/operators/onnx__GRU.html. It multiplies its
input X by a matrix in any case, so X is one-hot. OneHot needs no V × V constant. It returns zeros
for a token number of V or more.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper
from torch import Tensor

from gru_lm.models.onnx_graph import as_model


def with_gru_operator(weights: Mapping[str, Tensor], variant: str) -> onnx.ModelProto:
    """Return the float32 graph of a GRU with the weights of ``GRU.textbook_weights``.

    The metadata are ``variant`` and ``reset``.
    """
    w = {name: weight.detach().cpu().float().numpy() for name, weight in weights.items()}
    reset = "after" if "b_hh" in w else "before"
    V, H = w["W_xz"].shape
    none = np.zeros(H, np.float32)
    constants = {
        # The operator's order is update, reset, candidate. It has two biases per gate, which it
        # adds for the first two gates.
        "W": np.concatenate([w["W_xz"].T, w["W_xr"].T, w["W_xh"].T])[None],  # (1, 3H, V)
        "R": np.concatenate([w["W_hz"].T, w["W_hr"].T, w["W_hh"].T])[None],  # (1, 3H, H)
        "B": np.concatenate([w["b_z"], w["b_r"], w["b_h"], none, none, w.get("b_hh", none)])[None],
        "W_hq": np.ascontiguousarray(w["W_hq"]),
        "b_q": w["b_q"],
        "V": np.array(V, np.int64),
        "off_on": np.array([0, 1], np.float32),
        "axis_0": np.array([0], np.int64),
        "axis_1": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Transpose", ["tokens"], ["steps"], perm=[1, 0]),  # (T, B)
        helper.make_node("OneHot", ["steps", "V", "off_on"], ["X"], axis=-1),  # (T, B, V)
        helper.make_node("Unsqueeze", ["state", "axis_0"], ["initial_h"]),  # (1, B, H)
        helper.make_node(
            "GRU",
            ["X", "W", "R", "B", "", "initial_h"],
            ["Y", "Y_h"],  # (T, 1, B, H), (1, B, H)
            hidden_size=H,
            linear_before_reset=int(reset == "after"),
        ),
        helper.make_node("Squeeze", ["Y_h", "axis_0"], ["next_state"]),  # (B, H)
        helper.make_node("Squeeze", ["Y", "axis_1"], ["states_by_step"]),  # (T, B, H)
        helper.make_node("Transpose", ["states_by_step"], ["states"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["states", "W_hq"], ["products"]),  # (B, T, V)
        helper.make_node("Add", ["products", "b_q"], ["logits"]),
    ]
    description = (
        f"A GRU language model with {H} hidden units, {V} tokens and the reset gate {reset} the "
        "recurrent product. It reads token numbers and an initial state (zeros before the first "
        "token). It returns the logits of each next token and the final state."
    )
    metadata = {"variant": variant, "reset": reset}
    return as_model("gru_language_model", nodes, constants, V, H, description, metadata)
