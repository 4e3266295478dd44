"""Fixtures with a small real run of the pipelines, made once per session and copied by tests."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from warm import server

PROJECT = Path(__file__).resolve().parent.parent

# torch reads it once, at its first use of cuBLAS, which may be in an earlier test.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# The project's files in a clone, without results and cache.
SOURCES = (
    "dvc.yaml",
    "analysis/dvc.yaml",
    "params.yaml",
    "stages",
    "tools",
    "src",
    "corpora",
    ".dvc/config",
    ".dvc/plots.html",
    ".dvc/.gitignore",
    ".dvcignore",
    ".gitignore",
    ".gitattributes",
)

# Params by dotted key for a run of seconds.
SMALL = {
    "device": "cpu",
    "fetch.corpus": "sample",
    "prepare.split.train": 600,
    "prepare.split.val": 300,
    "prepare.split.test": 300,
    "model.hidden_size": 8,
    "train.epochs": 3,
    "train.batch_size": 4,
    "train.num_steps": 8,
    "train.validate_every": 2,
    "sample.length": 10,
    "replicate.seeds": [1],
    "gate_study.length": 40,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with the longest tests first, so that all workers end at about the same time.

    These are the files that use a finished pipeline. The first of them makes it. Meanwhile another
    worker runs the tests of the corpus and of the data, which do not need it.
    """
    in_files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        in_files.setdefault(item.path, []).append(item)
    long = [path for path, found in in_files.items() if any(map(_needs_pipeline, found))]
    others = [path for path in in_files if path not in long]
    early = [path for path in others if path.parent.name in ("corpus", "data")]
    order = [*long[:1], *early, *long[1:], *(path for path in others if path not in early)]
    items[:] = [item for path in order for item in in_files[path]]


def _needs_pipeline(item: pytest.Item) -> bool:
    return "unrun_pipeline" in getattr(item, "fixturenames", ())


@dataclass(frozen=True)
class Pipeline:
    """A copy of the project in its own folder, with methods to run commands in it."""

    root: Path
    env: dict[str, str]

    def run(
        self, *command: str | Path, code: int | None = 0, timeout: float = 500
    ) -> subprocess.CompletedProcess[str]:
        """Run ``command`` in the root. It must exit with ``code`` (None: any but 0)."""
        result = subprocess.run(
            [str(part) for part in command],
            cwd=self.root,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
        )
        expected = result.returncode != 0 if code is None else result.returncode == code
        assert expected, (
            f"{' '.join(map(str, command))}: exit status {result.returncode}\n"
            f"{result.stdout}\n{result.stderr}"
        )
        return result

    def dvc(self, *arguments: str | Path, code: int | None = 0, timeout: float = 500) -> str:
        """Run ``dvc ARGUMENTS`` and return its stdout."""
        return self.run("dvc", *arguments, code=code, timeout=timeout).stdout

    def git(self, *arguments: str | Path) -> str:
        """Run ``git ARGUMENTS`` and return its stdout."""
        return self.run("git", *arguments).stdout

    def stage(self, name: str, *arguments: str, code: int | None = 0) -> str:
        """Run a stage by hand, without DVC, and return its stdout."""
        return self.run("python", "-m", f"stages.{name}", *arguments, code=code).stdout

    def repro(self, *arguments: str) -> list[str]:
        """Run both pipelines and return the stages that ran, in their order."""
        return ran(self.dvc("repro", *(arguments or ("-P",))))

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def set_params(self, values: dict[str, Any]) -> None:
        """Change dotted keys of params.yaml."""
        path = self.root / "params.yaml"
        params = yaml.safe_load(path.read_text(encoding="utf-8"))
        for key, value in values.items():
            *sections, last = key.split(".")
            section = params
            for name in sections:
                section = section[name]
            assert last in section, f"params.yaml has no key {key}"
            section[last] = value
        path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")

    def append(self, path: str, line: str) -> None:
        with (self.root / path).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def lock(self) -> dict[str, Any]:
        """Return the stages of both lock files, with all variables resolved and the hashes."""
        stages = {}
        for name in ("dvc.lock", "analysis/dvc.lock"):
            stages |= yaml.safe_load((self.root / name).read_text(encoding="utf-8"))["stages"]
        return stages

    def with_new_pythons(self) -> Pipeline:
        """The same, but each stage starts a Python of its own, as users' do."""
        path = self.env["PATH"].removeprefix(f"{server()}{os.pathsep}")
        return Pipeline(self.root, self.env | {"PATH": path})

    def copy(self, root: Path) -> Pipeline:
        """Copy everything to the new folder ``root``, including DVC's cache and the results."""
        shutil.copytree(self.root, root, symlinks=True)
        return Pipeline(root, self.env)


