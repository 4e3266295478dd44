"""The concise variant: the framework's own GRU and output layer."""

from __future__ import annotations

from torch import Tensor, nn

from gru_lm.model import LanguageModel


class ConciseGRU(LanguageModel):
    """``nn.GRU`` over one-hot inputs and ``nn.Linear``, initialised as torch does by default.

    ``nn.GRU`` applies the reset gate after the recurrent product: the function of
    ``ScratchGRU(reset="after")``, not the textbook's equations.
    """

    variant = "concise"

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__(vocab_size, hidden_size)
        self.gru = nn.GRU(vocab_size, hidden_size)
        self.linear = nn.Linear(hidden_size, vocab_size)

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See ``LanguageModel.forward``."""
        steps = tokens.T[..., None]  # (T, B, 1)
        one_hot = state.new_zeros(*steps.shape[:2], self.vocab_size).scatter_(-1, steps, 1.0)
        outputs, state = self.gru(one_hot, state[None])  # (T, B, H), (1, B, H)
        return self.linear(outputs), state[0]  # (T, B, V), (B, H)


Model = ConciseGRU
