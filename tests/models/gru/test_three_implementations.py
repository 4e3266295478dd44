"""Three independent implementations of the GRU agree pairwise.

They are the project's GRU variants, ONNX Runtime's GRU operator, and the equations in float64 NumPy
(``reference.gru_numpy``). The operator's definition is
https://onnx.ai/onnx/operators/onnx__GRU.html. Its weights are in the order update, reset,
candidate, and ``linear_before_reset`` is reset "after". The test builds its own graph, so it does
not depend on ``gru_lm.models.gru.onnx_graph``.
"""

from __future__ import annotations

import numpy as np
import onnxruntime
import torch
from hypothesis import settings
from kinds import any_size, each_kind, random_model, reset_of
from onnx import TensorProto, helper
from reference import gru_numpy


def run_operator(
    weights: dict[str, np.ndarray], tokens: np.ndarray, state: np.ndarray, reset: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return ONNX Runtime's logits (T, B, V) and last state (B, H) for tokens (B, T)."""
    V, H = weights["W_xz"].shape
    none = np.zeros(H, np.float32)
    inputs = {
        "X": np.eye(V, dtype=np.float32)[tokens.T],
        "W": np.concatenate([weights[f"W_x{gate}"].T for gate in "zrh"])[None],
        "R": np.concatenate([weights[f"W_h{gate}"].T for gate in "zrh"])[None],
        "B": np.concatenate(
            [weights["b_z"], weights["b_r"], weights["b_h"], none, none, weights.get("b_hh", none)]
        )[None],
        "initial_h": state[None],
    }
    node = helper.make_node(
        "GRU",
        ["X", "W", "R", "B", "", "initial_h"],
        ["Y", "Y_h"],
        hidden_size=H,
        linear_before_reset=int(reset == "after"),
    )
    graph = helper.make_graph(
        [node],
        "gru",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape)
            for name, value in inputs.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("Y", "Y_h")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    states, last = session.run(None, {name: np.float32(value) for name, value in inputs.items()})
    return states[:, 0] @ weights["W_hq"] + weights["b_q"], last[0]


Result = tuple[np.ndarray, np.ndarray]  # logits (T, B, V) and last state (B, H)


def three_results(
    kind: str, V: int, H: int, B: int, T: int, seed: int, reset: str, dtype: torch.dtype
) -> tuple[Result, Result, Result]:
    """Return the results of the variant in ``dtype``, the operator and the equations."""
    model = random_model(kind, V, H, seed)
    tokens, state = torch.randint(V, (B, T)), torch.randn(B, H)
    arrays = {name: weight.numpy().copy() for name, weight in model.textbook_weights().items()}
    operator = run_operator(arrays, tokens.numpy(), state.numpy(), reset)
    model, state = model.to(dtype), state.to(dtype)
    weights = model.textbook_weights()  # in dtype, in which pairs of biases are added
    equations = gru_numpy(weights, tokens.numpy(), state.numpy(), reset_of(kind))
    with torch.no_grad():
        logits, last = model(tokens, state)
    return (logits.numpy(), last.numpy()), operator, equations


def difference(one: Result, other: Result) -> float:
    """Return the largest difference in logits and last state."""
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


def assert_all_agree(kind: str, V: int, H: int, B: int, T: int, seed: int) -> None:
    size = (kind, V, H, B, T, seed, reset_of(kind))
    variant, operator, equations = three_results(*size, torch.float32)
    assert difference(variant, operator) < 1e-5
    assert difference(operator, equations) < 1e-5
    exact, _, equations = three_results(*size, torch.float64)
    assert difference(exact, equations) < 1e-12


@each_kind
@any_size
@settings(max_examples=25, deadline=None)
def test_three_implementations_agree(kind, V, H, B, T, seed):
    assert_all_agree(kind, V, H, B, T, seed)


@each_kind
def test_three_implementations_agree_at_default_sizes(kind):
    assert_all_agree(kind, 28, 256, 32, 35, 0)


@each_kind
def test_other_reset_is_another_function(kind):
    other = {"before": "after", "after": "before"}[reset_of(kind)]
    variant, operator, equations = three_results(kind, 6, 8, 3, 10, 0, other, torch.float32)
    assert difference(variant, operator) > 1e-2
    assert difference(operator, equations) > 1e-2
