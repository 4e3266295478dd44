"""A language model of several recurrent layers of one variant, with an embedding and dropout.

``build_model`` returns it if a setting of ``Architecture`` (``models/settings.py``) is not its
default. With V tokens, embeddings of E numbers, L layers of H units::

    X    = D_e(W_e[token])                          embedding; without one, X is one-hot
    H_1  = layer 1 (X),  H_l = layer l (D_b(H_l-1))
    Q    = D_o(H_L) W_qᵀ + b_q                      output layer; W_q = W_e if they are tied

``output: adaptive`` replaces the last line by the adaptive softmax (``models/output.py``). Its
log-probabilities are the logits, as softmax does not change them.

**Dropout.** In training mode, D sets each number to zero with probability p and divides the others
by 1 - p, so their mean stays the same (Srivastava et al. 2014, JMLR 15:1929). It is applied to the
connections between layers and not to those between steps (Zaremba et al. 2014, arXiv:1409.2329).
Each number has its own mask, or, with ``same_mask``, the same mask at all steps of a minibatch
(Gal and Ghahramani 2016, arXiv:1512.05287, figure 1). ``dropout.recurrent`` sets recurrent weights
to zero (see ``Layer``).

**Tied weights.** The embedding and the output layer share one matrix (Press and Wolf 2017,
arXiv:1608.05859; Inan et al. 2017, arXiv:1611.01462), so E = H.

**Initial weights.** ``init.weights`` is "normal", normal(0, 0.01) with biases of zero, or "torch",
uniform in ±1/sqrt(H). "default" is the distribution that the variant's own model has. The embedding
is from normal(0, 1), as ``nn.Embedding``, unless it is tied and so drawn as the output layer.
``init.recurrent: orthogonal`` makes the recurrent matrix of each gate a random orthogonal one (Saxe
et al. 2014, arXiv:1312.6120), which preserves the length of the state. ``init.update_bias`` is
added to b_z. A unit keeps its state if its update gate Z is near 1, so with a positive number the
layer remembers from the start (Gers et al. 2000, doi:10.1162/089976600300015015, and Jozefowicz et
al. 2015, "An Empirical Exploration of Recurrent Network Architectures", for LSTMs' forget gate).
"""

from __future__ import annotations

import importlib
import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gru_lm.core.errors import UserError
from gru_lm.core.variants import Variant
from gru_lm.models.base import Reduction, picked_rows
from gru_lm.models.layer import Distribution, GRULayer, Layer
from gru_lm.models.output import AdaptiveSoftmax, LinearOutput
from gru_lm.models.settings import Architecture, Init

if TYPE_CHECKING:
    import onnx

    from gru_lm.models.gates import Gates
    from gru_lm.models.stepper import Stepper


