"""A sweep queues experiments, starts workers and reports failures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Pipeline

from gru_lm.core.errors import UserError
from tools import sweep


def test_grid() -> None:
    options = ["train.lr=0.5,1e-3", "sample.temperatures=[0.5,1],[2]", "train.seed=0"]
    experiments = sweep.grid(options, "s")
    assert [one.params for one in experiments] == [
        ("train.lr=0.5", "sample.temperatures=[0.5,1]", "train.seed=0"),
        ("train.lr=0.5", "sample.temperatures=[2]", "train.seed=0"),
        ("train.lr=1e-3", "sample.temperatures=[0.5,1]", "train.seed=0"),
        ("train.lr=1e-3", "sample.temperatures=[2]", "train.seed=0"),
    ]
    names = [one.name for one in experiments]
    assert names[0] == "s-lr0.5-temperatures0.5_1-seed0"
    assert len(set(names)) == 4
    for name in names:
        subprocess.run(["git", "check-ref-format", f"refs/exps/{name}"], check=True)


def test_points_are_queued_with_their_params() -> None:
    (point,) = sweep.grid(["train.lr=1"], "s")
    assert point.queue[4:] == ["-S", "train.lr=1", "--name", point.name]


@pytest.mark.parametrize("options", [["train.lr"], ["train.lr="], ["=1"], ["train.lr=1,1"]])
def test_invalid_grid_is_refused(options: list[str]) -> None:
    with pytest.raises(UserError):
        sweep.grid(options, "s")


@pytest.mark.parametrize(("jobs", "cores", "threads"), [(1, 8, 8), (2, 8, 4), (3, 8, 2), (9, 8, 1)])
def test_jobs_share_cores(jobs: int, cores: int, threads: int) -> None:
    assert sweep.threads_per_job(jobs, cores) == threads


STATUS = """\
Task     Name          Created    Status
1ca1b99  sweep-lr0.5   05:29 PM   {}
7d90a8c  sweep-lr0.5   05:25 PM   Failed
8f8ce0c  sweep-lr2     Nov 22, 2026  Success

Worker status: {} active, {} idle
"""


def test_queue_status_is_parsed() -> None:
    queue = sweep.read_status(STATUS.format("Running", 1, 2))
    assert queue.states == {"sweep-lr0.5": "Running", "sweep-lr2": "Success"}
    assert queue.workers == 3


def test_failure_reason() -> None:
    log = "Running stage 'train'\ntrain: error: no room\nERROR: failed to reproduce 'train': 1\n"
    assert sweep.failure(log) == "train: error: no room"
    assert sweep.failure("ERROR: failed to reproduce 'x': 1\n\n").startswith("ERROR: failed")
    assert sweep.reached_a_stage(log)
    assert not sweep.reached_a_stage(f"ERROR: {sweep.NO_LOG} for experiment 'x'")


def test_lost_task_is_queued_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first simulated worker fails a task before its first stage, the second dies."""
    states = iter([("Failed", 1, 0), *[("Queued", 0, 0)] * sweep.PATIENCE, ("Success", 0, 1)])
    commands = []

    def dvc(command: list[str]) -> subprocess.CompletedProcess[str]:
        commands.append(command[1:3])
        output = ""
        if command[1:3] == ["queue", "status"] and ["exp", "run"] in commands:
            state, active, idle = next(states)
            output = f"1ca1b99  s-lr1   05:29 PM   {state}\n{active} active, {idle} idle\n"
        elif command[1:3] == ["queue", "logs"]:
            output = f"ERROR: {sweep.NO_LOG} for experiment 's-lr1'"
        return subprocess.CompletedProcess(command, 0, output, "")

    starts = []
    monkeypatch.setattr(sweep, "_dvc", dvc)
    monkeypatch.setattr(sweep, "experiments", dict)
    monkeypatch.setattr(sweep.Sweep, "_start_workers", lambda self: starts.append(self.jobs))
    monkeypatch.setattr(sweep, "PAUSE", 0)
    assert sweep.Sweep(sweep.grid(["lr=1"], "s"), jobs=2).run() == {}
    assert commands.count(["exp", "run"]) == 2
    assert commands.count(["queue", "remove"]) == 1
    assert starts == [2, 2, 2]


