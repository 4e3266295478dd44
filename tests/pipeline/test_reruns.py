"""What runs again after a change, what comes back from the run cache, and what a failure leaves."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from conftest import Pipeline, ran
from stages_of import (
    FROM_MODELS,
    REPLICATES,
    STAGES,
    VARIANTS,
    by_variant,
    is_timing,
    output_files,
    read_json,
)

# The session's run is made within the first test that asks for it.
pytestmark = pytest.mark.timeout(600)

PUBLIC = ("models", "metrics", "plots", "samples", "analysis", "exports", "reports")


def status(pipeline: Pipeline) -> dict[str, object]:
    found: dict[str, object] = json.loads(pipeline.dvc("status", "--json"))
    return found


# What runs again after a change


def test_a_second_run_runs_nothing(pipeline: Pipeline) -> None:
    assert status(pipeline) == {}
    assert pipeline.repro() == []
    assert pipeline.git("status", "--porcelain") == ""


TRAINED = {*by_variant("train"), *REPLICATES}
WITH_MODEL = {*TRAINED, *by_variant("evaluate"), *FROM_MODELS}


def of_variant(variant: str) -> set[str]:
    return {name for name in WITH_MODEL if variant in name}


# Each file of the library, by the first pattern that fits: the stages that compute with it.
USED_BY: dict[str, set[str]] = {
    "__init__.py": {*STAGES},
    "core/*": {*STAGES},
    "corpus/*": {"fetch"},
    "data/*": {*STAGES} - {"params", "fetch", "summarise", "plot"},
}

# Adds a comment to each file of the library in turn, and writes the stages whose deps changed.
PROBE = """
import json, sys
from pathlib import Path
from dvc.repo import Repo

found = {}
for path in sorted(Path("src/gru_lm").rglob("*")):
    if not path.is_file() or "__pycache__" in path.parts:
        continue
    text = path.read_bytes()
    path.write_bytes(text + b"\\n# A comment\\n")
    with Repo() as repo:
        found[path.relative_to("src/gru_lm").as_posix()] = sorted(repo.status())
    path.write_bytes(text)
