"""Stages that rerun after a change, and results that come back from the run cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL, Pipeline, ran
from stages_of import (
    FROM_MODELS,
    REPLICATES,
    STAGES,
    VARIANTS,
    by_variant,
    is_timing,
    output_files,
    read_json,
    status,
)

# The session's run is made within the first test that asks for it.
pytestmark = pytest.mark.timeout(600)


# Reruns after a change


def test_second_run_runs_nothing(pipeline: Pipeline) -> None:
    assert status(pipeline) == {}
    assert pipeline.repro() == []
    assert pipeline.git("status", "--porcelain") == ""


TRAINED = {*by_variant("train"), *REPLICATES}
WITH_MODEL = {*TRAINED, *by_variant("evaluate"), *FROM_MODELS}
PICTURES = {"plot", "draw", "report"}


def of_variant(variant: str) -> set[str]:
    return {name for name in WITH_MODEL if variant in name}


# The stages that use each file of the library, by the first matching pattern.
USED_BY: dict[str, set[str]] = {
    "__init__.py": {*STAGES},
    "core/*": {*STAGES},
    "corpus/*": {"fetch"},
    "data/*": {*STAGES} - {"params", "fetch"},
    "preparation/*": {"prepare"},
    "models/__init__.py": {"params", *WITH_MODEL},
    "models/settings.py": {"params", *TRAINED},
    "models/base.py": WITH_MODEL,
    "models/layer.py": WITH_MODEL,
    "models/output.py": WITH_MODEL,
    "models/stack.py": WITH_MODEL,
    "models/gru/__init__.py": WITH_MODEL,
    "models/gru/family.py": WITH_MODEL,
    "models/device.py": {*TRAINED, *by_variant("evaluate", "sample")},
    "models/token_counts.py": {*by_variant("evaluate", "sample")},
    "models/*stepper.py": {*by_variant("sample")},
    "models/*onnx_graph.py": {*by_variant("export")},
    "models/gates.py": {*by_variant("gates")},
    "models/gru/equations.py": {*by_variant("gates")},
    **{f"models/{variant}/*": of_variant(variant) for variant in VARIANTS},
    "training/*": TRAINED,
    "evaluation/__init__.py": {
        *(*REPLICATES, "baseline", "summarise"),
        *by_variant("evaluate", "gates"),
    },
    "evaluation/perplexity.py": {*REPLICATES, *by_variant("evaluate")},
    "evaluation/coverage.py": {*by_variant("evaluate")},
    "evaluation/uncertainty.py": {*by_variant("evaluate")},
    "evaluation/words.py": {*by_variant("evaluate", "gates")},
    "evaluation/seeds.py": {"summarise"},
    "evaluation/settings.py": {"summarise", *by_variant("evaluate")},
    "evaluation/score*.py": set(),
    "evaluation/text_stream.py": set(),
    "evaluation/*": {"baseline"},
    "generation/*": {*by_variant("sample")},
    "export/*": {*by_variant("export")},
    "gate_study/*": {*by_variant("gates")},
    "results/__init__.py": {*STAGES} - {"params", "fetch", "prepare"},
    "results/training.py": {*TRAINED, *by_variant("evaluate"), "summarise", *PICTURES},
    "results/scores.py": {*REPLICATES, *by_variant("evaluate"), "summarise", *PICTURES},
    "results/seeds.py": {*REPLICATES, "summarise", *PICTURES},
    "results/baselines.py": {*REPLICATES, "baseline", "summarise", *PICTURES},
    "results/card.py": {*by_variant("evaluate"), *PICTURES},
    "results/coverage.py": {*by_variant("evaluate"), *PICTURES},
    "results/uncertainty.py": {*by_variant("evaluate"), *PICTURES},
    "results/samples.py": {*by_variant("sample"), *PICTURES},
    "results/export.py": {*by_variant("export"), *PICTURES},
    "results/gates.py": {*by_variant("gates"), *PICTURES},
    "report/conclusions.py": {"report"},
    "report/dark.py": {"report"},
    "report/page*": {"report"},
    "report/reader.py": {"report"},
    "report/*": PICTURES,
}

# Adds a comment to each file of the library in turn and writes the stages whose deps changed, like
# ``dvc status``, but reads the pipelines once, compares a dep that stages share once, and compares
# only the file and the folders that contain it.
PROBE = """
import json, sys
from pathlib import Path
from dvc.repo import Repo

