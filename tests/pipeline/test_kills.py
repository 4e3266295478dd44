"""Runs of DVC that are killed in each stage, killed in parallel stages, or run in parallel."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from conftest import PROJECT, Pipeline, ran
from stages_of import is_timing, output_files

# The first test that needs the session's run also makes it.
pytestmark = pytest.mark.timeout(600)

INTERNAL = ("data/prepared/", "training/")  # deleted before they are written
OF_THE_ANALYSIS = (
    *("analysis/baselines.json", "analysis/gates/", "analysis/plots/", "analysis/replicate/"),
    *("analysis/summary.json", "exports/", "metrics/export/"),
)
EXPERIMENT = ("dvc", "exp", "run")
FROM_THE_TEXT = ("prepare", "train", "evaluate", "sample", "plot")

# Added to the stages of a copy of the project. A stage counts its changes of files in the folders
# of the results: each creation, renaming and removal. With the environment's
# STOP_AT="STAGE NUMBER PATTERN" it stops before the NUMBER-th change whose path matches PATTERN. It
# makes a file in the folder STOPPED and continues when the folder is gone.
WATCH = """

import os
import time

PLACES = {".checkpoints", "data", "live", "metrics", "models", "plots", "samples", "training"}
CHANGES = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir"}
unwatched = run_stage


def run_stage(name: str, main: Callable[[], None]) -> None:
    stage, number, pattern = os.environ.get("STOP_AT", "no 0 .").split()
    count = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in CHANGES or isinstance(arguments[0], int):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        path = os.path.relpath(os.fsdecode(arguments[1 if event == "os.rename" else 0]))
        if path.split(os.sep)[0] in PLACES and re.search(pattern, path):
            count += 1
            if (name, count) == (stage, int(number)):
                Path(os.environ["STOPPED"], str(os.getpid())).touch()
                while Path(os.environ["STOPPED"]).exists():
                    time.sleep(0.01)

    sys.addaudithook(watch)
    unwatched(name, main)
    if "COUNTS" in os.environ:
        Path(os.environ["COUNTS"], name).write_text(str(count))
