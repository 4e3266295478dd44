"""Stages and DVC in separate processes that start with their libraries loaded.

A new Python process needs two to three seconds of one core to import the libraries of a training,
and one second for those of DVC. The tests start hundreds of both. Therefore a server imports the
libraries once and forks itself (``warm_server.py``). Each fork is a real process that runs a
stage's script as ``python -m`` does, or DVC's command. It can be killed, and it imports the
project's own modules itself.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile, mkdtemp

SERVER = Path(__file__).with_name("warm_server.py")

# Replaces python and dvc on the PATH. The real python gets all commands but ``-m stages.…``, and
# the real dvc gets those that start other processes of dvc.
COMMAND = """#!{python} -IS
import os, sys
name = os.path.basename(sys.argv[0])
if name == "dvc" and sys.argv[1:2] != ["queue"]:
    arguments = [{dvc!r}, *sys.argv[1:]]
elif name == "python" and sys.argv[1:2] == ["-m"] and sys.argv[2].startswith("stages."):
    arguments = sys.argv[2:]
else:
    real = os.path.join(os.path.dirname({python!r}), name)
    os.execv(real, [real, *sys.argv[1:]])
import json, signal, socket
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
request = dict(arguments=arguments, cwd=os.getcwd(), env=dict(os.environ))
data = json.dumps(request).encode()
socket.send_fds(connection, [len(data).to_bytes(8)], [0, 1, 2])
connection.sendall(data)
process = int.from_bytes(connection.recv(8, socket.MSG_WAITALL))
assert process, "the server is gone"
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(process, number))
answer = connection.recv(8, socket.MSG_WAITALL)
assert answer, "the server is gone"
status = os.waitstatus_to_exitcode(int.from_bytes(answer))
os._exit(128 - status if status < 0 else status)
"""


@functools.cache
def server() -> Path:
    """Return the folder with the ``socket`` of this process's server, ``python`` and ``dvc``."""
    # A folder of pytest may be too long. The path of a socket has at most about 100 characters.
    folder = Path(mkdtemp(prefix="warm-"))
    address = folder / "socket"
    dvc = Path(sys.executable).with_name("dvc")
    text = COMMAND.format(python=sys.executable, dvc=str(dvc), address=str(address))
    for name in ("python", "dvc"):
        (folder / name).write_text(text, "utf-8")
        (folder / name).chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, str(SERVER), address], env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    atexit.register(shutil.rmtree, folder)
    atexit.register(process.kill)
    deadline = time.monotonic() + 120
    while not address.exists():
        assert process.poll() is None, "the server of warm processes ended"
        assert time.monotonic() < deadline, "the server of warm processes does not start"
        time.sleep(0.05)
    return folder


class Stage:
    """A running ``python -m MODULE ARGUMENTS``, with the methods of ``subprocess.Popen``.

    ``env`` is added to the environment of the tests. The output includes stderr.
    """

    def __init__(self, module: str, *arguments: str, cwd: Path, env: Mapping[str, str]) -> None:
        request = {
            "arguments": [module, *arguments],
            "cwd": str(cwd),
            "env": os.environ | env | {"OMP_NUM_THREADS": "1"},
        }
        data = json.dumps(request).encode()
        self._output = NamedTemporaryFile("w+b", prefix="stage-")  # noqa: SIM115
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(str(server() / "socket"))
        with Path(os.devnull).open() as nothing:
            files = [nothing.fileno(), *2 * [self._output.fileno()]]
            socket.send_fds(self._connection, [len(data).to_bytes(8)], files)
        self._connection.sendall(data)
        self.pid = int.from_bytes(self._connection.recv(8, socket.MSG_WAITALL))
        self.returncode: int | None = None

    def poll(self, timeout: float = 0) -> int | None:
        """Return the exit status, or minus the number of a fatal signal; None while it runs."""
        if self.returncode is None:
            self._connection.settimeout(timeout or 1e-6)
            try:
                status = self._connection.recv(8)
            except TimeoutError:
                return None
            assert status, "the server is gone"
            self.returncode = os.waitstatus_to_exitcode(int.from_bytes(status))
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send the process a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the process at once."""
        self.send_signal(signal.SIGKILL)

    def output(self) -> str:
        """Return the output of the process so far."""
        return Path(self._output.name).read_text(encoding="utf-8")

    def communicate(self, timeout: float = 120) -> tuple[str, None]:
        """Wait for the end and return the output.

        After ``timeout`` seconds, kill the process and raise TimeoutExpired.
        """
        if self.poll(timeout) is None:
            self.kill()
            raise subprocess.TimeoutExpired("a stage", timeout, self.output())
        return self.output(), None

    def lines(self, count: int) -> str:
        """Wait for ``count`` lines of output and return them."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = self.output().splitlines(keepends=True)
            if len(found) >= count or self.poll() is not None:
                return "".join(found[:count])
            time.sleep(0.01)
        raise TimeoutError("the stage printed nothing")
