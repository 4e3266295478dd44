"""A Python process that has imported the slow libraries and forks itself for each request.

Run it with ``python warm_server.py SOCKET``. See ``warm.py``. A request is a JSON object, preceded
by its size in 8 bytes, with the process's stdin, stdout and stderr. The answer is the process's
number and, after its end, its wait status. If the requester closes the connection, the process is
killed.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import re
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

LIBRARIES = (
    *("torch", "torch._dynamo", "safetensors.torch", "numba", "dvclive", "pydantic"),
    *("ruamel.yaml", "requests", "tenacity", "tqdm", "matplotlib.figure"),
    *("matplotlib.backends.backend_agg", "pyparsing", "dulwich.ignore", "dulwich.worktree"),
)
DVC = ("dvc", "dvc_data", "dvc_objects", "scmrepo")  # with all their modules


def serve(address: str) -> dict[str, Any]:
    """Accept requests without end, and return each in the forked process that runs it."""
    for name in LIBRARIES:
        importlib.import_module(name)
    for name in modules_of(DVC):
        with contextlib.suppress(ImportError):  # it is for something that is not installed
            importlib.import_module(name)
    gc.freeze()  # a collection would copy the shared memory
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors are not waited for
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen(64)
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                break
            connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, files, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as stream:
        request: dict[str, Any] = json.loads(stream.read(int.from_bytes(head)))
    process = os.fork()
    if process:
        supervise(process, connection, files)
    connection.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    return request


def modules_of(packages: tuple[str, ...]) -> Iterator[str]:
    """Yield the names of all modules that can be imported."""
    for package in packages:
        path = importlib.import_module(package).__path__
        for module in pkgutil.walk_packages(path, f"{package}."):
            if not re.search(r"__main__|pyinstaller|testing", module.name):
                yield module.name


def supervise(process: int, connection: socket.socket, files: list[int]) -> None:
    """Report the end of ``process``; kill it if the connection is closed first."""
    for file in files:
        os.close(file)
    connection.sendall(process.to_bytes(8))
    ended = os.pidfd_open(process)
    ready, _, _ = select.select([ended, connection], [], [])
    if ended not in ready:
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    try:
        connection.sendall(status.to_bytes(8))
    finally:
        os._exit(0)


def run(program: str) -> NoReturn:
    """Run a module or a file as a script and exit as Python does, but without freeing each object.

    Freeing them would copy all objects of the libraries from the server's memory.
    """
    code: object = 0
    try:
        if Path(program).is_absolute():
            runpy.run_path(program, run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    asked = serve(sys.argv[1])
    loaded = [name for name in sys.modules if name.split(".")[0] in ("gru_lm", "stages")]
    assert not loaded, f"modules of the project are among the libraries: {loaded}"
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    sys.argv = asked["arguments"]
    program = Path(sys.argv[0])
    own = program.parent if program.is_absolute() else asked["cwd"]
    roots = [str(own), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    sys.path[:1] = [root for root in roots if root]  # in place of this file's folder
    run(sys.argv[0])
