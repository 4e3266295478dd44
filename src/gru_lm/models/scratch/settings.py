"""Label, description and options (``model.scratch`` in params.yaml) of the variant scratch."""

from __future__ import annotations

from typing import Literal

from gru_lm.core.params import Section

LABEL = "scratch (the equations)"
DESCRIPTION = "the textbook's equations, written out"
TEXTBOOK_PERPLEXITY: float | None = 1.1  # after 500 epochs on The Time Machine


class Options(Section):
    """``reset`` applies the reset gate before (textbook) or after the recurrent product."""

    reset: Literal["before", "after"]
