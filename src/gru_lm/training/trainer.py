"""One step of training by truncated backpropagation through time, and the validation.

The minibatches are on the device, and the loss is summed there and read only when it is reported.
On a GPU the whole step (forward, backward, clipping, update) is one captured CUDA graph.

Source of the method: Zhang et al., Dive into Deep Learning, function ``train_ch8``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from gru_lm.core.errors import require_at_least
from gru_lm.models.base import UNSCORED, LanguageModel
from gru_lm.training.cuda_graph import CapturedStep, Update
from gru_lm.training.minibatches import Minibatch, sequential_minibatches
from gru_lm.training.optimizers import clip_gradients, weights_of
from gru_lm.training.ranks import ALONE, Gradients, Ranks
from gru_lm.training.settings import Precision


class Sums:
    """The summed cross-entropy of targets in ``nats``, and their number, both on the device."""

    def __init__(self, device: torch.device) -> None:
        self.nats = torch.zeros((), dtype=torch.float64, device=device)
        self.targets = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, loss: Tensor, Y: Tensor) -> None:
        """Add the mean ``loss`` of the targets ``Y`` that are not UNSCORED."""
        count = (Y != UNSCORED).sum()
        self.nats += loss * count
        self.targets += count

    def read(self, ranks: Ranks = ALONE) -> tuple[float, int]:
        """Return the nats and the number of targets of all ``ranks``."""
        both = ranks.add(torch.stack([self.nats, self.targets.double()]))
        nats, targets = both.tolist()
        return nats, int(targets)

    def clone(self) -> Sums:
        """Return a copy."""
        copy = Sums(self.nats.device)
        copy.nats.copy_(self.nats)
        copy.targets.copy_(self.targets)
        return copy


class Trainer:
    """Updates the weights of ``model`` from minibatches.

    ``seed`` determines the random numbers of a model with dropout. ``accumulate`` says that a step
    may have several minibatches. If there are several ``ranks``, each trains its own rows.
    """

    def __init__(
        self,
        model: LanguageModel,
        optimizer: torch.optim.Optimizer,
        clip_norm: float | None,
        precision: Precision = "fp32",
        seed: int = 0,
        accumulate: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.precision = precision
        self.seed = seed
        self.accumulate = accumulate
        self.ranks = ranks
        self._weights = weights_of(optimizer)
        self._gradients = Gradients(self._weights) if ranks.size > 1 else None
        self._dtype = self._weights[0].dtype
        self._captured: dict[tuple[str, torch.Size], CapturedStep] = {}

    def train_epoch(self, minibatches: Iterable[Minibatch], carry_state: bool) -> tuple[float, int]:
        """Do one update per minibatch (X, Y) of token numbers, each (B, T).

        If ``carry_state`` is true, each minibatch starts from the detached final state of the
        previous one, otherwise from zeros. Returns the perplexity over all targets that are not
        UNSCORED and the number of those targets. The perplexity is ``inf`` or ``nan`` if training
        diverged. Raises ValueError if there are no minibatches.
        """
        sums = Sums(self.model.device)
        state: Tensor | None = None
        for minibatch in minibatches:
            state = self.step([minibatch], state if carry_state else None, carry_state, sums)
        num_tokens = int(sums.targets.item())
        if num_tokens == 0:
            raise ValueError("an epoch needs at least one minibatch")
        return perplexity(sums.nats.item() / num_tokens), num_tokens

    def step(
        self,
        minibatches: Sequence[Minibatch],
        state: Tensor | None,
        carry_state: bool,
        sums: Sums,
        number: int = 0,
    ) -> Tensor | None:
        """Do one update from all ``minibatches`` together, and add their loss to ``sums``.

        The gradient is that of the mean loss over all their targets. ``state`` (B, S) is the
        state before the first, None for zeros. Returns the state after the last. ``number`` is
        that of the step. With the trainer's seed it determines the dropout, so that no state of
        a random number generator has to be kept.

        With several ranks, ``minibatches`` are the same in all of them. ``state``, ``sums`` and
        what is returned are of this rank's rows. It returns None if the rank has none.
        """
        ranks = self.ranks
        if not self.accumulate and ranks.size == 1:
            [(X, Y)] = minibatches
            state = self.model.begin_state(len(X)) if state is None else state
            self._draw_from(number, 0)
            loss, state = self._step(X, Y, state)
            sums.add(loss, Y)
            return state
        total = torch.stack([(Y != UNSCORED).sum() for _, Y in minibatches]).sum()
        self.optimizer.zero_grad(set_to_none=False)
        for place, (X, Y) in enumerate((ranks.rows(X), ranks.rows(Y)) for X, Y in minibatches):
            if len(X) == 0:  # the last minibatch of an epoch can have fewer rows than ranks
                continue
            if state is None or not carry_state:
                state = self.model.begin_state(len(X))
            self._draw_from(number, place)
            count = (Y != UNSCORED).sum()
            share = (count.double() / total).to(self._dtype)
            loss, state = self._run("gradients", self.add_gradients, X, Y, state, share)
            # A rank whose rows are all padding has a mean of no losses, which is NaN.
            sums.add(torch.where(count > 0, loss, 0.0) if ranks.size > 1 else loss, Y)
        if self._gradients is not None:
            ranks.add(self._gradients.buffer)
        self.apply_gradients()
        return state

    def _step(self, X: Tensor, Y: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self._run("update", self.update, X, Y, state)

    def _run(self, name: str, update: Update, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        if self.model.device.type != "cuda" or not self.model.has_fixed_shapes:
            return update(*inputs)
        key = name, inputs[0].shape  # GPU only
        if key not in self._captured:  # GPU only
            drawn = torch.cuda.get_rng_state()
            self._captured[key] = CapturedStep(
                update, self.optimizer, *inputs, own_gradients=name == "update"
            )
            torch.cuda.set_rng_state(drawn)
        return self._captured[key](*inputs)  # GPU only

    def update(self, X: Tensor, Y: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Do one step of the optimizer. Returns the mean loss before it and the final state."""
        self.optimizer.zero_grad(set_to_none=False)  # reusing the memory is 4 % faster
        loss, state = self.add_gradients(X, Y, state)
        self.apply_gradients()
        return loss, state

    def add_gradients(
        self, X: Tensor, Y: Tensor, state: Tensor, share: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Add the gradients of the mean loss, times ``share``, to those of the weights.

        Returns the mean loss and the final state.
        """
        with products_in(self.precision, X.device):
            loss, state = self.model.loss(X, Y, state)
        (loss if share is None else loss * share).backward()
        return loss.detach(), state.detach().to(self._dtype)

    def apply_gradients(self) -> None:
        """Clip the gradients and do one step of the optimizer."""
        if self.clip_norm is not None:
            clip_gradients(self._weights, self.clip_norm)
        self.optimizer.step()

    def _draw_from(self, number: int, place: int) -> None:
        """Seed torch's generators for one minibatch of a step, if the model draws from them."""
        if self.model.has_dropout:
            seeds = [self.seed, number, place]
            if self.ranks.rank > 0:  # other rows need other masks
                seeds.append(self.ranks.rank)
            words = np.random.SeedSequence(seeds).generate_state(1, np.uint64)
            torch.manual_seed(int(words[0]))


@torch.no_grad()
def validate(
    model: LanguageModel,
    tokens: Tensor,
    batch_size: int,
    num_steps: int,
    ranks: Ranks = ALONE,
) -> float:
    """Return the perplexity of ``tokens`` (N,), N at least 2, on the model's device.

    As in training with sequential partitioning, the stream is split into ``batch_size`` rows. Each
    is read from a state of zeros, ``num_steps`` tokens at a time. Products are in float32 and
    dropout is off. Each token after the first is scored exactly once, and the padding of the last
    row is not scored. If the rows would be shorter than ``num_steps``, there are fewer rows. The
    perplexity can be ``inf`` or ``nan``. Each of ``ranks`` reads some of the rows, and all return
    the same. Raises ValueError if N is below 2 or a size below 1.
    """
    require_at_least(2, number_of_tokens=len(tokens))
    require_at_least(1, batch_size=batch_size, num_steps=num_steps)
    # torch.inference_mode would create buffers in FusedGRU that cannot be used in training.
    num_targets = len(tokens) - 1
    num_rows = min(batch_size, math.ceil(num_targets / num_steps))
    total = torch.zeros((), dtype=torch.float64, device=model.device)
    state = ranks.rows(model.begin_state(num_rows))
    was_training = model.training
    model.eval()
    with products_in("fp32", model.device):
        for X, Y in sequential_minibatches(tokens, num_rows, num_steps, 0, drop_last=False):
            if len(state) == 0:  # there can be fewer rows than ranks
                break
            loss, state = model.loss(ranks.rows(X), ranks.rows(Y), state, reduction="sum")
            total += loss
    model.train(was_training)
    return perplexity(ranks.add(total).item() / num_targets)


def products_in(precision: Precision, device: torch.device) -> torch.autocast:
    """Return a context in which matrix products run in ``precision``. Weights keep their type.

    "bf16" uses torch's autocast. "tf32" sets an option of the whole process, on CUDA devices only.
    """
    if device.type == "cuda":  # GPU only
        products = "tf32" if precision == "tf32" else "ieee"
        torch.backends.cuda.matmul.fp32_precision = products
        torch.backends.cudnn.rnn.fp32_precision = products  # type: ignore[attr-defined]
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def perplexity(cross_entropy: float) -> float:
    """Return exp of the mean cross-entropy in nats per token, or ``inf`` on overflow."""
    try:
        return math.exp(cross_entropy)
    except OverflowError:
        return math.inf
