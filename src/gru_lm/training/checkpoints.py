"""Checkpoints of a training run, so that a killed one goes on where it was.

A checkpoint is taken between two epochs. There the carried hidden state is none (each epoch
starts from zero) and no random state is needed (an epoch's minibatches follow from the seed and
its number), so weights, the optimizer's memory and the history so far are all there is: a resumed
run ends with the same bytes as one never interrupted.

Each lies in one file, whose name carries the epoch and its own checksum::

    .checkpoints/<variant>-<key>/000150-<sha256, first 16 digits>.safetensors

The key is a hash of everything that determines the result, so another experiment's checkpoint is
never picked up. A file is written whole or not at all, and the one before it stays until then.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from gru_lm.core.files import write_bytes
from gru_lm.models.base import LanguageModel
from gru_lm.training.cuda_graph import weights_of
from gru_lm.training.loop import Epoch

KEPT = 2  # the newest, and the one before it in case the newest gets damaged
NAME = re.compile(r"(\d{6,})-([0-9a-f]{16})\.safetensors")


@dataclass
class History:
    """What a run has reached so far, besides the weights and the optimizer's memory.

    ``curve`` holds each epoch's training perplexity, ``validation`` the validation perplexity by
    the epoch after which it was measured. ``best_weights`` are the model's at the lowest of those,
    None before the first.
    """

    curve: list[float] = field(default_factory=list)
    validation: dict[int, float] = field(default_factory=dict)
    best_weights: dict[str, Tensor] | None = None

    @property
    def best_epoch(self) -> int | None:
        """The epoch with the lowest validation perplexity, the first of equals; None without."""
        return min(self.validation, key=self.validation.__getitem__, default=None)

    @property
    def best_val(self) -> dict[str, int | float] | None:
        """That epoch with its validation perplexity, as metrics; None without."""
        best = self.best_epoch
        return None if best is None else {"epoch": best, "perplexity": self.validation[best]}

    def add(self, epoch: Epoch) -> None:
        """Note the figures of the next epoch."""
        self.curve.append(epoch.perplexity)
        if epoch.val_perplexity is not None:
            self.validation[epoch.number] = epoch.val_perplexity


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training run, in a ``folder`` of their own."""

    folder: Path

    @classmethod
    def of(cls, root: Path, variant: str, determinants: Mapping[str, Any]) -> Checkpoints:
        """Those of the run that ``determinants``, a JSON tree, determine altogether."""
        document = json.dumps(determinants, sort_keys=True)
        key = hashlib.sha256(document.encode()).hexdigest()[:16]
        return cls(root / f"{variant}-{key}")

    def save(
        self, model: LanguageModel, optimizer: torch.optim.Optimizer, history: History
    ) -> None:
        """Keep the run as it is after the last epoch of ``history``."""
        tensors = {f"model.{name}": weight for name, weight in model.state_dict().items()}
        for index, memory in enumerate(_memories(optimizer)):
            tensors |= {f"optimizer.{index}.{name}": value for name, value in memory.items()}
        tensors |= _as_tensors(history)
        data = to_bytes(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        )
        digest = hashlib.sha256(data).hexdigest()[:16]
        write_bytes(self.folder / f"{len(history.curve):06d}-{digest}.safetensors", data)
        for old in self._newest_first()[KEPT:]:
            old.unlink(missing_ok=True)

    def resume(
        self,
        model: LanguageModel,
        optimizer: torch.optim.Optimizer,
        warn: Callable[[str], None],
    ) -> History:
        """Bring ``model`` and ``optimizer`` to the newest sound checkpoint; return its history.

        The history is empty where there is none. ``warn`` gets one line for each damaged file,
        which is passed over.
        """
        for path in self._newest_first():
            try:
                tensors = _read(path)
                history = _history(tensors, num_epochs=int(path.name.split("-")[0]))
                if history.best_weights is not None:
                    model.require_fitting(history.best_weights)
                model.load_weights(_under(tensors, "model"))
                for index, weight in enumerate(weights_of(optimizer)):
                    if memory := _under(tensors, f"optimizer.{index}"):
                        optimizer.state[weight] = {
                            name: value.to(weight.device)
                            if value.ndim or _on_device(optimizer)
                            else value
                            for name, value in memory.items()
                        }
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                warn(f"checkpoint {path} is damaged ({error}): going on from the one before it")
                continue
            return history
        return History()

    def remove(self) -> None:
        """Delete all of this run's checkpoints, once it is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _newest_first(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(
            (path for path in self.folder.iterdir() if NAME.fullmatch(path.name)),
            key=lambda path: int(path.name.split("-")[0]),
            reverse=True,
        )


def fingerprint(*paths: Path) -> str:
    """SHA-256 over the bytes of files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint whose bytes have the checksum in its name."""
    match = NAME.fullmatch(path.name)
    data = path.read_bytes()
    if match is None or hashlib.sha256(data).hexdigest()[:16] != match[2]:
        raise ValueError("its checksum is not the one in its name")
    return from_bytes(data)


def _as_tensors(history: History) -> dict[str, Tensor]:
    """``history`` as the tensors that a checkpoint holds; ``_history`` is its inverse."""
    best = history.best_weights or {}
    return {
        "curve": torch.tensor(history.curve, dtype=torch.float64),
        "validation.epochs": torch.tensor(list(history.validation), dtype=torch.int64),
        "validation.curve": torch.tensor(list(history.validation.values()), dtype=torch.float64),
        **{f"best.{name}": weight for name, weight in best.items()},
    }


def _history(tensors: Mapping[str, Tensor], num_epochs: int) -> History:
    """Raises ValueError where it is not that of a run of ``num_epochs``."""
    curve: list[float] = tensors["curve"].tolist()
    if len(curve) != num_epochs:
        raise ValueError("its curve has another length")
    epochs: list[int] = tensors["validation.epochs"].tolist()
    if epochs != sorted(set(epochs) & set(range(1, num_epochs + 1))):
        raise ValueError("its validation has other epochs than its curve")
    validation = dict(zip(epochs, tensors["validation.curve"].tolist(), strict=True))
    return History(curve, validation, _under(tensors, "best") or None)


def _memories(optimizer: torch.optim.Optimizer) -> list[dict[str, Tensor]]:
    return [dict(optimizer.state.get(weight, {})) for weight in weights_of(optimizer)]


def _on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the step count lies on the device too, as a captured graph needs it."""
    return any(group.get("capturable") for group in optimizer.param_groups)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix`` and a dot, without it."""
    start = f"{prefix}."
    return {
        name.removeprefix(start): tensor
        for name, tensor in tensors.items()
        if name.startswith(start)
    }
