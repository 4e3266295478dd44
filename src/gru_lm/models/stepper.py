"""Read one sequence token by token, for sampling."""

from __future__ import annotations

import copy
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from gru_lm.core.errors import OutOfRange


class Stepper(Protocol):
    """A model that reads one token at a time on the CPU, starting from a state of zeros.

    It uses the weights at the time of its construction. V is the number of tokens in the
    vocabulary.
    """

    def feed(self, token: int) -> None:
        """Read one token. Raises ValueError if it is outside the vocabulary."""
        ...

    def logits(self) -> np.ndarray:
        """Return the logits of the next token, (V,), after at least one call of ``feed``."""
        ...


class ForwardStepper(Stepper):
    """A stepper for any model, which calls ``forward`` with one token at a time.

    ``model`` has the interface of ``LanguageModel.forward`` and reads numbers below ``vocab_size``.
    ``state`` (1, state_size) is the initial state. A model on a GPU is copied to the CPU, which is
    faster for single tokens. A model in training mode is copied too, and the copy has no dropout.
    """

    def __init__(self, model: nn.Module, vocab_size: int, state: Tensor) -> None:
        as_it_is = state.device.type == "cpu" and not model.training
        self._model = model if as_it_is else copy.deepcopy(model).cpu().eval()
        self._vocab_size = vocab_size
        self._state = state.cpu()
        self._logits = state.new_empty(0)

    @torch.inference_mode()
    def feed(self, token: int) -> None:
        """See ``Stepper.feed``."""
        if not 0 <= token < self._vocab_size:
            raise OutOfRange("token", token, f"0 to {self._vocab_size - 1}")
        logits, self._state = self._model(torch.tensor([[token]]), self._state)
        self._logits = logits[0, 0]

    def logits(self) -> np.ndarray:
        """See ``Stepper.logits``."""
        logits: np.ndarray = self._logits.numpy()
        return logits
