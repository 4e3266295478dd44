"""A trained model as one ONNX file, which writes text without torch and without this project.

The file holds the model's graph (``models/onnx_graph.py`` has its inputs and outputs) and the
vocabulary. It is made, and then compared with the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import torch
from onnx import helper
from torch import Tensor

from gru_lm.core.errors import UserError
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.models.base import LanguageModel

MAX_BYTES = 2**31 - 2**26  # of weights: Protocol Buffers' limit of 2 GiB, less room for the tokens

# Of the state, whose units lie within -1 and 1, and of the largest logit. Float32 keeps seven
# digits, of which a sum over hundreds of units, carried through thousands of steps, loses two.
TOLERANCE = 1e-4


def to_onnx(model: LanguageModel, vocabulary: Vocabulary) -> bytes:
    """The ONNX file of ``model``: its graph, and with it ``vocabulary`` in the metadata.

    Metadata: those of the graph (``variant``, and for a GRU ``reset``), ``level``, ``normalize``
    and ``vocabulary``, the list of tokens as JSON. The same model gives the same bytes. Raises
    UserError if they would exceed ONNX's limit of 2 GiB.
    """
    size = 4 * sum(weight.numel() for weight in model.parameters())
    if size > MAX_BYTES:
        raise UserError(
            f"the weights take {size / 2**30:.1f} GiB, but an ONNX file holds 2 GiB at most: lower "
            "model.hidden_size or raise prepare.min_freq, and train again"
        )
    file = model.onnx_graph()
    helper.set_model_props(
        file,
        {entry.key: entry.value for entry in file.metadata_props}
        | {
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
    after a chunk (not a number if a model gave none), and for scale the largest absolute logit.
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
    """Raise UserError if ``largest_differences`` found more than rounding accounts for.

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
