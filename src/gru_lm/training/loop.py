"""Training by truncated backpropagation through time.

One loop trains every variant. To minimise overhead, the minibatches are on the device, and the loss
is summed there and read once per epoch. On a GPU the whole step (forward, backward, clipping,
update) is one captured CUDA graph.

Source of the method: Zhang et al., Dive into Deep Learning, function ``train_ch8``.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gru_lm.core.errors import UserError, require_at_least
from gru_lm.models.base import LanguageModel
from gru_lm.training.cuda_graph import CapturedStep, Snapshot, weights_of
from gru_lm.training.minibatches import (
    UNSCORED,
    Minibatch,
    epoch_minibatches,
    inputs_and_targets,
    require_enough_tokens,
)
from gru_lm.training.settings import Precision, Train


@dataclass(frozen=True)
class Epoch:
    """The result of one pass over the training tokens.

    ``number`` counts from 1. ``perplexity`` is measured on each minibatch before its update.
    ``seconds`` is the wall time of training without validation. ``val_perplexity`` is the result of
    ``validate`` after the epoch, or None if it was not measured or is not finite.
    """

    number: int
    perplexity: float
    tokens: int
    seconds: float
    val_perplexity: float | None = None


class Diverged(UserError):
    """The loss is no longer a finite number."""


class Trainer:
    """Updates the weights of ``model`` from minibatches."""

    def __init__(
        self,
        model: LanguageModel,
        optimizer: torch.optim.Optimizer,
        clip_norm: float | None,
        precision: Precision = "fp32",
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.precision = precision
        self._weights = weights_of(optimizer)
        self._dtype = self._weights[0].dtype
        self._captured: dict[tuple[int, int], CapturedStep] = {}

    def train_epoch(self, minibatches: Iterable[Minibatch], carry_state: bool) -> tuple[float, int]:
        """Do one update per minibatch (X, Y) of token numbers, each (B, T).

        If ``carry_state`` is true, each minibatch starts from the detached final state of the
        previous one, otherwise from zeros. Returns the perplexity over all targets that are not
        UNSCORED and the number of those targets. The perplexity is ``inf`` or ``nan`` if training
        diverged. Raises ValueError if there are no minibatches.
        """
        total = torch.zeros((), dtype=torch.float64, device=self.model.device)
        scored = torch.zeros((), dtype=torch.int64, device=self.model.device)
        state: Tensor | None = None
        for X, Y in minibatches:
            if state is None or not carry_state:
                state = self.model.begin_state(len(X))
            loss, state = self._step(X, Y, state)
            count = (Y != UNSCORED).sum()  # not read back from the device before the epoch's end
            total += loss * count
            scored += count
        num_tokens = int(scored.item())
        if num_tokens == 0:
            raise ValueError("an epoch needs at least one minibatch")
        return perplexity(total.item() / num_tokens), num_tokens

    def _step(self, X: Tensor, Y: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        if self.model.device.type == "cuda":  # GPU only
            shape = (X.shape[0], X.shape[1])
            if shape not in self._captured:
                self._captured[shape] = CapturedStep(self.update, self.optimizer, X, Y, state)
            return self._captured[shape](X, Y, state)
        return self.update(X, Y, state)

    def update(self, X: Tensor, Y: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Do one step of the optimizer. Returns the mean loss before it and the final state."""
        with products_in(self.precision, X.device):
            logits, state = self.model(X, state)  # (T, B, V), (B, H)
        scores, targets = logits.flatten(0, 1).to(self._dtype), Y.T.flatten()
        loss = F.cross_entropy(scores, targets, ignore_index=UNSCORED)
        self.optimizer.zero_grad(set_to_none=False)  # reusing the memory is 4 % faster
        loss.backward()
        if self.clip_norm is not None:
            clip_gradients(self._weights, self.clip_norm)
        self.optimizer.step()
        return loss.detach(), state.detach().to(self._dtype)


@torch.no_grad()
def validate(model: LanguageModel, tokens: Tensor, batch_size: int, num_steps: int) -> float:
    """Return the perplexity of ``tokens`` (N,) int64, N at least 2, on the model's device.

    As in training with sequential partitioning, the stream is split into ``batch_size`` rows. Each
    is read from a state of zeros, ``num_steps`` tokens at a time. Products are in float32. Each
    token after the first is scored exactly once, and the padding of the last row is not scored. If
    the rows would be shorter than ``num_steps``, there are fewer rows. The perplexity can be
    ``inf`` or ``nan``. Raises ValueError if N is below 2 or a size below 1.
    """
    require_at_least(2, number_of_tokens=len(tokens))
    require_at_least(1, batch_size=batch_size, num_steps=num_steps)
    # torch.inference_mode would create buffers in FusedGRU that cannot be used in training.
    num_targets = len(tokens) - 1
    num_rows = min(batch_size, math.ceil(num_targets / num_steps))
    num_columns = math.ceil(num_targets / num_rows)
    inputs, targets = (
        part.view(num_rows, num_columns)
        for part in inputs_and_targets(tokens, num_rows * num_columns)
    )
    total = torch.zeros((), dtype=torch.float64, device=model.device)
    state = model.begin_state(num_rows)
    with products_in("fp32", model.device):
        for X, Y in zip(inputs.split(num_steps, 1), targets.split(num_steps, 1), strict=True):
            logits, state = model(X, state)  # (T, B, V), (B, H)
            total += F.cross_entropy(
                logits.flatten(0, 1), Y.T.flatten(), ignore_index=UNSCORED, reduction="sum"
            )
    return perplexity(total.item() / num_targets)


