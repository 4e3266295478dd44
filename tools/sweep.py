"""Queue a grid of experiments, run it with DVC's workers and list failures.

    python -m tools.sweep -S train.lr=0.5,1 -S train.seed=0,1,2 --jobs 2

Each point of the grid runs the main pipeline. The cores are divided among the jobs with
OMP_NUM_THREADS, so jobs do not compete for them. If train.threads is not null, a training uses that
number of threads instead.

DVC's workers may die or fail a task while they start (treeverse/dvc issue 10673). The tool restarts
workers while tasks are waiting, and queues a task again if it failed before its first stage. DVC
does not count a busy worker that responds too late. The tool therefore starts no worker while a
task is running, unless the processes of all workers have ended.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shlex
import subprocess
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gru_lm.core.errors import Interrupted, UserError, printable, run_main, say
from gru_lm.corpus.texts import project_files
from gru_lm.corpus.wire import SourceFailed
from tools.revisions import WORKSPACE, experiments, find_revision, is_tracked

RESTARTS: Final = 3  # of the workers, and of each task that fails before its first stage
PATIENCE: Final = 4  # polls without a worker before workers are restarted
PAUSE: Final = 3.0  # seconds between two polls of the queue
# The folder of DVC's files with the process ids of its workers, one JSON file each.
WORKERS: Final = Path(".dvc/tmp/exps/celery")
NO_LOG: Final = "No output logs found"


@dataclass(frozen=True)
class Experiment:
    """One point of the grid."""

    name: str
    params: tuple[str, ...]

    @property
    def run_alone(self) -> list[str]:
        return ["dvc", "exp", "run", *self.options]

    @property
    def queue(self) -> list[str]:
        return ["dvc", "exp", "run", "--queue", *self.options]

    @property
    def options(self) -> list[str]:
        return [part for param in self.params for part in ("-S", param)] + ["--name", self.name]


@dataclass(frozen=True)
class Queue:
    """The output of ``dvc queue status``: (task, name, state) rows and the number of workers."""

    tasks: Sequence[tuple[str, str, str]]
    workers: int

    @property
    def states(self) -> dict[str, str]:
        """The states by name. If several tasks have the same name, the first listed counts."""
        return {name: state for _, name, state in reversed(self.tasks)}

    @property
    def running(self) -> list[str]:
        """The names of the tasks that DVC lists as running."""
        return [name for _, name, state in self.tasks if state == "Running"]


def grid(options: Sequence[str], prefix: str) -> list[Experiment]:
    """Return all combinations of ``key=value,value`` options, named after their values.

    Raises UserError if an option is malformed or two experiments have the same name.
    """
    axes = []
    for option in options:
        key, equals, values = option.partition("=")
        if not (key and equals and values):
            raise UserError(f"-S {option}: write it as key=value,value")
        # A comma within brackets is part of the value.
        axes.append([f"{key}={value}" for value in re.split(r",(?![^\[]*\])", values)])
    found = [
        Experiment("-".join([prefix, *(_short(param) for param in params)]), params)
        for params in itertools.product(*axes)
    ]
    twice = [name for name, count in Counter(one.name for one in found).items() if count > 1]
    if twice:
        raise UserError(f"two experiments would be named {twice[0]}: remove the duplicate value")
    return found


def _short(param: str) -> str:
    """Convert ``train.lr=0.5`` to a part of a valid git ref name, ``lr0.5``."""
    key, _, value = param.partition("=")
    return key.rpartition(".")[2] + re.sub(r"[^A-Za-z0-9._-]+", "_", value).strip("._")


def threads_per_job(jobs: int, cores: int) -> int:
    return max(1, cores // jobs)


def read_status(text: str) -> Queue:
    """Parse the output of ``dvc queue status``."""
    rows = re.findall(r"^([0-9a-f]{7}) +(\S+) .* (\w+) *$", text, re.MULTILINE)
    workers = re.search(r"(\d+) active, (\d+) idle", text)
    return Queue(rows, int(workers[1]) + int(workers[2]) if workers else 0)


def failure(log: str) -> str:
    """Return the last error line of a log, or its last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    # After the stage's error DVC adds a line that the stage has failed.
    errors = [line for line in lines if re.search(r"error", line, re.IGNORECASE)]
    own = [line for line in errors if not line.startswith("ERROR: failed to reproduce")]
    return (own or errors or lines or ["its log is empty"])[-1]


def reached_a_stage(log: str) -> bool:
    return re.search(r"^(Running s|S)tage '[^']+'", log, re.MULTILINE) is not None


