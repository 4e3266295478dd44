"""The results after a stage refuses, diverges, fails or is killed in ``dvc repro``."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import PROJECT, Pipeline, ran
from stages_of import is_timing, output_files, status

# The session's run is made within the first test that asks for it.
pytestmark = pytest.mark.timeout(600)

PUBLIC = ("models", "metrics", "plots", "samples", "analysis", "exports", "reports")


def public(root: Path) -> dict[str, bytes]:
    return {name: data for name, data in output_files(root).items() if name.startswith(PUBLIC)}


@pytest.fixture(scope="module")
def uncommitted(finished_scratch: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Return results that exist only here. A stage that refuses to run must keep them."""
    made = finished_scratch.copy(tmp_path_factory.mktemp("uncommitted") / "project")
    made.set_params({"train.lr": 0.9})
    made.dvc("repro")
    return made


@pytest.mark.parametrize(
    "command",
    [
        ("exp", "run", "-S", "train.lr=-1"),
        ("exp", "run", "-S", "+train.foo=1"),
        ("exp", "run", "-S", "model.hidden_size=0", "train@scratch"),
        ("repro", "train@scratch"),
        ("repro", "-P"),
    ],
    ids=" ".join,
)
def test_a_refused_param_leaves_every_file(command: tuple[str, ...], uncommitted: Pipeline) -> None:
    before, file = output_files(uncommitted.root), uncommitted.root / "params.yaml"
    params = file.read_text(encoding="utf-8")
    if command[0] == "repro":
        file.write_text(params.replace("lr: 0.9", "lr: 0,9"), encoding="utf-8")
        assert file.read_text(encoding="utf-8") != params
    result = uncommitted.run("dvc", *command, code=None)
    (line,) = [one for one in result.stderr.splitlines() if one.startswith("params: error:")]
    assert "params.yaml" in line
    assert "Traceback" not in result.stdout + result.stderr
    assert output_files(uncommitted.root) == before
    file.write_text(params, encoding="utf-8")
    changed = {name for name in status(uncommitted) if ":" not in name}
    assert not changed, "the main pipeline is up to date"


def test_a_training_that_diverges_leaves_what_is_public(scratch: Pipeline) -> None:
    before = public(scratch.root)
    scratch.set_params({"train.lr": 900.0, "train.clip_norm": None, "train.epochs": 300})
    result = scratch.run("dvc", "repro", "train@scratch", code=None)
    assert "train: error: training diverged" in result.stderr
    assert public(scratch.root) == before
    scratch.git("checkout", "params.yaml")
    output = scratch.dvc("repro")
    assert "train@scratch" not in ran(output), "DVC's cache has it"
    assert public(scratch.root) == before
    assert not {name for name in status(scratch) if ":" not in name}


ONE_VARIANT = [
    "params",
    "prepare",
    *(f"{s}@scratch" for s in ("train", "evaluate", "sample")),
    "plot",
]


def start(pipeline: Pipeline, *command: str) -> subprocess.Popen[str]:
    """Start a command in a process group of its own; stdout is a pipe."""
    return subprocess.Popen(
        command,
        cwd=pipeline.root,
        env=pipeline.env | {"PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def kill(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):  # all of the group have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)


def same_results(one: Pipeline, other: Pipeline) -> None:
    """Assert that two pipelines have the same outputs, except for timings."""
    mine, others = output_files(one.root), output_files(other.root)
    assert mine.keys() == others.keys()
    assert [name for name in mine if mine[name] != others[name] and not is_timing(name)] == []


def test_a_run_that_is_killed_leaves_what_is_public_and_ends_the_same(
    scratch: Pipeline, tmp_path: Path
) -> None:
    """dvc repro is killed at a random moment of each stage."""
    changes = {"prepare.split.train": 590, "train.epochs": 40, "sample.length": 12}
    scratch = scratch.with_new_pythons()
    calm = scratch.copy(tmp_path / "calm")
    calm.set_params(changes)
    calm.dvc("repro")
    before = public(scratch.root)
    scratch.set_params(changes)
    generator = random.Random(0)
    killed: list[str] = []
    ended = False
    while not ended:
        process = start(scratch, "dvc", "repro")
        assert process.stdout is not None
        for line in process.stdout:
            if (stage := "".join(ran(line))) and stage not in killed:
                time.sleep(generator.uniform(0, 2.5))
                killed.append(stage)
                break
        else:
            ended = True
        kill(process)
        for name, data in public(scratch.root).items():
            whole = (calm.root / name).read_bytes()
            assert data in (before.get(name), whole) or is_timing(name), name
    assert set(killed) >= {"prepare", "params", "train@scratch", "evaluate@scratch"}, killed
    scratch.dvc("repro")
    same_results(scratch, calm)


def test_make_repro_that_is_killed_side_by_side_ends_the_same(
    unrun_pipeline: Pipeline, tmp_path: Path
) -> None:
    changes = {"train.epochs": 300, "variants": ["scratch", "concise"]}
    calm, stormy = (unrun_pipeline.copy(tmp_path / name) for name in ("calm", "stormy"))
    calm.set_params(changes)
    calm.dvc("repro")
    stormy.set_params(changes)
    for name in ("Makefile", "pyproject.toml", "requirements.txt"):
        shutil.copy2(PROJECT / name, stormy.root)
    (stormy.root / ".venv").symlink_to(Path(sys.executable).parent.parent)
    make = ("make", "--old-file=.venv/.installed", "repro")
    process = start(stormy, *make)
    deadline = time.monotonic() + 200
    while len({path.parent for path in stormy.root.glob(".checkpoints/*/0*.safetensors")}) < 2:
        assert process.poll() is None, "it ended before both trainings had a checkpoint"
        assert time.monotonic() < deadline, "the trainings do not run side by side"
        time.sleep(0.02)
    kill(process)
    assert not public(stormy.root)
    output = stormy.run(*make).stdout
    assert "going on after epoch" in output
    same_results(stormy, calm)


def test_two_experiments_at_once_leave_one_whole_result(scratch: Pipeline, tmp_path: Path) -> None:
    processes = [
        start(scratch, "dvc", "exp", "run", "-S", f"train.lr={lr}", "--name", name)
        for name, lr in (("slow", 0.5), ("fast", 0.7))
    ]
    outputs = [process.communicate(timeout=400)[0] for process in processes]
    assert 0 in [process.returncode for process in processes], outputs
    assert "Traceback" not in "".join(outputs)
    scratch.dvc("repro")
    calm = scratch.copy(tmp_path / "calm")
    shutil.rmtree(calm.root / "training")
    calm.dvc("repro", "--force")
    same_results(scratch, calm)


def test_a_model_is_public_only_with_its_measures(scratch: Pipeline) -> None:
    """An evaluation that fails keeps the earlier model and the earlier metrics."""
    before = public(scratch.root)
    scratch.set_params({"train.epochs": 4})
    scratch.dvc("repro", "train@scratch")
    timing = scratch.root / "training/scratch/timing.json"
    timing.unlink()
    timing.write_text("{}", encoding="utf-8")
    result = scratch.run("python", "-m", "stages.evaluate", "--variant", "scratch", code=1)
    assert "training/scratch/timing.json is damaged" in result.stderr
    assert "dvc repro train@scratch" in result.stderr
    assert public(scratch.root) == before
