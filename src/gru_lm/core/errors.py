"""The exceptions that a user can cause, the checks of arguments, and how a script reports both.

Every message for the terminal goes through ``one_line``: those of errors, and the status lines that
a stage prints with ``say``.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

EXIT_USER_ERROR = 1
EXIT_UNREACHABLE = 3
EXIT_INTERRUPTED = 130

LONGEST = 4000  # characters of a message
LONGEST_REASON = 300  # characters of the reason that a message quotes
CUT = " [...] "  # replaces the middle of a longer text


def one_line(text: object, longest: int = LONGEST) -> str:
    """Return ``text`` as one line of at most ``longest`` characters that any terminal can show.

    Line breaks and other whitespace become single spaces. Other characters that are not printable,
    such as control characters and lone surrogates, are escaped as in Python. If the text is too
    long, its middle is left out: the end of a message says what to do.
    """
    line = printable(" ".join(str(text).split()))
    if len(line) <= longest:
        return line
    end = (longest - len(CUT)) // 3
    start = line[: longest - len(CUT) - end].rstrip(" ")  # CUT brings its own spaces
    return f"{start}{CUT}{line[len(line) - end :].lstrip(' ')}"


def printable(text: str, keep: str = "") -> str:
    """Return ``text`` with all characters escaped that are neither printable nor in ``keep``."""
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode()
        for char in text
    )


def say(stage: str, message: str, file: TextIO | None = None) -> None:
    """Print a status line of ``stage`` to ``file``, by default stdout, without delay."""
    print(one_line(f"{stage}: {message}"), file=file, flush=True)


class UserError(Exception):
    """A fault that the user can fix, such as bad parameters, no network or a full disk.

    The message is one line. It says what is wrong, where, and what to do.
    """

    exit_code = EXIT_USER_ERROR

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class UnusableFile(UserError):
    """A file or folder of an earlier stage is unusable because of ``problem``.

    ``remedy`` says what to do. The command that recreates the file is appended to it.
    """

    def __init__(self, path: Path, problem: str, remedy: str = "recreate it with") -> None:
        super().__init__(f"{path} {problem}")
        self.path, self.remedy = path, remedy


class MissingFile(UnusableFile):
    """The file does not exist."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "is missing", "create it with")


class DamagedFile(UnusableFile):
    """The content of the file is unusable because of ``why``."""

    def __init__(self, path: Path, why: str) -> None:
        self.why = one_line(why, LONGEST_REASON)
        super().__init__(path, f"is damaged ({self.why})", "delete it and recreate it with")


class UnreachableError(UserError):
    """No source delivered the corpus.

    Its own exit code lets ``make repro`` tell a missing network from every other failure.
    """

    exit_code = EXIT_UNREACHABLE


class Interrupted(UserError):
    """The user stopped the stage. Its progress is kept."""

    exit_code = EXIT_INTERRUPTED


class OutOfRange(UserError, ValueError):
    """The argument ``name`` has a ``value`` that is not ``allowed``.

    It is a ValueError for whoever calls the library, and one line on stderr in a stage.
    """

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(f"{name} = {value}: must be {allowed}")


def run_main(
    name: str, main: Callable[[], None], made_by: Callable[[Path], str | None] | None = None
) -> None:
    """Run the ``main`` of a script and turn a UserError into one line and an exit status.

    The line goes to stderr. A full disk and a lack of memory are reported in the same way. Any
    other exception is a bug and keeps its traceback. ``made_by`` returns the command that creates
    a file, or None if it does not know the file. It is called for a missing or damaged file.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # some terminals cannot encode é
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
        message, code = "output pipe closed", EXIT_USER_ERROR
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
    except Exception as error:
        message, code = _fault_of_the_machine(error), EXIT_USER_ERROR
        if not message:
            raise
    # The exception and its frames are released by now. Some libraries' objects print warnings if
    # they live until the interpreter shuts down.
    say(name, f"error: {message}", file=sys.stderr)
    sys.exit(code)


def _fault_of_the_machine(error: Exception) -> str:
    """Return one line for a file, disk or memory error, or "" if ``error`` is a bug."""
    if isinstance(error, OSError):
        remedy = {
            errno.ENOSPC: "free some disk space and run the stage again",
            errno.EDQUOT: "free some disk space and run the stage again",
            errno.EFBIG: "raise the limit on file sizes (ulimit -f) and run the stage again",
        }.get(error.errno or 0)
        if remedy is None and error.filename is not None:
            remedy = "check the path, its folder and your permissions there"
        return f"{error.filename or Path.cwd()}: {error.strerror}: {remedy}" if remedy else ""
    # A stage without torch cannot import torch's exceptions. They are RuntimeErrors that contain:
    full = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in full)
    ):
        return (
            "out of memory: lower model.hidden_size, train.batch_size or train.num_steps in "
            "params.yaml, or use a shorter corpus"
        )
    return ""


def require_at_least(least: float, **arguments: float) -> None:
    """Raise OutOfRange for the first of ``arguments`` that is below ``least`` or not a number."""
    for name, value in arguments.items():
        if not value >= least:  # so that NaN is refused too
            raise OutOfRange(name, value, f"at least {least}")


def require_above(bound: float, **arguments: float) -> None:
    """Raise OutOfRange for the first of ``arguments`` that is not greater than ``bound``."""
    for name, value in arguments.items():
        if not value > bound:
            raise OutOfRange(name, value, f"greater than {bound}")


def require_one_of(choices: Sequence[str], **arguments: str) -> None:
    """Raise OutOfRange for the first of ``arguments`` that is none of ``choices``."""
    for name, value in arguments.items():
        if value not in choices:
            raise OutOfRange(name, repr(value), f"one of {', '.join(choices)}")


def require_tokens(tokens: Any, vocab_size: int, least: int = 0, name: str = "tokens") -> None:
    """Raise OutOfRange unless ``tokens`` are at least ``least`` numbers below ``vocab_size``.

    ``tokens`` (N,) is an array of NumPy or a tensor of torch.
    """
    if len(tokens) < least:
        raise OutOfRange(f"len({name})", len(tokens), f"at least {least}")
    if (
        len(tokens)
        and not 0 <= (lowest := int(tokens.min())) <= (highest := int(tokens.max())) < vocab_size
    ):
        worst = lowest if lowest < 0 else highest
        raise OutOfRange(f"a number in {name}", worst, f"0 to {vocab_size - 1}")
