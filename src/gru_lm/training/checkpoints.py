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
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from gru_lm.core.errors import DamagedFile, UnusableFile, one_line
from gru_lm.core.files import write_bytes
from gru_lm.core.reading import ANY, opened, read_bytes
from gru_lm.models.base import HEADER, LanguageModel, require_alike, size_of, tensors_in
from gru_lm.training.cuda_graph import weights_of
from gru_lm.training.loop import Epoch

KEPT = 2  # the newest, and the one before it in case the newest gets damaged
NAME = re.compile(r"([0-9]{6,})-([0-9a-f]{16})\.safetensors")


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
        epochs = len(history.curve)
        written = self.folder / f"{epochs:06d}-{digest}.safetensors"
        write_bytes(written, data)
        # Later ones were passed over as damaged. They must not take the place of this one.
        for old in [path for path in self._newest_first() if _epochs_of(path) <= epochs][KEPT:]:
            if old != written:
                with suppress(OSError):  # another run was faster, or it is a folder
                    old.unlink()

    def resume(
        self,
        model: LanguageModel,
        optimizer: torch.optim.Optimizer,
        warn: Callable[[str], None],
        most_epochs: int | None = None,
        with_best: bool = False,
    ) -> History:
        """Bring ``model`` and ``optimizer`` to the newest sound checkpoint; return its history.

        The history is empty if there is none. ``warn`` gets one line for each damaged file, which
        is passed over. A file is also damaged if its checksum is right, but its content cannot be
        that of a run of this model and optimizer of at most ``most_epochs`` epochs, or if
        ``with_best`` and it has a validation without its best weights. All of it is checked before
        anything is changed.
        """
        for path in self._newest_first():
            try:
                tensors = _read(path, model, most_epochs)
                history = _history(tensors, _epochs_of(path), most_epochs)
                if history.best_weights is not None:
                    model.require_fitting(history.best_weights)
                elif with_best and history.validation:
                    raise ValueError("it has no best weights")
                memories = _memories_in(tensors, optimizer)
                _require_no_others(tensors, len(memories))
                model.load_weights(_under(tensors, "model"))
            except (OSError, ValueError, UnusableFile) as error:
                why = one_line(error.why if isinstance(error, DamagedFile) else error, 300)
                warn(f"checkpoint {path} is damaged ({why}): going on from the one before it")
                continue
            for weight, memory in zip(weights_of(optimizer), memories, strict=True):
                if memory:
                    optimizer.state[weight] = {
                        name: value.to(weight.device)
                        if value.ndim or _on_device(optimizer)
                        else value
                        for name, value in memory.items()
                    }
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
            key=_epochs_of,
            reverse=True,
        )


def fingerprint(*paths: Path) -> str:
    """SHA-256 over the bytes of files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        with opened(path, ANY) as file:
            of_file = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]  # works
            digest.update(of_file.digest())
    return digest.hexdigest()


def _epochs_of(path: Path) -> int:
    """The number of epochs in the name of a checkpoint."""
    return int(path.name.split("-")[0])


def _read(path: Path, model: LanguageModel, most_epochs: int | None) -> dict[str, Tensor]:
    """Read a checkpoint of ``model``, whose bytes must have the checksum in its name.

    Raises ValueError or UnusableFile if it is damaged or larger than a checkpoint can be.
    """
    epochs = _epochs_of(path)
    if epochs < 1 or (most_epochs is not None and epochs > most_epochs):
        raise ValueError(f"the run has no epoch {epochs}")
    # The weights, the best ones, two moments, a step count per weight; three figures per epoch.
    limit = HEADER + 4 * size_of(model.state_dict().values()) + 24 * epochs
    data = read_bytes(path, limit)
    if hashlib.sha256(data).hexdigest()[:16] != path.stem.split("-")[1]:
        raise ValueError("its checksum is not the one in its name")
    return tensors_in(data)


HISTORY = ("curve", "validation.epochs", "validation.curve")


def _as_tensors(history: History) -> dict[str, Tensor]:
    """``history`` as the tensors that a checkpoint holds; ``_history`` is its inverse."""
    best = history.best_weights or {}
    return {
        "curve": torch.tensor(history.curve, dtype=torch.float64),
        "validation.epochs": torch.tensor(list(history.validation), dtype=torch.int64),
        "validation.curve": torch.tensor(list(history.validation.values()), dtype=torch.float64),
        **{f"best.{name}": weight for name, weight in best.items()},
    }


def _history(
    tensors: Mapping[str, Tensor], num_epochs: int, most_epochs: int | None = None
) -> History:
    """Raises ValueError if it is not that of a run after ``num_epochs`` of ``most_epochs``."""
    for name in HISTORY:
        if name not in tensors:
            raise ValueError(f"it has no {name}")
    measured = tensors["validation.epochs"]
    require_alike("curve", tensors["curve"], (num_epochs,), torch.float64)
    require_alike("validation.epochs", measured, measured.shape[:1], torch.int64)
    require_alike("validation.curve", tensors["validation.curve"], measured.shape, torch.float64)
    if any((tensors[name] < 1).any() for name in ("curve", "validation.curve")):
        raise ValueError("it has a perplexity below 1")
    epochs: list[int] = measured.tolist()
    if epochs != sorted({epoch for epoch in epochs if 1 <= epoch <= num_epochs}):
        raise ValueError("its validation has other epochs than its curve")
    if epochs and num_epochs == most_epochs:
        raise ValueError("its run has ended")
    best = _under(tensors, "best") or None
    if best and not epochs:
        raise ValueError("it has best weights without a validation")
    validation = dict(zip(epochs, tensors["validation.curve"].tolist(), strict=True))
    return History(tensors["curve"].tolist(), validation, best)


def _memories_in(
    tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> list[dict[str, Tensor]]:
    """Return what ``optimizer`` remembers of each of its weights, in their order.

    Raises ValueError if that cannot be its memory.
    """
    memories = []
    for index, weight in enumerate(weights_of(optimizer)):
        memory = _under(tensors, f"optimizer.{index}")
        expected = _first_memory(optimizer, weight.dtype)
        if memory and memory.keys() != expected.keys():  # a weight without a gradient has none
            raise ValueError(f"the optimizer's memory of weight {index} is not complete")
        for name, value in memory.items():
            shape = weight.shape if expected[name].ndim else ()
            require_alike(f"optimizer.{index}.{name}", value, shape, expected[name].dtype)
            least = 0 if name.endswith("_sq") else -torch.inf if value.ndim else 1
            if (value < least).any():  # a mean of squares, or a number of steps
                raise ValueError(f"optimizer.{index}.{name} has a value below {least}")
        memories.append(memory)
    return memories


def _first_memory(optimizer: torch.optim.Optimizer, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return what an optimizer of this kind remembers of one number after its first step."""
    weight = torch.zeros(1, dtype=dtype)
    weight.grad = torch.zeros_like(weight)
    # What is for GPUs only does not change what is remembered.
    options = {k: v for k, v in optimizer.defaults.items() if k not in ("capturable", "fused")}
    fresh = type(optimizer)([weight], **options)
    fresh.step()
    return dict(fresh.state[weight])


def _require_no_others(tensors: Mapping[str, Tensor], num_weights: int) -> None:
    """Raise ValueError if a tensor is of no part of a checkpoint."""
    memories = tuple(f"optimizer.{index}." for index in range(num_weights))
    for name in tensors:
        if name not in HISTORY and not name.startswith(("model.", "best.", *memories)):
            raise ValueError(f"{name} is no part of a checkpoint")


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
