"""The tools read branches, tags, commits, experiments and the workspace."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from repositories import Repository

from gru_lm.core.errors import UserError, run_main
from tools.revisions import experiments, find_revision, find_revisions, flatten, is_tracked


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    return Repository.new(tmp_path / "project", monkeypatch)


def test_branches_tags_commits_and_experiments_are_found(repository: Repository) -> None:
    repository.results({"scratch": (10.0, 11.0)})
    commit = repository.commit()
    repository.git("tag", "v1")
    repository.results({"scratch": (20.0, 21.0)}, {"train": {"lr": 1e-05, "seed": 3}})
    repository.experiment("puffy-daks")
    for name in ("main", "v1", commit, commit[:8], "HEAD"):
        assert find_revision(name).perplexity("scratch", "val") == 10.0
    experiment = find_revision("puffy-daks")
    assert experiment.perplexity("scratch", "test") == 21.0
    assert experiment.params == {"variants": ["scratch"], "train.lr": 1e-05, "train.seed": 3}
    assert experiment.variants == ["scratch"]
    assert experiment.curves == {"scratch": [(1, 20.0), (2, 10.0), (3, 20 / 3)]}
    assert experiment.samples["scratch"] == {
        "greedy": "time traveller went on\ntraveller 20.0",
        "temperature 0.5": "time goes by ",
    }
    assert set(experiment.lock) == {"prepare", "train@scratch", "evaluate@scratch", "fetch"}


def test_workspace_is_read_from_disk(repository: Repository) -> None:
    repository.results({"scratch": (10.0, 11.0)})
    repository.commit()
    repository.results({"scratch": (12.5, 11.0), "concise": (13.0, 14.0)})
    workspace = find_revision("workspace")
    assert workspace.variants == ["scratch", "concise"]
    assert workspace.perplexity("scratch", "val") == 12.5
    assert find_revision("main").perplexity("concise", "val") is None


def test_unknown_revision_gives_hint(repository: Repository) -> None:
    repository.results({"scratch": (10.0, 11.0)})
    repository.commit()
    repository.experiment("puffy-daks")
    with pytest.raises(UserError, match=r"'pufy-daks' is not .*did you mean puffy-daks\?"):
        find_revision("pufy-daks")
    with pytest.raises(UserError, match="--all"):
        find_revision("--all")
    with pytest.raises(UserError, match=r"no experiment matches 'sweep-\*'"):
        find_revisions(["main", "sweep-*"])


def test_git_refusal_is_passed_on(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git refuses a folder of another user, as in a container with a mounted project."""
    repository.results({"scratch": (10.0, 11.0)})
    repository.commit()
    known = find_revision("main")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    message = (
        r"^git [\w-]+ failed in \S+/project: detected dubious ownership in repository at "
        r"'\S+': run git config --global --add safe\.directory \S+/project$"
    )
    calls: list[Callable[[], object]] = [
        experiments,
        lambda: find_revision("main"),
        lambda: find_revisions(["sweep-*"]),
        lambda: known.read("params.yaml"),
        lambda: known.files,
        lambda: is_tracked("params.yaml"),
    ]
    for call in calls:
        with pytest.raises(UserError, match=message):
            call()


