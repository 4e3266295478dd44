"""The fused variant's recurrent layer: forward and backward, derived by hand and made fast.

The equations are those of ``scratch/model.py``. Here a state is a column: H is (hidden units,
sequences), so that products read W H, and the weights are kept transposed and stacked, W_x in the
order candidate, update, reset (h, z, r) and W_h in the order z, r, h. A matrix library splits such
a product of a tall matrix with a few columns well among threads, and each gate is a contiguous
block of rows.

**Forward.** The input's part, W_x X + b, is picked for all steps before the loop; X is one-hot, so
that it is a column of W_x + b for each token. Only the products with the state remain inside.

**Backward.** Let G be the gradient of the loss with respect to the new state H': what comes from
the outputs, and what comes back from the step after. Write dA for the gradient with respect to
what stands in the brackets of A's nonlinearity, and * for the elementwise product. From
H' = Z * H + (1 - Z) * C, with C the candidate state::

    dC = G * (1 - Z) * (1 - C * C)                  as tanh' = 1 - tanh²
    dZ = G * (H - C) * Z * (1 - Z)                  as sigmoid' = sigmoid (1 - sigmoid)

With the reset gate before the product, C = tanh(W_xh X + W_hh (R * H) + b_h)::

    P  = W_hhᵀ dC                                   the gradient with respect to R * H
    dR = P * H * R * (1 - R)
    G of the step before += G * Z + P * R + W_hzᵀ dZ + W_hrᵀ dR

With the reset gate after it, C = tanh(W_xh X + b_h + R * N), N = W_hh H + b_hh::

    dN = dC * R
    dR = dC * N * R * (1 - R)
    G of the step before += G * Z + W_hzᵀ dZ + W_hrᵀ dR + W_hhᵀ dN

The gradients of all weights are sums over the steps, each one product after the loop:
dW_h[z, r] = Σ [dZ, dR] Hᵀ, dW_hh = Σ dC (R * H)ᵀ, or Σ dN Hᵀ, and dW_x adds [dC, dZ, dR] to the
column of each step's token.

The method is backpropagation through time (Werbos 1990); what is taken out of the loop is what
cuDNN takes out as well (Appleyard et al. 2016, arXiv:1604.01946).

**Three ways** to run the loop. On a CPU in float32 all of it is compiled (``cpu.py``). On a GPU a
Triton kernel does all elementwise work between two products (``gpu.py``). Elsewhere torch's own
operations do it (``torch_loops.py``); what multiplies G (or P) elementwise depends on the forward
pass alone, and is then computed for all steps at once before the loop.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gru_lm.models.fused.buffers import Loan
from gru_lm.models.fused.cpu import FEWEST_SEQUENCES, Blocks
from gru_lm.models.fused.steps import Steps
from gru_lm.models.gru.family import Reset

Memory = Steps | Blocks
Pool = dict[Any, list[Memory]]  # memory that is free, by the kind of pass that can use it


class Recurrence(torch.autograd.Function):
    """The GRU layer over all steps; see the module for the derivation.

    The memory of a pass comes from ``pool`` and goes back there with the autograd graph's end, or
    at once where no gradient is asked for. The states lie in it, so that they are overwritten by
    the next pass that takes the same memory. Under bfloat16 autocast the products that give the
    weights' gradients are in bfloat16; those with the state stay as they are, as converting it at
    each step takes the time that they would save.
    """

    @staticmethod
    def forward(
        ctx: Any,
        tokens: Tensor,
        state: Tensor,
        W_x: Tensor,
        W_h: Tensor,
        b_hh: Tensor | None,
        pool: Pool,
    ) -> tuple[Tensor, Tensor]:
        """States (H, T, B) after each token of ``tokens`` (T, B) from ``state`` (H, B) on.

        ``W_x`` (3H, V) holds the biases too; ``b_hh`` (H,) chooses the reset gate after the
        product. The last state (H, B) is the second result.
        """
        (T, B), H, device = tokens.shape, W_h.shape[1], W_h.device.type
        reset: Reset = "before" if b_hh is None else "after"
        mixed = torch.is_autocast_enabled(device)
        products = torch.get_autocast_dtype(device) if mixed else W_h.dtype
        # What is made in inference mode cannot be written in training.
        kind = (T, B, W_h.dtype, W_h.device, products, torch.is_inference_mode_enabled())
        free = pool.setdefault(kind, [])
        kept = free.pop() if free else memory_for(W_h, B)(W_h, T, B, H, reset, products)
        loan = Loan(kept, free)
        states, last = kept.forward(tokens, state, W_x, W_h, b_hh)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(tokens, W_h)
            ctx.set_materialize_grads(False)
            ctx.loan, ctx.V = loan, W_x.shape[1]
        return states.detach(), last.clone()  # a result becomes part of the graph

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_states: Tensor | None, d_last: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """The gradients with respect to state, W_x, W_h and b_hh."""
        tokens, W_h = ctx.saved_tensors
        return None, *ctx.loan.memory.backward(d_states, d_last, tokens, W_h, ctx.V), None


def memory_for(W_h: Tensor, B: int) -> type[Steps] | type[Blocks]:
    """The faster way; a sequence or two alone would leave most lanes of a block empty."""
    cpu = W_h.device.type == "cpu" and W_h.dtype == torch.float32
    return Blocks if cpu and B >= FEWEST_SEQUENCES else Steps
