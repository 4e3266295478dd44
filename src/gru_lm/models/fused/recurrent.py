"""The fused variant's recurrent layer for dense inputs, as one layer of a stack."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gru_lm.core.errors import OutOfRange, require_at_least
from gru_lm.models.fused import stacked
from gru_lm.models.fused.layer import DenseRecurrence, Pool
from gru_lm.models.gru.family import Reset


class Layer(nn.Module):
    """A GRU layer over inputs (T, B, I), with fused's hand-derived passes (``layer.py``).

    ``reset`` applies the reset gate "before" or "after" the recurrent product. In training,
    ``recurrent_dropout`` is the probability with which each recurrent weight is zero, in all steps
    of a call (Merity et al. 2018, arXiv:1708.02182, section 4.1). The others are scaled by
    1 / (1 - recurrent_dropout).

    Parameters: W_x (3H, I), rows h, z, r; W_h (3H, H), rows z, r, h; b (3H,), as W_x; with reset
    "after" b_hh (H,). ``state_dict`` and ``load_state_dict`` use the names and shapes of scratch's
    parameters. Weights are initialised from normal(0, 0.01), and biases with zeros.

    Raises ValueError if a size is below 1, if ``reset`` has another value, or if
    ``recurrent_dropout`` is not from 0 to below 1.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        recurrent_dropout: float = 0.0,
        reset: Reset = "before",
    ) -> None:
        super().__init__()
        require_at_least(1, input_size=input_size, hidden_size=hidden_size)
        if not 0 <= recurrent_dropout < 1:
            raise OutOfRange("recurrent_dropout", recurrent_dropout, "from 0 to below 1")
        if reset not in ("before", "after"):
            raise OutOfRange("reset", repr(reset), "'before' or 'after'")
        self.input_size, self.hidden_size = input_size, hidden_size
        self.recurrent_dropout, self.reset = recurrent_dropout, reset
        W_x, W_h = stacked.initial(input_size, hidden_size)
        self.W_x, self.W_h = nn.Parameter(W_x), nn.Parameter(W_h)
        self.b = nn.Parameter(torch.zeros(3 * hidden_size))
        self.b_hh = nn.Parameter(torch.zeros(hidden_size)) if reset == "after" else None
        self._pool: Pool = {}
        stacked.use_textbook_names(self)

    @property
    def state_size(self) -> int:
        """The numbers per state, H."""
        return self.hidden_size

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Read ``inputs`` (T, B, I) from ``state`` (B, H).

        Returns the outputs (T, B, H) and the last state (B, H). Under autocast the outputs have
        autocast's type.
        """
        W_h = F.dropout(self.W_h, self.recurrent_dropout, self.training)
        states, last = DenseRecurrence.apply(  # type: ignore[no-untyped-call]
            inputs, state.T, self.W_x, self.b, W_h, self.b_hh, self._pool
        )  # (H, T, B), (H, B)
        return states.permute(1, 2, 0), last.T

    def textbook_weights(self) -> dict[str, Tensor]:
        """Return the weights with the names and shapes of scratch's recurrent layer."""
        return dict(self.state_dict())
