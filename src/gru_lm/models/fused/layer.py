"""The fused variant's recurrent layer, with hand-derived forward and backward passes.

The equations are those of ``scratch/model.py``. A state is a column here: H is (hidden units,
sequences), and a product is W H. The weights are transposed and stacked, W_x in the order
candidate, update, reset (h, z, r) and W_h in the order z, r, h. Each gate is then a contiguous
block of rows. A matrix library splits a product of a tall matrix and a few columns well among
threads.

**Forward.** The input's part, W_x X + b, is computed for all steps before the loop. X is one-hot,
so this selects a column of W_x + b per token. Only the products with the state remain in the loop.

**Backward.** Let G be the gradient of the loss with respect to the new state H', the sum of the
contributions of the outputs and of the next step. Let dA be the gradient with respect to the
argument of A's nonlinearity, and * the elementwise product. From H' = Z * H + (1 - Z) * C, with C
the candidate state::

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

The gradients of the weights are sums over the steps. Each is one product after the loop:
dW_h[z, r] = Σ [dZ, dR] Hᵀ, dW_hh = Σ dC (R * H)ᵀ, or Σ dN Hᵀ, and dW_x adds [dC, dZ, dR] to the
column of each step's token.

The method is backpropagation through time (Werbos 1990). cuDNN moves the same products out of the
loop (Appleyard et al. 2016, arXiv:1604.01946).

**Implementations.** On a CPU in float32 the whole loop is compiled (``cpu.py``). On a GPU a Triton
kernel does all elementwise work between two products (``gpu.py``). In all other cases torch's
operations do it (``torch_loops.py``). The factors of G (or P) depend on the forward pass alone, so
that implementation computes them for all steps before the loop.
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
Pool = dict[Any, list[Memory]]  # free memory by the kind of pass that can use it


class Recurrence(torch.autograd.Function):
    """The GRU layer over all steps. The module's docstring has the derivation.

    A pass takes its memory from ``pool``. The memory is returned when the autograd graph is freed,
    or at once if no gradient is needed. It contains the states, so the next pass that takes it
    overwrites them. Under bfloat16 autocast the products for the weights' gradients are in
    bfloat16. The products with the state are not, as converting the state at each step takes as
    much time as it saves.
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
        """Return all states (H, T, B) and the last one (H, B).

        Read ``tokens`` (T, B) from ``state`` (H, B). ``W_x`` (3H, V) includes the biases. If
        ``b_hh`` (H,) is given, the reset gate acts after the product.
        """
        (T, B), H, device = tokens.shape, W_h.shape[1], W_h.device.type
        reset: Reset = "before" if b_hh is None else "after"
        mixed = torch.is_autocast_enabled(device)
        products = torch.get_autocast_dtype(device) if mixed else W_h.dtype
        # Tensors created in inference mode cannot be written to in training.
        kind = (T, B, W_h.dtype, W_h.device, products, torch.is_inference_mode_enabled())
        free = pool.setdefault(kind, [])
        kept = free.pop() if free else memory_for(W_h, B)(W_h, T, B, H, reset, products)
        loan = Loan(kept, free)
        states, last = kept.forward(tokens, state, W_x, W_h, b_hh)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(tokens, W_h)
            ctx.set_materialize_grads(False)
            ctx.loan, ctx.V = loan, W_x.shape[1]
        return states.detach(), last.clone()  # results become part of the graph

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_states: Tensor | None, d_last: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of state, W_x, W_h and b_hh, and None for tokens and pool."""
        tokens, W_h = ctx.saved_tensors
        return None, *ctx.loan.memory.backward(d_states, d_last, tokens, W_h, ctx.V), None


def memory_for(W_h: Tensor, B: int) -> type[Steps] | type[Blocks]:
    """Return the fastest implementation. ``Blocks`` would leave most lanes empty for small B."""
    cpu = W_h.device.type == "cpu" and W_h.dtype == torch.float32
    return Blocks if cpu and B >= FEWEST_SEQUENCES else Steps