class Stack(LinearOutput):
    """A stack of layers of ``variant``, which get its ``options``, as ``architecture`` describes.

    The state is (B, S), the states of all layers side by side. Parameters: those of each layer,
    ``W_e`` (V, E) if there is an embedding, ``W_q`` (V, H) unless it is tied, and ``b_q`` (V,), or
    those of ``adaptive`` in place of the last two.
    Raises ValueError if a size or an option is out of range, and UserError if the variant has no
    layer or if ``architecture.init`` needs a GRU and the layer is another one.
    """

    def __init__(
        self, variant: Variant, vocab_size: int, architecture: Architecture, **options: Any
    ) -> None:
        saved = architecture.model_dump(exclude={"hidden_size"})
        H, E = architecture.hidden_size, architecture.embedding_size
        super().__init__(vocab_size, H, **saved, **options)
        architecture.require_layer(variant)
        self.variant = variant  # type: ignore[misc]  # a class variable of other models
        self.dropout = architecture.dropout
        make = importlib.import_module(f"gru_lm.models.{variant}.recurrent").Layer
        sizes = [E or vocab_size] + [H] * (architecture.num_layers - 1)
        layers: list[Layer] = [make(size, H, self.dropout.recurrent, **options) for size in sizes]
        drawn_as = layers[0].drawn_as
        for layer in layers:
            _initialise(layer, architecture.init)
        if architecture.init.weights != "default":
            drawn_as = architecture.init.weights
        self.layers = nn.ModuleList(layers)
        self._state_sizes = [layer.state_size for layer in layers]
        self.W_e = self.W_q = self.b_q = self.adaptive = None
        if architecture.tie_weights:
            self.W_e = nn.Parameter(_drawn(drawn_as, H, vocab_size, H))
        else:
            if E is not None:
                self.W_e = nn.Parameter(torch.randn(vocab_size, E))
            if architecture.output == "full":
                self.W_q = nn.Parameter(_drawn(drawn_as, H, vocab_size, H))
        if architecture.output == "full":
            self.b_q = nn.Parameter(_drawn(drawn_as, H, vocab_size))
        else:
            self.adaptive = AdaptiveSoftmax(H, vocab_size)
            if drawn_as == "normal":
                with torch.no_grad():
                    for weight in self.adaptive.parameters():
                        weight.copy_(_drawn(drawn_as, H, *weight.shape))

    @property
    def state_size(self) -> int:
        """The numbers in the states of all layers."""
        return sum(self._state_sizes)

    @property
    def has_dropout(self) -> bool:
        """See ``LanguageModel.has_dropout``."""
        rates = self.dropout
        return any((rates.embedding, rates.between, rates.output, rates.recurrent))

    @property
    def has_fixed_shapes(self) -> bool:
        """See ``LanguageModel.has_fixed_shapes``."""
        return self.adaptive is None

    def embeddings(self) -> list[Tensor]:
        """See ``LanguageModel.embeddings``."""
        return [] if self.W_e is None else [self.W_e]

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See ``LanguageModel.forward``."""
        states, last = self.states(tokens, state)
        if self.adaptive is None:
            return F.linear(states, *self.output_layer()), last
        with torch.autocast(states.device.type, enabled=False):
            logits = self.adaptive.log_prob(
                states.flatten(0, 1).to(self.adaptive.head.weight.dtype)
            )
        return logits.unflatten(0, states.shape[:2]), last

    def loss(
        self, tokens: Tensor, targets: Tensor, state: Tensor, reduction: Reduction = "mean"
    ) -> tuple[Tensor, Tensor]:
        """See ``LanguageModel.loss``."""
        if self.adaptive is None:
            return super().loss(tokens, targets, state, reduction)
        states, last = self.states(tokens, state)
        nats = self.adaptive.cross_entropy(states.flatten(0, 1), targets.T.flatten(), reduction)
        return nats, last

    def states(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See ``LinearOutput.states``."""
        if self.W_e is None:
            steps = tokens.T[..., None]  # (T, B, 1)
            x = state.new_zeros(*steps.shape[:2], self.vocab_size).scatter_(-1, steps, 1.0)
        else:
            x = self._dropped(picked_rows(self.W_e, tokens.T), self.dropout.embedding)
        lasts: list[Tensor] = []
        for layer, old in zip(self.layers, state.split(self._state_sizes, dim=1), strict=True):
            if lasts:
                x = self._dropped(x, self.dropout.between)
            x, last = layer(x, old)  # (T, B, H), (B, S)
            lasts.append(last)
        return self._dropped(x, self.dropout.output), torch.cat(lasts, dim=1)

    def output_layer(self) -> tuple[Tensor, Tensor]:
        """See ``LinearOutput.output_layer``."""
        matrix = self.W_e if self.W_q is None else self.W_q
        assert matrix is not None and self.b_q is not None  # W_e if the two are tied
        return matrix, self.b_q

    def _dropped(self, x: Tensor, rate: float) -> Tensor:
        """Return ``x`` (T, B, N) with dropout."""
        if rate == 0 or not self.training:
            return x
        if self.dropout.same_mask:
            return x * F.dropout(torch.ones_like(x[:1]), rate)
        return F.dropout(x, rate)

    def textbook_weights(self) -> list[dict[str, Tensor]]:
        """Return each layer's ``GRULayer.textbook_weights`` for one-hot inputs, from first to last.

        An embedding is multiplied into the first layer's weights of the inputs, which are (V, H)
        then. The last has W_hq (H, V) and b_q (V,) too. Raises TypeError if the layers are no GRUs.
        """
        layers = self._textbook_layers()
        if self.W_e is not None:
            first, W_e = layers[0], self.W_e.detach()
            first |= {name: W_e @ first[name] for name in ("W_xz", "W_xr", "W_xh")}
        W_q, b_q = self.output_layer()
        layers[-1] |= {"W_hq": W_q.detach().T, "b_q": b_q.detach()}
        return layers

    def _textbook_layers(self) -> list[dict[str, Tensor]]:
        layers = self._gru_layers()
        if layers is None:
            raise TypeError(f"the layers of {self.variant} are no GRUs")
        return [layer.textbook_weights() for layer in layers]

    def _gru_layers(self) -> list[GRULayer] | None:
        layers = [layer for layer in self.layers if isinstance(layer, GRULayer)]
        return layers if len(layers) == len(self.layers) else None

    def stepper(self) -> Stepper:
        """See ``LanguageModel.stepper``."""
        if not self.has_gates():
            return super().stepper()
        from gru_lm.models.gru.stepper import GRUStepper

        return GRUStepper(*self.textbook_weights())

    def onnx_graph(self) -> onnx.ModelProto:
        """See ``LanguageModel.onnx_graph``. Layers of GRUs are ONNX's GRU operators."""
        if self._gru_layers() is None:
            return super().onnx_graph()
        from gru_lm.models.gru.onnx_graph import with_gru_operators

        layers = self._textbook_layers()
        if self.W_q is not None:
            layers[-1]["W_hq"] = self.W_q.T
        if self.b_q is not None:
            layers[-1]["b_q"] = self.b_q
        return with_gru_operators(layers, self.variant, self.W_e, self.adaptive)

    def has_gates(self) -> bool:
        """See ``LanguageModel.has_gates``."""
        return self.adaptive is None and self._gru_layers() is not None

    def gates(self) -> Gates | None:
        """See ``LanguageModel.gates``. The units of all layers are side by side, (B, L H)."""
        if not self.has_gates():
            return None
        from gru_lm.models.gru.equations import Equations

        return Equations(*self.textbook_weights())


