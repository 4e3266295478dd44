"""Label, description and options (``model.concise`` in params.yaml) of the variant concise."""

from __future__ import annotations

from gru_lm.core.params import Section

LABEL = "concise (nn.GRU)"
DESCRIPTION = "PyTorch's nn.GRU, which applies the reset gate after the recurrent product"
TEXTBOOK_PERPLEXITY: float | None = 1.0  # after 500 epochs on The Time Machine


class Options(Section):
    """The variant concise has no options."""
