"""The peers JAX and Keras: an environment of their own, and each a process of its own.

Their packages never enter the project's environment, and a process of its own lets each choose its
threads. ``serving.py`` is the other side of the conversation.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from benchmarks.peers import ROOT, PeerMissingError
from benchmarks.serving import Order
from gru_lm.training.minibatches import Minibatch

FOLDER: Final = ROOT / ".bench" / "peers-env"
REQUIREMENTS: Final = Path(__file__).with_name("peers-env.txt")
INSTALL_SECONDS: Final = 900
ANSWER_SECONDS: Final = 300  # the first answer waits for TensorFlow to be imported


def environment(folder: Path | None = None) -> Path:
    """The Python of the peers' environment, which is made on first use, or of ``folder``.

    Nothing is installed into a ``folder`` that is given. Raises PeerMissingError where it holds no
    environment, or where none can be made.
    """
    if folder is None:
        folder = FOLDER
        _install(folder)
    python = folder.absolute() / "bin" / "python"
    if not python.exists():
        raise PeerMissingError("the folder given with --peers-env holds no virtual environment")
    return python


class Worker:
    """A peer's process, which trains when told to and waits otherwise.

    Raises PeerMissingError, here and in ``train``, where it fails or does not answer.
    """

    def __init__(self, python: Path, module: str, order: Order) -> None:
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
            answer = self._ask(asdict(order))
            if "missing" in answer:
                raise PeerMissingError(answer["missing"])
        except BaseException:
            self.close()
            raise
        self.versions: dict[str, str] = answer["versions"]

    def train(self, epochs: Sequence[Sequence[Minibatch]]) -> dict[str, Any]:
        """Train on the minibatches of each epoch: ``tokens``, ``seconds`` and ``perplexity``."""

        def numbers(pair: tuple[Tensor, Tensor]) -> list[list[list[int]]]:
            return [one.tolist() for one in pair]

        return self._ask([[numbers(pair) for pair in minibatches] for minibatches in epochs])

    def close(self) -> None:
        """End the process."""
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
            raise PeerMissingError(f"its process ended: {_last_line(self._errors.read())}")
        result: dict[str, Any] = json.loads(answer)
        return result


def _install(folder: Path) -> None:
    """Make the environment ``folder``, unless the present requirements are there already."""
    marker = folder / ".installed"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    try:
        if marker.is_file() and marker.read_text(encoding="utf-8") == wanted:
            return
        print("installing JAX and Keras into an environment of their own (minutes)", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        pip += ["--disable-pip-version-check", "--only-binary", ":all:", "-r", str(REQUIREMENTS)]
        for command in ([sys.executable, "-m", "venv", str(folder)], pip):
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
            if done.returncode != 0:
                raise PeerMissingError(
                    f"cannot be installed: {_last_line(done.stderr or done.stdout)}"
                )
        marker.write_text(wanted, encoding="utf-8")
    except subprocess.TimeoutExpired:
        raise PeerMissingError(f"not installed after {INSTALL_SECONDS} seconds") from None
    except OSError as error:
        raise PeerMissingError(f"the environment cannot be made: {error.strerror}") from error


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    return next((line for line in lines[::-1] if line.startswith("ERROR:")), lines[-1])
