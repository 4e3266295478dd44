"""The client of a process that trains with JAX or Keras. ``serving.py`` runs in that process.

A separate process lets each framework choose its threads.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from benchmarks.common import ROOT
from benchmarks.peers.environment import last_line
from benchmarks.peers.packages import PeerMissingError
from benchmarks.peers.serving import Job
from gru_lm.training.minibatches import Minibatch

ANSWER_SECONDS: Final = 300  # includes the import of TensorFlow for the first answer


class Worker:
    """A process that runs ``module`` with ``python`` and trains on request.

    The constructor and ``train`` raise PeerMissingError if the process fails or does not answer.
    """

    def __init__(self, python: Path, module: str, job: Job) -> None:
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115, see close
        self._process = subprocess.Popen(
            [python, "-m", module],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
        )
        try:
            answer = self._ask(asdict(job))
            if "missing" in answer:
                raise PeerMissingError(answer["missing"])
        except BaseException:
            self.close()
            raise
        self.versions: dict[str, str] = answer["versions"]

    def train(self, epochs: Sequence[Sequence[Minibatch]]) -> dict[str, Any]:
        """Train on ``epochs`` of minibatches. Returns ``tokens``, ``seconds``, ``perplexity``."""

        def numbers(pair: tuple[Tensor, Tensor]) -> list[list[list[int]]]:
            return [one.tolist() for one in pair]

        return self._ask([[numbers(pair) for pair in minibatches] for minibatches in epochs])

    def close(self) -> None:
        """Stop the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _ask(self, value: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        timer = threading.Timer(ANSWER_SECONDS, self._process.kill)
        timer.start()
        try:
            print(json.dumps(value), file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            timer.cancel()
        if not answer:
            self._errors.seek(0)
            raise PeerMissingError(f"its process ended: {last_line(self._errors.read())}")
        result: dict[str, Any] = json.loads(answer)
        return result
