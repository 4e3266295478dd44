"""The processes (ranks) of one training, and what they tell each other.

Every rank has the whole model and the same tokens. A minibatch of B rows is shared out: rank r of N
trains the rows r B // N to (r + 1) B // N - 1. The recurrent state of a row stays with its rank.
The ranks add up their gradients before clipping, so all of them do the same update and keep the
same weights. N ranks thus compute what one process computes, but for the order of the sums. Ranks
of a model with dropout draw masks of their own, so its curve depends on N.

torchrun starts the ranks and sets the variables RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
MASTER_PORT. The messages go over gloo, those between GPUs over NCCL.

Source: PyTorch documentation, "Distributed communication package" and "torchrun".
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
from safetensors.torch import save as to_bytes
from torch import Tensor

from gru_lm.core.errors import UserError
from gru_lm.models.base import tensors_in
from gru_lm.models.device import DeviceChoice

REQUIRED: Final = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
TIMEOUT: Final = timedelta(minutes=5)  # of a message; a process that ends is noticed at once
OURS: Final = "gru-lm"  # the start of TORCHELASTIC_RUN_ID if ``launch`` started the ranks


class Lost(UserError):
    """Another rank has ended, or the network has failed."""

    exit_code = 4


@dataclass(frozen=True)
class Ranks:
    """This process is number ``rank`` of ``size``. All ranks call each method in the same order.

    With one rank each method returns what it is given. Raises Lost if another rank has ended.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this rank writes the files and the messages."""
        return self.rank == 0

    def rows(self, tensor: Tensor) -> Tensor:
        """Return this rank's rows of ``tensor`` (B, ...), which may be none."""
        start, end = (rank * len(tensor) // self.size for rank in (self.rank, self.rank + 1))
        return tensor[start:end]

    def add(self, tensor: Tensor) -> Tensor:
        """Replace ``tensor`` by the sum over all ranks, which has the same bits in each."""
        if self.size > 1:
            with _connected():
                dist.all_reduce(tensor)
        return tensor

    def all_rows(self, own: Tensor | None, batch_size: int) -> Tensor | None:
        """Return the rows (B, ...) of all ranks in their order. None stays None."""
        if own is None or self.size == 1:
            return own
        whole = own.new_zeros(batch_size, *own.shape[1:])
        self.rows(whole).copy_(own)
        return self.add(whole)

    def any(self, asked: bool) -> bool:
        """Return whether ``asked`` is true in any rank."""
        if self.size == 1:
            return asked
        return bool(self.add(torch.tensor(int(asked))).item())

    def number_of_first(self, number: float) -> float:
        """Return the ``number`` of the first rank."""
        if self.size == 1:
            return number
        return self._of_first(torch.tensor(number, dtype=torch.float64)).item()

    def tensors_of_first(self, tensors: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Return the ``tensors`` of the first rank, on the CPU. The others may pass None."""
        if self.size == 1:
            return dict(tensors or {})
        data = bytearray(to_bytes(dict(tensors or {})) if self.first else b"")
        data = data.ljust(int(self.number_of_first(len(data))))
        self._of_first(torch.frombuffer(data, dtype=torch.uint8))
        return tensors_in(bytes(data))

    def require_same(self, text: str) -> None:
        """Raise UserError, in all ranks, unless ``text`` is the same in all."""
        if self.size == 1:
            return
        data = bytearray(hashlib.sha256(text.encode()).digest())
        digest = torch.frombuffer(data, dtype=torch.uint8)
        others = torch.zeros(self.size, dtype=torch.int64)
        others[self.rank] = int(not torch.equal(digest, self._of_first(digest.clone())))
        for rank in self.add(others).nonzero()[:1, 0].tolist():
            raise UserError(
                f"process {rank} has other params, data, code, versions or devices than process 0: "
                "give every machine the same project folder, data/prepared and kind of device"
            )

    def _of_first(self, tensor: Tensor) -> Tensor:
        with _connected():
            dist.broadcast(tensor, 0)
        return tensor


class Gradients:
    """The gradients of ``weights`` as one buffer, so that the ranks add them up in one message.

    The gradient of each weight becomes a part of the buffer. A recurrent layer's gradient is
    complete only at the end of the backward pass, so sending parts of it earlier, as
    DistributedDataParallel does, gains nothing here.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        weights = list(weights)
        self.buffer = weights[0].new_zeros(sum(weight.numel() for weight in weights))
        offset = 0
        for weight in weights:  # in the layout of the weight, as the optimisers expect
            weight.grad = self.buffer.as_strided(weight.shape, weight.stride(), offset)
            offset += weight.numel()


ALONE: Final = Ranks()


@contextmanager
def joined(device: DeviceChoice) -> Iterator[Ranks]:
    """Join the ranks if torchrun has started this process, else be the only one.

    ``device`` decides on GPUs: each rank of a machine has its own. A UserError in the block ends
    all ranks, and torchrun or ``launch`` reports the first. Raises UserError if a variable is
    missing, if the ranks do not find each other, or if there are fewer GPUs than ranks.
    """
    if "WORLD_SIZE" not in os.environ:
        yield ALONE
        return
    try:
        ranks = _from_environment()
        if ranks.size > 1:
            _join(device)
        yield ranks
        if ranks.size > 1:
            dist.destroy_process_group()
    except UserError as error:
        raise _reported(error) from None


def _from_environment() -> Ranks:
    missing = [name for name in REQUIRED if name not in os.environ]
    if missing:
        raise UserError(
            f"WORLD_SIZE is set, but {' and '.join(missing)} is not: start the processes with "
            "torchrun, or unset WORLD_SIZE"
        )
    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        if not 0 <= rank < size:
            raise ValueError
    except ValueError:
        raise UserError(
            f"RANK = {os.environ['RANK']} and WORLD_SIZE = {os.environ['WORLD_SIZE']}: they must "
            "be numbers, RANK from 0 to WORLD_SIZE - 1"
        ) from None
    return Ranks(rank, size)


def _join(device: DeviceChoice) -> None:
    backend = "gloo"
    if device != "cpu" and torch.cuda.is_available():  # GPU only
        local = int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
        gpus = torch.cuda.device_count()
        if local >= gpus:
            raise UserError(
                f"this machine has {gpus} GPUs, and each of its processes needs one: start "
                f"{gpus} (train.processes, or --nproc-per-node of torchrun), or set device to cpu"
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes of the training do not find each other at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']} ({error}): check MASTER_ADDR and MASTER_PORT"
        ) from None


def _reported(error: UserError) -> BaseException:
    """Return what to raise for ``error`` in a rank, so that it is printed once for all ranks.

    torchrun and ``launch`` read the error from a file and report the first of all. With torchrun,
    rank 0 prints it too.
    """
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        return error
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    if not isinstance(error, Lost):
        get_error_handler().record_exception(error)
    by_us = os.environ.get("TORCHELASTIC_RUN_ID", "").startswith(OURS)
    if by_us or os.environ["RANK"] != "0":
        return SystemExit(error.exit_code)
    return error


@contextmanager
def _connected() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # those of torch.distributed are RuntimeErrors
        raise Lost(
            "the connection to another process of the training has broken "
            f"({str(error).strip().partition(chr(10))[0]}): run it again to go on from the last "
            "checkpoint"
        ) from None