def _initialise(layer: Layer, init: Init) -> None:
    """Draw the weights of ``layer`` again as ``init`` says. Raises UserError if it cannot."""
    if init == Init():
        return
    if not isinstance(layer, GRULayer):
        raise UserError(
            "model.init needs layers with the weights of a GRU: set the defaults (default, default "
            "and 0)"
        )
    weights = {name: weight.clone() for name, weight in layer.textbook_weights().items()}
    if init.weights != "default" and init.weights != layer.drawn_as:
        for name, weight in weights.items():
            weights[name] = _drawn(init.weights, layer.hidden_size, *weight.shape)
    if init.recurrent == "orthogonal":
        for name in ("W_hz", "W_hr", "W_hh"):
            nn.init.orthogonal_(weights[name])
    weights["b_z"] += init.update_bias
    layer.load_textbook_weights(weights)


def _drawn(distribution: Distribution, hidden_size: int, *shape: int) -> Tensor:
    """Return a matrix or a bias (one size) from ``distribution`` (see ``Layer.drawn_as``)."""
    if distribution == "torch":
        bound = 1 / math.sqrt(hidden_size)
        return torch.empty(shape).uniform_(-bound, bound)
    return torch.randn(shape) * 0.01 if len(shape) > 1 else torch.zeros(shape)
