"""The concise variant's recurrent layer, torch's nn.GRU."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gru_lm.models.concise.gru import run_gru
from gru_lm.models.layer import GRULayer


class Layer(GRULayer):
    """``nn.GRU`` with torch's default initialisation. The reset gate acts after the product.

    ``state_dict`` has the names of ``nn.GRU``, which has two biases per gate.
    """

    drawn_as = "torch"

    def __init__(self, input_size: int, hidden_size: int, recurrent_dropout: float = 0.0) -> None:
        super().__init__(input_size, hidden_size, recurrent_dropout)
        self.gru = nn.GRU(input_size, hidden_size)

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Layer.forward`` in ``models/layer.py``. Under autocast results have its type."""
        W_ih, W_hh, b_ih, b_hh = self.gru.all_weights[0]
        dropped = F.dropout(W_hh, self.recurrent_dropout, self.training)
        weights = [W_ih, dropped, b_ih, b_hh]
        outputs, last = run_gru(inputs, state[None].contiguous(), weights, self.training)
        return outputs, last[0]

    def textbook_weights(self) -> dict[str, Tensor]:
        """See ``GRULayer.textbook_weights``. The two biases of a gate are added."""
        W_ih, W_hh, b_ih, b_hh = (weight.detach() for weight in self.gru.all_weights[0])
        names, (r, z, _) = "rzh", (b_ih + b_hh).chunk(3)
        weights = {f"W_x{gate}": W for gate, W in zip(names, W_ih.T.chunk(3, 1), strict=True)}
        weights |= {f"W_h{gate}": W for gate, W in zip(names, W_hh.T.chunk(3, 1), strict=True)}
        return {**weights, "b_z": z, "b_r": r, "b_h": b_ih.chunk(3)[2], "b_hh": b_hh.chunk(3)[2]}

    @torch.no_grad()
    def load_textbook_weights(self, weights: Mapping[str, Tensor]) -> None:
        """See ``GRULayer.load_textbook_weights``. The second bias of the two gates becomes zero."""
        w, zero = weights, torch.zeros_like(weights["b_hh"])
        W_ih, W_hh, b_ih, b_hh = self.gru.all_weights[0]
        W_ih.copy_(torch.cat([w["W_xr"], w["W_xz"], w["W_xh"]], dim=1).T)
        W_hh.copy_(torch.cat([w["W_hr"], w["W_hz"], w["W_hh"]], dim=1).T)
        b_ih.copy_(torch.cat([w["b_r"], w["b_z"], w["b_h"]]))
        b_hh.copy_(torch.cat([zero, zero, w["b_hh"]]))
