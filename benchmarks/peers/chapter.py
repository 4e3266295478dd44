"""The textbook's GRU, as three functions for ``d2l.RNNModelScratch``.

Source: Zhang et al., Dive into Deep Learning, section "Gated Recurrent Units" (train_ch8 edition).
Every product is computed at every step, and the one-hot inputs are multiplied. B sequences,
V tokens in the vocabulary, H hidden units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

PARAMETERS: Final = (
    *("W_xz", "W_hz", "b_z"),  # update gate
    *("W_xr", "W_hr", "b_r"),  # reset gate
    *("W_xh", "W_hh", "b_h"),  # candidate state
    *("W_hq", "b_q"),  # output layer
)


def get_params(vocab_size: int, num_hiddens: int, device: torch.device) -> list[Tensor]:
    """Return new parameters in the order of ``PARAMETERS``: normal(0, 0.01), biases zero."""

    def normal(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, device=device) * 0.01

    def three() -> tuple[Tensor, Tensor, Tensor]:
        return (
            normal(vocab_size, num_hiddens),
            normal(num_hiddens, num_hiddens),
            torch.zeros(num_hiddens, device=device),
        )

    output = (normal(num_hiddens, vocab_size), torch.zeros(vocab_size, device=device))
    params = [*three(), *three(), *three(), *output]
    for param in params:
        param.requires_grad_(True)
    return params


def init_gru_state(batch_size: int, num_hiddens: int, device: torch.device) -> tuple[Tensor]:
    """Return the state before the first token, a tuple of zeros (B, H)."""
    return (torch.zeros((batch_size, num_hiddens), device=device),)


def gru(
    inputs: Tensor, state: tuple[Tensor], params: Sequence[Tensor]
) -> tuple[Tensor, tuple[Tensor]]:
    """Read one-hot ``inputs`` (T, B, V). Returns the logits (T * B, V) and the final state."""
    W_xz, W_hz, b_z, W_xr, W_hr, b_r, W_xh, W_hh, b_h, W_hq, b_q = params
    (H,) = state
    outputs = []
    for X in inputs:
        Z = torch.sigmoid((X @ W_xz) + (H @ W_hz) + b_z)
        R = torch.sigmoid((X @ W_xr) + (H @ W_hr) + b_r)
        H_tilde = torch.tanh((X @ W_xh) + ((R * H) @ W_hh) + b_h)
        H = Z * H + (1 - Z) * H_tilde
        outputs.append(H @ W_hq + b_q)
    return torch.cat(outputs, dim=0), (H,)
