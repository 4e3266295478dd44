"""The fused variant's loops over the steps with torch's operations, for any device and type.

See ``layer.py`` for the equations and the notation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gru_lm.models.fused.buffers import StepBuffers


class TorchLoops:
    """Loops over the steps. The factors of the gradients are computed before the backward loop.

    Forward: W_zr (2H, H), W_hh (H, H), W_h (3H, H). Backward: their transposes.
    """

    @staticmethod
    def forward_before(steps: StepBuffers, W_zr: Tensor, W_hh: Tensor) -> None:
        for H, H_new, ZR, Z, R, RH, C in steps.forward_steps:
            ZR.addmm_(W_zr, H).sigmoid_()
            torch.mul(R, H, out=RH)
            C.addmm_(W_hh, RH).tanh_()
            torch.lerp(C, H, Z, out=H_new)

    @staticmethod
    def forward_after(steps: StepBuffers, W_h: Tensor) -> None:
        for H, H_new, gates, ZR, Z, R, N, C in steps.forward_steps:
            gates.addmm_(W_h, H)
            ZR.sigmoid_()
            C.addcmul_(R, N).tanh_()
            torch.lerp(C, H, Z, out=H_new)

    @staticmethod
    def backward_before(steps: StepBuffers, W_zr: Tensor, W_hh: Tensor) -> None:
        TorchLoops._factors(steps)
        P = steps.P
        for G, G_old, dCdZ, dC, dR, dZR, Z, R, _, _ in steps.backward_steps:
            dCdZ.mul_(G)
            torch.mm(W_hh, dC, out=P)
            dR.mul_(P)
            G_old.addcmul_(G, Z).addcmul_(P, R).addmm_(W_zr, dZR)

    @staticmethod
    def backward_after(steps: StepBuffers, W_h: Tensor) -> None:
        TorchLoops._factors(steps)
        for G, G_old, dA, dZRN, Z, _, _, _ in steps.backward_steps:
            dA.mul_(G)
            G_old.addcmul_(G, Z).addmm_(W_h, dZRN)

    @staticmethod
    def _factors(steps: StepBuffers) -> None:
        """Store the factors by which G (or P) is multiplied in dC, dZ, dR and dN."""
        aten = torch.ops.aten
        H, Z, R, C = steps.H[:-1], steps.Z, steps.R, steps.C
        dC, dZ, dR, dN = steps.dC, steps.dZ, steps.dR, steps.dN
        torch.sub(1, Z, out=dC)
        aten.tanh_backward.grad_input(dC, C, grad_input=dC)  # (1 - Z)(1 - C²)
        torch.sub(H, C, out=dZ)
        aten.sigmoid_backward.grad_input(dZ, Z, grad_input=dZ)  # (H - C) Z (1 - Z)
        if dN.shape[1] == 0:
            aten.sigmoid_backward.grad_input(H, R, grad_input=dR)  # H R (1 - R)
        else:
            torch.mul(dC, steps.third, out=dR)
            aten.sigmoid_backward.grad_input(dR, R, grad_input=dR)  # (1 - Z)(1 - C²) N R (1 - R)
            torch.mul(dC, R, out=dN)
