"""What the scripts for Slurm do with DVC: an array of experiments, and a training outside of it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from conftest import PROJECT, Pipeline, ran

# The session's run is made within the first test that asks for it.
pytestmark = pytest.mark.timeout(600)

GRID = ("-S", "sample.length=11,12", "--name", "grid")


def task(clone: Pipeline, number: int, code: int = 0) -> str:
    """Run one task of the array as Slurm does, and return its output."""
    done = subprocess.run(
        ["bash", PROJECT / "cluster/experiments.sbatch", *GRID],
        cwd=clone.root,
        env=clone.env | {"SLURM_ARRAY_TASK_ID": str(number), "TMPDIR": str(clone.root.parent)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_array_shares_experiments_by_remotes(scratch: Pipeline, tmp_path: Path) -> None:
    """Two clones each submit a task. A third gets the experiments with their results."""
    scratch.run(
        "git", "init", "--quiet", "--bare", "--initial-branch=main", tmp_path / "origin.git"
    )
    scratch.git("remote", "add", "origin", tmp_path / "origin.git")
    scratch.dvc("remote", "add", "--default", "shared", tmp_path / "remote")
    scratch.commit("Name the remotes")
    scratch.git("push", "--quiet", "--set-upstream", "origin", "main")
    scratch.dvc("push")
    for number, name in enumerate(("one", "two")):
        (tmp_path / name).mkdir()
        scratch.git("clone", "--quiet", tmp_path / "origin.git", tmp_path / name / "clone")
        clone = Pipeline(tmp_path / name / "clone", scratch.env)
        output = task(clone, number)
        assert "sample@scratch" in ran(output) and "train@scratch" not in ran(output), output
        assert clone.git("status", "--short") == ""
        assert [path.name for path in (tmp_path / name).iterdir()] == ["clone"]
    assert "the grid has no point 2" in task(clone, 2, code=1)

    scratch.dvc("exp", "pull", "origin", "--all-commits")
    [root] = json.loads(scratch.dvc("exp", "show", "--json"))[1:]
    names = ["grid-length11", "grid-length12"]
    assert sorted(one["name"] for one in root["experiments"]) == names
    before = (scratch.root / "samples/scratch.txt").read_bytes()
    scratch.dvc("exp", "apply", names[1])
    assert (scratch.root / "samples/scratch.txt").read_bytes() != before
    assert scratch.dvc("status", "--json", "sample@scratch").strip() == "{}"


def test_training_outside_of_dvc_is_recorded_by_commit(scratch: Pipeline) -> None:
    scratch.set_params({"train.lr": 0.5})
    scratch.dvc("repro", "params", "prepare")
    scratch.stage("train", "--variant", "scratch")
    scratch.dvc("commit", "--force", "train@scratch")
    output = scratch.dvc("repro", "evaluate@scratch", "sample@scratch")
    assert ran(output) == ["evaluate@scratch", "sample@scratch"]