def check_queue(points: Sequence[Experiment]) -> None:
    """Raise UserError if DVC's queue cannot run ``points``.

    A queued experiment runs in a copy of the project with the files that git knows. DVC writes the
    path of its cache into the copy as ASCII.
    """
    params = find_revision(WORKSPACE).params
    texts: dict[str, None] = {}
    for point in points:
        own = params | dict(param.split("=", 1) for param in point.params)
        texts |= dict.fromkeys(_own_texts(own.get(f"corpora.{own.get('fetch.corpus')}.path")))
    for text in texts:
        if not Path(f"{text}.dvc").is_file() and not is_tracked(text):
            raise UserError(
                f"git does not know {text}: run git add {shlex.quote(text)}, as queued "
                "experiments run in a copy of the project that has only the files that git knows"
            )
    cache = _answer(["dvc", "cache", "dir"]).strip()
    if not cache.isascii():
        raise UserError(
            f"DVC cannot run a queue with its cache in {cache}, a path with non-ASCII characters: "
            "choose another folder with dvc cache dir --local FOLDER, or use dvc exp run"
        )


def _own_texts(path: object) -> list[str]:
    """Return the files that the ``path`` of a corpus names, or none if there are no such files."""
    paths = path if isinstance(path, list) else [path]
    try:
        return [name for one in paths for name, _ in project_files(Path.cwd(), str(one))]
    except SourceFailed:
        return []


