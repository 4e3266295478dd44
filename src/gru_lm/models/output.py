"""Output layers for large vocabularies.

**The loss without all logits in memory.** The logits of N tokens are (N, V). For 1,120 tokens and
50,000 words they take 224 MB in float32, and torch's cross-entropy and its gradient need several
such arrays. ``linear_cross_entropy`` computes the logits of some tokens at a time, and at once the
loss and its gradients::

    Q  = X Wᵀ + b                        the logits of a piece, with the states X
    P  = softmax(Q),  L = -log P[target]
    dQ = c (P - one_hot(target))         c is the weight of a target, 1 / N for the mean
    dX = dQ W,  dW += dQᵀ X,  db += sum of the rows of dQ

So the memory does not grow with N times V, and each product is computed once. Source: Hsu et al.
2024, Liger Kernel, arXiv:2410.10989 (FusedLinearCrossEntropy).

**Adaptive softmax.** The vocabulary is sorted by frequency. ``AdaptiveSoftmax`` divides it into the
frequent tokens and two groups of rarer ones::

    P[token] = P_head[token]                                   of a frequent token
    P[token] = P_head[group] softmax(X W_1ᵀ W_2ᵀ)[token]       of a token in a rarer group

The head has a row for each frequent token and each group. W_1 reduces the H numbers of a state to
H / 4 for the first group and to H / 16 for the second. Training computes a group for the tokens of
that group only. Source: Grave et al. 2017, Efficient softmax approximation for GPUs,
arXiv:1609.04309.
"""

from __future__ import annotations

from abc import abstractmethod
from itertools import pairwise
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gru_lm.core.errors import UserError
from gru_lm.models.base import LARGE, UNSCORED, LanguageModel, Reduction

PIECE: Final = 1 << 26  # bytes of a piece's logits
BLOCK: Final = 1 << 20  # logits of a piece that go through the softmax at a time, in a CPU's cache
SHARES: Final = (20, 5)  # the groups of rarer tokens begin at V / 20 and V / 5


