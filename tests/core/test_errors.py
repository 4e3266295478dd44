"""A fault of the user or the machine ends a stage with one line, a bug with a traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from gru_lm.core.errors import (
    LONGEST,
    DamagedFile,
    Interrupted,
    MissingFile,
    UnreachableError,
    UnusableFile,
    UserError,
    one_line,
    printable,
    run_main,
    say,
)


def outcome(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """Return the exit status and stderr of a stage that raises ``error``."""

    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as stop:
        run_main("train", main)
    printed = capsys.readouterr()
    assert printed.out == ""
    return stop.value.code, printed.err


# Any characters, lone surrogates included, as a key, a path or a tensor's name may hold.
ANYTHING = st.text(st.characters(exclude_categories=()), max_size=60)


@given(ANYTHING, st.integers(30, 100))
@example("0" * 15 + " " + "0" * 15, 30)  # cut beside a space
def test_messages_are_one_short_printable_line(text: str, longest: int) -> None:
    line = one_line(text, longest)
    assert line.isprintable() and len(line) <= longest
    line.encode("utf-8")
    assert one_line(line, longest) == line


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=60))
def test_plain_message_is_unchanged(text: str) -> None:
    assert one_line(text) == printable(text) == text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\n  b\r\nc\u2028d", "a b c d"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("left\u202eright", r"left\u202eright"),
        ("half \ud800", r"half \ud800"),
        ("Z\xfcrich \u4e2d", "Z\xfcrich \u4e2d"),
    ],
)
def test_control_characters_are_escaped(text: str, line: str) -> None:
    assert one_line(text) == line


@pytest.mark.parametrize(("length", "cut"), [(LONGEST, False), (LONGEST + 1, True)])
def test_long_message_keeps_start_and_end(length: int, cut: bool) -> None:
    message = ("a" * (length - 1)) + "z"
    line = str(UserError(message))
    assert len(line) == LONGEST
    assert (line != message) == cut == (" [...] " in line)
    assert line.startswith("aaa") and line.endswith("az")


def test_status_line_cannot_forge_another(capsys: pytest.CaptureFixture[str]) -> None:
    say("train@scratch", "checkpoint\ntrain@scratch: done \x1b[1A")
    say("fetch", "warning: slow", file=sys.stderr)
    printed = capsys.readouterr()
    assert printed.out == "train@scratch: checkpoint train@scratch: done \\x1b[1A\n"
    assert printed.err == "fetch: warning: slow\n"


def test_path_cannot_forge_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("a\nfetch: done\x1b[2K")
    for error in (MissingFile(path), DamagedFile(path, "it\nis\x00empty")):
        _, printed = outcome(error, capsys)
        assert printed.count("\n") == 1
        assert printed[:-1].isprintable()
    _, printed = outcome(PermissionError(errno.EACCES, "Permission denied", str(path)), capsys)
    assert printed.startswith(r"train: error: a fetch: done\x1b[2K: Permission denied")


def test_damage_reason_is_short() -> None:
    error = DamagedFile(Path("a"), "x" * 10**6)
    assert len(str(error)) < 400
    assert error.why in str(error)


def test_terminal_text_keeps_listed_characters() -> None:
    assert printable("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"


@pytest.mark.parametrize(
    "error, code, line",
    [
        (UserError("train.lr is\n too high"), 1, "train.lr is too high"),
        (UnreachableError("nobody there"), 3, "nobody there"),
        (Interrupted("stopped"), 130, "stopped"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_user_error_is_one_line(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(error, capsys) == (code, f"train: error: {line}\n")


@pytest.mark.parametrize(
    "number, remedy",
    [
        (errno.ENOSPC, "free some disk space"),
        (errno.EDQUOT, "free some disk space"),
        (errno.EFBIG, "raise the limit on file sizes (ulimit -f)"),
    ],
)
@pytest.mark.parametrize("name", ["models/a", None])
def test_full_disk_without_path_is_one_line(
    number: int, remedy: str, name: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = os.strerror(number)
    code, printed = outcome(OSError(number, reason, name), capsys)
    assert code == 1
    place = name or Path.cwd()
    assert printed == f"train: error: {place}: {reason}: {remedy} and run the stage again\n"


def test_unopenable_file_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = outcome(PermissionError(errno.EACCES, "Permission denied", "models/a"), capsys)
    assert code == 1
    assert printed.startswith("train: error: models/a: Permission denied: check the path")


@pytest.mark.parametrize(
    "error, line",
    [
        (
            MissingFile(Path("a/b.json")),
            "a/b.json is missing: create it with dvc repro b@x",
        ),
        (
            DamagedFile(Path("a/b.json"), "cut\noff"),
            "a/b.json is damaged (cut off): delete it and recreate it with dvc repro b@x",
        ),
        (
            UnusableFile(Path("a/b.json"), "belongs to another model"),
            "a/b.json belongs to another model: recreate it with dvc repro b@x",
        ),
    ],
    ids=["missing", "damaged", "unusable"],
)
def test_unusable_file_names_its_command(
    error: UnusableFile, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise error

    asked: list[Path] = []

    def made_by(path: Path) -> str | None:
        asked.append(path)
        return "dvc repro b@x" if len(asked) == 1 else None

    for expected in (line, line.partition(": ")[0]):  # the second time it knows no command
        with pytest.raises(SystemExit) as stop:
            run_main("draw", main, made_by)
        assert stop.value.code == 1
        assert capsys.readouterr().err == f"draw: error: {expected}\n"
    assert asked == [Path("a/b.json")] * 2


def test_unusable_file_without_known_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, printed = outcome(DamagedFile(Path("a"), "it is empty"), capsys)
    assert (code, printed) == (1, "train: error: a is damaged (it is empty)\n")


def test_unusable_file_is_user_error_with_path() -> None:
    for error in (MissingFile(Path("a/b")), DamagedFile(Path("a/b"), "why")):
        assert isinstance(error, UnusableFile) and isinstance(error, UserError)
        assert error.path == Path("a/b")
        assert error.exit_code == 1


def too_large_for_numpy() -> None:
    np.empty(1 << 60, np.int8)


def too_large_for_torch() -> None:
    torch.empty(1 << 60, dtype=torch.int8)


def too_large_for_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def no_room_for_cublas() -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


@pytest.mark.parametrize(
    "allocate", [too_large_for_numpy, too_large_for_torch, too_large_for_a_gpu, no_room_for_cublas]
)
def test_out_of_memory_is_one_line(allocate, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((MemoryError, RuntimeError)) as full:
        allocate()
    code, printed = outcome(full.value, capsys)
    assert code == 1
    assert printed.startswith("train: error: out of memory: lower model.hidden_size")
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes do not match"),
        ValueError("out of memory"),
        OSError(errno.EBADF, "Bad file descriptor"),
        OSError("of no number"),
    ],
)
def test_bug_keeps_traceback(error: Exception) -> None:
    def main() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        run_main("train", main)
    assert raised.value is error


def test_exception_is_released_before_exit() -> None:
    """Objects held by its frames can print warnings while the interpreter shuts down."""

    def main() -> None:
        raise UserError("stopped")

    with pytest.raises(SystemExit) as stop:
        run_main("train", main)
    assert stop.value.__context__ is None


def run_in_a_process(body: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start a stage with this ``body`` and return its process."""
    code = (
        f"from gru_lm.core.errors import run_main\ndef main():\n {body}\nrun_main('sample', main)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


@pytest.mark.parametrize(
    "many", ["print('x' * 10**6)", "[print('x', flush=True) for _ in '1' * 10**5]"]
)
def test_closed_output_pipe_is_one_line(many: str) -> None:
    process = run_in_a_process(many)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == (b"sample: error: output pipe closed\n")
    assert process.wait(30) == 1


def test_unencodable_characters_are_escaped() -> None:
    process = run_in_a_process(
        "print('Z\\xfcrich \\U0001f600')", env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out.strip(), err) == (0, b"Z\\xfcrich \\U0001f600", b"")
