"""The interface to read and change the update gate Z and the reset gate R of a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from gru_lm.core.errors import require_one_of


@dataclass(frozen=True)
class Intervention:
    """Replace ``signal`` by signal + dose * (value - signal) at each step, elementwise.

    ``signal`` is the update gate Z, the reset gate R or the new state H. ``value`` and ``dose``
    are (H,). A dose of 1 replaces the signal of a unit, and a dose of 0 keeps it.
    Raises ValueError for another signal.
    """

    signal: Literal["Z", "R", "H"]
    value: Tensor
    dose: Tensor

    def __post_init__(self) -> None:
        require_one_of(("Z", "R", "H"), signal=self.signal)

    def at(self, share: float) -> Intervention:
        """Return this intervention with every dose multiplied by ``share``."""
        return Intervention(self.signal, self.value, self.dose * share)

    def apply(self, signal: str, x: Tensor) -> Tensor:
        """Return ``x`` (B, H), changed if ``signal`` is the signal of this intervention."""
        return torch.lerp(x, self.value, self.dose) if signal == self.signal else x


class Gates(Protocol):
    """A model that is read step by step and returns its gates.

    Shapes: B sequences, T steps, V tokens in the vocabulary, H hidden units with one update gate
    and one reset gate each. All tensors have the device and type of the model's weights.
    """

    vocab_size: int

    def begin_state(self, batch_size: int) -> Tensor:
        """Return the state before the first token: zeros (B, H)."""
        ...

    def steps(
        self, tokens: Tensor, state: Tensor, intervention: Intervention | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Read ``tokens`` (B, T) from ``state`` (B, H); yield Z, R and the new state, all (B, H).

        The generator yields once per step.
        """
        ...

    def last_state(
        self, tokens: Tensor, state: Tensor, intervention: Intervention | None = None
    ) -> Tensor:
        """Return the state (B, H) after reading ``tokens`` (B, T) from ``state`` (B, H)."""
        ...

    def logits(self, states: Tensor) -> Tensor:
        """Return the logits of the next token, (..., V), for ``states`` (..., H)."""
        ...