def ran(output: str) -> list[str]:
    """Return the stages that DVC reports as run, without the path of their dvc.yaml."""
    return re.findall(r"^Running stage '(?:[^']+:)?([^':]+)':", output, re.MULTILINE)


def clean_environment(home: Path) -> dict[str, str]:
    """Return the environment for DVC, git and Python, without the user's own settings.

    ``dvc`` and ``python`` are those that run the tests. Each stage has one thread, as threads that
    wait for each other make the small nn.GRU a hundred times slower on a busy machine.
    """
    foreign = re.compile(r"(GIT|DVC|DVCLIVE|GRU_LM|PYTHON|XDG)_?\w*|\w+_proxy", re.IGNORECASE)
    env = {name: value for name, value in os.environ.items() if not foreign.fullmatch(name)}
    person = {"NAME": "Test", "EMAIL": "test@example.org"}
    return env | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)]),
        "HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(home / "site-cache"),
        "DVC_GLOBAL_CONFIG_DIR": str(home / "global"),
        "DVC_SYSTEM_CONFIG_DIR": str(home / "system"),
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{role}_{key}": v for role in ("AUTHOR", "COMMITTER") for key, v in person.items()},
    }


@pytest.fixture(scope="session")
def unrun_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Make a git repository with the project and small params, without results. Copy it.

    Its stages start with torch loaded. ``with_new_pythons`` changes that.
    """
    root = tmp_path_factory.mktemp("unrun") / "project"
    for name in SOURCES:
        source, target = PROJECT / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(
                source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
            )
        elif source.exists():
            shutil.copy2(source, target)
    env = clean_environment(tmp_path_factory.mktemp("home"))
    env["PATH"] = f"{server()}{os.pathsep}{env['PATH']}"
    pipeline = Pipeline(root, env)
    pipeline.set_params(SMALL)
    pipeline.git("init", "--quiet", "--initial-branch=main")
    pipeline.commit("The project, with small params")
    return pipeline


@pytest.fixture(scope="session")
def finished_pipeline(
    unrun_pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory
) -> Pipeline:
    """Make the same repository with the committed results of ``dvc repro -P``. Do not change it.

    The first of several workers makes it, and each worker has its own copy.
    """
    workers = "PYTEST_XDIST_WORKER" in os.environ
    shared = tmp_path_factory.getbasetemp().parent if workers else tmp_path_factory.mktemp("first")
    original, done = shared / "finished", shared / "finished.done"
    with FileLock(shared / "finished.lock"):
        if not done.exists():
            shutil.rmtree(original, ignore_errors=True)  # of a worker that failed in the middle
            made = unrun_pipeline.copy(original)
            made.dvc("repro", "-P")
            made.commit("Results")
            done.touch()
    root = tmp_path_factory.mktemp("finished") / "project"
    return Pipeline(original, unrun_pipeline.env).copy(root)


@pytest.fixture
def pipeline(finished_pipeline: Pipeline, tmp_path: Path) -> Pipeline:
    """Make a copy of the finished pipeline that a test can change."""
    return finished_pipeline.copy(tmp_path / "project")


@pytest.fixture(scope="session")
def finished_scratch(
    finished_pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory
) -> Pipeline:
    """Make the finished pipeline with scratch alone, committed. Do not change it."""
    made = finished_pipeline.copy(tmp_path_factory.mktemp("scratch") / "project")
    made.set_params({"variants": ["scratch"]})
    made.dvc("repro")
    made.commit("Scratch alone")
    return made


@pytest.fixture
def scratch(finished_scratch: Pipeline, tmp_path: Path) -> Pipeline:
    """Make a copy of the finished pipeline with scratch alone that a test can change."""
    return finished_scratch.copy(tmp_path / "project")


@pytest.fixture
def process_wide_settings() -> Iterator[None]:
    """Restore signals and threads after a test that runs a stage in its own process."""
    import torch  # here: most tests do not need it

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    threads = torch.get_num_threads()
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    torch.set_num_threads(threads)
