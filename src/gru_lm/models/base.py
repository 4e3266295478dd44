"""The interface of all language models, and their loading and saving.

A model reads tokens and predicts the next token at each step. Each variant is a folder beside this
module that implements ``forward``. Training, evaluation, sampling, export and the gate study use
this interface only. A variant can override the general methods with faster ones.
"""

from __future__ import annotations

import hashlib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self, cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from gru_lm.core.errors import DamagedFile, UnusableFile, UserError, require_at_least
from gru_lm.core.files import read_json, write_bytes, write_json
from gru_lm.core.reading import read_bytes
from gru_lm.core.variants import checked
from gru_lm.models.settings import Architecture, architecture_of

if TYPE_CHECKING:  # imported at run time by their users only, so training does not depend on them
    import onnx

    from gru_lm.models.gates import Gates
    from gru_lm.models.stepper import Stepper

WEIGHTS, CONFIG = "model.safetensors", "config.json"
BEST = "best"  # in a model's folder, the same model with the weights of the best validation epoch
HEADER = 1 << 20  # bytes that names, types and shapes may take in a file of tensors

LARGE: Final = 1 << 22  # arrays with more numbers are computed in pieces, or changed in place
UNSCORED: Final = -100  # the target of a padded position, which has no loss

Reduction = Literal["mean", "sum"]

_loop_threads = 1