class LinearOutput(LanguageModel):
    """A model whose logits are a linear function of its last layer's states."""

    @abstractmethod
    def states(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs of the output layer (T, B, H), and the final state (B, S).

        The arguments are those of ``forward``.
        """

    @abstractmethod
    def output_layer(self) -> tuple[Tensor, Tensor]:
        """Return the matrix (V, H) and the biases (V,) of the logits."""

    def loss(
        self, tokens: Tensor, targets: Tensor, state: Tensor, reduction: Reduction = "mean"
    ) -> tuple[Tensor, Tensor]:
        """See ``LanguageModel.loss``. More than LARGE logits are computed in pieces."""
        if targets.numel() * self.vocab_size <= LARGE:
            return super().loss(tokens, targets, state, reduction)
        states, last = self.states(tokens, state)
        wanted = targets.T.flatten()
        loss = linear_cross_entropy(states.flatten(0, 1), *self.output_layer(), wanted, reduction)
        return loss, last


def linear_cross_entropy(
    states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, reduction: Reduction = "mean"
) -> Tensor:
    """Return the cross-entropy of ``targets`` (N,) for the logits X Wᵀ + b, in nats.

    ``states`` are X (N, H), ``weight`` is W (V, H) and ``bias`` b (V,). UNSCORED targets have no
    loss. Without any other target the loss is 0. Under autocast the products are in its type, and
    all else is in the type of the weights.
    """
    scored = targets != UNSCORED
    shares = scored.to(weight.dtype)
    if reduction == "mean":
        shares = shares / scored.sum().clamp(min=1)
    loss: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        states, weight, bias, targets.where(scored, 0), shares, torch.is_grad_enabled()
    )
    return loss


class AdaptiveSoftmax(nn.AdaptiveLogSoftmaxWithLoss):
    """The adaptive softmax of states of ``hidden_size`` numbers. Its ``log_prob`` is (N, V).

    Raises UserError if the vocabulary has fewer than 20 tokens.
    """

    def __init__(self, hidden_size: int, vocab_size: int) -> None:
        if vocab_size < SHARES[0]:
            raise UserError(
                f"model.output = adaptive: the vocabulary has only {vocab_size} tokens, but it "
                f"needs at least {SHARES[0]}: set full"
            )
        cutoffs = [vocab_size // share for share in SHARES]
        super().__init__(hidden_size, vocab_size, cutoffs, head_bias=True)

    def cross_entropy(self, states: Tensor, targets: Tensor, reduction: Reduction) -> Tensor:
        """Return the cross-entropy of ``targets`` (N,), as ``linear_cross_entropy`` does."""
        of_head = targets.clone()
        nats = states.new_zeros(())
        for number, (low, high) in enumerate(pairwise(self.cutoffs)):
            rows = ((targets >= low) & (targets < high)).nonzero()[:, 0]
            of_head[rows] = self.shortlist_size + number
            reduce, words = self.tail[number].parameters()  # without biases
            reduced, wanted = F.linear(states.index_select(0, rows), reduce), targets[rows] - low
            no_bias = words.new_zeros(len(words))
            nats = nats + linear_cross_entropy(reduced, words, no_bias, wanted, "sum")
        head = self.head
        nats = nats + linear_cross_entropy(states, head.weight, head.bias, of_head, "sum")
        return nats / (targets != UNSCORED).sum().clamp(min=1) if reduction == "mean" else nats


class _LinearCrossEntropy(torch.autograd.Function):
    """The sum of the targets' cross-entropies times ``shares`` (N,)."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        shares: Tensor,
        gradients: bool,
    ) -> Tensor:
        """Return the loss. If ``gradients``, they are computed and kept for ``backward``."""
        device = states.device.type
        mixed = torch.is_autocast_enabled(device)
        products = torch.get_autocast_dtype(device) if mixed else weight.dtype
        found: tuple[Tensor, ...] = ()
        if gradients:
            found = tuple(
                torch.zeros_like(tensor, dtype=weight.dtype) for tensor in (states, weight, bias)
            )
        X, W, b = (tensor.to(products) for tensor in (states, weight, bias))
        with torch.autocast(device, enabled=False):
            loss = _in_pieces(X, W, b, targets, shares, found)
        ctx.save_for_backward(*found)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of states, weight and bias, and None for the others."""
        return *(found.mul_(d_loss) for found in ctx.saved_tensors), None, None, None


def _in_pieces(
    states: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    shares: Tensor,
    gradients: tuple[Tensor, ...],
) -> Tensor:
    """Return the loss, and add to the ``gradients`` of states, weight and bias if they are given.

    The pieces use the same memory, as new memory is slow on a CPU.
    """
    V, dtype = len(weight), shares.dtype
    rows = max(1, PIECE // (V * weight.element_size()))
    rows_of_block = rows if weight.is_cuda else max(1, BLOCK // V)
    memory = weight.new_empty(min(rows, len(states)), V)
    loss = shares.new_zeros(())
    for start in range(0, len(states), rows):
        X, Y, c = (part[start : start + rows] for part in (states, targets, shares))
        Q = torch.addmm(bias, X, weight.T, out=memory[: len(X)])
        blocks = [part.split(rows_of_block) for part in (Q, Y[:, None], c[:, None])]
        for q, y, share in zip(*blocks, strict=True):
            scores = q.to(dtype)  # q itself if the products have this type
            of_target, largest = scores.gather(1, y), scores.amax(1, keepdim=True)
            P = torch.softmax(scores, 1)  # at the largest score 1 / the sum of exp(score - largest)
            loss += ((largest - P.amax(1, keepdim=True).log() - of_target) * share).sum()
            if gradients:
                dq = P.mul_(share).scatter_add_(1, y, -share)
                gradients[2].add_(dq.sum(0))
                q.copy_(dq)
        if gradients:
            d_states, d_weight, _ = gradients
            d_states[start : start + rows] = Q @ weight
            if Q.dtype == dtype:
                d_weight.addmm_(Q.T, X)
            else:
                d_weight += Q.T @ X
    return loss
