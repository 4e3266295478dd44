"""What a model offers whose gates can be read and held: an update gate Z and a reset gate R."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Intervention:
    """At each step, ``signal`` becomes signal + dose * (value - signal), unit by unit.

    ``signal`` is the update gate Z, the reset gate R or the new state H; ``value`` and ``dose``
    are (H,). A dose of 1 replaces the unit's signal, one of 0 leaves it as it is.
    """

    signal: Literal["Z", "R", "H"]
    value: Tensor
    dose: Tensor

    def at(self, share: float) -> Intervention:
        """The same with every dose multiplied by ``share``."""
        return Intervention(self.signal, self.value, self.dose * share)

    def apply(self, signal: str, x: Tensor) -> Tensor:
        """``x`` (B, H), pulled if it is the signal in question."""
        return torch.lerp(x, self.value, self.dose) if signal == self.signal else x


class Gates(Protocol):
    """A model read step by step with its gates in view.

    Shapes: B sequences, T steps, V tokens in the vocabulary, H hidden units, one gate of each kind
    a unit. Everything is on the device of the model's weights and in their type.
    """

    vocab_size: int

    def begin_state(self, batch_size: int) -> Tensor:
        """The state before the first token: zeros (B, H)."""
        ...

    def steps(
        self, tokens: Tensor, state: Tensor, intervention: Intervention | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Read ``tokens`` (B, T) from ``state`` (B, H) on; yield Z, R and the new state, (B, H)."""
        ...

    def last_state(
        self, tokens: Tensor, state: Tensor, intervention: Intervention | None = None
    ) -> Tensor:
        """The state (B, H) after ``tokens`` (B, T), read from ``state`` on."""
        ...

    def logits(self, states: Tensor) -> Tensor:
        """Those of the next token, (..., V), from ``states`` (..., H)."""
        ...
