"""What the variant scratch is called, and its options: ``model.scratch`` in params.yaml."""

from __future__ import annotations

from typing import Literal

from gru_lm.core.params import Section

LABEL = "scratch (the equations)"
DESCRIPTION = "the textbook's equations, written out"
TEXTBOOK_PERPLEXITY: float | None = 1.1  # after 500 epochs on The Time Machine


class Options(Section):
    """Where the reset gate acts: before the recurrent product (the textbook) or after it."""

    reset: Literal["before", "after"]