found = {}
with Repo() as repo, repo.lock:
    users = {}
    for stage in repo.index.stages:
        for dep in stage.deps:
            of_dep = users.setdefault((dep.def_path, str(dep.hash_info)), (dep, set()))
            of_dep[1].add(stage.addressing)
    for path in sorted(Path("src/gru_lm").rglob("*")):
        if not path.is_file() or "__pycache__" in path.parts:
            continue
        text = path.read_bytes()
        path.write_bytes(text + b"\\n# A comment\\n")
        changed = [
            stages
            for dep, stages in users.values()
            if path.absolute().is_relative_to(dep.fs_path) and dep.status()
        ]
        found[path.relative_to("src/gru_lm").as_posix()] = sorted(set().union(*changed))
        path.write_bytes(text)
json.dump(found, sys.stdout)
"""


def test_comment_reruns_dependent_stages_only(pipeline: Pipeline) -> None:
    found = json.loads(pipeline.run("python", "-c", PROBE).stdout)
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
    ("change", "expected", "perhaps"),  # perhaps: reruns if a time differs
    [
        pytest.param(
            lambda pipeline: pipeline.set_params({"sample.length": 11}),
            {"params", *by_variant("sample"), "report"},
            set(),
            id="sample.length",
        ),
        pytest.param(
            lambda pipeline: pipeline.append("src/gru_lm/generation/settings.py", "# changed"),
            {*by_variant("sample")},
            set(),
            id="a comment in the settings of sampling",
        ),
        pytest.param(
            lambda pipeline: pipeline.append("src/gru_lm/models/fused/steps.py", "# changed"),
            of_variant("fused") - {"sample@fused", "export@fused", "gates@fused"},
            {"sample@fused", "export@fused", "gates@fused", "plot", "report"},
            id="a comment in a module of fused",
        ),
    ],
)
def test_change_reruns_dependent_stages_only(
    change: Callable[[Pipeline], None], expected: set[str], perhaps: set[str], pipeline: Pipeline
) -> None:
    change(pipeline)
    again = set(pipeline.repro())
    assert expected <= again <= expected | perhaps
    assert status(pipeline) == {}


def test_earlier_params_restore_results_from_cache(scratch: Pipeline) -> None:
    before = output_files(scratch.root)
    scratch.set_params({"train.lr": 0.8})
    assert "train@scratch" in ran(scratch.dvc("repro"))
    scratch.set_params({"train.lr": 1.0})
    output = scratch.dvc("repro")
    assert "train@scratch" not in ran(output)
    assert "Stage 'train@scratch' is cached - skipping run" in output
    assert output_files(scratch.root) == before, "the timings too"


def test_run_in_clone_gives_same_bytes(finished_pipeline: Pipeline, tmp_path: Path) -> None:
    finished_pipeline.run("git", "clone", "--quiet", ".", tmp_path / "clone")
    clone = Pipeline(tmp_path / "clone", finished_pipeline.env)
    in_git = {*by_variant("sample")}  # with all outputs of this stage
    assert sorted(clone.repro()) == sorted({*STAGES} - in_git)
    changed = {line.split()[-1] for line in clone.git("status", "--porcelain").splitlines()}
    assert changed <= {"dvc.lock", "analysis/dvc.lock"}
    mine, other = output_files(clone.root), output_files(finished_pipeline.root)
    assert mine.keys() == other.keys()
    assert [name for name in mine if mine[name] != other[name] and not is_timing(name)] == []


def test_remote_saves_rerunning(pipeline: Pipeline, tmp_path: Path) -> None:
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

    # Without dvc.lock, the run cache still has the trainings.
    unlocked = clone("unlocked")
    (unlocked.root / "dvc.lock").unlink()
    output = unlocked.dvc("repro", "--pull", *by_variant("train"))
    assert not set(by_variant("train")) & set(ran(output))
    assert unlocked.lock()["train@scratch"] == pipeline.lock()["train@scratch"]


def test_merged_branches_are_repaired_by_repro(scratch: Pipeline, tmp_path: Path) -> None:
    """This follows docs/sharing.md, with and without git's merge driver."""
    for branch, key, value in (("slow", "train.lr", 0.5), ("long", "train.epochs", 4)):
        scratch.git("checkout", "--quiet", "-b", branch, "main")
        scratch.dvc("checkout")
        scratch.set_params({key: value})
        scratch.dvc("repro")
        scratch.commit(f"Train with {key}")
    without = scratch.copy(tmp_path / "without")

    scratch.git("config", "merge.ours.driver", "true")
    scratch.git("merge", "--no-edit", "slow")

    without.run("git", "merge", "--no-edit", "slow", code=1)
    conflicts = without.git("diff", "--name-only", "--diff-filter=U").split()
    assert "params.yaml" not in conflicts
    assert len(conflicts) <= 8, conflicts
    without.git("checkout", "--ours", "--", *conflicts)
    without.git("add", "--all")
    without.git("commit", "--quiet", "--no-edit")
    assert (
        without.git("diff", "--stat", "HEAD", scratch.git("rev-parse", "HEAD^{tree}").strip()) == ""
    )

    assert {"train@scratch", "evaluate@scratch"} <= set(ran(scratch.dvc("repro")))
    train = scratch.lock()["train@scratch"]["params"]["params.yaml"]["train"]
    assert (train["lr"], train["epochs"]) == (0.5, 4)
    assert not {"train@scratch", "evaluate@scratch"} & status(scratch).keys()


