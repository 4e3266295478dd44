"""The number of threads that a training takes from the cores that other processes leave idle."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from gru_lm.training import idle_cores
from gru_lm.training.idle_cores import IdleCores, Used, threads_for


@pytest.mark.parametrize(
    ("cores", "own", "others", "threads"),
    [
        (2, 1.0, 0.0, 2),
        (2, 1.0, 0.2, 2),
        (2, 1.0, 0.9, 1),
        (2, 1.0, 2.0, 1),  # more processes than cores
        (2, 2.0, 0.0, 2),  # what it uses itself is not taken by others
        (16, 1.0, 0.1, 16),
        (16, 8.0, 5.0, 8),  # 11 cores, so 8 threads
    ],
)
def test_threads_by_what_others_use(cores, own, others, threads):
    seconds = 4.0
    before = Used(100.0, 7.0, 50.0)
    now = Used(100.0 + seconds, 7.0 + own * seconds, 50.0 + (own + others) * seconds)
    assert threads_for(cores, before, now) == threads


def test_own_work_and_that_of_others_are_told_apart():
    """This process computes for a while, and another one too."""
    before = Used.now()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                pass
            now = Used.now()
            spent = psutil.Process(other.pid).cpu_times()
        finally:
            other.kill()
    own, machine = now.own - before.own, now.all - before.all
    assert own > 0
    # The clocks tick every hundredth of a second, and the other one runs a little longer.
    assert machine >= own + spent.user + spent.system - 0.2


def test_cores_are_measured_once_in_an_interval(monkeypatch):
    """The first answer is one thread, as nothing is measured yet."""
    measured = []
    now = Used.now
    monkeypatch.setattr(Used, "now", staticmethod(lambda: measured.append(now()) or measured[-1]))
    cores = IdleCores()
    assert cores.threads() == cores.threads() == 1
    assert len(measured) == 1
    monkeypatch.setattr(idle_cores, "INTERVAL", 0.0)
    cores.threads()
    assert len(measured) == 2