@pytest.mark.parametrize("tool", ["compare", "gate", "ci_report"])
def test_tool_error_is_gits_line(
    tool: str,
    repository: Repository,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    repository.results({"scratch": (10.0, 11.0)})
    repository.commit()
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    options = {"compare": ["main"], "gate": ["--base", "main"]}
    options["ci_report"] = ["--base", "main", "--output", "out"]
    monkeypatch.setattr(sys, "argv", [tool, *options[tool]])
    with pytest.raises(SystemExit) as ended:
        run_main(tool, importlib.import_module(f"tools.{tool}").main)
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "dubious ownership" in line
    assert line.endswith(f": run git config --global --add safe.directory {repository.root}")


def test_lost_object_is_not_a_missing_file(repository: Repository) -> None:
    repository.results({"scratch": (10.0, 11.0)})
    repository.commit()
    lost = repository.git("rev-parse", "HEAD:metrics/evaluate/scratch.json")
    (repository.root / ".git/objects" / lost[:2] / lost[2:]).unlink()
    revision = find_revision("main")
    assert revision.read("metrics/evaluate/concise.json") is None
    assert revision.read("metrics/evaluate") is None
    with pytest.raises(UserError, match=f"git cat-file failed in .*{lost}"):
        revision.read("metrics/evaluate/scratch.json")
    tree = repository.git("rev-parse", "HEAD:metrics")
    (repository.root / ".git/objects" / tree[:2] / tree[2:]).unlink()
    with pytest.raises(UserError, match=f"git ls-tree failed in .*{tree}"):
        _ = find_revision("main").files


def test_outside_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Repository
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"^{tmp_path} is not in a git repository: run this in"):
        find_revision("main")


def test_repository_without_commit(repository: Repository) -> None:
    with pytest.raises(UserError, match="'main' is not an experiment, branch, tag or commit"):
        find_revision("main")
    repository.results({"scratch": (10.0, 11.0)})
    assert find_revision("workspace").perplexity("scratch", "val") == 10.0


