"""The results after a stage refuses, diverges, fails or is killed in ``dvc repro``."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import Pipeline, ran
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
def test_invalid_param_keeps_every_file(command: tuple[str, ...], uncommitted: Pipeline) -> None:
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


def test_diverged_training_keeps_public_files(scratch: Pipeline) -> None:
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


def test_killed_run_keeps_public_files_and_resumes(scratch: Pipeline, tmp_path: Path) -> None:
    """dvc repro is killed at random moments until it finishes."""
    changes = {"train.epochs": 40, "train.batch_size": 2, "sample.length": 12}
    scratch = scratch.with_new_pythons()
    calm = scratch.copy(tmp_path / "calm")
    calm.set_params(changes)
    calm.dvc("repro")
    before = public(scratch.root)
    scratch.set_params(changes)
    generator = random.Random(0)
    for _ in range(4):
        process = subprocess.Popen(
            ["dvc", "repro"],
            cwd=scratch.root,
            env=scratch.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(generator.uniform(1.0, 8.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=60)
        for name, data in public(scratch.root).items():
            whole = (calm.root / name).read_bytes()
            assert data in (before.get(name), whole) or is_timing(name), name
    shutil.rmtree(scratch.root / ".dvc/tmp/lock", ignore_errors=True)
    scratch.dvc("repro")
    mine, other = output_files(scratch.root), output_files(calm.root)
    assert mine.keys() == other.keys()
    for name in mine:
        assert mine[name] == other[name] or is_timing(name), name


def test_failed_evaluation_keeps_earlier_results(scratch: Pipeline) -> None:
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
