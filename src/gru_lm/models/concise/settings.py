"""What the variant concise is called, and its options: ``model.concise`` in params.yaml."""

from __future__ import annotations

from gru_lm.core.params import Section

LABEL = "concise (nn.GRU)"
DESCRIPTION = "PyTorch's nn.GRU, which applies the reset gate after the recurrent product"
TEXTBOOK_PERPLEXITY: float | None = 1.0  # after 500 epochs on The Time Machine


class Options(Section):
    """``nn.GRU`` has no choices of its own here."""