class LanguageModel(nn.Module, ABC):
    """A recurrent network over tokens that predicts the next one.

    ``variant`` is the name of its folder. ``options`` are the variant's own arguments.

    Shapes: B sequences, T steps, V tokens in the vocabulary, S numbers per state (``state_size``).
    Raises ValueError if ``vocab_size`` or ``hidden_size`` is below 1.
    """

    variant: ClassVar[str]

    def __init__(self, vocab_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__()
        require_at_least(1, vocab_size=vocab_size, hidden_size=hidden_size)
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.options = options

    @abstractmethod
    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Read ``tokens`` (B, T) with ``state`` (B, S) as initial state.

        Returns the logits of each next token, time first (T, B, V), and the final state (B, S).
        Reading a sequence in two parts must give the same results as reading it at once, if the
        second part starts from the final state of the first.
        """

    def loss(
        self, tokens: Tensor, targets: Tensor, state: Tensor, reduction: Reduction = "mean"
    ) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy of ``targets`` (B, T) in nats, and the final state (B, S).

        The other arguments are those of ``forward``. The result is the mean over the targets that
        are not UNSCORED, or their sum. The default computes all logits.
        """
        logits, state = self(tokens, state)  # (T, B, V), (B, S)
        scores = logits.flatten(0, 1).to(next(self.parameters()).dtype)
        wanted = targets.T.flatten()
        loss = F.cross_entropy(scores, wanted, ignore_index=UNSCORED, reduction=reduction)
        return loss, state

    @property
    def state_size(self) -> int:
        """S, the numbers per state. The default is ``hidden_size``."""
        return self.hidden_size

    @property
    def has_dropout(self) -> bool:
        """Whether ``forward`` draws random numbers in training mode. The default is False."""
        return False

    @property
    def has_fixed_shapes(self) -> bool:
        """Whether the shapes in ``loss`` do not depend on the tokens. The default is True.

        Only then can a CUDA graph of the training be captured.
        """
        return True

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    def embeddings(self) -> list[Tensor]:
        """Return the weights that are looked up by token. The default is all of nn.Embedding's."""
        modules = [module for module in self.modules() if isinstance(module, nn.Embedding)]
        return [weight for module in modules for weight in module.parameters()]

    def begin_state(self, batch_size: int) -> Tensor:
        """Return the state before the first token: zeros (B, S). Raises ValueError if B < 1."""
        require_at_least(1, batch_size=batch_size)
        weight = next(self.parameters())
        return weight.new_zeros(batch_size, self.state_size)

    def stepper(self) -> Stepper:
        """Return a stepper for one sequence on the CPU. The default runs ``forward`` per token."""
        from gru_lm.models.stepper import ForwardStepper

        return ForwardStepper(self, self.vocab_size, self.begin_state(1))

    def onnx_graph(self) -> onnx.ModelProto:
        """Return the model as an ONNX graph with float32 weights (see ``models/onnx_graph.py``).

        The metadata include ``variant``. The same weights give the same graph.
        """
        from gru_lm.models.onnx_graph import scanned

        metadata = {"variant": self.variant}
        return scanned(self, self.vocab_size, self.state_size, metadata)

    def gates(self) -> Gates | None:
        """Return access to the update and reset gates, or None if the model has no such gates."""
        return None

    def has_gates(self) -> bool:
        """Return whether ``gates`` returns gates."""
        return type(self).gates is not LanguageModel.gates

    def save(
        self,
        folder: Path,
        vocabulary_fingerprint: str,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write the weights and the configuration to ``folder``. ``load_model`` reads them.

        If ``weights``, by name, are given, they are written instead of the model's own.

        Raises UserError, and writes nothing, if a weight is not finite.
        """
        weights = self.state_dict() if weights is None else weights
        for name, weight in weights.items():
            if not torch.isfinite(weight).all():
                raise UserError(
                    f"training diverged: {name} is no longer finite; lower train.lr or "
                    "train.clip_norm"
                )
        tensors = {name: weight.detach().cpu() for name, weight in weights.items()}
        data = to_bytes(tensors)
        write_bytes(folder / WEIGHTS, data)
        write_json(
            folder / CONFIG,
            {
                "variant": self.variant,
                "vocab_size": self.vocab_size,
                "hidden_size": self.hidden_size,
                **self.options,
                "vocabulary": vocabulary_fingerprint,
                "weights": hashlib.sha256(data).hexdigest(),
            },
        )

    def load_weights(self, tensors: Mapping[str, Tensor]) -> Self:
        """Load ``tensors`` by name. Raises ValueError as ``require_fitting`` does."""
        self.require_fitting(tensors)
        self.load_state_dict(dict(tensors))
        return self

    def require_fitting(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise ValueError if ``tensors`` cannot be this model's weights.

        They must have the same names, shapes and types, and finite values.
        """
        mine = self.state_dict()
        if unknown := sorted(tensors.keys() ^ mine.keys()):
            raise ValueError(f"missing or unknown weights: {', '.join(unknown)}")
        for name, weight in mine.items():
            require_alike(name, tensors[name], weight.shape, weight.dtype)


def loop_threads() -> int:
    """Return the number of CPU threads for loops whose results do not depend on it.

    It is torch's number, or the one that a training has set if that is larger.
    """
    return max(torch.get_num_threads(), _loop_threads)


def set_loop_threads(number: int) -> None:
    """Let loops whose results do not depend on the number of threads use ``number``."""
    global _loop_threads
    _loop_threads = number


def picked_rows(weight: Tensor, tokens: Tensor) -> Tensor:
    """Return the rows of ``weight`` (V, N) that ``tokens`` pick, (*tokens.shape, N).

    The gradient of a LARGE matrix on a CPU is added to ``weight.grad``, if it exists, row by row.
    (torch adds a sparse gradient to a dense one in place.) A dense gradient would be an array of
    V N numbers, of which few are not zero.
    """
    in_rows = weight.grad is not None and weight.device.type == "cpu" and weight.numel() > LARGE
    return F.embedding(tokens, weight, sparse=bool(in_rows))


def require_alike(name: str, tensor: Tensor, shape: Sequence[int], dtype: torch.dtype) -> None:
    """Raise ValueError if ``tensor`` has another shape or type, or a value that is not finite."""
    if tensor.shape != shape:
        raise ValueError(f"{name} has the shape {tuple(tensor.shape)}, not {tuple(shape)}")
    if tensor.dtype != dtype:
        found, expected = (str(one).removeprefix("torch.") for one in (tensor.dtype, dtype))
        raise ValueError(f"{name} has the type {found}, not {expected}")
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{name} has a value that is not finite")


def tensors_in(data: bytes) -> dict[str, Tensor]:
    """Return the tensors in ``data``, a file in the safetensors format, by name.

    Raises ValueError if it is damaged, or has a type of numbers that is unknown.
    """
    try:
        return from_bytes(data)
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    except KeyError as error:
        raise ValueError(f"the type of numbers {error} is unknown") from None


def size_of(tensors: Iterable[Tensor]) -> int:
    """Return the number of bytes that ``tensors`` take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def build_model(variant: str, vocab_size: int, **options: Any) -> LanguageModel:
    """Build a model of ``variant``, initialised from torch's global random state.

    ``options`` are the settings of ``Architecture`` and the variant's own. The model is the
    variant's ``Model`` if no setting but ``hidden_size`` differs from its default, and else a
    ``Stack``. Only the variant's own folder is imported, so training it depends on no other
    variant. Raises ValueError if there is no such variant or if a size or an option is out of
    range, and UserError if the variant has no layer for a stack.
    """
    name = checked(variant)
    shared = {key: options.pop(key) for key in Architecture.model_fields if key in options}
    if shared.keys() - {"hidden_size"}:
        architecture = architecture_of(shared)
        if architecture.is_stack:
            stack = importlib.import_module("gru_lm.models.stack")
            return cast(LanguageModel, stack.Stack(name, vocab_size, architecture, **options))
        shared = {"hidden_size": architecture.hidden_size}
    module = importlib.import_module(f"gru_lm.models.{name}.model")
    return cast(LanguageModel, module.Model(vocab_size, **shared, **options))


def load_model(
    folder: Path, vocabulary_fingerprint: str, variant: str | None = None
) -> LanguageModel:
    """Load the model that ``LanguageModel.save`` wrote to ``folder``, on the CPU in eval mode.

    The saved model determines the variant. Raises UnusableFile if a file is missing or damaged, if
    the model belongs to another vocabulary than ``vocabulary_fingerprint``, or if ``variant`` is
    given and differs. The weights must be finite and of the model's type.
    """
    config = read_json(folder / CONFIG)
    if config.pop("vocabulary", None) != vocabulary_fingerprint:
        raise UnusableFile(
            folder, "was trained with another vocabulary than the current one", "retrain it with"
        )
    checksum = config.pop("weights", None)
    try:
        saved = config.pop("variant")
        if variant not in (None, saved):
            raise ValueError(f"its variant is {saved!r:.40}")
        with torch.device("meta"):  # allocates no memory, as the sizes are not verified yet
            model = build_model(saved, **config)
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise DamagedFile(folder / CONFIG, str(error).partition("\n")[0]) from None
    path = folder / WEIGHTS
    data = read_bytes(path, HEADER + size_of(model.state_dict().values()))
    try:
        tensors = tensors_in(data)
        model.require_fitting(tensors)
        if hashlib.sha256(data).hexdigest() != checksum:
            raise ValueError(f"its checksum is not the one in {CONFIG}")
        return model.to_empty(device="cpu").load_weights(tensors).eval()
    except ValueError as error:
        raise DamagedFile(path, str(error)) from None
