"""The fused variant's recurrent layer for dense inputs, as one layer of a stack."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gru_lm.core.errors import require_one_of
from gru_lm.models.fused import stacked
from gru_lm.models.fused.layer import DenseRecurrence, Pool
from gru_lm.models.gru.family import Reset
from gru_lm.models.layer import GRULayer


class Layer(GRULayer):
    """A GRU layer over inputs (T, B, I), with fused's hand-derived passes (``layer.py``).

    ``reset`` applies the reset gate "before" or "after" the recurrent product.

    Parameters: W_x (3H, I), rows h, z, r; W_h (3H, H), rows z, r, h; b (3H,), as W_x; with reset
    "after" b_hh (H,). ``state_dict`` and ``load_state_dict`` use the names and shapes of scratch's
    parameters. Weights are initialised from normal(0, 0.01), and biases with zeros.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        recurrent_dropout: float = 0.0,
        reset: Reset = "before",
    ) -> None:
        super().__init__(input_size, hidden_size, recurrent_dropout)
        require_one_of(("before", "after"), reset=reset)
        self.reset = reset
        W_x, W_h = stacked.initial(input_size, hidden_size)
        self.W_x, self.W_h = nn.Parameter(W_x), nn.Parameter(W_h)
        self.b = nn.Parameter(torch.zeros(3 * hidden_size))
        self.b_hh = nn.Parameter(torch.zeros(hidden_size)) if reset == "after" else None
        self._pool: Pool = {}
        stacked.use_textbook_names(self)

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Layer.forward`` in ``models/layer.py``. Under autocast outputs have its type."""
        W_h = F.dropout(self.W_h, self.recurrent_dropout, self.training)
        states, last = DenseRecurrence.apply(  # type: ignore[no-untyped-call]
            inputs, state.T, self.W_x, self.b, W_h, self.b_hh, self._pool
        )  # (H, T, B), (H, B)
        return states.permute(1, 2, 0), last.T
