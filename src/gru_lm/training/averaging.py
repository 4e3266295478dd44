"""Averages of the weights over the steps of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from gru_lm.models.base import LanguageModel
from gru_lm.training.settings import Average


class AveragedWeights:
    """The average of a model's weights after each step from a certain one on.

    With w_1, w_2, ... the weights after these steps and a_1 = w_1:

    * ema: a_n = decay a_(n-1) + (1 - decay) w_n (Polyak & Juditsky 1992 average equally; the
      exponential form is the one in Kingma & Ba 2015, arXiv:1412.6980, section 7.2);
    * swa: a_n = (w_1 + ... + w_n) / n (Izmailov et al. 2018, arXiv:1803.05407, after every step and
      not after every epoch).

    ``weights`` are in the order of ``model.parameters()``; ``count`` is n.
    """

    def __init__(self, model: LanguageModel, settings: Average) -> None:
        self.model, self.settings = model, settings
        self.count = 0
        self.weights = [weight.detach().clone() for weight in model.parameters()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after one more step."""
        self.count += 1
        new = 1 / self.count
        if self.settings.name == "ema" and self.count > 1:
            new = 1 - self.settings.decay
        current = [weight.detach() for weight in self.model.parameters()]
        if self.count == 1:
            torch._foreach_copy_(self.weights, current)
        else:
            torch._foreach_lerp_(self.weights, current, new)

    def copy(self) -> AveragedWeights:
        """Return a copy for the same model."""
        other = AveragedWeights(self.model, self.settings)
        other.count = self.count
        other.weights = [weight.clone() for weight in self.weights]
        return other

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged weights within the block, if there are any."""
        if self.count == 0:
            yield
            return
        own = [weight.detach().clone() for weight in self.model.parameters()]
        self.apply()
        try:
            yield
        finally:
            self._set(own)

    def apply(self) -> None:
        """Give the model the averaged weights for good, if there are any."""
        if self.count:
            self._set(self.weights)

    @torch.no_grad()
    def _set(self, weights: list[Tensor]) -> None:
        for weight, value in zip(self.model.parameters(), weights, strict=True):
            weight.copy_(value)  # in place: a CUDA graph and the optimiser know the tensors
