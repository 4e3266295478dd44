"""The whole state of a training as named tensors, and back.

========================  =========================================================================
``model.NAME``            the weights after the last step
``optimizer.INDEX.NAME``  the optimiser's state of each weight
``average.INDEX``         the averaged weights, if there are any
``best.NAME``             the weights of the best validation, if there was one
``curve``, ``validation`` (N, 3) float64: epoch, step and perplexity of each point
``counts``                int64, see ``COUNTS``: the position, and the counters of patience
``numbers``               float64, see ``NUMBERS``: times, the sum of the loss since the last point,
                          and the best perplexities (0 for none)
``state``                 the recurrent state to carry to the next minibatch, if there is one
========================  =========================================================================

No state of a random number generator is needed: the minibatches follow from (seed, epoch), and
dropout from (seed, step).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from gru_lm.models.base import HEADER, require_alike, size_of
from gru_lm.training.history import History, Point, Position
from gru_lm.training.loop import Training
from gru_lm.training.optimizers import weights_of
from gru_lm.training.trainer import Sums

COUNTS: Final = (
    *("epochs", "minibatches", "steps", "targets of the curve", "targets since"),
    *("averaged", "waited", "waited on a plateau", "plateaus"),
)
NUMBERS: Final = ("length", "seconds", "seconds at the last point", "nats", "best", "plateau")
FIXED: Final = ("curve", "validation", "counts", "numbers")


def to_tensors(training: Training) -> dict[str, Tensor]:
    """Return the state of ``training`` as tensors on the CPU that share no memory with it.

    It is the same in all ranks, with the rows of all, and does not depend on their number.
    """
    position, history = training.position, training.history
    average, early, plateaus = training.average, training.stopping, training.plateaus
    nats, targets = position.sums.read(training.ranks)
    counts = [
        *(position.epochs, position.minibatches, position.steps),
        *(history.targets, targets),
        *(0 if average is None else average.count, early.waited),
        *(plateaus.current.waited, plateaus.count),
    ]
    numbers = [
        *(training.settings.length, position.seconds, position.row_began),
        nats,
        *(0.0 if math.isinf(best) else best for best in (early.best, plateaus.current.best)),
    ]
    tensors = {f"model.{name}": weight for name, weight in training.model.state_dict().items()}
    for index, weight in enumerate(weights_of(training.optimizer)):
        for name, value in training.optimizer.state.get(weight, {}).items():
            tensors[f"optimizer.{index}.{name}"] = value
    if average is not None and average.count:
        tensors |= {f"average.{i}": weight for i, weight in enumerate(average.weights)}
    best = history.best_weights or {}
    tensors |= {f"best.{name}": weight for name, weight in best.items()}
    tensors |= {"curve": _table(history.curve), "validation": _table(history.validation)}
    tensors["counts"] = torch.tensor(counts)
    tensors["numbers"] = torch.tensor(numbers, dtype=torch.float64)
    state = training.ranks.all_rows(position.state, training.settings.batch_size)
    if state is not None:
        tensors["state"] = state
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def restore(training: Training, tensors: Mapping[str, Tensor]) -> None:
    """Bring ``training``, before its first step, to the state in ``tensors``.

    Raises ValueError if that cannot be a state of this training. All of it is checked before
    anything is changed.
    """
    history = _history(training, tensors)
    counts, numbers = _scalars(tensors)
    _require_possible(training, tensors, history, counts, numbers)
    memories = _memories(tensors, training.optimizer)
    averaged = _averaged(training, tensors, counts["averaged"])
    _require_no_others(training, tensors)
    training.model.load_weights(_under(tensors, "model"))

    device, optimizer = training.model.device, training.optimizer
    for weight, memory in zip(weights_of(optimizer), memories, strict=True):
        if memory:
            optimizer.state[weight] = {
                name: _placed(value, weight, _on_device(optimizer))
                for name, value in memory.items()
            }
    if training.average is not None:
        training.average.count = counts["averaged"]
        training.average.weights = [weight.to(device) for weight in averaged]
    early, plateaus = training.stopping, training.plateaus
    early.best, early.waited = numbers["best"] or math.inf, counts["waited"]
    plateaus.count, plateaus.current.waited = counts["plateaus"], counts["waited on a plateau"]
    plateaus.current.best = numbers["plateau"] or math.inf
    sums, state = Sums(device), tensors.get("state")
    if training.ranks.first:
        sums.nats.fill_(numbers["nats"])
        sums.targets.fill_(counts["targets since"])
    training.history = history
    training.position = Position(
        sums,
        counts["epochs"],
        counts["minibatches"],
        counts["steps"],
        numbers["seconds"],
        numbers["seconds at the last point"],
        None if state is None else training.ranks.rows(state).to(device),
    )


@dataclass(frozen=True)
class Outline:
    """What a state says of its run.

    ``waited`` is the number of validations since the best, ``validated`` whether one was finite.
    """

    length: float
    position: Position
    validated: bool
    waited: int

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Outline:
        """Read it from ``tensors``. Raises ValueError if they are no state."""
        counts, numbers = _scalars(tensors)
        position = Position(
            Sums(torch.device("cpu")),
            counts["epochs"],
            counts["minibatches"],
            counts["steps"],
            numbers["seconds"],
        )
        validated = len(tensors["validation"]) > 0
        return cls(numbers["length"], position, validated, counts["waited"])


def largest(training: Training, steps: int) -> int:
    """Return the number of bytes that a state after ``steps`` steps has at most."""
    model, batch_size = training.model, training.settings.batch_size
    weights = size_of(model.state_dict().values())  # beside them best, average and two moments
    return HEADER + 5 * weights + 8 * batch_size * model.state_size + 48 * steps


def _table(points: Sequence[Point]) -> Tensor:
    rows = [(point.epoch, point.step, point.perplexity) for point in points]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 3)


def _scalars(tensors: Mapping[str, Tensor]) -> tuple[dict[str, int], dict[str, float]]:
    for name in FIXED:
        if name not in tensors:
            raise ValueError(f"it has no {name}")
    require_alike("counts", tensors["counts"], (len(COUNTS),), torch.int64)
    require_alike("numbers", tensors["numbers"], (len(NUMBERS),), torch.float64)
    for name in ("counts", "numbers"):
        if (tensors[name] < 0).any():
            raise ValueError(f"{name} has a value below 0")
    counts, numbers = tensors["counts"].tolist(), tensors["numbers"].tolist()
    return dict(zip(COUNTS, counts, strict=True)), dict(zip(NUMBERS, numbers, strict=True))


def _history(training: Training, tensors: Mapping[str, Tensor]) -> History:
    counts, _ = _scalars(tensors)
    lists = []
    for name in ("curve", "validation"):
        table = tensors[name]
        require_alike(name, table, (*table.shape[:1], 3), torch.float64)
        if (table[:, 2] < 1).any():
            raise ValueError("it has a perplexity below 1")
        points = [Point(int(e), int(s), value) for e, s, value in table.tolist()]
        steps = [point.step for point in points]
        if any(not 1 <= step <= counts["steps"] for step in steps) or steps != sorted(set(steps)):
            raise ValueError(f"{name} has other steps than the run")
        last = counts["epochs"] + (counts["minibatches"] > 0)
        epochs = [point.epoch for point in points]
        if any(not 1 <= epoch <= last for epoch in epochs) or epochs != sorted(epochs):
            raise ValueError(f"{name} has other epochs than the run")
        lists.append(points)
    curve, validation = lists
    if not {(p.epoch, p.step) for p in validation} <= {(p.epoch, p.step) for p in curve}:
        raise ValueError("its validation has other steps than its curve")
    best = _under(tensors, "best") or None
    if best is not None and not validation:
        raise ValueError("it has best weights without a validation")
    if best is None and validation:
        raise ValueError("it has no best weights")
    if best is not None:
        training.model.require_fitting(best)
    return History(curve, validation, best, counts["targets of the curve"])


def _require_possible(
    training: Training,
    tensors: Mapping[str, Tensor],
    history: History,
    counts: Mapping[str, int],
    numbers: Mapping[str, float],
) -> None:
    """Raise ValueError if the position cannot be one of this training."""
    if counts["steps"] < 1:
        raise ValueError("it is from before the first step")
    epoch = counts["epochs"] + 1
    number = training.plan.minibatches_in(epoch)
    if counts["minibatches"] and counts["minibatches"] >= number:
        raise ValueError(f"epoch {epoch} has only {number} minibatches")
    carried = training.settings.partition == "sequential" and counts["minibatches"] > 0
    if carried != ("state" in tensors):
        raise ValueError("it has a recurrent state" if not carried else "it has no recurrent state")
    if carried:
        first = next(training.model.parameters())
        sizes = training.settings.batch_size, training.model.state_size
        require_alike("state", tensors["state"], sizes, first.dtype)
    for name in ("best", "plateau"):
        if 0 < numbers[name] < 1:
            raise ValueError("it has a perplexity below 1")
    rows = [point.step for point in history.curve]
    if (counts["targets since"] > 0) != (counts["steps"] > (rows[-1] if rows else 0)):
        raise ValueError("its loss is of other steps than its curve lacks")


def _averaged(training: Training, tensors: Mapping[str, Tensor], count: int) -> list[Tensor]:
    """Return the averaged weights, or those of the model if there are none yet."""
    found = _under(tensors, "average")
    weights = list(training.model.parameters())
    expected = len(weights) if training.average is not None and count else 0
    if found.keys() != {str(index) for index in range(expected)}:
        raise ValueError("the averaged weights are not complete")
    for index, weight in enumerate(weights[:expected]):
        require_alike(f"average.{index}", found[str(index)], weight.shape, weight.dtype)
    if not expected:
        return [weight.detach().clone() for weight in weights]
    return [found[str(index)] for index in range(expected)]


def _memories(
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
    # How it computes does not change what is remembered. AdamW takes no decoupled_weight_decay.
    left_out = ("capturable", "fused", "decoupled_weight_decay")
    options: dict[str, Any] = {k: v for k, v in optimizer.defaults.items() if k not in left_out}
    fresh = type(optimizer)([weight], **(options | {"lr": 1.0}))  # on a GPU lr can be a tensor
    fresh.step()
    return dict(fresh.state[weight])


def _require_no_others(training: Training, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError if a tensor is of no part of a state."""
    memories = tuple(f"optimizer.{i}." for i in range(len(weights_of(training.optimizer))))
    known = (*FIXED, "state")
    for name in tensors:
        if name not in known and not name.startswith(("model.", "best.", "average.", *memories)):
            raise ValueError(f"{name} is no part of a checkpoint")


def _placed(value: Tensor, weight: Tensor, on_device: bool) -> Tensor:
    """Return a part of the optimiser's state where and as the optimiser would have made it."""
    if value.ndim == 0:
        return value.to(weight.device) if on_device else value
    # The fused optimisers need the memory layout of the weight.
    return torch.empty_like(weight, requires_grad=False).copy_(value)


def _on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the step count is on the device too, as a captured graph needs it."""
    return any(group.get("capturable") for group in optimizer.param_groups)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with ``prefix`` and a dot, without it."""
    start = f"{prefix}."
    return {
        name.removeprefix(start): tensor
        for name, tensor in tensors.items()
        if name.startswith(start)
    }
