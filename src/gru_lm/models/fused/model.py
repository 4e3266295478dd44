"""The fused variant, a fast implementation of the function of scratch.

``layer.py`` has the recurrent layer and its derivation. This module has the weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gru_lm.models.fused.layer import Pool, Recurrence
from gru_lm.models.gru.family import Reset, TextbookGRU


class FusedGRU(TextbookGRU):
    """The function of scratch with stacked weights.

    Parameters: W_x (3H, V), rows h, z, r; W_h (3H, H), rows z, r, h; b (3H,), as W_x; with reset
    "after" b_hh (H,); W_q (V, H); b_q (V,). ``state_dict`` and ``load_state_dict`` use the names
    and shapes of scratch's parameters, so the two variants can exchange weights. The same random
    state gives the same initial weights as in scratch.
    """

    variant = "fused"

    def __init__(self, vocab_size: int, hidden_size: int, reset: Reset = "before") -> None:
        super().__init__(vocab_size, hidden_size, reset)
        V, H = vocab_size, hidden_size
        # Drawn in the order of scratch: W_xz, W_hz, W_xr, W_hr, W_xh, W_hh, W_hq.
        (x_z, h_z), (x_r, h_r), (x_h, h_h) = [
            (torch.randn(V, H) * 0.01, torch.randn(H, H) * 0.01) for _ in range(3)
        ]
        self.W_x = nn.Parameter(torch.cat([x_h, x_z, x_r], dim=1).T.contiguous())
        self.W_h = nn.Parameter(torch.cat([h_z, h_r, h_h], dim=1).T.contiguous())
        self.b = nn.Parameter(torch.zeros(3 * H))
        self.b_hh = nn.Parameter(torch.zeros(H)) if reset == "after" else None
        self.W_q = nn.Parameter((torch.randn(H, V) * 0.01).T.contiguous())
        self.b_q = nn.Parameter(torch.zeros(V))
        self._pool: Pool = {}
        self.register_state_dict_post_hook(_unstack)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_stack)  # type: ignore[no-untyped-call]

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See ``LanguageModel.forward``."""
        states, last = Recurrence.apply(  # type: ignore[no-untyped-call]
            tokens.T, state.T, self.W_x + self.b[:, None], self.W_h, self.b_hh, self._pool
        )  # (H, T, B), (H, B)
        logits = torch.addmm(self.b_q[:, None], self.W_q, states.flatten(1)).T  # (TB, V)
        return logits.unflatten(0, tokens.T.shape), last.T


def _unstack(module: FusedGRU, state: dict[str, Any], prefix: str, metadata: object) -> None:
    """Replace the stacked tensors by scratch's names and shapes, after ``state_dict``."""

    def take(name: str) -> Tensor:
        tensor: Tensor = state.pop(prefix + name)
        return tensor

    (x_h, x_z, x_r), (h_z, h_r, h_h) = take("W_x").chunk(3), take("W_h").chunk(3)
    b_h, b_z, b_r = take("b").chunk(3)
    named = {"W_xz": x_z.T, "W_hz": h_z.T, "b_z": b_z}
    named |= {"W_xr": x_r.T, "W_hr": h_r.T, "b_r": b_r}
    named |= {"W_xh": x_h.T, "W_hh": h_h.T, "b_h": b_h}
    if module.b_hh is not None:
        named["b_hh"] = take("b_hh")
    named |= {"W_hq": take("W_q").T, "b_q": take("b_q")}
    state.update({prefix + name: tensor.contiguous() for name, tensor in named.items()})


def _stack(module: FusedGRU, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Replace scratch's tensors by the stacked ones, before ``load_state_dict``."""

    def stack(kind: str, gates: str) -> Tensor:
        return torch.cat([state.pop(f"{prefix}{kind}{gate}").T for gate in gates])

    state[prefix + "b"] = torch.cat([state.pop(f"{prefix}b_{gate}") for gate in "hzr"])
    state[prefix + "W_x"], state[prefix + "W_h"] = stack("W_x", "hzr"), stack("W_h", "zrh")
    state[prefix + "W_q"] = state.pop(prefix + "W_hq").T


Model = FusedGRU
