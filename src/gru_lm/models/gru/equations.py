"""The GRU's equations (see ``scratch/model.py``), step by step and with access to every gate.

This works for all GRU variants, as their weights have the textbook's names. An ``Intervention``
moves a gate or the state towards a given value at each step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from gru_lm.core.errors import require_at_least
from gru_lm.models.gates import Gates, Intervention


class Equations(Gates):
    """The ``Gates`` of a GRU with the weights of ``GRU.textbook_weights``."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        w = weights
        self._W_x = torch.cat(
            [w["W_xz"] + w["b_z"], w["W_xr"] + w["b_r"], w["W_xh"] + w["b_h"]], dim=1
        )  # (V, 3H)
        self._W_zr = torch.cat([w["W_hz"], w["W_hr"]], dim=1)  # (H, 2H)
        self._W_hh, self._b_hh = w["W_hh"], w.get("b_hh")
        self._W_hq, self._b_q = w["W_hq"], w["b_q"]
        self.vocab_size = len(self._b_q)

    def begin_state(self, batch_size: int) -> Tensor:
        """See ``Gates.begin_state``."""
        require_at_least(1, batch_size=batch_size)
        return self._W_hh.new_zeros(batch_size, len(self._W_hh))

    def steps(
        self, tokens: Tensor, state: Tensor, intervention: Intervention | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """See ``Gates.steps``."""
        H, hidden_size = state, len(self._W_hh)
        for x in tokens.T:
            XW_zr, XW_xh = self._W_x[x].split((2 * hidden_size, hidden_size), dim=1)
            Z, R = torch.sigmoid(XW_zr + H @ self._W_zr).chunk(2, dim=1)
            if intervention is not None:
                Z, R = intervention.apply("Z", Z), intervention.apply("R", R)
            if self._b_hh is None:
                H_tilde = torch.tanh(XW_xh + (R * H) @ self._W_hh)
            else:
                H_tilde = torch.tanh(XW_xh + R * (H @ self._W_hh + self._b_hh))
            H = Z * H + (1 - Z) * H_tilde
            if intervention is not None:
                H = intervention.apply("H", H)
            yield Z, R, H

    def last_state(
        self, tokens: Tensor, state: Tensor, intervention: Intervention | None = None
    ) -> Tensor:
        """See ``Gates.last_state``."""
        H = state
        for _, _, H in self.steps(tokens, state, intervention):  # noqa: B007
            pass
        return H

    def logits(self, states: Tensor) -> Tensor:
        """See ``Gates.logits``."""
        return states @ self._W_hq + self._b_q
