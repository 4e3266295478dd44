"""Trainings in several processes that are started, stopped, killed and resumed.

Most of the processes get the variables of torchrun from the test, and start with torch loaded.
"""

from __future__ import annotations

import csv
import re
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest
from small_trainings import ROOT, checkpoint_files, copy_with_params, prepare, set_param
from warm import Stage

LIMIT = 30  # seconds in which all processes of a training end after one was killed


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("processes"))


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def start(*folders: Path, size: int | None = None) -> list[Stage]:
    """Start ``size`` processes in one folder, or one in each of ``folders``."""
    where = [folders[0]] * size if size else list(folders)
    shared = {"WORLD_SIZE": str(len(where)), "MASTER_ADDR": "localhost"}
    shared |= {"MASTER_PORT": free_port(), "PYTHONPATH": str(ROOT)}
    return [
        Stage(
            *("stages.train", "--variant", "scratch"), cwd=folder, env=shared | {"RANK": str(rank)}
        )
        for rank, folder in enumerate(where)
    ]


def launch(folder: Path) -> Stage:
    """Start the stage alone."""
    arguments = ("stages.train", "--variant", "scratch")
    return Stage(*arguments, cwd=folder, env={"PYTHONPATH": str(ROOT)})


def outputs(processes: list[Stage], code: int, timeout: float = 120) -> list[str]:
    """Wait for the end of all processes and return their outputs."""
    found = [process.communicate(timeout)[0] for process in processes]
    assert [process.returncode for process in processes] == [code] * len(found), found
    return found


def errors(output: str) -> list[str]:
    return [line for line in output.splitlines() if not line.startswith("train@")]


def wait_for_checkpoint(folder: Path, process: Stage, above: int = 0) -> None:
    """Wait until there is a checkpoint after more than ``above`` steps."""
    deadline = time.monotonic() + 60
    while last_step(folder) <= above:
        assert process.poll() is None, process.output()
        assert time.monotonic() < deadline, "there is no checkpoint"
        time.sleep(0.01)


def last_step(folder: Path) -> int:
    """Return the number of steps of the newest checkpoint, or 0."""
    return max((int(path.name.split("-")[0]) for path in checkpoint_files(folder)), default=0)


def curve(folder: Path, name: str) -> list[float]:
    with (folder / f"training/scratch/{name}.tsv").open(encoding="utf-8") as file:
        return [float(row["perplexity"]) for row in csv.DictReader(file, delimiter="\t")]


def assert_same_curves(folder: Path, other: Path) -> None:
    for name in ("train", "val"):
        assert curve(folder, name) == pytest.approx(curve(other, name), rel=1e-4)


def test_stopped_processes_resume_in_another_number(prepared: Path, tmp_path: Path) -> None:
    """SIGTERM goes to the last of two, and then to the last of three. One process ends the run."""
    folder, alone = (
        copy_with_params(prepared, tmp_path / name, epochs=100, validate_every=1)
        for name in ("shared", "alone")
    )
    steps = 0
    for size in (2, 3):
        processes = start(folder, size=size)
        wait_for_checkpoint(folder, processes[0], above=steps)
        processes[-1].send_signal(signal.SIGTERM)
        told, *silent = outputs(processes, 130)
        assert told.endswith("; run it again to go on from there\n")
        assert ("going on after" in told) == (size == 3)
        assert "train@" not in "".join(silent)
        assert not list(folder.glob(".checkpoints/*.lock")) and not list(folder.glob("live/*"))
        steps = last_step(folder)
    [told] = outputs([launch(folder)], 0)
    assert "going on after" in told
    outputs([launch(alone)], 0)
    assert_same_curves(folder, alone)


