"""A call of nn.GRU's kernel with given weights, in autocast's type if autocast is enabled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def run_gru(
    inputs: Tensor, state: Tensor, weights: Sequence[Tensor], training: bool
) -> tuple[Tensor, Tensor]:
    """Run one layer of ``nn.GRU`` on ``inputs`` (T, B, I) from ``state`` (1, B, H).

    ``weights`` are one of ``nn.GRU.all_weights``. Under autocast all arguments are converted to
    its type once. Autocast alone keeps the state in float32 on a CPU, so nearly every operation of
    a step converts it. On a GPU it runs cuDNN's layer in float16 whatever type is requested.

    Returns the outputs (T, B, H) and the last state (1, B, H).
    """
    device = state.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        inputs, state, *weights = (tensor.to(dtype) for tensor in (inputs, state, *weights))
    with torch.autocast(device, enabled=False):
        # As nn.GRU.forward: with biases, one layer, no dropout, one direction, time first.
        result: tuple[Tensor, Tensor] = torch._VF.gru(
            inputs, state, list(weights), True, 1, 0.0, training, False, False
        )
    return result