def test_project_in_subfolder_of_repository(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths are relative to the current folder, not to the root of the repository."""
    inner = Repository(repository.root / "inner é")
    inner.root.mkdir()
    inner.results({"scratch": (10.0, 11.0)})
    repository.commit()
    monkeypatch.chdir(inner.root)
    main = find_revision("main")
    assert main.perplexity("scratch", "val") == 10.0
    assert main.files == find_revision("workspace").files != []
    assert is_tracked("params.yaml") and not is_tracked("other.yaml")


def test_ambiguous_experiment_is_the_one_from_head(repository: Repository) -> None:
    repository.results({"scratch": (10.0, 11.0)})
    first = repository.commit()
    repository.results({"scratch": (20.0, 21.0)})
    repository.experiment("same")
    repository.commit("another")
    repository.results({"scratch": (30.0, 31.0)})
    repository.experiment("same")
    assert find_revision("same").perplexity("scratch", "val") == 30.0
    repository.commit("a third")
    with pytest.raises(UserError, match="several experiments"):
        find_revision("same")
    repository.git("checkout", "--quiet", first)
    assert find_revision("same").perplexity("scratch", "val") == 20.0


def test_damaged_file_is_named(repository: Repository) -> None:
    repository.results({"scratch": (10.0, 11.0)})
    (repository.root / "metrics/train/scratch.json").write_text("{")
    repository.commit()
    with pytest.raises(UserError, match=r"metrics/train/scratch\.json of main is damaged"):
        _ = find_revision("main").metrics


def test_flatten() -> None:
    tree = {"a": {"b": {"c": 1}, "d": [1, {"e": 2}]}, "f": {}, "g": None}
    assert flatten(tree) == {"a.b.c": 1, "a.d": [1, {"e": 2}], "f": {}, "g": None}


def test_results_of_other_variants_are_ignored(repository: Repository) -> None:
    repository.seeds({"scratch": [10.0, 12.0], "concise": [20.0, 22.0]})
    repository.commit()
    params = {"variants": ["concise"], "train": {"lr": 1.0, "seed": 0}}
    repository.write("params.yaml", params | {"replicate": {"seeds": []}})
    workspace = find_revision("workspace")
    assert workspace.variants == ["concise"]
    for found in (workspace.curves, workspace.samples, workspace.metrics["evaluate"]):
        assert list(found) == ["concise"]
    assert workspace.perplexities("concise", "val") == {0: 20.0}
    assert set(workspace.lock) == {"prepare", "fetch", "train@concise", "evaluate@concise"}


def test_variants_default_to_those_of_files(repository: Repository) -> None:
    repository.results({"scratch": (10.0, 11.0), "concise": (10.0, 11.0)})
    repository.write("params.yaml", {"train": {"lr": 1.0}})
    repository.commit()
    assert find_revision("main").variants == ["concise", "scratch"]


def test_removed_stages_are_ignored(repository: Repository) -> None:
    repository.results({"scratch": (10.0, 11.0)})
    names = ("prepare", "train", "evaluate")
    repository.write("dvc.yaml", {"stages": {name: {"cmd": name} for name in names}})
    assert set(find_revision("workspace").lock) == {"prepare", "train@scratch", "evaluate@scratch"}


def test_speed_is_read_from_dvc_cache(repository: Repository) -> None:
    repository.results({"scratch": (10.0, 11.0), "concise": (20.0, 21.0)})
    repository.commit()
    assert not repository.git("ls-files", "metrics/timing")
    repository.results({"scratch": (30.0, 11.0), "concise": (40.0, 21.0)})
    main, workspace = find_revision("main"), find_revision("workspace")
    assert main.metric("timing", "scratch", "tokens_per_second") == 10_000
    assert workspace.metric("timing", "scratch", "tokens_per_second") == 30_000
    digest = main.outputs["metrics/timing/scratch.json"]
    (repository.root / f".dvc/cache/files/md5/{digest[:2]}/{digest[2:]}").unlink()
    main = find_revision("main")
    assert main.metric("timing", "scratch", "tokens_per_second") is None
    assert main.metric("timing", "concise", "tokens_per_second") == 20_000


def test_seeds_of_a_variant(repository: Repository) -> None:
    repository.seeds({"scratch": [10.0, 12.0, 14.0], "concise": [20.0, 22.0, 24.0]})
    repository.commit()
    main = find_revision("main")
    assert main.perplexities("scratch", "val") == {0: 10.0, 1: 12.0, 2: 14.0}
    assert main.perplexities("concise", "val") == {0: 20.0, 1: 22.0, 2: 24.0}
    assert main.stale_replicates("scratch") == []


@pytest.mark.parametrize(
    ("changes", "stale"),
    [
        ({"params": {"train": {"lr": 1.0, "seed": 0, "epochs": 3}}}, []),
        (
            {"params": {"train": {"lr": 1.0, "seed": 7, "epochs": 3}}},
            [],
        ),  # a different seed is not a change
        ({"params": {"train": {"lr": 0.5, "seed": 0, "epochs": 3}}}, [1, 2]),
        ({"code": "2"}, [1, 2]),
        ({"data": "2"}, [1, 2]),
    ],
)
def test_stale_replicates_are_ignored(
    changes: dict[str, Any], stale: list[int], repository: Repository
) -> None:
    repository.seeds({"scratch": [10.0, 12.0, 14.0]})
    # The main pipeline runs again, and the replicates are unchanged.
    params = {"train": {"lr": 1.0, "seed": 0, "epochs": 3}} | changes.pop("params", {})
    params["replicate"] = {"seeds": [1, 2]}
    repository.results({"scratch": (9.0, 18.0)}, params, **changes)
    workspace = find_revision("workspace")
    assert workspace.stale_replicates("scratch") == stale
    seeds = [params["train"]["seed"], *(() if stale else (1, 2))]
    assert list(workspace.perplexities("scratch", "val")) == seeds


def test_unrecorded_replicate_is_ignored(repository: Repository) -> None:
    repository.seeds({"scratch": [10.0, 12.0]})
    (repository.root / "analysis/dvc.lock").unlink()
    assert find_revision("workspace").stale_replicates("scratch") == [1]


def test_invalid_replicate_is_named(repository: Repository) -> None:
    repository.seeds({"scratch": [10.0, 0.5]})
    with pytest.raises(UserError, match=r"scratch-1\.json of workspace .* is 0\.5"):
        find_revision("workspace").perplexities("scratch", "val")
