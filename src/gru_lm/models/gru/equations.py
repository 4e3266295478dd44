"""The GRU's equations (see ``scratch/model.py``), step by step and with access to every gate.

This works for all GRU variants, as their weights have the textbook's names. An ``Intervention``
moves a gate or the state towards a given value at each step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from gru_lm.core.errors import require_at_least
from gru_lm.models.gates import Gates, Intervention


class Equations(Gates):
    """The ``Gates`` of a GRU, or of a stack of them.

    ``layers`` are weights with the names of ``GRU.textbook_weights``, from the first layer, whose
    inputs are one-hot, to the last. Only the last has an output layer. The H units are those of
    all layers, side by side from the first to the last. The logits depend on the last layer's.
    """

    def __init__(self, *layers: Mapping[str, Tensor]) -> None:
        self._layers = [_Layer(weights) for weights in layers]
        self._sizes = [layer.hidden_size for layer in self._layers]
        self._by_token = self._layers[0].W_x + self._layers[0].b_x  # (V, 3H)
        self._W_hq, self._b_q = layers[-1]["W_hq"], layers[-1]["b_q"]
        self.vocab_size = len(self._b_q)

    def begin_state(self, batch_size: int) -> Tensor:
        """See ``Gates.begin_state``."""
        require_at_least(1, batch_size=batch_size)
        return self._W_hq.new_zeros(batch_size, sum(self._sizes))

    def steps(
        self, tokens: Tensor, state: Tensor, intervention: Intervention | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """See ``Gates.steps``."""
        held = self._by_layer(intervention)
        states = state.split(self._sizes, dim=1)
        for x in tokens.T:
            inputs = self._by_token[x]
            found: list[tuple[Tensor, Tensor, Tensor]] = []
            for layer, old, part in zip(self._layers, states, held, strict=True):
                if found:
                    inputs = found[-1][2] @ layer.W_x + layer.b_x
                found.append(layer.step(inputs, old, part))
            Zs, Rs, states = zip(*found, strict=True)
            yield torch.cat(Zs, dim=1), torch.cat(Rs, dim=1), torch.cat(states, dim=1)

    def _by_layer(self, intervention: Intervention | None) -> Sequence[Intervention | None]:
        """Return each layer's part of ``intervention``."""
        if intervention is None:
            return [None] * len(self._layers)
        values, doses = (one.split(self._sizes) for one in (intervention.value, intervention.dose))
        return [
            Intervention(intervention.signal, value, dose)
            for value, dose in zip(values, doses, strict=True)
        ]

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
        return states[..., -self._sizes[-1] :] @ self._W_hq + self._b_q


class _Layer:
    """One layer, with the weights W_x (I, 3H) and the biases b_x (3H,) of Z, R and H~ together."""

    def __init__(self, w: Mapping[str, Tensor]) -> None:
        self.W_x = torch.cat([w["W_xz"], w["W_xr"], w["W_xh"]], dim=1)
        self.b_x = torch.cat([w["b_z"], w["b_r"], w["b_h"]])
        self._W_zr = torch.cat([w["W_hz"], w["W_hr"]], dim=1)  # (H, 2H)
        self._W_hh, self._b_hh = w["W_hh"], w.get("b_hh")
        self.hidden_size = len(self._W_hh)

    def step(
        self, inputs: Tensor, H: Tensor, intervention: Intervention | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return Z, R and the new state for ``inputs`` X W_x + b_x (B, 3H) and the state ``H``."""
        XW_zr, XW_xh = inputs.split((2 * self.hidden_size, self.hidden_size), dim=1)
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
        return Z, R, H
