"""The stacked weights of the fused variant's recurrent layer, and their textbook names.

W_x (3H, I) has the rows candidate, update, reset (h, z, r), W_h (3H, H) the rows z, r, h and b
(3H,) those of W_x. ``state_dict`` and ``load_state_dict`` use the names and shapes of scratch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def initial(input_size: int, hidden_size: int) -> tuple[Tensor, Tensor]:
    """Return W_x and W_h from normal(0, 0.01), drawn in the order of scratch."""
    I, H = input_size, hidden_size  # noqa: E741
    # W_xz, W_hz, W_xr, W_hr, W_xh, W_hh
    (x_z, h_z), (x_r, h_r), (x_h, h_h) = [
        (torch.randn(I, H) * 0.01, torch.randn(H, H) * 0.01) for _ in range(3)
    ]
    W_x = torch.cat([x_h, x_z, x_r], dim=1).T.contiguous()
    return W_x, torch.cat([h_z, h_r, h_h], dim=1).T.contiguous()


def use_textbook_names(module: nn.Module) -> None:
    """Make ``state_dict`` and ``load_state_dict`` of ``module`` use scratch's names."""
    module.register_state_dict_post_hook(_unstack)
    module.register_load_state_dict_pre_hook(_stack)


def _unstack(module: nn.Module, state: dict[str, Any], prefix: str, metadata: object) -> None:
    """Replace the stacked tensors by scratch's names and shapes, after ``state_dict``."""

    def take(name: str) -> Tensor:
        tensor: Tensor = state.pop(prefix + name)
        return tensor

    (x_h, x_z, x_r), (h_z, h_r, h_h) = take("W_x").chunk(3), take("W_h").chunk(3)
    b_h, b_z, b_r = take("b").chunk(3)
    named = {"W_xz": x_z.T, "W_hz": h_z.T, "b_z": b_z}
    named |= {"W_xr": x_r.T, "W_hr": h_r.T, "b_r": b_r}
    named |= {"W_xh": x_h.T, "W_hh": h_h.T, "b_h": b_h}
    if prefix + "b_hh" in state:
        named["b_hh"] = take("b_hh")
    if prefix + "W_q" in state:  # a model with an output layer
        named |= {"W_hq": take("W_q").T, "b_q": take("b_q")}
    state.update({prefix + name: tensor.contiguous() for name, tensor in named.items()})


def _stack(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Replace scratch's tensors by the stacked ones, before ``load_state_dict``."""

    def stack(kind: str, gates: str) -> Tensor:
        return torch.cat([state.pop(f"{prefix}{kind}{gate}").T for gate in gates])

    state[prefix + "b"] = torch.cat([state.pop(f"{prefix}b_{gate}") for gate in "hzr"])
    state[prefix + "W_x"], state[prefix + "W_h"] = stack("W_x", "hzr"), stack("W_h", "zrh")
    if prefix + "W_hq" in state:
        state[prefix + "W_q"] = state.pop(prefix + "W_hq").T
