"""A trained model as one ONNX file, which writes text without torch and without this project.

The graph, for B sequences of T steps, V tokens in the vocabulary and H hidden units::

    tokens (B, T) → Transpose → OneHot (T, B, V) → GRU → Squeeze (T, B, H) → Transpose (B, T, H)
    state (B, H) → Unsqueeze (1, B, H) ───────────↗ ↘      → MatMul → Add → logits (B, T, V)
                                                     Squeeze → next_state (B, H)

``next_state`` fed back as ``state`` goes on where the last call ended. The logits stand batch
first, as the tokens do; ``LanguageModel`` has them time first.

The operator's equations are those of ``scratch.py``, both places of the reset gate included
(``linear_before_reset``): https://onnx.ai/onnx/operators/onnx__GRU.html. Its X is one-hot. That
takes more multiplications than a table of rows would, but the operator multiplies X by a matrix in
any case, and OneHot brings no V × V constant along. A token number of V or more reads as no token
at all: OneHot gives it zeros.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from gru_lm.core.errors import UserError
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.models.base import LanguageModel

# Those of ONNX 1.12 (2022): nothing newer is needed, and any runtime since then reads them.
OPSET, IR_VERSION = 17, 8
MAX_BYTES = 2**31 - 2**26  # of weights: Protocol Buffers' limit of 2 GiB, less room for the tokens

# Of the state, whose units lie within -1 and 1, and of the largest logit. Float32 keeps seven
# digits, of which a sum over hundreds of units, carried through thousands of steps, loses two.
TOLERANCE = 1e-4


def to_onnx(model: LanguageModel, vocabulary: Vocabulary) -> bytes:
    """The ONNX file of ``model``, whose weights it holds as float32.

    Inputs: ``tokens`` int64 (B, T) and ``state`` float32 (B, H), zeros before the first token.
    Outputs: ``logits`` float32 (B, T, V) and ``next_state`` float32 (B, H). Metadata: ``variant``,
    ``reset``, and of the vocabulary ``level``, ``normalize`` and ``vocabulary``, the list of tokens
    as JSON. The same model gives the same bytes. Raises UserError where they would exceed ONNX's
    limit of 2 GiB.
    """
    weights = model.textbook_weights()
    size = 4 * sum(weight.numel() for weight in weights.values())
    if size > MAX_BYTES:
        raise UserError(
            f"the weights take {size / 2**30:.1f} GiB, but an ONNX file holds 2 GiB at most: lower "
            "model.hidden_size or raise prepare.min_freq, and train again"
        )
    w = {name: weight.detach().cpu().float().numpy() for name, weight in weights.items()}
    reset = "after" if "b_hh" in w else "before"
    V, H = w["W_xz"].shape
    none = np.zeros(H, np.float32)
    constants = {
        # The operator's gates stand in the order update, reset, candidate; it has two biases a
        # gate, of which the first two gates only ever see the sum.
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
    file = helper.make_model(
        helper.make_graph(
            nodes,
            "gru_language_model",
            [
                helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "steps"]),
                helper.make_tensor_value_info("state", TensorProto.FLOAT, ["batch", H]),
            ],
            [
                helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "steps", V]),
                helper.make_tensor_value_info("next_state", TensorProto.FLOAT, ["batch", H]),
            ],
            [numpy_helper.from_array(array, name) for name, array in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="gru-lm",
        doc_string=(
            f"A GRU language model: {H} hidden units, {V} tokens, reset gate {reset} the recurrent "
            "product. It reads token numbers from a state on (zeros at first), and gives the "
            "logits of each next token and the state to go on from."
        ),
    )
    helper.set_model_props(
        file,
        {
            "variant": model.variant,
            "reset": reset,
            "level": vocabulary.level,
            "normalize": vocabulary.normalize,
            "vocabulary": json.dumps(vocabulary.tokens),  # in ASCII: safe with any token
        },
    )
    onnx.checker.check_model(file, full_check=True)
    data: bytes = file.SerializeToString(deterministic=True)
    return data


def open_session(data: bytes) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU with the ONNX file ``data``; one thread, so that sums keep order."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


@torch.inference_mode()
def largest_differences(
    model: LanguageModel, data: bytes, tokens: Tensor, chunk: int = 1000
) -> dict[str, float | int]:
    """How far the ONNX file ``data``, run by ONNX Runtime, is from ``model`` on the CPU.

    Both read ``tokens`` (N,) in chunks, each from its own last state on, so that a difference in
    the state has consequences. Returns the largest absolute difference in a logit and in the state
    after a chunk (not a number where a model gave none), and for scale the largest absolute logit.
    """
    session = open_session(data)
    state = model.begin_state(1)
    onnx_state = state.numpy()
    largest = []
    for X in tokens[None].split(chunk, dim=1):
        logits, state = model(X, state)  # (T, 1, V), (1, H)
        onnx_logits, onnx_state = session.run(None, {"tokens": X.numpy(), "state": onnx_state})
        expected = logits[:, 0].numpy()  # (T, V)
        differences = expected - onnx_logits[0], state.numpy() - onnx_state, expected
        largest.append([np.abs(difference).max() for difference in differences])
    max_logit_difference, max_state_difference, max_logit = np.max(largest, axis=0).tolist()
    return {
        "max_logit_difference": max_logit_difference,
        "max_state_difference": max_state_difference,
        "max_logit": max_logit,
        "tokens_compared": len(tokens),
    }


def require_agreement(found: Mapping[str, float | int]) -> None:
    """Raise UserError where ``largest_differences`` found more than rounding accounts for.

    ``TOLERANCE`` is absolute for the state, and for logits below 1; larger ones it scales with.
    """
    logit, state = found["max_logit_difference"], found["max_state_difference"]
    allowed = TOLERANCE * max(1.0, found["max_logit"])
    if not (logit <= allowed and state <= TOLERANCE):  # so that NaN is refused too
        raise UserError(
            f"the ONNX file computes something else than the model: logits differ by {logit:.2g} "
            f"(allowed {allowed:.2g}), the state by {state:.2g} (allowed {TOLERANCE:.2g}); where "
            "the perplexity is poor too, the weights are so large that rounding decides: lower "
            "train.lr and train again; otherwise install another version of onnxruntime"
        )
