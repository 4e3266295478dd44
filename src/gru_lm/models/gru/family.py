"""Base classes of the GRU variants, whose weights have the textbook's names.

The stepper, the ONNX graph and the gates are computed from these weights. Their modules are
imported on demand, so training does not depend on them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Self

from torch import Tensor

from gru_lm.core.errors import OutOfRange
from gru_lm.models.output import LinearOutput

if TYPE_CHECKING:
    import onnx

    from gru_lm.models.gates import Gates
    from gru_lm.models.stepper import Stepper

Reset = Literal["before", "after"]


class GRU(LinearOutput):
    """A language model of one GRU layer and a linear output layer. Its state is (B, H)."""

    @abstractmethod
    def textbook_weights(self) -> dict[str, Tensor]:
        """Return the weights with the names and shapes of ``ScratchGRU``.

        ``b_hh`` is included if the reset gate acts after the recurrent product.
        """

    def stepper(self) -> Stepper:
        """See ``LanguageModel.stepper``."""
        from gru_lm.models.gru.stepper import GRUStepper

        return GRUStepper(self.textbook_weights())

    def onnx_graph(self) -> onnx.ModelProto:
        """See ``LanguageModel.onnx_graph``. The graph uses ONNX's GRU operator."""
        from gru_lm.models.gru.onnx_graph import with_gru_operator

        return with_gru_operator(self.textbook_weights(), self.variant)

    def gates(self) -> Gates:
        """See ``LanguageModel.gates``."""
        from gru_lm.models.gru.equations import Equations

        return Equations(self.textbook_weights())


class TextbookGRU(GRU):
    """A GRU whose ``state_dict`` uses the textbook's names.

    ``reset`` applies the reset gate "before" or "after" the recurrent product.
    Raises ValueError for another value.
    """

    def __init__(self, vocab_size: int, hidden_size: int, reset: Reset = "before") -> None:
        super().__init__(vocab_size, hidden_size, reset=reset)
        if reset not in ("before", "after"):
            raise OutOfRange("reset", repr(reset), "'before' or 'after'")
        self.reset = reset

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor], reset: Reset = "before") -> Self:
        """Build a model from copies of ``weights``, which have the textbook's names.

        Raises ValueError if a name is missing or unknown or a shape is wrong.
        """
        if "W_hq" not in weights:
            raise ValueError("missing or unknown weights: W_hq")
        if weights["W_hq"].dim() != 2:
            raise ValueError(f"W_hq has the shape {tuple(weights['W_hq'].shape)}, not (H, V)")
        hidden_size, vocab_size = weights["W_hq"].shape
        return cls(vocab_size, hidden_size, reset).to(weights["W_hq"].dtype).load_weights(weights)

    def textbook_weights(self) -> dict[str, Tensor]:
        """See ``GRU.textbook_weights``."""
        return dict(self.state_dict())
