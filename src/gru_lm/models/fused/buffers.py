"""Buffers of a pass over the steps, reused by later passes of the same shape."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from gru_lm.models.gru.family import Reset

Kept = TypeVar("Kept")


class Gradients(NamedTuple):
    """The gradients of a pass. Rows of dA (3H, TB) may be padded; dX and db are of dense inputs."""

    dX: Tensor | None  # (T, B, I)
    state: Tensor  # (H, B)
    W_h: Tensor
    b_hh: Tensor | None
    dA: Tensor
    b: Tensor | None


class Loan(Generic[Kept]):
    """A handle of a pass's memory. The memory is appended to ``free`` when the handle is freed."""

    def __init__(self, memory: Kept, free: list[Kept]) -> None:
        self.memory, self._free = memory, free

    def __del__(self) -> None:
        self._free.append(self.memory)


class StepBuffers:
    """Buffers for T steps of B sequences, which are the columns of each operation.

    There are two layouts. By step, (T, rows, B), each step is contiguous for the loops. By unit,
    (rows, T, B), all steps form one matrix for the products outside the loops. ``forward_steps``
    and ``backward_steps`` are lists of the loops' views, one tuple per step.
    """

    def __init__(
        self, like: Tensor, T: int, B: int, H: int, reset: Reset, products: torch.dtype
    ) -> None:
        rows = 3 * H if reset == "before" else 4 * H
        self.H = like.new_empty(T + 1, H, B)  # H[0] is the initial state
        self.gates = like.new_empty(T, 3 * H, B)  # Z, R, and R * H ("before") or N ("after")
        self.C = like.new_empty(T, H, B)
        self.dA = like.new_empty(T, rows, B)  # dC, dZ, dR, and dN ("after")
        self.G = like.new_empty(T + 1, H, B)
        self.P = like.new_empty(H, B)
        self.inputs_by_unit = like.new_empty(3 * H, T * B)
        self.states_by_unit = like.new_empty(H, T + 1, B)
        self.old_by_unit = like.new_empty(H, T, B, dtype=products)  # H, then R * H
        self.dA_by_unit = like.new_empty(rows, T, B, dtype=products)

        self.ZR, self.third = self.gates.split((2 * H, H), dim=1)
        self.Z, self.R = self.ZR.split(H, dim=1)
        self.dC, self.dZ, self.dR = self.dA[:, : 3 * H].split(H, dim=1)
        self.dN = self.dA[:, 3 * H :]
        H_old, H_new, G_old, G_new = self.H[:-1], self.H[1:], self.G[:-1], self.G[1:]
        forward: tuple[Tensor, ...]
        backward: tuple[Tensor, ...]
        if reset == "before":
            forward = (H_old, H_new, self.ZR, self.Z, self.R, self.third, self.C)
            dCdZ = self.dA[:, : 2 * H].unflatten(1, (2, H))
            dZR = self.dA[:, H:]
            backward = (G_new, G_old, dCdZ, self.dC, self.dR, dZR, self.Z, self.R, H_old, self.C)
        else:
            forward = (H_old, H_new, self.gates, self.ZR, self.Z, self.R, self.third, self.C)
            dA, dZRN = self.dA.unflatten(1, (4, H)), self.dA[:, H:]
            backward = (G_new, G_old, dA, dZRN, self.Z, self.gates, H_old, self.C)
        self.forward_steps = list(zip(*(one.unbind() for one in forward), strict=True))
        self.backward_steps = list(zip(*(one.unbind() for one in backward), strict=True))[::-1]
