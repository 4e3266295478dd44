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
from gru_lm.models.base import LanguageModel, build_model

MAX_BYTES = 2**31 - 2**26  # of weights: Protocol Buffers' limit of 2 GiB, less room for the tokens

# Of the state, whose units lie within -1 and 1, and of the largest logit. Float32 keeps seven
# digits, of which a sum over hundreds of units, carried through thousands of steps, loses two.
TOLERANCE = 1e-4

INITIAL_SEED = 0  # of the freshly initialised weights that are compared beside the trained ones


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
) -> dict[str, float]:
    """How far the ONNX file ``data``, run by ONNX Runtime, is from ``model`` on the CPU.

    Both read ``tokens`` (N,) in chunks, each from its own last state on, so that a difference in
    the state has consequences. Returns the fields of ``results.export.Differences``: the largest
    absolute difference in a logit; the largest relative one, which is a step's largest absolute
    difference divided by the same step's largest absolute logit of ``model``; the largest absolute
    difference in the state after a chunk; and for scale the largest absolute logit. They are not a
    number if a model gave none. (A logit's difference is not divided by that logit, as the ratio
    has no bound at a logit of almost zero.)
    """
    session = open_session(data)
    state = model.begin_state(1)
    onnx_state = state.numpy()
    largest = []
    for X in tokens[None].split(chunk, dim=1):
        logits, state = model(X, state)  # (T, 1, V), (1, H)
        onnx_logits, onnx_state = session.run(None, {"tokens": X.numpy(), "state": onnx_state})
        expected = logits[:, 0].numpy()  # (T, V)
        differences = np.abs(expected - onnx_logits[0]).max(axis=1)  # (T,)
        scales = np.abs(expected).max(axis=1)  # (T,)
        relative = np.divide(differences, scales, out=differences.copy(), where=scales != 0)
        state_differences = np.abs(state.numpy() - onnx_state)
        largest.append([x.max() for x in (differences, relative, state_differences, scales)])
    logit, relative_logit, in_state, max_logit = np.max(largest, axis=0).tolist()
    return {
        "max_logit_difference": logit,
        "max_relative_logit_difference": relative_logit,
        "max_state_difference": in_state,
        "max_logit": max_logit,
    }


def freshly_initialised(model: LanguageModel) -> LanguageModel:
    """A model with the variant, sizes and options of ``model``, its weights those before training.

    They are drawn from the seed ``INITIAL_SEED``. Torch's global random state stays as it is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(INITIAL_SEED)
        options = {"hidden_size": model.hidden_size, **model.options}
        return build_model(model.variant, model.vocab_size, **options)


def require_agreement(found: Mapping[str, float]) -> None:
    """Raise UserError if ``largest_differences`` found more than rounding accounts for.

    ``TOLERANCE`` is absolute for the state, and for logits relative to the largest one of all
    steps. (At a single step with logits near zero, rounding alone can be a larger share of them.)
    """
    logit, state = found["max_logit_difference"], found["max_state_difference"]
    allowed = TOLERANCE * found["max_logit"]
    if not (logit <= allowed and state <= TOLERANCE):  # so that NaN is refused too
        raise UserError(
            f"the ONNX file computes something else than the model: logits differ by {logit:.2g} "
            f"(allowed {allowed:.2g}), the state by {state:.2g} (allowed {TOLERANCE:.2g}); where "
            "the perplexity is poor too, the weights are so large that rounding decides: lower "
            "train.lr and train again; otherwise install another version of onnxruntime"
        )
