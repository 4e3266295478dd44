"""A model that reads a single sequence, token by token: what sampling works with."""

from __future__ import annotations

import copy
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn


class Stepper(Protocol):
    """Reads tokens one at a time on the CPU, from a state of zeros on; V tokens in the vocabulary.

    It reads the weights as they are when it is made.
    """

    def feed(self, token: int) -> None:
        """Go on by one token."""
        ...

    def logits(self) -> np.ndarray:
        """Those of the next token, (V,); at least one token has been read."""
        ...


class ForwardStepper(Stepper):
    """The stepper of any model: ``forward`` on one token at a time.

    ``model`` has the interface of ``LanguageModel.forward``; ``state`` (1, state_size) is where it
    starts. A model on another device is copied to the CPU, as single tokens leave a GPU idle.
    """

    def __init__(self, model: nn.Module, state: Tensor) -> None:
        self._model = model if state.device.type == "cpu" else copy.deepcopy(model).cpu()
        self._state = state.cpu()
        self._logits = state.new_empty(0)

    @torch.inference_mode()
    def feed(self, token: int) -> None:
        """See ``Stepper.feed``."""
        logits, self._state = self._model(torch.tensor([[token]]), self._state)
        self._logits = logits[0, 0]

    def logits(self) -> np.ndarray:
        """See ``Stepper.logits``."""
        logits: np.ndarray = self._logits.numpy()
        return logits