@pytest.mark.parametrize("killed", [0, 1])
def test_killed_process_ends_the_others(killed: int, prepared: Path, tmp_path: Path) -> None:
    folder = copy_with_params(prepared, tmp_path / "run", epochs=5000)
    processes = start(folder, size=2)
    wait_for_checkpoint(folder, processes[0])
    processes.pop(killed).kill()
    [line] = errors(outputs(processes, 4, LIMIT)[0])
    assert line.startswith("train: error: the connection to another process of the training has")
    assert line.endswith(": run it again to go on from the last checkpoint")


def test_launcher_names_the_killed_process_and_passes_signals_on(
    prepared: Path, tmp_path: Path
) -> None:
    folder = copy_with_params(prepared, tmp_path / "run", epochs=5000, processes=2)
    stage = launch(folder)
    wait_for_checkpoint(folder, stage)
    psutil.Process(stage.pid).children()[1].kill()
    [line] = errors(outputs([stage], 1, LIMIT)[0])
    assert re.fullmatch(
        r"train: error: process [01] of 2 \(PID \d+\) was ended by SIGKILL: run it again to go on "
        "from the last checkpoint",
        line,
    )
    steps = last_step(folder)
    stage = launch(folder)
    wait_for_checkpoint(folder, stage, above=steps)
    stage.send_signal(signal.SIGTERM)
    [output] = outputs([stage], 130, LIMIT)
    assert "going on after epoch" in output
    [line] = errors(output)
    assert re.fullmatch(
        "train: error: interrupted after .+; run it again to go on from there", line
    )


def test_torchrun_on_two_machines_trains_as_one_process(prepared: Path, tmp_path: Path) -> None:
    """The two agents find each other by the loopback address and share the folder."""
    folder, alone = (
        copy_with_params(prepared, tmp_path / name, epochs=20) for name in ("shared", "alone")
    )
    options = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-id=1", "--rdzv-backend=c10d"]
    options += [f"--rdzv-endpoint=localhost:{free_port()}", "--local-addr=localhost"]
    options += ["--max-restarts=0", "-m", "stages.train", "--variant", "scratch"]
    env = {"PYTHONPATH": str(ROOT)}
    agents = [Stage("torch.distributed.run", *options, cwd=folder, env=env) for _ in range(2)]
    told = [output for output in outputs(agents, 0) if "train@" in output]
    assert len(told) == 1 and "train@scratch: on CPU, 1 thread, in 2 processes\n" in told[0]
    outputs([launch(alone)], 0)
    assert_same_curves(folder, alone)


def test_divergence_ends_all_processes(prepared: Path, tmp_path: Path) -> None:
    changes = {"lr": 40.0, "clip_norm": None, "epochs": 120}
    folder = copy_with_params(prepared, tmp_path / "run", **changes)
    for output in outputs(start(folder, size=2), 1):
        assert [line for line in errors(output) if "training diverged in epoch" in line]
    assert checkpoint_files(folder) and not (folder / "training").exists()


def test_impossible_processes_are_refused_in_one_line(prepared: Path, tmp_path: Path) -> None:
    folder = copy_with_params(prepared, tmp_path / "run", batch_size=2, epochs=1)
    for output in outputs(start(folder, size=3), 1):
        assert errors(output) == [
            "train: error: train.batch_size = 2: each of the 3 processes needs a row of a "
            "minibatch; raise it, or start fewer processes"
        ]
    other = copy_with_params(prepared, tmp_path / "other", batch_size=2, epochs=1, lr=0.4)
    for output in outputs(start(folder, other), 1):
        [line] = errors(output)
        assert line.startswith("train: error: process 1 has other params, data, code, ")
    env = {"PYTHONPATH": str(ROOT), "WORLD_SIZE": "2", "RANK": "0"}
    stage = Stage("stages.train", "--variant", "scratch", cwd=folder, env=env)
    [line] = errors(outputs([stage], 1)[0])
    assert "WORLD_SIZE is set, but MASTER_ADDR and MASTER_PORT is not" in line
    set_param(folder, "train", "processes", 3)
    [line] = errors(outputs([launch(folder)], 1)[0])
    assert "train.processes = 3: each needs a row of a minibatch" in line