def products_in(precision: Precision, device: torch.device) -> torch.autocast:
    """Return a context in which matrix products run in ``precision``. Weights keep their type.

    "bf16" uses torch's autocast. "tf32" sets an option of the whole process, on CUDA devices only.
    """
    if device.type == "cuda":  # GPU only
        products = "tf32" if precision == "tf32" else "ieee"
        torch.backends.cuda.matmul.fp32_precision = products
        torch.backends.cudnn.rnn.fp32_precision = products  # type: ignore[attr-defined]
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def clip_gradients(weights: Iterable[Tensor], max_norm: float) -> None:
    """Scale all gradients so that their joint Euclidean norm is at most ``max_norm``.

    The norm is summed in the textbook's order, so it agrees to the last bit. It is not copied from
    the device. Source: Pascanu et al. 2013, arXiv:1211.5063, algorithm 1.
    """
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norm = torch.sqrt(functools.reduce(torch.add, [(grad**2).sum() for grad in gradients]))
    scale = (max_norm / norm).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale)


def perplexity(cross_entropy: float) -> float:
    """Return exp of the mean cross-entropy in nats per token, or ``inf`` on overflow."""
    try:
        return math.exp(cross_entropy)
    except OverflowError:
        return math.inf


def make_optimizer(model: LanguageModel, settings: Train) -> torch.optim.Optimizer:
    """Return SGD or Adam for the model's weights, usable inside a CUDA graph."""
    if settings.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), settings.lr)
    return torch.optim.Adam(model.parameters(), settings.lr, capturable=model.device.type == "cuda")


def remedy(settings: Train) -> str:
    """Return what to change in params.yaml if training diverged."""
    clip = settings.clip_norm
    clipping = "set train.clip_norm (null)" if clip is None else f"train.clip_norm ({clip:g})"
    return f"lower train.lr ({settings.lr:g}) or {clipping}"


def train(
    model: LanguageModel,
    tokens: Tensor,
    settings: Train,
    optimizer: torch.optim.Optimizer | None = None,
    first_epoch: int = 1,
    val_tokens: Tensor | None = None,
) -> Iterator[Epoch]:
    """Train ``model`` on ``tokens`` (N,) int64, on the model's device, and yield after each epoch.

    If ``val_tokens`` (M,) int64 are given, their perplexity is measured after the last epoch and
    after each epoch whose number is a multiple of ``settings.validate_every``. This does not change
    the training by a single bit.

    To resume an interrupted run, pass its ``optimizer`` with the restored state and the number of
    the ``first_epoch`` to run.

    Raises UserError if there are too few ``tokens`` for one minibatch. Raises Diverged if the loss
    is no longer finite. Model and optimizer are then restored to their state before that epoch.
    """
    require_enough_tokens(len(tokens), settings.batch_size, settings.num_steps)
    tokens = tokens.to(model.device)
    if val_tokens is not None:
        val_tokens = val_tokens.to(model.device)
    optimizer = optimizer or make_optimizer(model, settings)
    trainer = Trainer(model, optimizer, settings.clip_norm, settings.precision)
    last_finite = math.nan
    for number in range(first_epoch, settings.epochs + 1):
        start = time.perf_counter()
        before = Snapshot(optimizer)
        minibatches = epoch_minibatches(
            tokens,
            settings.batch_size,
            settings.num_steps,
            settings.partition,
            settings.seed,
            number,
            settings.drop_last,
        )
        reached, num_tokens = trainer.train_epoch(
            minibatches, carry_state=settings.partition == "sequential"
        )
        if not math.isfinite(reached):
            before.restore()
            last = "none so far" if math.isnan(last_finite) else f"{last_finite:.4g}"
            raise Diverged(
                f"training diverged in epoch {number}: the loss is no longer finite (last finite "
                f"perplexity: {last}); {remedy(settings)}"
            )
        last_finite = reached
        seconds = time.perf_counter() - start
        val_perplexity = None
        due = number % settings.validate_every == 0 or number == settings.epochs
        if val_tokens is not None and due:
            measured = validate(model, val_tokens, settings.batch_size, settings.num_steps)
            val_perplexity = measured if math.isfinite(measured) else None
        yield Epoch(number, reached, num_tokens, seconds, val_perplexity)
