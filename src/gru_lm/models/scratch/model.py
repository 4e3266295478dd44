"""The scratch variant, which writes out the GRU's equations.

With ``reset="before"`` the reset gate acts before the recurrent product, as in the textbook
(Zhang et al., Dive into Deep Learning, section "Gated Recurrent Units") and the first paper
(Cho et al. 2014, arXiv:1406.1078, equations 5 to 8)::

    Z  = sigmoid(X W_xz + H W_hz + b_z)             update gate
    R  = sigmoid(X W_xr + H W_hr + b_r)             reset gate
    H~ = tanh(X W_xh + (R * H) W_hh + b_h)          candidate state
    H' = Z * H + (1 - Z) * H~

With ``reset="after"`` the reset gate scales the product, as in ``nn.GRU``, cuDNN and the first
version of the same paper. This is a different function: no weights make the two equal. It has an
additional bias ``b_hh``::

    H~ = tanh(X W_xh + b_h + R * (H W_hh + b_hh))

The output layer is Q = H' W_hq + b_q. X is one-hot, so X W is a row of W, which is looked up. Every
other product and sum is computed step by step and in the textbook's order, so training gives the
textbook's results bit for bit. The order matters because floating-point addition is not
associative. At a learning rate of 1 a difference in the last bit grows until two runs diverge.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gru_lm.models.base import LARGE, picked_rows
from gru_lm.models.gru.family import Reset, TextbookGRU


class ScratchGRU(TextbookGRU):
    """The GRU's equations with one parameter per symbol.

    Parameters: W_xz, W_xr, W_xh (V, H); W_hz, W_hr, W_hh (H, H); b_z, b_r, b_h (H,);
    W_hq (H, V); b_q (V,); with reset "after" also b_hh (H,). Weights are initialised from
    normal(0, 0.01), and biases with zeros.
    """

    variant = "scratch"

    def __init__(self, vocab_size: int, hidden_size: int, reset: Reset = "before") -> None:
        super().__init__(vocab_size, hidden_size, reset)

        def normal(rows: int, columns: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(rows, columns) * 0.01)

        def zeros(size: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(size))

        V, H = vocab_size, hidden_size
        self.W_xz, self.W_hz, self.b_z = normal(V, H), normal(H, H), zeros(H)  # update gate
        self.W_xr, self.W_hr, self.b_r = normal(V, H), normal(H, H), zeros(H)  # reset gate
        self.W_xh, self.W_hh, self.b_h = normal(V, H), normal(H, H), zeros(H)  # candidate state
        if reset == "after":
            self.b_hh = zeros(H)
        self.W_hq, self.b_q = normal(H, V), zeros(V)  # output layer

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See ``LanguageModel.forward``."""
        H, logits = state, []
        for H in self._steps(tokens, state):
            logits.append(H @ self.W_hq + self.b_q)
        return torch.stack(logits), H  # (T, B, V), (B, H)

    def states(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See ``LinearOutput.states``."""
        states = list(self._steps(tokens, state))
        return torch.stack(states), states[-1]

    def output_layer(self) -> tuple[Tensor, Tensor]:
        """See ``LinearOutput.output_layer``."""
        return self.W_hq.T, self.b_q

    def _steps(self, tokens: Tensor, state: Tensor) -> Iterator[Tensor]:
        """Yield the state after each step."""
        W_x = self.W_xz, self.W_xr, self.W_xh
        XW: Iterable[Tensor]  # (B, 3H) per step
        if self.W_xz.numel() > LARGE:  # without a copy of the matrices
            XW = torch.cat([picked_rows(W, tokens.T) for W in W_x], dim=2)
        else:
            W_x_all = torch.cat(W_x, dim=1)  # (V, 3H)
            XW = (F.embedding(x, W_x_all) for x in tokens.T.contiguous())
        W_hz, W_hr, W_hh = self.W_hz, self.W_hr, self.W_hh
        b_z, b_r, b_h = self.b_z, self.b_r, self.b_h
        H = state  # (B, H)
        for XW_x in XW:
            XW_xz, XW_xr, XW_xh = XW_x.chunk(3, dim=1)  # each (B, H)
            Z = torch.sigmoid(XW_xz + H @ W_hz + b_z)
            R = torch.sigmoid(XW_xr + H @ W_hr + b_r)
            if self.reset == "before":
                H_tilde = torch.tanh(XW_xh + (R * H) @ W_hh + b_h)
            else:
                H_tilde = torch.tanh(XW_xh + b_h + R * (H @ W_hh + self.b_hh))
            H = Z * H + (1 - Z) * H_tilde
            yield H


Model = ScratchGRU
