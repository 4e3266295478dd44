"""Read one sequence with a GRU, token by token and without torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from gru_lm.core.errors import OutOfRange
from gru_lm.models.stepper import Stepper


class GRUStepper(Stepper):
    """The ``Stepper`` of a GRU, or of a stack of them.

    ``layers`` are weights with the names of ``GRU.textbook_weights``, from the first layer, whose
    inputs are one-hot, to the last. Only the last has an output layer.

    One token is too little work to hide the overhead of torch. This class uses NumPy, computes
    everything that does not depend on the state once, and reuses its buffers in each step.
    """

    def __init__(self, *layers: Mapping[str, Tensor]) -> None:
        arrays = [
            {name: weight.detach().cpu().numpy() for name, weight in weights.items()}
            for weights in layers
        ]
        first, last = arrays[0], arrays[-1]
        # sigmoid(x) = (1 + tanh(x / 2)) / 2. The weights of the gates are halved in advance.
        by_gate = [first["W_xz"] + first["b_z"], first["W_xr"] + first["b_r"]]
        gate_inputs = np.concatenate(by_gate, axis=1)
        self._gate_inputs = list(gate_inputs / 2)  # V arrays (2H,)
        self._candidate_inputs = list(first["W_xh"] + first["b_h"])  # V arrays (H,)
        self._first, *self._above = [_Cell(w) for w in arrays]
        self._inputs = [_Inputs(w) for w in arrays[1:]]
        self._W_hq = np.ascontiguousarray(last["W_hq"].T)  # (V, H)
        self._b_q = last["b_q"]
        self._H = (self._above or [self._first])[-1].H

    def feed(self, token: int) -> None:
        """See ``Stepper.feed``."""
        if not 0 <= token < len(self._gate_inputs):
            raise OutOfRange("token", token, f"0 to {len(self._gate_inputs) - 1}")
        self._first.step(self._gate_inputs[token], self._candidate_inputs[token])
        below = self._first.H
        for inputs, cell in zip(self._inputs, self._above, strict=True):
            cell.step(*inputs.of(below))
            below = cell.H

    def logits(self) -> np.ndarray:
        """See ``Stepper.logits``."""
        logits: np.ndarray = np.dot(self._W_hq, self._H)
        logits += self._b_q
        return logits


class _Cell:
    """The recurrent part of a layer with the state ``H`` (H,)."""

    def __init__(self, w: Mapping[str, np.ndarray]) -> None:
        gates = np.concatenate([w["W_hz"], w["W_hr"]], axis=1)
        self._W_zr = np.ascontiguousarray(gates.T) / 2  # (2H, H)
        self._W_hh = np.ascontiguousarray(w["W_hh"].T)
        self._b_hh = w.get("b_hh")
        H = len(self._W_hh)
        self.H, self._C, self._N = np.zeros((3, H), self._W_hh.dtype)
        self._ZR = np.empty(2 * H, self._W_hh.dtype)
        self._Z, self._R = self._ZR[:H], self._ZR[H:]

    def step(self, gate_inputs: np.ndarray, candidate_inputs: np.ndarray) -> None:
        """Update the state. The equations are those of ``scratch/model.py``.

        ``gate_inputs`` (2H,) are half of X W_x + b for the gates Z and R, ``candidate_inputs`` (H,)
        all of it for the candidate state.
        """
        H, C, N, ZR = self.H, self._C, self._N, self._ZR
        np.dot(self._W_zr, H, out=ZR)
        ZR += gate_inputs
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
        C += candidate_inputs
        np.tanh(C, out=C)
        H -= C  # H' = Z H + (1 - Z) C = C + Z (H - C)
        H *= self._Z
        H += C


class _Inputs:
    """The arguments of ``_Cell.step`` for the state of the layer below."""

    def __init__(self, w: Mapping[str, np.ndarray]) -> None:
        W_x = np.concatenate([w["W_xz"] / 2, w["W_xr"] / 2, w["W_xh"]], axis=1)
        self._W_x = np.ascontiguousarray(W_x.T)  # (3H, H)
        self._b = np.concatenate([w["b_z"] / 2, w["b_r"] / 2, w["b_h"]])
        self._X = np.empty_like(self._b)
        H = len(w["b_h"])
        self._parts = self._X[: 2 * H], self._X[2 * H :]

    def of(self, below: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the arguments for ``below`` (H,), in a buffer that the next call overwrites."""
        np.dot(self._W_x, below, out=self._X)
        self._X += self._b
        return self._parts
