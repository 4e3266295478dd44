"""Export a trained model to one ONNX file, and compare the file with the model.

The file contains the model's graph (``models/onnx_graph.py`` describes its inputs and outputs) and
the vocabulary. It can generate text without torch and without this project.
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
from gru_lm.data.prepared import numbers
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.models.base import LanguageModel, build_model

MAX_BYTES = 2**31 - 2**26  # of weights: the 2 GiB of Protocol Buffers minus space for the tokens

# The allowed difference: absolute for the state, whose units are between -1 and 1, and relative to
# the largest logit. Float32 has seven digits. Sums over hundreds of units and thousands of steps
# lose about two of them.
TOLERANCE = 1e-4

INITIAL_SEED = 0  # for the untrained weights, which are compared as well


def to_onnx(model: LanguageModel, vocabulary: Vocabulary) -> bytes:
    """Return the ONNX file of ``model``, with ``vocabulary`` in its metadata.

    The metadata are those of the graph (``variant``, and ``reset`` for a GRU), ``level``,
    ``normalize`` and ``vocabulary``, which is the list of tokens as JSON, with byte pairs also
    ``merges``, a list of pairs. The same model gives the same bytes.

    Raises UserError if the file would exceed ONNX's limit of 2 GiB.
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
            "vocabulary": json.dumps(vocabulary.tokens),  # ASCII, so any token is safe
        }
        | ({"merges": json.dumps(vocabulary.merges)} if vocabulary.level == "bpe" else {}),
    )
    onnx.checker.check_model(file, full_check=True)
    data: bytes = file.SerializeToString(deterministic=True)
    return data


def open_session(data: bytes) -> onnxruntime.InferenceSession:
    """Open the ONNX file ``data`` with ONNX Runtime on the CPU.

    It uses one thread, so that the order of sums does not vary.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


@torch.inference_mode()
def largest_differences(
    model: LanguageModel, data: bytes, tokens: Tensor | np.ndarray, chunk: int = 1000
) -> dict[str, float]:
    """Return the largest differences between ``model`` and its ONNX file ``data``, on the CPU.

    ONNX Runtime runs the file. Both read ``tokens`` (N,) in chunks of ``chunk`` steps. Each starts
    a chunk from its own previous state, so that a difference in the state affects what follows.

    Returns the fields of ``results.export.Differences``:

    - the largest absolute difference of a logit
    - the largest relative difference, which is the largest absolute difference of a step divided
      by the largest absolute logit of ``model`` in the same step. It is not divided by the same
      logit, because that ratio is unbounded if the logit is almost zero.
    - the largest absolute difference of the state after a chunk
    - the largest absolute logit, as a scale

    A value is NaN if either gave NaN.
    """
    session = open_session(data)
    state = model.begin_state(1)
    onnx_state = state.numpy()
    largest = []
    for start in range(0, len(tokens), chunk):
        X = numbers(tokens[start : start + chunk])[None]
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
    """Return a model like ``model``, with initial weights from the seed ``INITIAL_SEED``.

    Its variant, sizes and options are those of ``model``. It is in eval mode. Torch's global random
    state does not change.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(INITIAL_SEED)
        options = {"hidden_size": model.hidden_size, **model.options}
        return build_model(model.variant, model.vocab_size, **options).eval()


def require_agreement(found: Mapping[str, float]) -> None:
    """Raise UserError if the differences ``found`` are larger than rounding errors.

    ``found`` is the result of ``largest_differences``. ``TOLERANCE`` is absolute for the state. For
    logits it is relative to the largest logit of all steps, because rounding errors can be a large
    part of the logits in a step in which all are almost zero.
    """
    logit, state = found["max_logit_difference"], found["max_state_difference"]
    allowed = TOLERANCE * found["max_logit"]
    if not (logit <= allowed and state <= TOLERANCE):  # also true for NaN
        raise UserError(
            f"the ONNX file and the model give different results: logits differ by {logit:.2g} "
            f"(allowed {allowed:.2g}), the state by {state:.2g} (allowed {TOLERANCE:.2g}); if the "
            "perplexity is poor too, the weights are so large that rounding errors dominate: lower "
            "train.lr and train again; otherwise install another version of onnxruntime"
        )
