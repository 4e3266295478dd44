"""The fused variant's layer with one operation per step for all sequences.

See ``layer.py`` for the equations and the notation. Torch's operations do the elementwise work of a
step, or Triton kernels on a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gru_lm.models.fused.buffers import Gradients, StepBuffers
from gru_lm.models.fused.gpu import KernelLoops, triton_works
from gru_lm.models.fused.torch_loops import TorchLoops


class Steps(StepBuffers):
    """One pass over T steps of B sequences. Later passes of the same shape reuse its memory."""

    def read_tokens(
        self, tokens: Tensor, state: Tensor, W_x: Tensor, W_h: Tensor, b_hh: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See ``Recurrence.forward``."""
        torch.index_select(W_x, 1, tokens.flatten(), out=self.inputs_by_unit)
        return self._forward(state, W_h, b_hh)

    def read(
        self, X: Tensor, state: Tensor, W_x: Tensor, b: Tensor, W_h: Tensor, b_hh: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See ``DenseRecurrence.forward``. X (TB, I) and W_x (3H, I) have the products' type."""
        torch.add(W_x @ X.T, b[:, None], out=self.inputs_by_unit)
        states, last = self._forward(state, W_h, b_hh)
        return states.clone(), last  # the caller may keep the states

    def _forward(self, state: Tensor, W_h: Tensor, b_hh: Tensor | None) -> tuple[Tensor, Tensor]:
        (T, H, B) = self.C.shape
        inputs = self.inputs_by_unit.view(3 * H, T, B).transpose(0, 1)
        self.C.copy_(inputs[:, :H])
        self.ZR.copy_(inputs[:, H:])
        self.H[0] = state
        loops = loops_for(W_h)
        if b_hh is None:
            loops.forward_before(self, W_h[: 2 * H], W_h[2 * H :])
        else:
            self.third.copy_(b_hh[:, None])
            loops.forward_after(self, W_h)
        return self.states_by_unit.copy_(self.H.transpose(0, 1)), self.H[T].clone()

    def backward(
        self,
        d_states: Tensor | None,
        d_last: Tensor | None,
        states: Tensor,
        W_h: Tensor,
        W_x: Tensor | None = None,
    ) -> Gradients:
        """Return the gradients. ``W_x`` (3H, I) is given if that of dense inputs is needed.

        ``states`` (H, T + 1, B) is the result of the forward pass, ``d_states`` (H, T, B).
        """
        T, H = len(self.C), W_h.shape[1]
        if d_states is None:
            self.G.zero_()
        else:
            self.G[1:].copy_(d_states.transpose(0, 1))
            self.G[0].zero_()
        if d_last is not None:
            self.G[T] += d_last
        loops = loops_for(W_h)
        dW_h, d_b_hh = torch.empty_like(W_h), None
        if self.dN.shape[1] == 0:  # reset before
            W_zr, W_hh = W_h[: 2 * H].T.contiguous(), W_h[2 * H :].T.contiguous()
            loops.backward_before(self, W_zr, W_hh)
            dA = _by_unit(self.dA, self.dA_by_unit)  # (3H, TB)
            dW_h[: 2 * H] = dA[H:] @ _by_unit(self.H[:-1], self.old_by_unit).T
            dW_h[2 * H :] = dA[:H] @ _by_unit(self.third, self.old_by_unit).T
        else:
            loops.backward_after(self, W_h.T.contiguous())
            dA = _by_unit(self.dA, self.dA_by_unit)  # (4H, TB)
            dW_h.copy_(dA[H:] @ _by_unit(self.H[:-1], self.old_by_unit).T)
            d_b_hh = self.dN.sum((0, 2))
        dA = dA[: 3 * H]
        db = dA.sum(1, dtype=W_h.dtype)
        dX = None if W_x is None else (dA.to(W_x.dtype).T @ W_x).unflatten(0, (T, -1))
        return Gradients(dX, self.G[0].clone(), dW_h, d_b_hh, dA, db)

    def input_weights(self, dA: Tensor, X: Tensor) -> Tensor:
        """Return dW_x (3H, I) from ``dA`` (3H, TB) and the inputs X (TB, I)."""
        return dA.to(X.dtype) @ X

    def add_columns(self, dA: Tensor, tokens: Tensor, V: int) -> Tensor:
        """Return dW_x (3H, V), the sum of the columns of ``dA`` (3H, TB) of each token."""
        columns = dA.to(self.G.dtype)
        return columns.new_zeros(len(dA), V).index_add_(1, tokens.flatten(), columns)

    def cut(self, stacked: Tensor) -> Tensor:
        """Return ``stacked``, which has no padding (see ``Blocks.cut``)."""
        return stacked


def _by_unit(steps: Tensor, out: Tensor) -> Tensor:
    """Copy ``steps`` (T, rows, B) to ``out`` (rows, T, B) and return it as (rows, TB)."""
    return out.copy_(steps.transpose(0, 1)).flatten(1)


def loops_for(weights: Tensor) -> type[TorchLoops] | type[KernelLoops]:
    """Return the fastest loops for the device of ``weights``."""
    return KernelLoops if weights.is_cuda and triton_works(weights.device) else TorchLoops
