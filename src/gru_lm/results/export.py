"""How far an ONNX file is from the model that it was made of: ``metrics/export/``."""

from __future__ import annotations

from gru_lm.results import NotNegative, Positive, Result


class ExportCheck(Result):
    """``metrics/export/<variant>.json``: ONNX Runtime against torch on the validation split.

    The largest absolute difference in a logit and in a state, and for scale the largest logit.
    """

    max_logit_difference: NotNegative
    max_state_difference: NotNegative
    max_logit: NotNegative
    tokens_compared: Positive
