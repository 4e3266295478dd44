"""What every GRU language model offers, and how a trained one is kept in a folder.

A model reads tokens and predicts, at each step, the next one. Each variant (``scratch``,
``concise``, ``fused``) is a module of its own that fills in ``forward``; training, evaluation and
sampling know only this interface.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from gru_lm.core.errors import DamagedFile, MissingFile, UnusableFile
from gru_lm.core.files import read_json, write_bytes, write_json
from gru_lm.core.variants import checked

WEIGHTS, CONFIG = "model.safetensors", "config.json"


class LanguageModel(nn.Module, ABC):
    """A single-layer GRU over tokens with a linear output layer.

    Shapes: B sequences, T steps, V tokens in the vocabulary, H hidden units.
    """

    variant: ClassVar[str]

    def __init__(self, vocab_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.options = options

    @abstractmethod
    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Read ``tokens`` (B, T) from ``state`` (B, H) on.

        Returns the logits of each next token, time first (T, B, V), and the final state (B, H).
        """

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def begin_state(self, batch_size: int) -> Tensor:
        """The state before the first token: zeros (B, H)."""
        weight = next(self.parameters())
        return weight.new_zeros(batch_size, self.hidden_size)

    def textbook_weights(self) -> dict[str, Tensor]:
        """The weights by the textbook's names and in its shapes, as ``ScratchGRU`` lists them.

        ``b_hh`` is among them where the reset gate acts after the recurrent product.
        """
        return dict(self.state_dict())

    def save(self, folder: Path, vocabulary_fingerprint: str) -> None:
        """Write the weights and all that is needed to build the model again into ``folder``."""
        tensors = {name: weight.detach().cpu() for name, weight in self.state_dict().items()}
        data = safetensors.torch.save(tensors)
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
        """Take over ``tensors`` by name. Raises ValueError as ``require_fitting`` does."""
        self.require_fitting(tensors)
        self.load_state_dict(dict(tensors))
        return self

    def require_fitting(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise ValueError where a name or a shape among ``tensors`` is not this model's."""
        mine = self.state_dict()
        if unknown := sorted(tensors.keys() ^ mine.keys()):
            raise ValueError(f"missing or unknown weights: {', '.join(unknown)}")
        for name, weight in mine.items():
            if tensors[name].shape != weight.shape:
                raise ValueError(
                    f"{name} has the shape {tuple(tensors[name].shape)}, not {tuple(weight.shape)}"
                )


def build_model(variant: str, vocab_size: int, **options: Any) -> LanguageModel:
    """A freshly initialised model of ``variant``, drawn from torch's global random state.

    Raises ValueError if there is no such variant. Only the variant's own folder is imported, so
    that a stage which trains one depends on no other.
    """
    module = importlib.import_module(f"gru_lm.models.{checked(variant)}.model")
    return cast(LanguageModel, module.Model(vocab_size, **options))


def load_model(
    folder: Path, vocabulary_fingerprint: str, variant: str | None = None
) -> LanguageModel:
    """The model that ``LanguageModel.save`` wrote to ``folder``, on the CPU.

    Raises UnusableFile if a file is missing or damaged, if the model was trained with another
    vocabulary than the one with ``vocabulary_fingerprint``, or if it is not of the ``variant`` that
    is asked for. (A saved model names its own.)
    """
    config = read_json(folder / CONFIG)
    if config.pop("vocabulary", None) != vocabulary_fingerprint:
        raise UnusableFile(
            folder, "was trained with another vocabulary than the present one", "train it again,"
        )
    checksum = config.pop("weights", None)
    try:
        saved = config.pop("variant")
        if variant not in (None, saved):
            raise ValueError(f"it is a model of the variant {saved!r:.40}")
        with torch.device("meta"):  # sizes without memory: they may be anything
            model = build_model(saved, **config)
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise DamagedFile(folder / CONFIG, str(error).split("\n")[0][:200]) from None
    path = folder / WEIGHTS
    try:
        tensors = safetensors.torch.load_file(path)
        model.require_fitting(tensors)
        if hashlib.sha256(path.read_bytes()).hexdigest() != checksum:
            raise ValueError(f"its checksum is not the one in {CONFIG}")
        return model.to_empty(device="cpu").load_weights(tensors)
    except FileNotFoundError:
        raise MissingFile(path) from None
    except (SafetensorError, ValueError, json.JSONDecodeError) as error:
        raise DamagedFile(path, str(error)) from None
