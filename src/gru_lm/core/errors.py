"""The one exception that a user can cause, and how a script reports it."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

EXIT_USER_ERROR = 1
EXIT_UNREACHABLE = 3
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """A fault that the user can mend: bad parameters, network, files or disk.

    The message is one line that says what is wrong, where, and what to do.
    """

    exit_code = EXIT_USER_ERROR

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))


class UnusableFile(UserError):
    """A file or folder that an earlier step should have made cannot be used because of ``problem``.

    ``remedy`` is what to do, for a sentence that ends with the command which makes it again.
    """

    def __init__(self, path: Path, problem: str, remedy: str = "make it again with") -> None:
        super().__init__(f"{path} {problem}")
        self.path, self.remedy = path, remedy


class MissingFile(UnusableFile):
    """There is no such file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "is missing", "run the stage that makes it,")


class DamagedFile(UnusableFile):
    """The file's content cannot be used because of ``why``."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(path, f"is damaged ({why})", "delete it and make it again with")


class UnreachableError(UserError):
    """No source of the corpus delivered it.

    It has an exit code of its own, so that ``make repro`` can tell a machine without network
    from every other failure.
    """

    exit_code = EXIT_UNREACHABLE


class Interrupted(UserError):
    """The user stopped the stage, and what was reached is kept."""

    exit_code = EXIT_INTERRUPTED


def run_main(
    name: str, main: Callable[[], None], made_by: Callable[[Path], str | None] | None = None
) -> None:
    """Run the ``main`` of a script; a user's error becomes one line on stderr and an exit status.

    So does a disk or a memory that is full. Any other exception is a defect of the project and
    keeps its traceback. ``made_by`` gives the command that makes a file which is missing or
    damaged; None if it does not know the file.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # of a terminal that knows no é, say
            stream.reconfigure(errors="backslashreplace")
    try:
        main()
        sys.stdout.flush()
        return
    except UnusableFile as error:
        command = made_by(error.path) if made_by else None
        message = f"{error}: {error.remedy} {command}" if command else str(error)
        code = error.exit_code
    except UserError as error:
        message, code = str(error), error.exit_code
    except KeyboardInterrupt:
        message, code = "interrupted", EXIT_INTERRUPTED
    except BrokenPipeError:
        message, code = "stopped, as nobody reads its output any more", EXIT_USER_ERROR
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to come
    except Exception as error:
        message, code = _fault_of_the_machine(error), EXIT_USER_ERROR
        if not message:
            raise
    # Here the exception is gone, and with it what its frames held: some of the libraries' objects
    # would complain if they lived until the interpreter's end.
    print(f"{name}: error: {message}", file=sys.stderr)
    sys.exit(code)


def _fault_of_the_machine(error: Exception) -> str:
    """One line for a file, a disk or a memory that failed; empty where ``error`` is a defect."""
    if isinstance(error, OSError):
        remedy = {
            errno.ENOSPC: "free some disk space and run the stage again",
            errno.EDQUOT: "free some disk space and run the stage again",
            errno.EFBIG: "raise the limit on file sizes (ulimit -f) and run the stage again",
        }.get(error.errno or 0)
        if remedy is None and error.filename is not None:
            remedy = "check the path, its folder and your permissions there"
        return f"{error.filename or Path.cwd()}: {error.strerror}: {remedy}" if remedy else ""
    # torch's own exceptions, which a stage without torch does not know: RuntimeErrors by these.
    full = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in full)
    ):
        return (
            "out of memory: lower model.hidden_size, train.batch_size or train.num_steps in "
            "params.yaml, or take a shorter corpus"
        )
    return ""
