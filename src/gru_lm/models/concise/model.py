"""The concise variant, with torch's GRU and linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gru_lm.models.concise.gru import run_gru
from gru_lm.models.gru.family import GRU


class ConciseGRU(GRU):
    """``nn.GRU`` with one-hot inputs and ``nn.Linear``, with torch's default initialisation.

    ``nn.GRU`` applies the reset gate after the recurrent product. It computes the function of
    ``ScratchGRU(reset="after")`` and not the textbook's equations.
    """

    variant = "concise"

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__(vocab_size, hidden_size)
        self.gru = nn.GRU(vocab_size, hidden_size)
        self.linear = nn.Linear(hidden_size, vocab_size)

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See ``LanguageModel.forward``. Under autocast the final state has autocast's type."""
        outputs, state = self.states(tokens, state)
        return self.linear(outputs), state  # (T, B, V), (B, H)

    def states(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See ``LinearOutput.states``."""
        steps = tokens.T[..., None]  # (T, B, 1)
        one_hot = state.new_zeros(*steps.shape[:2], self.vocab_size).scatter_(-1, steps, 1.0)
        if torch.is_autocast_enabled(state.device.type):
            weights = self.gru.all_weights[0]
            outputs, state = run_gru(one_hot, state[None], weights, self.training)
        else:
            outputs, state = self.gru(one_hot, state[None])  # (T, B, H), (1, B, H)
        return outputs, state[0]

    def output_layer(self) -> tuple[Tensor, Tensor]:
        """See ``LinearOutput.output_layer``."""
        return self.linear.weight, self.linear.bias

    def textbook_weights(self) -> dict[str, Tensor]:
        """See ``GRU.textbook_weights``. nn.GRU has two biases per gate, which are added here."""
        w = self.state_dict()
        x_r, x_z, x_h = w["gru.weight_ih_l0"].T.chunk(3, dim=1)  # each (V, H)
        h_r, h_z, h_h = w["gru.weight_hh_l0"].T.chunk(3, dim=1)  # each (H, H)
        b_r, b_z, _ = (w["gru.bias_ih_l0"] + w["gru.bias_hh_l0"]).chunk(3)
        b_h, b_hh = w["gru.bias_ih_l0"].chunk(3)[2], w["gru.bias_hh_l0"].chunk(3)[2]
        return {
            **{"W_xz": x_z, "W_hz": h_z, "b_z": b_z},
            **{"W_xr": x_r, "W_hr": h_r, "b_r": b_r},
            **{"W_xh": x_h, "W_hh": h_h, "b_h": b_h},
            **{"b_hh": b_hh, "W_hq": w["linear.weight"].T, "b_q": w["linear.bias"]},
        }


Model = ConciseGRU
