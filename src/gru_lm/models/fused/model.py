"""The fused variant, a fast implementation of the function of scratch.

``layer.py`` has the recurrent layer and its derivation. This module has the weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gru_lm.models.fused import stacked
from gru_lm.models.fused.layer import DenseRecurrence, Pool, Recurrence, short_products
from gru_lm.models.gru.family import Reset, TextbookGRU


class FusedGRU(TextbookGRU):
    """The function of scratch with stacked weights.

    Parameters: W_x (3H, V), rows h, z, r; W_h (3H, H), rows z, r, h; b (3H,), as W_x; with reset
    "after" b_hh (H,); W_q (V, H); b_q (V,). ``state_dict`` and ``load_state_dict`` use the names
    and shapes of scratch's parameters, so the two variants can exchange weights. The same random
    state gives the same initial weights as in scratch.
    """

    variant = "fused"

    def __init__(self, vocab_size: int, hidden_size: int, reset: Reset = "before") -> None:
        super().__init__(vocab_size, hidden_size, reset)
        V, H = vocab_size, hidden_size
        W_x, W_h = stacked.initial(V, H)
        self.W_x, self.W_h = nn.Parameter(W_x), nn.Parameter(W_h)
        self.b = nn.Parameter(torch.zeros(3 * H))
        self.b_hh = nn.Parameter(torch.zeros(H)) if reset == "after" else None
        self.W_q = nn.Parameter((torch.randn(H, V) * 0.01).T.contiguous())
        self.b_q = nn.Parameter(torch.zeros(V))
        self._pool: Pool = {}
        stacked.use_textbook_names(self)

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See ``LanguageModel.forward``."""
        states, last = self._columns(tokens, state)
        logits = torch.addmm(self.b_q[:, None], self.W_q, states.flatten(1)).T  # (TB, V)
        return logits.unflatten(0, tokens.T.shape), last.T

    def states(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See ``LinearOutput.states``."""
        states, last = self._columns(tokens, state)
        return states.permute(1, 2, 0), last.T

    def output_layer(self) -> tuple[Tensor, Tensor]:
        """See ``LinearOutput.output_layer``."""
        return self.W_q, self.b_q

    def _columns(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return all states (H, T, B) and the last one (H, B)."""
        if short_products(self.W_h):
            # A product with one-hot inputs is faster than picking and adding columns.
            X = F.one_hot(tokens.T, self.vocab_size).to(torch.bfloat16)  # (T, B, V)
            found: tuple[Tensor, Tensor] = DenseRecurrence.apply(  # type: ignore[no-untyped-call]
                X, state.T, self.W_x, self.b, self.W_h, self.b_hh, self._pool
            )
        else:
            found = Recurrence.apply(  # type: ignore[no-untyped-call]
                tokens.T, state.T, self.W_x + self.b[:, None], self.W_h, self.b_hh, self._pool
            )
        return found


Model = FusedGRU
