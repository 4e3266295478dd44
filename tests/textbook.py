"""Random weights with the textbook's names, and inputs, for the recurrent layers."""

from __future__ import annotations

import torch

V, H, B, T = 6, 5, 3, 7
RESETS = ["before", "after"]


def shapes(reset, vocab_size=V, hidden_size=H):
    """Return the documented names and shapes of the parameters."""
    result = {}
    for gate in "zrh":
        result[f"W_x{gate}"] = (vocab_size, hidden_size)
        result[f"W_h{gate}"] = (hidden_size, hidden_size)
        result[f"b_{gate}"] = (hidden_size,)
    if reset == "after":
        result["b_hh"] = (hidden_size,)
    return {**result, "W_hq": (hidden_size, vocab_size), "b_q": (vocab_size,)}


def random_weights(reset, dtype=torch.float32, **sizes):
    """Return weights large enough that every gate and every bias matters."""
    generator = torch.Generator().manual_seed(11)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).mul(0.7).to(dtype)
        for name, shape in shapes(reset, **sizes).items()
    }


def random_inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(12)
    tokens = torch.randint(V, (B, T), generator=generator)
    return tokens, torch.randn(B, H, generator=generator, dtype=torch.float64).to(dtype)


def loss_of(logits, last):
    """Return a scalar that depends on every output with a different weight."""
    generator = torch.Generator().manual_seed(13)
    return (logits * torch.randn(logits.shape, generator=generator)).sum() + (
        last * torch.randn(last.shape, generator=generator)
    ).sum()
