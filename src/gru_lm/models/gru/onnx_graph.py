"""Convert a GRU, or a stack of them, to ONNX's GRU operator.

The graph, for B sequences of T steps, V tokens in the vocabulary and H hidden units::

    tokens (B, T) → Transpose → OneHot (T, B, V) → GRU → Squeeze (T, B, H) → Transpose (B, T, H)
    state (B, H) → Unsqueeze (1, B, H) ───────────↗ ↘      → MatMul → Add → logits (B, T, V)
                                                     Squeeze → next_state (B, H)

The operator computes the equations of ``scratch/model.py`` with the reset gate before or after the
product (``linear_before_reset``): https://onnx.ai/onnx/operators/onnx__GRU.html. It multiplies its
input X by a matrix in any case, so X is one-hot. OneHot needs no V × V constant. It returns zeros
for a token number of V or more.

With an embedding, Gather replaces OneHot. Each further layer is another GRU and Squeeze. The state
is split among the layers (Split), and their last states are joined (Concat). With the adaptive
softmax (``models/output.py``), MatMul and Add at the end compute its head, whose log-probabilities
are added to those within each group of rarer tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper
from torch import Tensor

from gru_lm.models.onnx_graph import as_model

if TYPE_CHECKING:
    from gru_lm.models.output import AdaptiveSoftmax


def with_gru_operator(weights: Mapping[str, Tensor], variant: str) -> onnx.ModelProto:
    """Return the float32 graph of a GRU with the weights of ``GRU.textbook_weights``.

    The metadata are ``variant`` and ``reset``.
    """
    return with_gru_operators([weights], variant)


def with_gru_operators(
    layers: Sequence[Mapping[str, Tensor]],
    variant: str,
    embedding: Tensor | None = None,
    adaptive: AdaptiveSoftmax | None = None,
) -> onnx.ModelProto:
    """Return the float32 graph of a stack of GRUs.

    ``layers`` are weights with the names of ``GRU.textbook_weights``, from first to last. The
    inputs of the first are the rows of ``embedding`` (V, E), or one-hot without it. Only the last
    has an output layer. If it has b_q alone, its matrix is ``embedding``, which is stored once. No
    layer has one if ``adaptive`` is given. The metadata are ``variant`` and ``reset``.
    """
    arrays = [{name: _array(weight) for name, weight in weights.items()} for weights in layers]
    reset = "after" if "b_hh" in arrays[0] else "before"
    H = len(arrays[0]["b_z"])
    V = len(arrays[-1]["b_q"]) if adaptive is None else adaptive.n_classes
    several = len(layers) > 1
    constants: dict[str, np.ndarray] = {}
    nodes = [helper.make_node("Transpose", ["tokens"], ["steps"], perm=[1, 0])]  # (T, B)
    if embedding is None:
        nodes.append(helper.make_node("OneHot", ["steps", "V", "off_on"], ["X"], axis=-1))
    else:
        constants["E"] = _array(embedding)
        nodes.append(helper.make_node("Gather", ["E", "steps"], ["X"]))  # (T, B, E)
    if several:
        states = [f"state_{number}" for number in range(len(layers))]  # each (B, H)
        nodes.append(helper.make_node("Split", ["state"], states, axis=1))
    inputs, lasts = "X", []
    for number, w in enumerate(arrays):
        end = f"_{number}" if several else ""
        last = f"next_state{end}"
        none = np.zeros(H, np.float32)
        # The operator's order is update, reset, candidate. It has two biases per gate, which it
        # adds for the first two gates.
        biases = [w["b_z"], w["b_r"], w["b_h"], none, none, w.get("b_hh", none)]
        constants |= {
            f"W{end}": np.concatenate([w["W_xz"].T, w["W_xr"].T, w["W_xh"].T])[None],  # (1, 3H, I)
            f"R{end}": np.concatenate([w["W_hz"].T, w["W_hr"].T, w["W_hh"].T])[None],  # (1, 3H, H)
            f"B{end}": np.concatenate(biases)[None],
        }
        nodes += [
            helper.make_node("Unsqueeze", [f"state{end}", "axis_0"], [f"initial_h{end}"]),
            helper.make_node(
                "GRU",
                [inputs, f"W{end}", f"R{end}", f"B{end}", "", f"initial_h{end}"],
                [f"Y{end}", f"Y_h{end}"],  # (T, 1, B, H), (1, B, H)
                hidden_size=H,
                linear_before_reset=int(reset == "after"),
            ),
            helper.make_node("Squeeze", [f"Y_h{end}", "axis_0"], [last]),  # (B, H)
            helper.make_node("Squeeze", [f"Y{end}", "axis_1"], [f"states_by_step{end}"]),
        ]
        inputs = f"states_by_step{end}"  # (T, B, H)
        lasts.append(last)
    if several:
        nodes.append(helper.make_node("Concat", lasts, ["next_state"], axis=1))
    nodes.append(helper.make_node("Transpose", [inputs], ["states"], perm=[1, 0, 2]))
    if adaptive is not None:
        more, numbers = _adaptive_output(adaptive)
        nodes += more
        constants |= numbers
    elif "W_hq" in arrays[-1]:
        constants["W_hq"] = np.ascontiguousarray(arrays[-1]["W_hq"])
    else:
        nodes.append(helper.make_node("Transpose", ["E"], ["W_hq"], perm=[1, 0]))
    if adaptive is None:
        constants["b_q"] = arrays[-1]["b_q"]
        nodes += [
            helper.make_node("MatMul", ["states", "W_hq"], ["products"]),  # (B, T, V)
            helper.make_node("Add", ["products", "b_q"], ["logits"]),
        ]
    if embedding is None:
        constants |= {"V": np.array(V, np.int64), "off_on": np.array([0, 1], np.float32)}
    constants |= {"axis_0": np.array([0], np.int64), "axis_1": np.array([1], np.int64)}
    units = f"{len(layers)} layers of {H}" if several else f"{H}"
    description = (
        f"A GRU language model with {units} hidden units, {V} tokens and the reset gate {reset} "
        "the recurrent product. It reads token numbers and an initial state (zeros before the "
        "first token). It returns the logits of each next token and the final state."
    )
    metadata = {"variant": variant, "reset": reset}
    S = len(layers) * H
    return as_model("gru_language_model", nodes, constants, V, S, description, metadata)


def _adaptive_output(
    adaptive: AdaptiveSoftmax,
) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Return the nodes from ``states`` (B, T, H) to ``logits`` (B, T, V), and their constants."""
    groups = range(len(adaptive.tail))
    sizes = [adaptive.shortlist_size, *(1 for _ in groups)]
    constants = {
        "W_head": _array(adaptive.head.weight.T),
        "b_head": _array(adaptive.head.bias),
        "sizes": np.array(sizes, np.int64),
    }
    nodes = [
        helper.make_node("MatMul", ["states", "W_head"], ["head_products"]),
        helper.make_node("Add", ["head_products", "b_head"], ["head_scores"]),
        helper.make_node("LogSoftmax", ["head_scores"], ["head"], axis=-1),
        helper.make_node(
            "Split", ["head", "sizes"], ["frequent", *(f"group_{n}" for n in groups)], axis=-1
        ),
    ]
    for n, tail in enumerate(adaptive.tail):
        for place, weight in enumerate(tail.parameters()):
            constants[f"W_{n}_{place}"] = _array(weight.T)
        nodes += [
            helper.make_node("MatMul", ["states", f"W_{n}_0"], [f"reduced_{n}"]),
            helper.make_node("MatMul", [f"reduced_{n}", f"W_{n}_1"], [f"scores_{n}"]),
            helper.make_node("LogSoftmax", [f"scores_{n}"], [f"within_{n}"], axis=-1),
            helper.make_node("Add", [f"within_{n}", f"group_{n}"], [f"rare_{n}"]),
        ]
    parts = ["frequent", *(f"rare_{n}" for n in groups)]
    return [*nodes, helper.make_node("Concat", parts, ["logits"], axis=-1)], constants


def _array(weight: Tensor) -> np.ndarray:
    array: np.ndarray = weight.detach().cpu().float().numpy()
    return array