"""


def results(root: Path) -> dict[str, bytes]:
    """Return all results by name, without those that differ between equal runs.

    Temporary files that a killed process leaves are not results.
    """
    return {
        name: data
        for name, data in output_files(root).items()
        if not is_timing(name) and not re.search(r"(^|/)\.[^/]+\.tmp$", name)
    }


def recorded(pipeline: Pipeline) -> dict[str, str]:
    """Return the checksums of outputs in dvc.lock that are the same in equal runs."""
    stages = yaml.safe_load((pipeline.root / "dvc.lock").read_text("utf-8"))["stages"].values()
    outputs = [out for stage in stages for out in stage["outs"] if not is_timing(out["path"] + "/")]
    return {out["path"]: out["md5"] for out in outputs if not is_timing(out["path"])}


def watched(pipeline: Pipeline, root: Path) -> Pipeline:
    """Copy the pipeline to ``root``, with stages that can be stopped at any operation."""
    copy = pipeline.copy(root)
    with (root / "stages/__init__.py").open("a", encoding="utf-8") as file:
        file.write(WATCH)
    return copy


def start(pipeline: Pipeline, *command: str, **env: str) -> subprocess.Popen[str]:
    """Start a command in a process group of its own. Its output includes stderr."""
    return subprocess.Popen(
        command,
        cwd=pipeline.root,
        env=pipeline.env | env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_stops(process: subprocess.Popen[str], folder: Path, count: int = 1) -> None:
    """Wait until ``count`` stages have stopped."""
    deadline = time.monotonic() + 120
    while len(list(folder.iterdir())) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no stage reached the place to stop"
        time.sleep(0.01)


def kill(process: subprocess.Popen[str], stopped: Path) -> None:
    """Kill the command with all its processes, and the stages that have stopped.

    The stages and DVC are forks of the server of warm.py. The server ends DVC.
    """
    os.killpg(process.pid, signal.SIGKILL)
    for stage in stopped.iterdir():
        with suppress(ProcessLookupError):
            os.kill(int(stage.name), signal.SIGKILL)
    process.communicate(timeout=60)


def test_run_killed_in_each_stage_gives_same_bytes(
    finished_scratch: Pipeline, tmp_path: Path
) -> None:
    """dvc repro is killed in each stage in turn, at a random change of a file."""
    interrupted = watched(finished_scratch, tmp_path / "interrupted")
    before = results(interrupted.root)
    interrupted.set_params({"prepare.split.train": 590, "train.epochs": 4, "sample.length": 12})
    uninterrupted = interrupted.copy(tmp_path / "uninterrupted")
    counts = tmp_path / "counts"
    counts.mkdir()
    process = start(uninterrupted, "dvc", "repro", COUNTS=str(counts))
    order = [name.partition("@")[0] for name in ran(process.communicate(timeout=200)[0])]
    assert sorted(order) == sorted(("params", "fetch", *FROM_THE_TEXT))
    after = results(uninterrupted.root)
    assert before.keys() == after.keys()

    generator = random.Random(1)
    for stage in order:
        number = generator.randint(1, int((counts / stage).read_text()))
        stopped = tmp_path / f"stopped-in-{stage}"
        stopped.mkdir()
        at = {"STOP_AT": f"{stage} {number} .", "STOPPED": str(stopped)}
        process = start(interrupted, "dvc", "repro", **at)
        wait_for_stops(process, stopped)
        kill(process, stopped)
        there = results(interrupted.root)
        missing = {name for name in before.keys() - there.keys() if not name.startswith(INTERNAL)}
        assert not missing, f"killed at change {number} of {stage}"
        for name, data in there.items():
            assert data in (before[name], after[name]), f"{name}, killed at {number} of {stage}"
    interrupted.dvc("repro")
    assert results(interrupted.root) == after
    assert recorded(interrupted) == recorded(uninterrupted)
    assert interrupted.git("status", "--short") == uninterrupted.git("status", "--short")


def test_make_killed_in_parallel_trainings_gives_same_bytes(
    unrun_pipeline: Pipeline, finished_pipeline: Pipeline, tmp_path: Path
) -> None:
    interrupted = watched(unrun_pipeline, tmp_path / "interrupted")
    for name in ("Makefile", "pyproject.toml", "requirements.txt"):
        shutil.copy2(PROJECT / name, interrupted.root)
    interrupted.set_params({"variants": ["scratch", "concise"], "checkpoint.every": 1})
    make = ("make", "--old-file=.venv/.installed", "repro")
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    at = {"STOP_AT": "train 1 checkpoints/.*/0*36-", "STOPPED": str(stopped)}
    process = start(interrupted, *make, **at)
    wait_for_stops(process, stopped, count=2)
    kill(process, stopped)
    assert {name.partition("/")[0] for name in results(interrupted.root)} == {"data"}
    output = interrupted.run(*make).stdout
    assert output.count("going on after epoch 1") == 2, output
    made, expected = (
        {name: data for name, data in results(root).items() if not name.startswith("plots/")}
        for root in (interrupted.root, finished_pipeline.root)
    )
    assert made == {name: expected[name] for name in made}
    missing = {name for name in expected.keys() - made.keys() if "fused" not in name}
    assert all(name.startswith(OF_THE_ANALYSIS) for name in missing), missing


def test_parallel_experiments_record_no_wrong_result(
    finished_scratch: Pipeline, tmp_path: Path
) -> None:
    """DVC writes the second experiment's params to the workspace while the first one trains."""
    shared = watched(finished_scratch, tmp_path / "shared")
    shared.commit("Watched stages")
    before = results(shared.root)
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    at = {"STOP_AT": "train 1 ^live/", "STOPPED": str(stopped)}
    first = start(shared, *EXPERIMENT, "--name", "slow", "-S", "train.lr=0.5", **at)
    wait_for_stops(first, stopped)
    second = shared.run(*EXPERIMENT, "--name", "fast", "-S", "train.lr=0.7", code=255)
    assert "is busy, it is being blocked by" in second.stderr
    shutil.rmtree(stopped)
    output = first.communicate(timeout=200)[0]
    assert first.returncode == 255
    assert "train: error: params.yaml: train changed while the stage ran" in output
    there = results(shared.root)
    assert {name: there.get(name) for name in before if not name.startswith(INTERNAL)} == {
        name: data for name, data in before.items() if not name.startswith(INTERNAL)
    }
    assert not shared.dvc("exp", "list", "--name-only").split()

    output = shared.dvc(*EXPERIMENT[1:], "--name", "again", "-S", "train.lr=0.7")
    assert "train@scratch" in ran(output), "a result was recorded for these params"
    assert shared.dvc("exp", "list", "--name-only").split() == ["again"]