class Sweep:
    """A run of a grid of experiments in DVC's queue."""

    def __init__(self, points: Sequence[Experiment], jobs: int) -> None:
        self.experiments = points
        self.jobs = jobs
        self.environment = os.environ | {
            "OMP_NUM_THREADS": str(threads_per_job(jobs, _num_cores()))
        }
        self.restarts = 0
        self.kills = 0
        self.again: Counter[str] = Counter()

    def run(self) -> dict[str, str]:
        """Queue and run all experiments. Returns the reasons of failures by experiment name."""
        check_queue(self.experiments)
        self._clear_names()
        for experiment in self.experiments:
            self._queue(experiment)
        self._start_workers()
        queue = self._wait()
        return {
            one.name: self._reason(one.name, queue)
            for one in self.experiments
            if queue.states.get(one.name) != "Success"
        }

    def _clear_names(self) -> None:
        """Remove failed tasks with these names from the queue.

        Raises UserError if an experiment with one of the names exists, is queued or is running.
        """
        done, queue = experiments(), _status()
        for name in (one.name for one in self.experiments):
            if name in done or queue.states.get(name) in ("Queued", "Running"):
                raise UserError(
                    f"{name} already exists: choose another --name, or remove it with "
                    f"dvc {'exp' if name in done else 'queue'} remove {name}"
                )
        self._forget({one.name for one in self.experiments}, queue)

    def _forget(self, names: Collection[str], queue: Queue) -> None:
        tasks = [task for task, name, _ in queue.tasks if name in names]
        if tasks:
            _dvc(["dvc", "queue", "remove", *tasks])

    def _queue(self, experiment: Experiment) -> None:
        _answer(experiment.queue)

    def _start_workers(self) -> None:
        """Start the workers, unless running workers have a task."""
        if _status().running and not workers_are_gone():
            return
        # The workers inherit stdout. With a pipe, this call would return only when they end.
        subprocess.run(
            ["dvc", "queue", "start", "-j", str(self.jobs)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )

    def _wait(self) -> Queue:
        """Wait until every experiment has ended or all restarts of workers are used up."""
        shown, alone = "", 0
        while True:
            queue = _status()
            states = [queue.states.get(one.name, "lost") for one in self.experiments]
            line = ", ".join(f"{count} {state}" for state, count in sorted(Counter(states).items()))
            if line != shown:
                say("sweep", line)
                shown = line
            if self._queue_again(queue):
                continue
            if not {"Queued", "Running"} & set(states):
                return queue
            busy = queue.workers or (queue.running and not workers_are_gone())
            alone = 0 if busy else alone + 1
            if alone >= PATIENCE:
                alone = 0
                if lost := [one.name for one in self.experiments if one.name in queue.running]:
                    if self.kills == RESTARTS:
                        return queue
                    self.kills += 1
                    # Otherwise DVC would list them as running forever.
                    say("sweep", f"lost the worker of {', '.join(lost)}: task killed")
                    _dvc(["dvc", "queue", "kill", *lost])
                    continue
                if self.restarts == RESTARTS:
                    return queue
                self.restarts += 1
                say("sweep", "no worker is running: restarting the workers")
                self._start_workers()
            time.sleep(PAUSE)

    def _queue_again(self, queue: Queue) -> bool:
        """Queue tasks that failed before their first stage again. Returns whether any did."""
        found = False
        for one in self.experiments:
            if queue.states.get(one.name) != "Failed" or self.again[one.name] == RESTARTS:
                continue
            if reached_a_stage(_log(one.name)):
                self.again[one.name] = RESTARTS  # a failure of the experiment: do not retry
                continue
            self.again[one.name] += 1
            say("sweep", f"{one.name} failed before its first stage: queued again")
            self._forget({one.name}, queue)
            self._queue(one)
            found = True
        if found:
            self._start_workers()
        return found

    def _reason(self, name: str, queue: Queue) -> str:
        state = queue.states.get(name)
        if state != "Failed":
            return f"{state or 'not in the queue'}, and no worker is running: see dvc queue status"
        log = _log(name)
        if NO_LOG in log:
            return f"failed before its first stage: {worker_error()}see {WORKERS}/*.out"
        return failure(log)


def workers_are_gone() -> bool:
    """Return whether DVC has recorded worker processes and all of them have ended."""
    recorded = [json.loads(path.read_text("utf-8")) for path in WORKERS.glob("*worker*.json")]
    return bool(recorded) and not any(_lives(one["pid"]) for one in recorded)


def _lives(pid: int) -> bool:
    if Path("/proc/self/cmdline").exists():
        # Check the command, as the id may have been reused. A zombie process has no command.
        command = Path(f"/proc/{pid}/cmdline")
        return command.exists() and b"queue-worker" in command.read_bytes()
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def worker_error() -> str:
    """Return the last exception in the logs of DVC's workers and a colon, or "" without any."""
    logs = sorted(WORKERS.glob("*.out"), key=lambda path: path.stat().st_mtime)
    text = "\n".join(path.read_text("utf-8", errors="replace") for path in logs)
    found = re.findall(r" raised unexpected: (.+)", text)
    return f"{found[-1]:.200}: " if found else ""


def _status() -> Queue:
    """Return the state of the queue. Raises UserError if DVC fails to tell it several times."""
    command = ["dvc", "queue", "status"]
    for _ in range(RESTARTS):
        if (result := _dvc(command)).returncode == 0:
            return read_status(result.stdout)
        time.sleep(PAUSE)
    return read_status(_answer(command))


def _log(name: str) -> str:
    result = _dvc(["dvc", "queue", "logs", name])
    return result.stdout + result.stderr


def _answer(command: Sequence[str]) -> str:
    """Return the output of a DVC command. Raises UserError with DVC's own reason if it fails."""
    result = _dvc(command)
    if result.returncode:
        raise UserError(f"{shlex.join(command)}: {failure(result.stderr + result.stdout)}")
    return result.stdout


def _dvc(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def _num_cores() -> int:
    """Return the number of cores that this process can use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def main() -> None:
    parser = argparse.ArgumentParser(description="Queue a grid of experiments and run it.")
    parser.add_argument(
        "-S", "--set-param", action="append", required=True, metavar="KEY=VALUE,VALUE"
    )
    parser.add_argument("-j", "--jobs", type=int, default=1, help="parallel jobs (default: 1)")
    parser.add_argument("--name", default="sweep", metavar="PREFIX", help="default: sweep")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and stop")
    given = parser.parse_args()
    if given.jobs < 1:
        raise UserError(f"--jobs is {given.jobs}: it must be at least 1")
    points = grid(given.set_param, given.name)
    if given.dry_run:
        for experiment in points:
            print(printable(shlex.join(experiment.queue)))
        threads = threads_per_job(given.jobs, _num_cores())
        print(printable(f"OMP_NUM_THREADS={threads} dvc queue start -j {given.jobs}"))
        return
    try:
        failed = Sweep(points, given.jobs).run()
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted; the workers keep running: see dvc queue status, or run dvc queue stop "
            "--kill"
        ) from None
    for experiment in points:
        if experiment.name in failed:
            say(experiment.name, failed[experiment.name])
            print(printable(f"    retry: {shlex.join(experiment.run_alone)}"))
    if failed:
        raise UserError(f"{len(failed)} of {len(points)} experiments failed")
    say("sweep", f"all {len(points)} done. Next: python -m tools.compare '{given.name}-*'")


if __name__ == "__main__":
    run_main("sweep", main)
