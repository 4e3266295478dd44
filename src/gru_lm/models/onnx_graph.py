"""Convert a model to an ONNX graph.

Every graph reads B sequences of T steps. With V tokens in the vocabulary and S numbers per state,
its inputs and outputs are::

    tokens int64 (B, T)      logits float32 (B, T, V)
    state float32 (B, S)     next_state float32 (B, S)

To continue a sequence, pass ``next_state`` of the last call as ``state``. The logits are batch
first, while those of ``LanguageModel`` are time first.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

# The versions of ONNX 1.12 (2022). The graphs need nothing newer, and any later runtime reads them.
OPSET, IR_VERSION = 17, 8


def as_model(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, np.ndarray],
    vocab_size: int,
    state_size: int,
    description: str,
    metadata: Mapping[str, str],
) -> onnx.ModelProto:
    """Build an ONNX model of ``nodes`` and ``constants`` with the inputs and outputs above."""
    state: list[str | int] = ["batch", state_size]
    model = helper.make_model(
        helper.make_graph(
            list(nodes),
            name,
            [
                helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "steps"]),
                helper.make_tensor_value_info("state", TensorProto.FLOAT, state),
            ],
            [
                helper.make_tensor_value_info(
                    "logits", TensorProto.FLOAT, ["batch", "steps", vocab_size]
                ),
                helper.make_tensor_value_info("next_state", TensorProto.FLOAT, state),
            ],
            [numpy_helper.from_array(array, key) for key, array in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="gru-lm",
        doc_string=description,
    )
    helper.set_model_props(model, dict(metadata))
    return model


class _Step(nn.Module):
    """One step of ``model`` as the body of ONNX's Scan."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, state: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next state (B, S) and the logits (B, V) for ``state`` and ``token`` (B,)."""
        logits, state = self.model(token[:, None], state)
        return state, logits[0]


def scanned(
    model: nn.Module, vocab_size: int, state_size: int, metadata: Mapping[str, str]
) -> onnx.ModelProto:
    """Return the float32 graph of any model with the interface of ``LanguageModel.forward``.

    torch's exporter traces ``forward`` on one token, and ONNX's operator Scan repeats that step:
    https://onnx.ai/onnx/operators/onnx__Scan.html. Tracing several steps would unroll a loop over
    them to a fixed number. ``forward`` must consist of operations that torch can export.
    """
    step = _Step(copy.deepcopy(model).cpu().float().eval())
    inputs, outputs = ["old_state", "token"], ["new_state", "next_logits"]
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        # The newer exporter (dynamo=True) needs another package, onnxscript. This one warns that it
        # is deprecated and that it may treat sizes as constants. The number of steps is constant
        # here, and the batch size is not. gru_lm.export compares the graph with the model.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        warnings.filterwarnings("ignore", ".*batch_size other than 1", UserWarning)
        path = Path(folder) / "step.onnx"
        torch.onnx.export(
            step,
            (torch.zeros(2, state_size), torch.zeros(2, dtype=torch.int64)),
            path,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes={name: {0: "batch"} for name in inputs + outputs},
            opset_version=OPSET,
            dynamo=False,
        )
        body = onnx.load(path).graph
    nodes = [
        helper.make_node("Transpose", ["tokens"], ["steps"], perm=[1, 0]),  # (T, B)
        helper.make_node(
            "Scan",
            ["state", "steps"],
            ["next_state", "logits_by_step"],  # (B, S), (T, B, V)
            body=body,
            num_scan_inputs=1,
        ),
        helper.make_node("Transpose", ["logits_by_step"], ["logits"], perm=[1, 0, 2]),
    ]
    description = (
        f"A language model with {vocab_size} tokens and {state_size} numbers per state. It reads "
        "token numbers and an initial state (zeros before the first token). It returns the logits "
        "of each next token and the final state."
    )
    return as_model("language_model", nodes, {}, vocab_size, state_size, description, metadata)
