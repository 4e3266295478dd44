"""The number of CPU cores that a training can use because no other process does."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import psutil

INTERVAL = 1.0  # seconds between two measurements at least


@dataclass(frozen=True)
class Used:
    """CPU seconds at the wall time ``at``: of this process (``own``) and of the machine (``all``).

    ``all`` are summed over the cores.
    """

    at: float
    own: float
    all: float

    @staticmethod
    def now() -> Used:
        """Measure them."""
        machine, own = psutil.cpu_times(), psutil.Process().cpu_times()
        # Linux counts the time of virtual machines in "user" as well.
        unused = ("idle", "iowait", "guest", "guest_nice")
        busy = sum(machine) - sum(getattr(machine, name, 0.0) for name in unused)
        return Used(time.monotonic(), own.user + own.system, busy)


class IdleCores:
    """Measures how many cores other processes leave idle."""

    def __init__(self) -> None:
        self._before = Used.now()
        self._threads = 1

    def threads(self) -> int:
        """Return the number of threads for this process, a power of two.

        It is the number of cores less those that other processes used since the last measurement,
        and at least 1. A core counts as idle if it was so for three quarters of the time.
        """
        if time.monotonic() - self._before.at >= INTERVAL:
            now = Used.now()
            self._threads = threads_for(available_cores(), self._before, now)
            self._before = now
        return self._threads


def threads_for(cores: int, before: Used, now: Used) -> int:
    """Return the largest power of two of threads that leaves others their part of ``cores``."""
    others = ((now.all - before.all) - (now.own - before.own)) / (now.at - before.at)
    idle = max(1, int(cores - others + 0.25))
    return 1 << (idle.bit_length() - 1)


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
