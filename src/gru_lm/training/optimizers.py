"""The optimisers, the groups of weights that they decay, and the clipping of gradients."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor

from gru_lm.models.base import LARGE, LanguageModel
from gru_lm.training.schedule import is_varied
from gru_lm.training.settings import Train

PIECE: Final = 1 << 20  # numbers of a large gradient that are squared at a time


def make_optimizer(model: LanguageModel, settings: Train) -> torch.optim.Optimizer:
    """Return the optimiser for the model's weights, usable inside a CUDA graph.

    * ``sgd``: stochastic gradient descent, with momentum as in Sutskever et al. 2013; the weight
      decay is the gradient of an L2 penalty.
    * ``adam``: Kingma & Ba 2015, arXiv:1412.6980.
    * ``adamw``: Adam with decoupled weight decay, Loshchilov & Hutter 2019, arXiv:1711.05101.

    A CUDA graph reads the learning rate from a tensor if it changes. On the CPU the fused
    implementation of Adam and AdamW is used: at 0.85 million weights it takes 1.5 ms per step, the
    default 10 ms.
    """
    captured = model.device.type == "cuda" and model.has_fixed_shapes
    rate: Any = settings.lr
    if captured and is_varied(settings.schedule):  # GPU only
        rate = torch.tensor(settings.lr, device=model.device)
    weights: Any = model.parameters()
    if settings.weight_decay:
        decayed, others = decay_groups(model, settings.decay_embeddings)
        weights = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        weights = [group for group in weights if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            weights,
            rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            fused=True if isinstance(rate, Tensor) else None,  # the others would copy it to the CPU
        )
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(
        weights,
        rate,
        betas=(settings.betas[0], settings.betas[1]),
        weight_decay=settings.weight_decay,
        capturable=captured,
        fused=None if captured else True,
    )


def decay_groups(model: LanguageModel, decay_embeddings: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Return the weights that are decayed, and the others.

    Vectors (biases, the scales of norms) and single numbers are not decayed. The embeddings are
    decayed if ``decay_embeddings``; those that an output layer shares belong to them.
    """
    embeddings = {id(weight) for weight in model.embeddings()}
    decayed: list[Tensor] = []
    others: list[Tensor] = []
    for weight in model.parameters():
        skipped = weight.ndim < 2 or (id(weight) in embeddings and not decay_embeddings)
        (others if skipped else decayed).append(weight)
    return decayed, others


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups, in place if a CUDA graph reads it."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):  # GPU only
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def weights_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the tensors that ``optimizer`` updates, in its order."""
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def clip_gradients(weights: Iterable[Tensor], max_norm: float) -> None:
    """Scale all gradients so that their joint Euclidean norm is at most ``max_norm``.

    The norm is summed in the textbook's order, so it agrees to the last bit. On a CPU it is summed
    by one thread, as its last bits depend on the number of threads. It is not copied from the
    device. The squares of a LARGE gradient are summed in pieces, which need less memory.
    Source: Pascanu et al. 2013, arXiv:1211.5063, algorithm 1.
    """
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    threads = torch.get_num_threads()
    if threads > 1:
        torch.set_num_threads(1)
    pieces = [piece for gradient in gradients for piece in _pieces(gradient)]
    norm = torch.sqrt(functools.reduce(torch.add, [(piece**2).sum() for piece in pieces]))
    if threads > 1:
        torch.set_num_threads(threads)
    scale = (max_norm / norm).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale)


def _pieces(gradient: Tensor) -> list[Tensor]:
    """Return ``gradient``, in groups of its rows if it is LARGE."""
    if gradient.numel() <= LARGE:
        return [gradient]
    return list(gradient.split(max(1, len(gradient) * PIECE // gradient.numel())))


def remedy(settings: Train) -> str:
    """Return what to change in params.yaml if training diverged."""
    clip = settings.clip_norm
    clipping = "set train.clip_norm (null)" if clip is None else f"train.clip_norm ({clip:g})"
    return f"lower train.lr ({settings.lr:g}) or {clipping}"
