"""The one exception that a user can cause, and how a stage reports it."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

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


class UnreachableError(UserError):
    """No source of the corpus delivered it.

    It has an exit code of its own, so that ``make repro`` can tell a machine without network
    from every other failure.
    """

    exit_code = EXIT_UNREACHABLE


class Interrupted(UserError):
    """The user stopped the stage, and what was reached is kept."""

    exit_code = EXIT_INTERRUPTED


def run_stage(name: str, main: Callable[[], None]) -> None:
    """Run a stage's ``main`` and end the process; a user's error becomes one line on stderr.

    Any other exception is a defect of the project and keeps its traceback.
    """
    try:
        main()
    except UserError as error:
        _stop(name, str(error), error.exit_code)
    except OSError as error:
        if error.filename is None:
            raise  # no file of the user's: a defect
        remedy = {
            errno.ENOSPC: "free some disk space and run the stage again",
            errno.EDQUOT: "free some disk space and run the stage again",
        }.get(error.errno or 0, "check the path, its folder and your permissions there")
        _stop(name, f"{error.filename}: {error.strerror}: {remedy}", EXIT_USER_ERROR)
    except KeyboardInterrupt:
        _stop(name, "interrupted", EXIT_INTERRUPTED)


def _stop(name: str, message: str, code: int) -> None:
    print(f"{name}: error: {message}", file=sys.stderr)
    sys.exit(code)
