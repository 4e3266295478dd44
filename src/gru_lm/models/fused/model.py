"""The fused variant: scratch's function, forward and backward derived by hand and made fast.

The equations are those of ``scratch.py``. Here a state is a column: H is (hidden units,
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

**Three ways** to run the loop. On a CPU in float32 all of it is compiled (``fused_cpu.py``). On a
GPU a Triton kernel does all elementwise work between two products (``fused_gpu.py``). Elsewhere
torch's own operations do it; what multiplies G (or P) elementwise depends on the forward pass
alone, and is then computed for all steps at once before the loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gru_lm.models.base import LanguageModel
from gru_lm.models.fused.cpu import FEWEST_SEQUENCES, Blocks
from gru_lm.models.fused.gpu import KernelLoops, triton_works

Reset = Literal["before", "after"]


class Loan:
    """Memory of a pass that goes back to ``free`` as soon as nothing needs the loan any more."""

    def __init__(self, memory: Steps | Blocks, free: list[Steps | Blocks]) -> None:
        self.memory, self._free = memory, free

    def __del__(self) -> None:
        self._free.append(self.memory)


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
        pool: dict[Any, list[Steps | Blocks]],
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


class Steps:
    """All sequences go through T steps side by side: B columns, one operation for all of them.

    Two layouts: by step, (T, rows, B), in which each step's part is contiguous for the loops; and
    by unit, (rows, T, B), in which all steps together are one matrix for the products outside them.
    ``forward_steps`` and ``backward_steps`` hold the views that the loops work on.
    """

    def __init__(
        self, like: Tensor, T: int, B: int, H: int, reset: Reset, products: torch.dtype
    ) -> None:
        rows = 3 * H if reset == "before" else 4 * H
        self.H = like.new_empty(T + 1, H, B)  # the first is the state before the first step
        self.gates = like.new_empty(T, 3 * H, B)  # Z, R, and R * H ("before") or N ("after")
        self.C = like.new_empty(T, H, B)
        self.dA = like.new_empty(T, rows, B)  # dC, dZ, dR, and dN ("after")
        self.G = like.new_empty(T + 1, H, B)
        self.P = like.new_empty(H, B)
        self.inputs_by_unit = like.new_empty(3 * H, T * B)
        self.states_by_unit = like.new_empty(H, T, B)
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

    def forward(
        self, tokens: Tensor, state: Tensor, W_x: Tensor, W_h: Tensor, b_hh: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See ``Recurrence.forward``."""
        (T, B), H = tokens.shape, W_h.shape[1]
        torch.index_select(W_x, 1, tokens.flatten(), out=self.inputs_by_unit)
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
        return self.states_by_unit.copy_(self.H[1:].transpose(0, 1)), self.H[T]

    def backward(
        self, d_states: Tensor | None, d_last: Tensor | None, tokens: Tensor, W_h: Tensor, V: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """See ``Recurrence.backward``; ``V`` is the number of columns of W_x."""
        T, H = len(tokens), W_h.shape[1]
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
        columns = dA[: 3 * H].to(W_h.dtype)
        dW_x = W_h.new_zeros(3 * H, V).index_add_(1, tokens.flatten(), columns)
        return self.G[0].clone(), dW_x, dW_h, d_b_hh


def _by_unit(steps: Tensor, out: Tensor) -> Tensor:
    """(T, rows, B) as (rows, TB), copied into ``out``."""
    return out.copy_(steps.transpose(0, 1)).flatten(1)


class TorchLoops:
    """The loops over the steps, by torch's operations, with the factors taken before the loop.

    Forward: W_zr (2H, H), W_hh (H, H), W_h (3H, H). Backward: the same, transposed.
    """

    @staticmethod
    def forward_before(steps: Steps, W_zr: Tensor, W_hh: Tensor) -> None:
        for H, H_new, ZR, Z, R, RH, C in steps.forward_steps:
            ZR.addmm_(W_zr, H).sigmoid_()
            torch.mul(R, H, out=RH)
            C.addmm_(W_hh, RH).tanh_()
            torch.lerp(C, H, Z, out=H_new)

    @staticmethod
    def forward_after(steps: Steps, W_h: Tensor) -> None:
        for H, H_new, gates, ZR, Z, R, N, C in steps.forward_steps:
            gates.addmm_(W_h, H)
            ZR.sigmoid_()
            C.addcmul_(R, N).tanh_()
            torch.lerp(C, H, Z, out=H_new)

    @staticmethod
    def backward_before(steps: Steps, W_zr: Tensor, W_hh: Tensor) -> None:
        TorchLoops._factors(steps)
        P = steps.P
        for G, G_old, dCdZ, dC, dR, dZR, Z, R, _, _ in steps.backward_steps:
            dCdZ.mul_(G)
            torch.mm(W_hh, dC, out=P)
            dR.mul_(P)
            G_old.addcmul_(G, Z).addcmul_(P, R).addmm_(W_zr, dZR)

    @staticmethod
    def backward_after(steps: Steps, W_h: Tensor) -> None:
        TorchLoops._factors(steps)
        for G, G_old, dA, dZRN, Z, _, _, _ in steps.backward_steps:
            dA.mul_(G)
            G_old.addcmul_(G, Z).addmm_(W_h, dZRN)

    @staticmethod
    def _factors(steps: Steps) -> None:
        """What G (or P) is multiplied with to give dC, dZ, dR and dN, put in their places."""
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


def loops_for(weights: Tensor) -> type[TorchLoops] | type[KernelLoops]:
    """The faster loops for where ``weights`` lie."""
    return KernelLoops if weights.is_cuda and triton_works(weights.device) else TorchLoops


class FusedGRU(LanguageModel):
    """Scratch's function with stacked weights.

    Parameters: W_x (3H, V), rows h, z, r; W_h (3H, H), rows z, r, h; b (3H,), as W_x; with reset
    "after" b_hh (H,); W_q (V, H); b_q (V,). ``state_dict`` and ``load_state_dict`` speak of
    scratch's parameters instead, W_xz to b_q, so that weights go from one to the other. The
    initial weights are scratch's from the same random state.
    """

    variant = "fused"

    def __init__(self, vocab_size: int, hidden_size: int, reset: Reset = "before") -> None:
        super().__init__(vocab_size, hidden_size, reset=reset)
        if reset not in ("before", "after"):
            raise ValueError(f"reset = {reset!r}: must be 'before' or 'after'")
        self.reset = reset
        V, H = vocab_size, hidden_size
        # Drawn in scratch's order: W_xz, W_hz, W_xr, W_hr, W_xh, W_hh, W_hq.
        (x_z, h_z), (x_r, h_r), (x_h, h_h) = [
            (torch.randn(V, H) * 0.01, torch.randn(H, H) * 0.01) for _ in range(3)
        ]
        self.W_x = nn.Parameter(torch.cat([x_h, x_z, x_r], dim=1).T.contiguous())
        self.W_h = nn.Parameter(torch.cat([h_z, h_r, h_h], dim=1).T.contiguous())
        self.b = nn.Parameter(torch.zeros(3 * H))
        self.b_hh = nn.Parameter(torch.zeros(H)) if reset == "after" else None
        self.W_q = nn.Parameter((torch.randn(H, V) * 0.01).T.contiguous())
        self.b_q = nn.Parameter(torch.zeros(V))
        self._pool: dict[Any, list[Steps | Blocks]] = {}
        self.register_state_dict_post_hook(_unstack)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_stack)  # type: ignore[no-untyped-call]

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor], reset: Reset = "before") -> FusedGRU:
        """Build the model from scratch's tensors by name; the tensors are copied.

        Raises ValueError where a name is missing or unknown or a shape does not fit.
        """
        if "W_hq" not in weights:
            raise ValueError("missing or unknown weights: W_hq")
        hidden_size, vocab_size = weights["W_hq"].shape
        model = cls(vocab_size, hidden_size, reset).to(weights["W_hq"].dtype)
        model.load_weights(weights)
        return model

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See ``LanguageModel.forward``."""
        states, last = Recurrence.apply(  # type: ignore[no-untyped-call]
            tokens.T, state.T, self.W_x + self.b[:, None], self.W_h, self.b_hh, self._pool
        )  # (H, T, B), (H, B)
        logits = torch.addmm(self.b_q[:, None], self.W_q, states.flatten(1)).T  # (TB, V)
        return logits.unflatten(0, tokens.T.shape), last.T


def _unstack(module: FusedGRU, state: dict[str, Any], prefix: str, metadata: object) -> None:
    """Scratch's names and shapes in place of the stacked ones, after ``state_dict``."""

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
    """The stacked tensors in place of scratch's, before ``load_state_dict``."""

    def stack(kind: str, gates: str) -> Tensor:
        return torch.cat([state.pop(f"{prefix}{kind}{gate}").T for gate in gates])

    state[prefix + "b"] = torch.cat([state.pop(f"{prefix}b_{gate}") for gate in "hzr"])
    state[prefix + "W_x"], state[prefix + "W_h"] = stack("W_x", "hzr"), stack("W_h", "zrh")
    state[prefix + "W_q"] = state.pop(prefix + "W_hq").T


Model = FusedGRU
