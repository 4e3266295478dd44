"""Start the processes of one training on this machine with torchrun's agent (torch elastic)."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from gru_lm.core.errors import EXIT_INTERRUPTED, Interrupted, UserError
from gru_lm.data.prepared import Prepared
from gru_lm.training.ranks import OURS, Lost

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

AGAIN = "run it again to go on from the last checkpoint"


def launched(module: str, processes: int) -> bool:
    """Run ``python -m MODULE`` with the arguments of this process in ``processes`` ranks.

    Returns True when all have ended well. Returns False, and starts nothing, if this process itself
    has to train: if ``processes`` is 1, or if torchrun has started it.

    Raises UserError with the error of the first rank that failed or was killed, and UnusableFile
    if the prepared data are missing or damaged.
    """
    if processes == 1 or "WORLD_SIZE" in os.environ:
        return False
    prepared = Prepared()
    for split in ("train", "val"):  # the errors of files name the stage that makes them only here
        prepared.tokens(split)
    # Imported here, as a training in one process does not need them.
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # For train.threads: null; torchrun would set 1.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // processes)))
    logging.disable()  # of the agent; all that a user needs to know is in the error below
    with TemporaryDirectory(prefix="ranks-") as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
            run_id=OURS,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",  # 0: a free port
            local_addr="localhost",
            max_restarts=0,
        )
        try:
            elastic_launch(config, sys.executable)("-m", module, *sys.argv[1:])
        except ChildFailedError as error:
            raise _explained(error, processes) from None
        except SignalException:
            raise Interrupted(_interruption(Path(logs))) from None
    return True


def _explained(error: ChildFailedError, processes: int) -> BaseException:
    """Return what to raise for the failure that caused the others."""
    rank, first = min(
        error.failures.items(),
        key=lambda item: (item[1].exitcode == Lost.exit_code, item[1].timestamp),
    )
    if first.exitcode < 0:
        name = f"process {rank} of {processes} (PID {first.pid})"
        return UserError(f"{name} was ended by {first.signal_name()}: {AGAIN}")
    if first.exitcode == Lost.exit_code:
        return UserError(f"the connection between the processes has broken: {AGAIN}")
    message: Any = first.message  # torch declares it as text
    if not isinstance(message, dict):  # no UserError: the process itself has printed it
        return SystemExit(first.exitcode)
    kind = Interrupted if first.exitcode == EXIT_INTERRUPTED else UserError
    return kind(_text(message))


def _interruption(logs: Path) -> str:
    """Return the message of a rank that was interrupted, if one has left it."""
    for path in sorted(logs.rglob("error.json")):
        return _text(json.loads(path.read_text(encoding="utf-8"))["message"])
    return f"interrupted: {AGAIN}"


def _text(message: dict[str, str]) -> str:
    """Return the message of an error without the name of its class, which torch puts before it."""
    return message["message"].partition(": ")[2]
