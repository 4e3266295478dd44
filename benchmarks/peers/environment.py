"""The virtual environment of JAX and Keras, which is separate from the project's environment."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from benchmarks.common import ROOT
from benchmarks.peers.packages import PeerMissingError

FOLDER: Final = ROOT / ".bench" / "peers-env"
REQUIREMENTS: Final = Path(__file__).with_name("environment.txt")
INSTALL_SECONDS: Final = 900


def environment(folder: Path | None = None) -> Path:
    """Return the Python of ``folder``, by default of ``.bench/peers-env``.

    The default environment is created if it is missing. Nothing is installed into a given
    ``folder``. Raises PeerMissingError if the folder is not an environment or cannot be created.
    """
    if folder is None:
        folder = FOLDER
        _install(folder)
    python = folder.absolute() / "bin" / "python"
    if not python.exists():
        raise PeerMissingError("the folder given with --peers-env is not a virtual environment")
    return python


def _install(folder: Path) -> None:
    """Create the environment ``folder`` unless it already has the packages in environment.txt."""
    marker = folder / ".installed"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    try:
        if marker.is_file() and marker.read_text(encoding="utf-8") == wanted:
            return
        print("installing JAX and Keras into a separate environment (minutes)", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        pip += ["--disable-pip-version-check", "--only-binary", ":all:", "-r", str(REQUIREMENTS)]
        for command in ([sys.executable, "-m", "venv", str(folder)], pip):
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
            if done.returncode != 0:
                message = last_line(done.stderr or done.stdout)
                raise PeerMissingError(f"cannot be installed: {message}")
        marker.write_text(wanted, encoding="utf-8")
    except subprocess.TimeoutExpired:
        raise PeerMissingError(f"not installed after {INSTALL_SECONDS} seconds") from None
    except OSError as error:
        raise PeerMissingError(f"the environment cannot be created: {error.strerror}") from error


def last_line(text: str) -> str:
    """Return pip's last error in ``text``, or its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    return next((line for line in lines[::-1] if line.startswith("ERROR:")), lines[-1])
