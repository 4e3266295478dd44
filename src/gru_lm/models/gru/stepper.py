"""Read one sequence with a GRU, token by token and without torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from gru_lm.core.errors import OutOfRange
from gru_lm.models.stepper import Stepper


class GRUStepper(Stepper):
    """The ``Stepper`` of a GRU with the weights of ``GRU.textbook_weights``.

    One token is too little work to hide the overhead of torch. This class uses NumPy, computes
    everything that does not depend on the state once, and reuses its buffers in each step.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        w = {name: weight.detach().cpu().numpy() for name, weight in weights.items()}
        # sigmoid(x) = (1 + tanh(x / 2)) / 2. The weights of the gates are halved in advance.
        gate_inputs = np.concatenate([w["W_xz"] + w["b_z"], w["W_xr"] + w["b_r"]], axis=1)
        self._gate_inputs = list(gate_inputs / 2)  # V arrays (2H,)
        self._candidate_inputs = list(w["W_xh"] + w["b_h"])  # V arrays (H,)
        gates = np.concatenate([w["W_hz"], w["W_hr"]], axis=1)
        self._W_zr = np.ascontiguousarray(gates.T) / 2  # (2H, H)
        self._W_hh = np.ascontiguousarray(w["W_hh"].T)
        self._W_hq = np.ascontiguousarray(w["W_hq"].T)  # (V, H)
        self._b_hh, self._b_q = w.get("b_hh"), w["b_q"]
        H = len(self._W_hh)
        self._H, self._C, self._N = np.zeros((3, H), self._W_hh.dtype)
        self._ZR = np.empty(2 * H, self._W_hh.dtype)
        self._Z, self._R = self._ZR[:H], self._ZR[H:]

    def feed(self, token: int) -> None:
        """See ``Stepper.feed``. The equations are those of ``scratch/model.py``."""
        if not 0 <= token < len(self._gate_inputs):
            raise OutOfRange("token", token, f"0 to {len(self._gate_inputs) - 1}")
        H, C, N, ZR = self._H, self._C, self._N, self._ZR
        np.dot(self._W_zr, H, out=ZR)
        ZR += self._gate_inputs[token]
        np.tanh(ZR, out=ZR)
        ZR *= 0.5
        ZR += 0.5
        if self._b_hh is None:
            np.multiply(self._R, H, out=N)
            np.dot(self._W_hh, N, out=C)
        else:
            np.dot(self._W_hh, H, out=C)
            C += self._b_hh
            C *= self._R
        C += self._candidate_inputs[token]
        np.tanh(C, out=C)
        H -= C  # H' = Z H + (1 - Z) C = C + Z (H - C)
        H *= self._Z
        H += C

    def logits(self) -> np.ndarray:
        """See ``Stepper.logits``."""
        logits: np.ndarray = np.dot(self._W_hq, self._H)
        logits += self._b_q
        return logits
