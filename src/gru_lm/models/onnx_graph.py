"""A model as an ONNX graph: what all such graphs have in common, and the graph of any model.

Every graph reads B sequences of T steps and has the same inputs and outputs, for V tokens in the
vocabulary and S numbers in a state::

    tokens int64 (B, T)      logits float32 (B, T, V)
    state float32 (B, S)     next_state float32 (B, S)

``next_state`` fed back as ``state`` goes on where the last call ended. The logits are batch first,
as the tokens are; ``LanguageModel`` has them time first.
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

# Those of ONNX 1.12 (2022): nothing newer is needed, and any runtime since then reads them.
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
    """The ONNX model of ``nodes`` and named ``constants``, with the inputs and outputs above."""
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
    """One step of ``model``, with the inputs and outputs of the body of ONNX's Scan."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, state: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        """From ``state`` (B, S) and ``token`` (B,) the next state and the logits (B, V)."""
        logits, state = self.model(token[:, None], state)
        return state, logits[0]


def scanned(
    model: nn.Module, vocab_size: int, state_size: int, metadata: Mapping[str, str]
) -> onnx.ModelProto:
    """The graph of any model with the interface of ``LanguageModel.forward``, float32.

    torch's exporter follows ``forward`` on one token, and ONNX's operator Scan repeats that for all
    steps: https://onnx.ai/onnx/operators/onnx__Scan.html. So a loop over the steps in ``forward``
    does no harm, which an exporter that sees a fixed number of steps would unroll. ``forward`` must
    consist of operations that torch can export.
    """
    step = _Step(copy.deepcopy(model).cpu().float())
    inputs, outputs = ["old_state", "token"], ["new_state", "next_logits"]
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        # The exporter by torch.export needs a package more, onnxscript. This one warns of its age,
        # of sizes that it takes for fixed (the single step is), and of a batch size that is not
        # fixed here. What it gets wrong, the comparison with the model finds.
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
        f"A language model: {vocab_size} tokens, {state_size} numbers in a state. It reads token "
        "numbers from a state on (zeros at first), and gives the logits of each next token and the "
        "state to go on from."
    )
    return as_model("language_model", nodes, {}, vocab_size, state_size, description, metadata)
