"""What the variant fused is called, and its options: ``model.fused`` in params.yaml."""

from __future__ import annotations

from typing import Literal

from gru_lm.core.params import Section

LABEL = "fused (derived by hand)"
DESCRIPTION = "scratch's function, its gradients derived by hand"
TEXTBOOK_PERPLEXITY: float | None = None  # after 500 epochs on The Time Machine


class Options(Section):
    """Where the reset gate acts: before the recurrent product, as in scratch, or after it."""

    reset: Literal["before", "after"]
