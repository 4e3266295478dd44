"""The results after a stage refuses, diverges or fails in ``dvc repro``."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Pipeline, ran
from stages_of import output_files, status

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