# One variant alone


def test_single_variant_with_two_layers_runs_all_stages(pipeline: Pipeline) -> None:
    for path in ("metrics/train/fused.json", "plots/train/scratch.tsv", "samples/fused.txt"):
        (pipeline.root / path).write_text("of a variant that is not asked for")
    settings = ("variants=[concise]", "model.num_layers=2", "model.embedding_size=6")
    options = [part for setting in settings for part in ("-S", setting)]
    output = pipeline.dvc("exp", "run", "-P", *options, "-S", "model.dropout.output=0.2")
    stages = {name for name in ran(output) if "@" in name}
    assert stages == {name for name in stages if "concise" in name}
    assert {f"{stage}@concise" for stage in ("train", "evaluate", "sample", "gates")} < stages
    (row,) = pipeline.dvc("metrics", "show").splitlines()[1:]
    assert row.startswith("metrics/concise.json")
    assert read_json(pipeline.root / "analysis/summary.json")["models"].keys() == {"concise"}
    config = read_json(pipeline.root / "models/concise/config.json")
    assert (config["num_layers"], config["embedding_size"]) == (2, 6)
    assert config["dropout"]["output"] == 0.2
    H = SMALL["model.hidden_size"]
    with np.load(pipeline.root / "analysis/gates/concise.npz") as arrays:
        assert len(arrays["mean_Z"]) == 2 * H, "the units of both layers"
    assert read_json(pipeline.root / "metrics/export/concise.json")["max_state_difference"] < 1e-4
    parameters = read_json(pipeline.root / "metrics/train/concise.json")["parameters"]
    V = 28
    assert parameters == V * 6 + 3 * H * (6 + H + 2) + 3 * H * (H + H + 2) + V * H + V
    gates = [path.name for path in (pipeline.root / "analysis/plots").glob("gates-*.png")]
    assert gates == ["gates-concise.png"]
    page = (pipeline.root / "reports/index.html").read_text(encoding="utf-8")
    assert 'value="concise"' in page
    assert 'value="scratch"' not in page
