"""Differences between an ONNX file and its model, in ``metrics/export/``."""

from __future__ import annotations

from gru_lm.results import NotNegative, Positive, Result


class Differences(Result):
    """Differences between ONNX Runtime and torch on the same tokens, in float32.

    ``max_logit_difference`` and ``max_state_difference`` are the largest absolute differences of
    logits and of state values. ``max_relative_logit_difference`` is the maximum over the steps of
    the step's largest absolute difference divided by its largest absolute logit. ``max_logit`` is
    the largest absolute logit.
    """

    max_logit_difference: NotNegative
    max_relative_logit_difference: NotNegative
    max_state_difference: NotNegative
    max_logit: NotNegative


class ExportCheck(Differences):
    """Differences on the validation split, in ``metrics/export/<variant>.json``.

    ``initial`` has the differences of a model with initial weights
    (``export.check.INITIAL_SEED``), exported and run in the same way.
    """

    initial: Differences
    tokens_compared: Positive