# A dvc whose status is the next line of ``states`` each time: state of the task, active workers.
FAKE_DVC = """#!/bin/sh
echo "$1 $2" >> calls
case "$1 $2" in
"queue status")
    [ -f started ] || { echo "0 active, 0 idle"; exit; }
    read -r state workers < states
    [ "$(wc -l < states)" = 1 ] || sed -i 1d states
    echo "1ca1b99  s-lr1   05:29 PM   $state"
    echo "$workers active, 0 idle" ;;
"exp run") touch started ;;
"queue kill") echo "Failed 0" > states ;;
"queue logs") echo "Running stage 'train@scratch':" ;;
"cache dir") cat cache_dir 2> /dev/null || echo /cache ;;
esac
"""


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a folder in which ``dvc`` is FAKE_DVC."""
    fake = tmp_path / "bin/dvc"
    fake.parent.mkdir()
    fake.write_text(FAKE_DVC)
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(sweep, "PAUSE", 0)
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_sweep(played: Path, states: list[str]) -> tuple[dict[str, str], list[str]]:
    """Run the sweep and return its failures and its DVC commands other than polls."""
    (played / "states").write_text("".join(f"{state}\n" for state in states))
    failed = sweep.Sweep(sweep.grid(["lr=1"], "s"), jobs=1).run()
    calls = (played / "calls").read_text().splitlines()
    return failed, [
        call for call in calls if call not in ("cache dir", "queue status", "queue logs")
    ]


def test_no_worker_is_started_during_a_task(played: Path) -> None:
    """DVC does not list a busy worker that responds too late."""
    silent = ["Running 0"] * (3 * sweep.PATIENCE)
    failed, calls = run_sweep(played, ["Queued 0", "Queued 1", *silent, "Running 1", "Success 0"])
    assert not failed
    assert calls == ["exp run", "queue start"]


def test_no_worker_is_started_during_another_sweep(played: Path) -> None:
    failed, calls = run_sweep(played, ["Running 0", "Running 0", "Success 0"])
    assert not failed
    assert calls == ["exp run"]


def refusal_of_a_sweep(option: str) -> str:
    with pytest.raises(UserError) as refusal:
        sweep.Sweep(sweep.grid([option], "s"), jobs=1).run()
    calls = Path("calls")
    assert not calls.exists() or "exp run" not in calls.read_text(), "an experiment was queued"
    return str(refusal.value)


def test_untracked_text_is_refused(played: Path) -> None:
    book = played / "corpora/my book.txt"
    book.parent.mkdir()
    book.write_text("Once upon a time")
    corpora = {"old": {"path": "corpora/old.txt"}, "mine": {"path": "corpora/my book.txt"}}
    params = {"fetch": {"corpus": "old"}, "corpora": corpora}
    (played / "params.yaml").write_text(json.dumps(params))
    message = "git does not know corpora/my book.txt: run git add 'corpora/my book.txt', as queued"
    assert refusal_of_a_sweep("fetch.corpus=old,mine").startswith(message)
    (played / ".gitignore").write_text("/corpora\n")
    assert refusal_of_a_sweep("corpora.old.path=corpora/my book.txt").startswith(message)

    assert run_sweep(played, ["Success 0"])[0] == {}, "its corpus is another one"
    params["fetch"] = {"corpus": "mine"}
    (played / "params.yaml").write_text(json.dumps(params))
    subprocess.run(["git", "add", "--force", book], check=True)
    assert run_sweep(played, ["Success 0"])[0] == {}, "added is enough"


@pytest.mark.parametrize("path", ["corpora", "corpora/*.txt", ["other.txt", "corpora"]])
def test_untracked_file_of_a_folder_is_refused(path: str | list[str], played: Path) -> None:
    (played / "corpora").mkdir()
    for name in ("other.txt", "corpora/a.txt", "corpora/b.txt"):
        (played / name).write_text("Once upon a time")
    subprocess.run(["git", "add", "--force", "other.txt", "corpora/a.txt"], check=True)
    params = {"fetch": {"corpus": "mine"}, "corpora": {"mine": {"path": path}}}
    (played / "params.yaml").write_text(json.dumps(params))
    assert refusal_of_a_sweep("lr=1").startswith("git does not know corpora/b.txt: run git add")
    subprocess.run(["git", "add", "--force", "corpora"], check=True)
    assert run_sweep(played, ["Success 0"])[0] == {}


def test_non_ascii_cache_path_is_refused(played: Path) -> None:
    (played / "cache_dir").write_text("/tmp/naïve/.dvc/cache\n")
    assert refusal_of_a_sweep("lr=1").startswith(
        "DVC cannot run a queue with its cache in /tmp/naïve/.dvc/cache, a path with non-ASCII"
    )


def test_unreadable_queue_is_an_error(played: Path) -> None:
    (played / "bin/dvc").write_text(
        '#!/bin/sh\n[ "$1" = cache ] || { echo "ERROR: no" >&2; exit 255; }'
    )
    assert refusal_of_a_sweep("lr=1") == "dvc queue status: ERROR: no"


def test_worker_error_is_found(played: Path) -> None:
    assert sweep.worker_error() == ""
    log = played / sweep.WORKERS / "dvc-exp-worker-1.out"
    log.parent.mkdir(parents=True)
    log.write_text("[1] Task x[y] raised unexpected: ValueError('no')\nTraceback\n")
    assert sweep.worker_error() == "ValueError('no'): "


def record_worker(played: Path, pid: int) -> None:
    path = played / sweep.WORKERS / "dvc-exp-worker-1.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"pid": pid, "returncode": None}))


def test_silent_living_worker_is_waited_for(played: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)", "queue-worker"]
    with subprocess.Popen(command) as worker:
        record_worker(played, worker.pid)
        states = ["Queued 0", *["Running 0"] * (3 * sweep.PATIENCE), "Success 0"]
        failed, calls = run_sweep(played, states)
        worker.kill()
    assert not failed
    assert calls == ["exp run", "queue start"]


def test_task_of_dead_worker_is_ended(played: Path) -> None:
    """DVC would list it as running forever."""
    with subprocess.Popen([sys.executable, "-c", "", "queue-worker"]) as worker:
        pass
    record_worker(played, worker.pid)
    failed, calls = run_sweep(played, ["Queued 0", *["Running 0"] * (2 * sweep.PATIENCE)])
    assert list(failed) == ["s-lr1"]
    assert calls == ["exp run", "queue start", "queue kill"]


@pytest.mark.timeout(600)
def test_sweep_lists_failures(pipeline: Pipeline) -> None:
    # Use the copy's own library, as its stages do.
    pipeline = Pipeline(pipeline.root, pipeline.env | {"PYTHONPATH": str(pipeline.root / "src")})
    command = ["-S", "train.batch_size=4,5000", "--name", "try", "--jobs", "2"]
    try:
        result = pipeline.run("python", "-m", "tools.sweep", *command, code=1, timeout=400)
    finally:
        pipeline.run("dvc", "queue", "stop", "--kill")
    assert "1 Failed, 1 Success" in result.stdout
    (reason,) = [line for line in result.stdout.splitlines() if line.startswith("try-")]
    assert reason.startswith("try-batch_size5000: train: error: the training split has 600 tokens")
    again = "    retry: dvc exp run -S train.batch_size=5000 --name try-batch_size5000"
    assert again in result.stdout
    assert result.stderr == "sweep: error: 1 of 2 experiments failed\n"
    compared = pipeline.run("python", "-m", "tools.compare", "try-*", "--output", "out")
    assert "scratch: only one setting" in compared.stdout
