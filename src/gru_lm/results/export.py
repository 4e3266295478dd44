"""How far an ONNX file is from the model that it was made of: ``metrics/export/``."""

from __future__ import annotations

from gru_lm.results import NotNegative, Positive, Result


class Differences(Result):
    """ONNX Runtime against torch on the same tokens, in float32.

    ``max_logit_difference`` and ``max_state_difference`` are the largest absolute differences in a
    logit and in a number of the state. ``max_relative_logit_difference`` is the largest, over the
    steps, of a step's largest absolute difference divided by that step's largest absolute logit.
    ``max_logit`` is the largest absolute logit, for scale.
    """

    max_logit_difference: NotNegative
    max_relative_logit_difference: NotNegative
    max_state_difference: NotNegative
    max_logit: NotNegative


class ExportCheck(Differences):
    """``metrics/export/<variant>.json``: the differences on the validation split.

    Those of the exported model, and in ``initial`` those of a model with freshly initialised
    weights (``export.check.INITIAL_SEED``), exported and run in the same way.
    """

    initial: Differences
    tokens_compared: Positive
