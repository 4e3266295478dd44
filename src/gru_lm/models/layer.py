"""The interface of a variant's recurrent layer, of which ``stack.py`` builds models.

The class ``Layer`` in ``models/<variant>/recurrent.py`` implements it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor, nn

from gru_lm.core.errors import OutOfRange, require_at_least

Distribution = Literal["normal", "torch"]


class Layer(nn.Module, ABC):
    """One recurrent layer over dense inputs.

    Shapes: T steps, B sequences, I numbers per input (``input_size``), H hidden units
    (``hidden_size``), S numbers per state (``state_size``).

    In training mode, ``recurrent_dropout`` is the probability that a weight from the state to the
    state is zero. There is one mask per call of ``forward``, for all steps and sequences; the other
    weights are divided by 1 - ``recurrent_dropout``. Source: Merity et al. 2018, arXiv:1708.02182,
    section 2. Raises ValueError if a size is below 1 or ``recurrent_dropout`` not in [0, 1).

    ``drawn_as`` names the distribution of the initial weights: "normal" is normal(0, 0.01) with
    biases of zero, "torch" is uniform in ±1/sqrt(H).
    """

    drawn_as: ClassVar[Distribution] = "torch"

    def __init__(self, input_size: int, hidden_size: int, recurrent_dropout: float = 0.0) -> None:
        super().__init__()
        require_at_least(1, input_size=input_size, hidden_size=hidden_size)
        if not 0 <= recurrent_dropout < 1:
            raise OutOfRange("recurrent_dropout", recurrent_dropout, "0 to below 1")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.recurrent_dropout = recurrent_dropout

    @property
    def state_size(self) -> int:
        """S, the numbers per state. The default is ``hidden_size``."""
        return self.hidden_size

    @abstractmethod
    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Read ``inputs`` (T, B, I) from ``state`` (B, S).

        Returns the outputs (T, B, H) and the last state (B, S).
        """


class GRULayer(Layer):
    """A layer with the GRU's equations (see ``scratch/recurrent.py``). Its state is (B, H)."""

    drawn_as: ClassVar[Distribution] = "normal"

    def textbook_weights(self) -> dict[str, Tensor]:
        """Return the weights by the textbook's names.

        They are W_xz, W_xr, W_xh (I, H); W_hz, W_hr, W_hh (H, H); b_z, b_r, b_h (H,); and b_hh (H,)
        if the reset gate acts after the recurrent product. The default is ``state_dict``.
        """
        return dict(self.state_dict())

    def load_textbook_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copy ``weights``, which have the names and shapes of ``textbook_weights``."""
        self.load_state_dict(dict(weights))
