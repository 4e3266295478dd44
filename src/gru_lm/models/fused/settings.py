"""Label, description and options (``model.fused`` in params.yaml) of the variant fused."""

from __future__ import annotations

from typing import Literal

from gru_lm.core.params import Section

LABEL = "fused (derived by hand)"
DESCRIPTION = "scratch's function, its gradients derived by hand"
TEXTBOOK_PERPLEXITY: float | None = None  # after 500 epochs on The Time Machine


class Options(Section):
    """``reset`` applies the reset gate before or after the recurrent product, as in scratch."""

    reset: Literal["before", "after"]