json.dump(found, sys.stdout)
"""


def test_a_comment_reruns_what_uses_the_file_and_nothing_else(pipeline: Pipeline) -> None:
    found = json.loads(pipeline.run("python", "-c", PROBE, timeout=500).stdout)
    wrong = {}
    for path, names in found.items():
        expected = next(
            (stages for pattern, stages in USED_BY.items() if fnmatchcase(path, pattern)), None
        )
        stages = {name.rpartition(":")[2] for name in names}
        if stages != expected:
            wrong[path] = f"changed {sorted(stages)}, expected {sorted(expected or ['?'])}"
    assert not wrong


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(
            lambda pipeline: pipeline.set_params({"sample.length": 11}),
            {"params", *by_variant("sample"), "report"},
            id="sample.length",
        ),
        pytest.param(
            lambda pipeline: pipeline.append("src/gru_lm/generation/settings.py", "# changed"),
            {*by_variant("sample")},
            id="a comment in the settings of sampling",
        ),
        pytest.param(
            lambda pipeline: pipeline.append("src/gru_lm/models/fused/cpu.py", "# changed"),
            # Another time was taken, so the pictures and the page follow; the same was learnt.
            {*(of_variant("fused")), "plot", "draw", "report"},
            id="a comment in fused's kernel",
        ),
    ],
)
def test_a_change_reruns_only_what_depends_on_it(
    change: Callable[[Pipeline], None], expected: set[str], pipeline: Pipeline
) -> None:
    change(pipeline)
    assert set(pipeline.repro()) <= expected
    assert status(pipeline) == {}


def test_earlier_params_bring_earlier_results_back_without_training(pipeline: Pipeline) -> None:
    before = output_files(pipeline.root)
    pipeline.set_params({"train.lr": 0.8})
    assert set(by_variant("train")) <= set(ran(pipeline.dvc("repro")))
    pipeline.set_params({"train.lr": 1.0})
    output = pipeline.dvc("repro")
    assert not set(by_variant("train")) & set(ran(output))
    for name in by_variant("train"):
        assert f"Stage '{name}' is cached - skipping run" in output
    assert output_files(pipeline.root) == before, "the timings too"


def test_two_runs_give_the_same_bytes(
    unrun_pipeline: Pipeline, finished_pipeline: Pipeline, tmp_path: Path
) -> None:
    unrun_pipeline.run("git", "clone", "--quiet", ".", tmp_path / "clone")
    clone = Pipeline(tmp_path / "clone", unrun_pipeline.env)
    assert sorted(clone.repro()) == sorted(STAGES)
    mine, other = output_files(clone.root), output_files(finished_pipeline.root)
    assert mine.keys() == other.keys()
    training = [name for name in mine if name.startswith("training/") and "timing" not in name]
    assert training
    for name in mine:
        if name in training or not is_timing(name):
            assert mine[name] == other[name], name


def test_a_run_in_a_clone_changes_the_lock_files_alone(
    finished_pipeline: Pipeline, tmp_path: Path
) -> None:
    finished_pipeline.run("git", "clone", "--quiet", ".", tmp_path / "clone")
    clone = Pipeline(tmp_path / "clone", finished_pipeline.env)
    assert not set(REPLICATES) & set(clone.repro()), "their figures are in git"
    changed = {line.split()[-1] for line in clone.git("status", "--porcelain").splitlines()}
    assert changed <= {"dvc.lock", "analysis/dvc.lock"}


def test_a_remote_spares_others_the_work(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.dvc("remote", "add", "--default", "shared", tmp_path / "remote")
    pipeline.commit("Share the results")
    pipeline.dvc("push")
    pipeline.dvc("push", "--run-cache")

    def clone(name: str) -> Pipeline:
        pipeline.run("git", "clone", "--quiet", ".", tmp_path / name)
        return Pipeline(tmp_path / name, pipeline.env)

    pulled = clone("pulled")
    pulled.dvc("pull")
    assert status(pulled) == {}
    assert pulled.repro() == []
    assert output_files(pulled.root) == output_files(pipeline.root)

    assert ran(clone("at-once").dvc("repro", "-P", "--pull")) == []

    # Without dvc.lock, the run cache still knows what has been trained.
    unlocked = clone("unlocked")
    (unlocked.root / "dvc.lock").unlink()
    output = unlocked.dvc("repro", "--pull", *by_variant("train"))
    assert not set(by_variant("train")) & set(ran(output))
    assert unlocked.lock()["train@scratch"] == pipeline.lock()["train@scratch"]


@pytest.mark.parametrize("driver", [True, False], ids=["with the driver", "without"])
def test_branches_that_both_trained_merge_and_repro_mends(driver: bool, pipeline: Pipeline) -> None:
    """As docs/experiments.md says."""
    for branch, key, value in (("slow", "train.lr", 0.5), ("long", "train.epochs", 4)):
        pipeline.git("checkout", "--quiet", "-b", branch, "main")
        pipeline.dvc("checkout")
        pipeline.set_params({key: value})
        pipeline.dvc("repro")
        pipeline.commit(f"Train with {key}")
    if driver:
        pipeline.git("config", "merge.ours.driver", "true")
    merged = pipeline.run("git", "merge", "--no-edit", "slow", code=0 if driver else 1)
    conflicts = pipeline.git("diff", "--name-only", "--diff-filter=U").split()
    if not driver:
        assert "params.yaml" not in conflicts, merged.stdout
        assert len(conflicts) <= 20
        pipeline.git("checkout", "--ours", "--", *conflicts)
        pipeline.git("add", "--all")
        pipeline.git("commit", "--quiet", "--no-edit")
    assert set(by_variant("train", "evaluate")) <= set(ran(pipeline.dvc("repro")))
    train = pipeline.lock()["train@scratch"]["params"]["params.yaml"]["train"]
    assert (train["lr"], train["epochs"]) == (0.5, 4)
    assert "train@scratch" not in status(pipeline)


# One variant alone


def test_one_variant_alone_is_trained_measured_drawn_and_reported(pipeline: Pipeline) -> None:
    for path in ("metrics/train/fused.json", "plots/train/scratch.tsv", "samples/fused.txt"):
        (pipeline.root / path).write_text("of a variant that is not asked for")
    output = pipeline.dvc("exp", "run", "-P", "-S", "variants=[concise]", "-S", "train.lr=0.7")
    stages = {name for name in ran(output) if "@" in name}
    assert stages == {name for name in stages if "concise" in name}
    assert {f"{stage}@concise" for stage in ("train", "evaluate", "sample", "gates")} < stages
    (row,) = pipeline.dvc("metrics", "show").splitlines()[1:]
    assert row.startswith("metrics/concise.json")
    assert read_json(pipeline.root / "analysis/summary.json")["models"].keys() == {"concise"}
    gates = [path.name for path in (pipeline.root / "analysis/plots").glob("gates-*.png")]
    assert gates == ["gates-concise.png"]
    page = (pipeline.root / "reports/index.html").read_text(encoding="utf-8")
    assert 'value="concise"' in page
    assert 'value="scratch"' not in page


# What a stage that refuses or fails leaves


def public(root: Path) -> dict[str, bytes]:
    return {name: data for name, data in output_files(root).items() if name.startswith(PUBLIC)}


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
def test_a_refused_param_leaves_every_file(command: tuple[str, ...], pipeline: Pipeline) -> None:
    """Before any of it was committed: only the workspace has it."""
    pipeline.set_params({"train.lr": 0.9})
    pipeline.repro()
    before = output_files(pipeline.root)
    params = (pipeline.root / "params.yaml").read_text(encoding="utf-8")
    if command[0] == "repro":
        text = params.replace("lr: 0.9", "lr: 0,9")
        assert text != params
        (pipeline.root / "params.yaml").write_text(text, encoding="utf-8")
    result = pipeline.run("dvc", *command, code=None)
    (line,) = [one for one in result.stderr.splitlines() if one.startswith("params: error:")]
    assert "params.yaml" in line
    assert "Traceback" not in result.stdout + result.stderr
    assert output_files(pipeline.root) == before
    (pipeline.root / "params.yaml").write_text(params, encoding="utf-8")
    assert status(pipeline) == {}


def test_a_training_that_diverges_leaves_what_is_public(pipeline: Pipeline) -> None:
    before = public(pipeline.root)
    pipeline.set_params({"train.lr": 900.0, "train.clip_norm": None, "train.epochs": 300})
    result = pipeline.run("dvc", "repro", "train@scratch", code=None)
    assert "train: error: training diverged" in result.stderr
    assert public(pipeline.root) == before
    pipeline.git("checkout", "params.yaml")
    output = pipeline.dvc("repro")
    assert "train@scratch" not in ran(output), "DVC's cache has it"
    assert public(pipeline.root) == before
    assert status(pipeline) == {}


def test_a_run_that_is_killed_leaves_what_is_public_and_ends_the_same(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """The whole of dvc repro, at random moments, until it is through."""
    changes = {"train.epochs": 40, "train.batch_size": 2, "sample.length": 12}
    calm = pipeline.copy(tmp_path / "calm")
    calm.set_params(changes)
    calm.dvc("repro")
    before = public(pipeline.root)
    pipeline.set_params(changes)
    generator = random.Random(0)
    for _ in range(6):
        process = subprocess.Popen(
            ["dvc", "repro"],
            cwd=pipeline.root,
            env=pipeline.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(generator.uniform(1.0, 9.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=60)
        for name, data in public(pipeline.root).items():
            whole = (calm.root / name).read_bytes()
            assert data in (before.get(name), whole) or is_timing(name), name
    shutil.rmtree(pipeline.root / ".dvc/tmp/lock", ignore_errors=True)
    pipeline.dvc("repro")
    mine, other = output_files(pipeline.root), output_files(calm.root)
    assert mine.keys() == other.keys()
    for name in mine:
        assert mine[name] == other[name] or is_timing(name), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_model_is_public_only_with_its_measures(variant: str, pipeline: Pipeline) -> None:
    """An evaluation that fails leaves the earlier model beside the earlier figures."""
    before = public(pipeline.root)
    pipeline.set_params({"train.epochs": 4})
    pipeline.dvc("repro", f"train@{variant}")
    timing = pipeline.root / f"training/{variant}/timing.json"
    timing.unlink()
    timing.write_text("{}", encoding="utf-8")
    result = pipeline.run("python", "-m", "stages.evaluate", "--variant", variant, code=1)
    assert f"training/{variant}/timing.json is damaged" in result.stderr
    assert f"dvc repro train@{variant}" in result.stderr
    assert public(pipeline.root) == before
