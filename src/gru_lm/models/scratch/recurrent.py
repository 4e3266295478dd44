"""The scratch variant's recurrent layer: the GRU's equations over dense inputs.

These are the equations of ``model.py``, which reads one-hot inputs and has an output layer::

    Z  = sigmoid(X W_xz + H W_hz + b_z)             update gate
    R  = sigmoid(X W_xr + H W_hr + b_r)             reset gate
    H~ = tanh(X W_xh + (R * H) W_hh + b_h)          candidate state, reset "before"
    H~ = tanh(X W_xh + b_h + R * (H W_hh + b_hh))   candidate state, reset "after"
    H' = Z * H + (1 - Z) * H~

X W does not depend on the state, so it is one product for all steps before the loop.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gru_lm.core.errors import require_one_of
from gru_lm.models.gru.family import Reset
from gru_lm.models.layer import GRULayer


class Layer(GRULayer):
    """The equations with one parameter per symbol.

    Parameters: W_xz, W_xr, W_xh (I, H); W_hz, W_hr, W_hh (H, H); b_z, b_r, b_h (H,); with reset
    "after" also b_hh (H,). Weights are initialised from normal(0, 0.01), and biases with zeros.
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

        def normal(rows: int, columns: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(rows, columns) * 0.01)

        def zeros() -> nn.Parameter:
            return nn.Parameter(torch.zeros(hidden_size))

        I, H = input_size, hidden_size  # noqa: E741
        self.W_xz, self.W_hz, self.b_z = normal(I, H), normal(H, H), zeros()  # update gate
        self.W_xr, self.W_hr, self.b_r = normal(I, H), normal(H, H), zeros()  # reset gate
        self.W_xh, self.W_hh, self.b_h = normal(I, H), normal(H, H), zeros()  # candidate state
        if reset == "after":
            self.b_hh = zeros()

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Layer.forward`` in ``models/layer.py``."""
        W_x = torch.cat([self.W_xz, self.W_xr, self.W_xh], dim=1)  # (I, 3H)
        b_x = torch.cat([self.b_z, self.b_r, self.b_h])
        W_hz, W_hr, W_hh = (
            F.dropout(W, self.recurrent_dropout, self.training)
            for W in (self.W_hz, self.W_hr, self.W_hh)
        )
        H = state  # (B, H)
        states = []
        for XW in inputs @ W_x + b_x:  # (B, 3H) per step
            XW_z, XW_r, XW_h = XW.chunk(3, dim=1)
            Z = torch.sigmoid(XW_z + H @ W_hz)
            R = torch.sigmoid(XW_r + H @ W_hr)
            if self.reset == "before":
                H_tilde = torch.tanh(XW_h + (R * H) @ W_hh)
            else:
                H_tilde = torch.tanh(XW_h + R * (H @ W_hh + self.b_hh))
            H = Z * H + (1 - Z) * H_tilde
            states.append(H)
        return torch.stack(states), H
