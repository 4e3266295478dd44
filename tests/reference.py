"""Simple reference implementations, which the tests compare with the project.

This module does not import the project. It is simple instead of fast. It uses loops over steps,
one-hot products, index arithmetic, and autograd on the plain equations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

# A second thread does not help with matrices this small, and slows them on a busy machine.
torch.set_num_threads(1)

# ---------------------------------------------------------------------------------- minibatches


def sequential_partition(
    stream: Sequence[int], batch_size: int, num_steps: int, offset: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return minibatches by the textbook's sequential partitioning, one index per token.

    After ``offset`` skipped tokens, the longest stretch that fills ``batch_size`` rows of equal
    length, and in which each token has a successor, is written row by row. Minibatch k is the k-th
    block of ``num_steps`` columns. A narrower last block is dropped.
    """
    row_length = (len(stream) - 1 - offset) // batch_size
    minibatches = []
    for block in range(row_length // num_steps):
        X = np.empty((batch_size, num_steps), dtype=np.int64)
        Y = np.empty_like(X)
        for row in range(batch_size):
            for step in range(num_steps):
                position = offset + row * row_length + block * num_steps + step
                X[row, step] = stream[position]
                Y[row, step] = stream[position + 1]
        minibatches.append((X, Y))
    return minibatches


def random_pieces(
    stream: Sequence[int], num_steps: int, offset: int
) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return the (input, target) pieces of random sampling, after ``offset`` tokens."""
    rest = list(stream)[offset:]
    pieces = set()
    begin = 0
    while begin + num_steps + 1 <= len(rest):
        inside = rest[begin : begin + num_steps + 1]
        pieces.add((tuple(inside[:-1]), tuple(inside[1:])))
        begin += num_steps
    return pieces


# ------------------------------------------------------------------------------------ equations


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def gru_numpy(
    weights: Mapping[str, Tensor], tokens: np.ndarray, state: np.ndarray, reset: str
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the GRU's equations in float64 NumPy with one-hot inputs, step by step.

    Reads ``tokens`` (B, T) from ``state`` (B, H). Returns the logits (T, B, V) and the final state.
    """
    w = {name: weight.detach().double().numpy() for name, weight in weights.items()}
    H = np.asarray(state, dtype=np.float64)
    logits = []
    for t in range(tokens.shape[1]):
        X = np.eye(w["W_xz"].shape[0])[tokens[:, t]]  # (B, V)
        Z = _sigmoid(X @ w["W_xz"] + H @ w["W_hz"] + w["b_z"])
        R = _sigmoid(X @ w["W_xr"] + H @ w["W_hr"] + w["b_r"])
        if reset == "before":
            candidate = np.tanh(X @ w["W_xh"] + (R * H) @ w["W_hh"] + w["b_h"])
        else:
            candidate = np.tanh(X @ w["W_xh"] + w["b_h"] + R * (H @ w["W_hh"] + w["b_hh"]))
        H = Z * H + (1.0 - Z) * candidate
        logits.append(H @ w["W_hq"] + w["b_q"])
    return np.stack(logits), H


def as_nn_gru(w: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Convert the weights of a "reset after" GRU to those of ``nn.GRU`` and ``nn.Linear``.

    ``nn.GRU`` stacks the gates in the order reset, update, new, with transposed matrices. It has
    two biases per gate, which it adds for the first two gates.
    """
    nothing = torch.zeros_like(w["b_r"])
    gru = {
        "weight_ih_l0": torch.cat([w["W_xr"].T, w["W_xz"].T, w["W_xh"].T]),
        "weight_hh_l0": torch.cat([w["W_hr"].T, w["W_hz"].T, w["W_hh"].T]),
        "bias_ih_l0": torch.cat([w["b_r"], w["b_z"], w["b_h"]]),
        "bias_hh_l0": torch.cat([nothing, nothing, w["b_hh"]]),
    }
    return gru, {"weight": w["W_hq"].T, "bias": w["b_q"]}


# ------------------------------------------------------------------------------------- training

Forward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Minibatch = tuple[Tensor, Tensor]


def textbook_forward(w: Mapping[str, Tensor], reset: str) -> Forward:
    """Return logits (T * B, V) and state for one-hot inputs (T, B, V) and state (B, H)."""

    def forward(one_hot: Tensor, H: Tensor) -> tuple[Tensor, Tensor]:
        outputs = []
        for X in one_hot:
            Z = torch.sigmoid(X @ w["W_xz"] + H @ w["W_hz"] + w["b_z"])
            R = torch.sigmoid(X @ w["W_xr"] + H @ w["W_hr"] + w["b_r"])
            if reset == "before":
                H_tilde = torch.tanh(X @ w["W_xh"] + (R * H) @ w["W_hh"] + w["b_h"])
            else:
                H_tilde = torch.tanh(X @ w["W_xh"] + w["b_h"] + R * (H @ w["W_hh"] + w["b_hh"]))
            H = Z * H + (1 - Z) * H_tilde
            outputs.append(H @ w["W_hq"] + w["b_q"])
        return torch.cat(outputs), H

    return forward


def nn_gru_forward(gru: torch.nn.GRU, linear: torch.nn.Linear) -> Forward:
    """Return the same as ``textbook_forward`` with torch's layers."""

    def forward(one_hot: Tensor, H: Tensor) -> tuple[Tensor, Tensor]:
        outputs, last = gru(one_hot, H.unsqueeze(0))
        return linear(outputs.reshape(-1, outputs.shape[-1])), last.squeeze(0)

    return forward


def train_textbook(
    weights: Sequence[Tensor],
    forward: Forward,
    sizes: tuple[int, int],
    epochs: Sequence[Sequence[Minibatch]],
    lr: float,
    clip: float | None,
    carry_state: bool,
    adam: bool = False,
) -> list[float]:
    """Train ``weights`` in place with the textbook's loop and return each epoch's perplexity.

    ``sizes`` are those of the vocabulary and of the state. Gradients are clipped to the joint norm
    ``clip``. The update is gradient descent or torch's Adam.
    """
    vocab_size, hidden_size = sizes
    optimizer = torch.optim.Adam(list(weights), lr=lr) if adam else None
    perplexities = []
    for minibatches in epochs:
        nats, count, state = 0.0, 0, None
        for X, Y in minibatches:
            if state is None or not carry_state:
                state = torch.zeros(X.shape[0], hidden_size, dtype=weights[0].dtype)
            else:
                state = state.detach()
            one_hot = torch.eye(vocab_size, dtype=weights[0].dtype)[X.T]
            logits, state = forward(one_hot, state)
            log_probabilities = logits - logits.logsumexp(dim=1, keepdim=True)
            wanted = Y.T.reshape(-1)
            (there,) = torch.nonzero(wanted >= 0, as_tuple=True)  # the others are padding
            loss = -log_probabilities[there, wanted[there]].mean()
            gradients = list(torch.autograd.grad(loss, list(weights)))
            norm = math.sqrt(sum(float((gradient.double() ** 2).sum()) for gradient in gradients))
            if clip is not None and norm > clip:
                gradients = [gradient * (clip / norm) for gradient in gradients]
            if optimizer is not None:
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight.grad = gradient
                optimizer.step()
            else:
                with torch.no_grad():
                    for weight, gradient in zip(weights, gradients, strict=True):
                        weight -= lr * gradient
            nats += loss.item() * len(there)
            count += len(there)
        perplexities.append(math.exp(nats / count))
    return perplexities


def train_textbook_to_the_bit(
    weights: Sequence[Tensor],
    forward: Forward,
    sizes: tuple[int, int],
    epochs: Sequence[Sequence[Minibatch]],
) -> list[float]:
    """Run ``train_textbook`` at learning rate 1 and norm 1 with exactly the textbook's operations.

    The loss is torch's. The norm is a sum over the parameters in the type of the weights. Scaling
    and update are one multiplication and one subtraction per weight.
    """
    vocab_size, hidden_size = sizes
    perplexities = []
    for minibatches in epochs:
        nats, count, state = 0.0, 0, torch.zeros(0)
        for X, Y in minibatches:
            if count == 0:
                state = torch.zeros(X.shape[0], hidden_size, dtype=weights[0].dtype)
            one_hot = torch.nn.functional.one_hot(X.T, vocab_size).to(weights[0].dtype)
            logits, state = forward(one_hot, state.detach())
            loss = torch.nn.functional.cross_entropy(logits, Y.T.reshape(-1))
            for weight in weights:
                weight.grad = None
            loss.backward()
            with torch.no_grad():
                gradients = [weight.grad for weight in weights if weight.grad is not None]
                norm = torch.sqrt(sum((torch.sum(g**2) for g in gradients), torch.tensor(0)))
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight -= gradient * (1 / norm) if norm > 1 else gradient
            nats += float(loss.detach() * Y.numel())
            count += Y.numel()
        perplexities.append(math.exp(nats / count))
    return perplexities
