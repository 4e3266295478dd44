"""The tools, on small hand-made git repositories; and one real sweep."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Pipeline
from matplotlib.image import imread

from gru_lm.core.errors import UserError
from tools import ci_report, compare, gate, sweep, table
from tools.revisions import find_revision, find_revisions, flatten

VARIANTS = ("scratch", "concise")
SAMPLE = "greedy\n  time traveller went on\n  traveller {}\n\ntemperature 0.5\n  time goes by \n"


@dataclass(frozen=True)
class Repository:
    """A git repository that holds results as the pipeline would write them."""

    root: Path

    def git(self, *arguments: str) -> str:
        person = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
        result = subprocess.run(
            ["git", *person, *arguments],
            cwd=self.root,
            capture_output=True,
            text=True,
            check=True,
        )
        return result.stdout.strip()

    def write(self, path: str, content: Any) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith((".yaml", ".lock")):
            content = yaml.safe_dump(content, sort_keys=False)
        elif path.endswith(".json"):
            content = json.dumps(content)
        file.write_text(content, encoding="utf-8")

    def results(
        self,
        scores: Mapping[str, tuple[float, float]],
        params: Mapping[str, Any] | None = None,
        code: str = "1",
    ) -> None:
        """Each variant's (val, test) perplexity, under the nested ``params``."""
        self.write("params.yaml", params or {"train": {"lr": 1.0, "seed": 0}})
        source = f"CODE = {code}\n"
        self.write("src/model.py", source)
        stages: dict[str, Any] = {}
        for name, (val, test) in scores.items():
            splits = {"train": 1.5, "val": val, "test": test}
            self.write(
                f"metrics/evaluate/{name}.json",
                {split: {"perplexity": value, "tokens": 99} for split, value in splits.items()},
            )
            self.write(f"metrics/train/{name}.json", {"perplexity": val / 10, "epochs": 3})
            speed = {"tokens_per_second": 1000 * val, "seconds": val, "device": "CPU, 2 threads"}
            self.write(f"metrics/timing/{name}.json", speed)
            rows = "".join(f"{epoch}\t{val / epoch}\n" for epoch in (1, 2, 3))
            self.write(
                f"dvclive/{name}/plots/metrics/train/perplexity.tsv", f"step\tperplexity\n{rows}"
            )
            self.write(f"samples/{name}.txt", SAMPLE.format(val))
            out = {"path": f"metrics/evaluate/{name}.json", "hash": "md5", "md5": str(val)}
            dep = {"path": "src/model.py", "hash": "md5", "md5": md5(source)}
            model = (params or {}).get("model", {})
            read = {"train": (params or {}).get("train", {"lr": 1.0})}
            read |= {f"model.{key}": model[key] for key in (name, "hidden_size") if key in model}
            folder = {"path": "src", "hash": "md5", "md5": "0.dir"}
            stages[f"train@{name}"] = {
                "cmd": f"train {name}",
                "deps": [dep, folder],
                "params": {"params.yaml": read},
                "outs": [out],
            }
        stages["fetch"] = {"cmd": "fetch", "outs": [{"path": "raw.txt", "md5": "0"}]}
        self.write("dvc.lock", {"schema": "2.0", "stages": stages})

    def commit(self, message: str = "A commit") -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD")

    def experiment(self, name: str) -> None:
        """Keep the working tree as a DVC experiment from HEAD, and restore HEAD's."""
        start = self.git("rev-parse", "HEAD")
        commit = self.commit(name)
        self.git("update-ref", f"refs/exps/{start[:2]}/{start[2:]}/{name}", commit)
        self.git("reset", "--quiet", "--hard", start)


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """An empty repository, which the test runs in."""
    root = tmp_path / "project"
    root.mkdir()
    repository = Repository(root)
    repository.git("init", "--quiet", "--initial-branch=main")
    monkeypatch.chdir(root)
    return repository


def run_sweep_of_scores(repository: Repository, scores: Mapping[float, list[float]]) -> None:
    """An experiment for each learning rate and seed, with that val perplexity of scratch."""
    repository.results({"scratch": (100.0, 200.0)})
    repository.commit()
    for lr, values in scores.items():
        for seed, value in enumerate(values):
            params = {"train": {"lr": lr, "seed": seed}}
            repository.results({"scratch": (value, 2 * value)}, params)
            repository.experiment(f"sweep-lr{lr}-seed{seed}")


def size_of_png(data: bytes) -> tuple[int, int]:
    """Width and height, from the decoded picture."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    pixels = imread(BytesIO(data), format="png")
    assert pixels.min() < 0.5 < pixels.max(), "an empty picture"
    return pixels.shape[1], pixels.shape[0]


def rows_of(text: str, heading: str) -> dict[str, list[str]]:
    """The Markdown table under ``heading``: its rows' cells by the first one."""
    part = text.split(f"{heading}\n", 1)[1].split("\n##")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in cells}


# Revisions


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
    assert experiment.params == {"train.lr": 1e-05, "train.seed": 3}
    assert experiment.variants == ["scratch"]
    assert experiment.curves == {"scratch": [(1, 20.0), (2, 10.0), (3, 20 / 3)]}
    assert experiment.samples["scratch"] == {
        "greedy": "time traveller went on\ntraveller 20.0",
        "temperature 0.5": "time goes by ",
    }
    assert set(experiment.lock) == {"train@scratch", "fetch"}


def test_the_workspace_is_read_from_disk(repository: Repository) -> None:
    repository.results({"scratch": (10.0, 11.0)})
    repository.commit()
    repository.results({"scratch": (12.5, 11.0), "concise": (13.0, 14.0)})
    workspace = find_revision("workspace")
    assert workspace.variants == ["concise", "scratch"]
    assert workspace.perplexity("scratch", "val") == 12.5
    assert find_revision("main").perplexity("concise", "val") is None


def test_an_unknown_revision_gets_a_hint(repository: Repository) -> None:
    repository.results({"scratch": (10.0, 11.0)})
    repository.commit()
    repository.experiment("puffy-daks")
    with pytest.raises(UserError, match=r"'pufy-daks' is no .*did you mean puffy-daks\?"):
        find_revision("pufy-daks")
    with pytest.raises(UserError, match="--all"):
        find_revision("--all")
    with pytest.raises(UserError, match=r"no experiment is named like 'sweep-\*'"):
        find_revisions(["main", "sweep-*"])


def test_an_experiment_of_two_commits_is_the_one_from_head(repository: Repository) -> None:
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


def test_a_damaged_file_is_named(repository: Repository) -> None:
    repository.results({"scratch": (10.0, 11.0)})
    (repository.root / "metrics/train/scratch.json").write_text("{")
    repository.commit()
    with pytest.raises(UserError, match=r"metrics/train/scratch\.json of main is damaged"):
        _ = find_revision("main").metrics


def test_flatten() -> None:
    tree = {"a": {"b": {"c": 1}, "d": [1, {"e": 2}]}, "f": {}, "g": None}
    assert flatten(tree) == {"a.b.c": 1, "a.d": [1, {"e": 2}], "f": {}, "g": None}


# Compare


def test_runs_are_grouped_by_all_but_the_seed(repository: Repository, tmp_path: Path) -> None:
    run_sweep_of_scores(repository, {0.5: [10.0, 12.0, 17.0], 2.0: [21.0, 22.0]})
    groups = compare.compare(["sweep-*"], "val", tmp_path / "out")
    assert [(group.label, group.num_seeds) for group in groups] == [
        ("train.lr=0.5", 3),
        ("train.lr=2", 2),
    ]
    first, second = csv.DictReader((tmp_path / "out/compare.csv").open(encoding="utf-8"))
    assert (first["variant"], first["train.lr"], first["seeds"]) == ("scratch", "0.5", "3")
    assert float(first["mean"]) == pytest.approx(13.0)
    assert float(first["standard_deviation"]) == pytest.approx(math.sqrt(13))  # (9 + 1 + 16) / 2
    assert (float(first["min"]), float(first["max"])) == (10.0, 17.0)
    assert float(first["tokens_per_second"]) == pytest.approx(13_000)
    assert second["revisions"] == "sweep-lr2.0-seed0 sweep-lr2.0-seed1"
    report = (tmp_path / "out/compare.md").read_text(encoding="utf-8")
    assert "| scratch | train.lr=0.5 | 3 | 13 | 3.606 | 10 | 17 | 13,000 |" in report
    width, height = size_of_png((tmp_path / "out/compare.png").read_bytes())
    assert 1000 < width < 3000
    assert 300 < height < 2000


def test_the_metric_is_the_one_asked_for(repository: Repository, tmp_path: Path) -> None:
    run_sweep_of_scores(repository, {0.5: [10.0, 12.0]})
    (group,) = compare.compare(["sweep-*"], "test", tmp_path)
    assert group.mean == pytest.approx(22.0)
    assert "test perplexity" in (tmp_path / "compare.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        # variances 1/3 and 1/3 over 4 seeds each: the standard error is sqrt(1/6) = 0.41
        ({0.5: [9.5, 10.5, 9.5, 10.5], 2.0: [10.5, 11.5, 10.5, 11.5]}, "**train.lr=0.5** wins"),
        ({0.5: [9.5, 10.5, 9.5, 10.5], 2.0: [10.2, 11.2, 10.2, 11.2]}, "within the noise"),
        ({0.5: [10.0, 10.0], 2.0: [10.0, 10.0]}, "within the noise"),
        ({0.5: [10.0, 10.0], 2.0: [11.0, 11.0]}, "**train.lr=0.5** wins"),
        ({0.5: [9.5, 10.5], 2.0: [50.0]}, "With one seed only of train.lr=2, nothing can be said"),
        ({0.5: [9.5, 10.5]}, "only one setting"),
    ],
)
def test_the_winner_and_its_uncertainty(
    scores: dict[float, list[float]], expected: str, repository: Repository
) -> None:
    run_sweep_of_scores(repository, scores)
    sentence = compare.winner(compare.group_runs(find_revisions(["sweep-*"]), "val"), "val")
    assert expected in sentence
    assert ("wins" in sentence) == ("wins" in expected)
    if scores.get(2.0) == [10.5, 11.5, 10.5, 11.5]:
        assert "standard error of the difference is 0.41 (4 and 4 seeds)" in sentence


def test_with_many_seeds_there_is_an_interval() -> None:
    def group(mean: int) -> compare.Group:
        runs = [compare.Run("x", seed, mean + (-1) ** seed, None, []) for seed in range(30)]
        return compare.Group("scratch", {"train.lr": str(mean)}, runs)

    # Variance 30/29, standard error sqrt(2/29) = 0.2626, times 1.96 = 0.515.
    sentence = compare.winner([group(10), group(12)], "val")
    assert "its 95 % interval 1.49 to 2.51 (30 and 30 seeds)" in sentence


def test_the_same_result_twice_is_one_seed(repository: Repository) -> None:
    run_sweep_of_scores(repository, {0.5: [10.0, 12.0]})
    repository.git("branch", "again", find_revision("sweep-lr0.5-seed0").commit or "")
    (group,) = compare.group_runs(find_revisions(["sweep-*", "again"]), "val")
    assert group.values == [10.0, 12.0]


def test_other_code_is_another_setting(repository: Repository) -> None:
    repository.results({"scratch": (10.0, 11.0)})
    repository.commit()
    repository.git("checkout", "--quiet", "-b", "feature")
    repository.results({"scratch": (9.0, 11.0)}, code="2")
    repository.commit()
    labels = [g.label for g in compare.group_runs(find_revisions(["main", "feature"]), "val")]
    assert labels == ["code and data=those of feature", "code and data=those of main"]


def test_a_result_that_varies_by_itself_stays_one_setting(repository: Repository) -> None:
    for score in (10.0, 10.5):
        repository.results({"scratch": (score, 11.0)})
        repository.commit()
        repository.git("tag", f"v{score}")
    (group,) = compare.group_runs(find_revisions(["v10.0", "v10.5"]), "val")
    assert (group.label, group.num_seeds, group.values) == ("all alike", 1, [10.0, 10.5])


def test_a_variant_ignores_params_of_the_other(repository: Repository) -> None:
    scores = {"scratch": (10.0, 11.0), "concise": (12.0, 13.0)}
    for reset in ("before", "after"):
        params = {"train": {"seed": 0}, "model": {"scratch": {"reset": reset}, "concise": {}}}
        repository.results(scores | ({"scratch": (9.0, 9.0)} if reset == "after" else {}), params)
        repository.commit()
        repository.git("tag", reset)
    labels = [
        (g.variant, g.label) for g in compare.group_runs(find_revisions(["before", "after"]), "val")
    ]
    assert labels == [
        ("concise", "all alike"),
        ("scratch", "model.scratch.reset=after"),
        ("scratch", "model.scratch.reset=before"),
    ]


def test_a_param_that_no_training_reads_is_no_setting(repository: Repository) -> None:
    for rise in (0.05, 0.1):
        repository.results({"scratch": (10.0, 11.0)}, {"train": {"lr": 1}, "gate": {"rise": rise}})
        repository.commit()
        repository.git("tag", f"v{rise}")
    (group,) = compare.group_runs(find_revisions(["v0.05", "v0.1"]), "val")
    assert (group.label, group.num_seeds) == ("all alike", 1)


def test_nothing_to_compare(repository: Repository, tmp_path: Path) -> None:
    repository.write("params.yaml", {"train": {"lr": 1.0}})
    repository.commit()
    with pytest.raises(UserError, match="no perplexity on val in main"):
        compare.compare(["main"], "val", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Gate


@pytest.mark.parametrize(
    ("val", "passes"), [(9.0, True), (10.0, True), (10.5, True), (10.51, False), (1.0, True)]
)
def test_the_gate(val: float, passes: bool, repository: Repository) -> None:
    repository.results({"scratch": (10.0, 11.0), "concise": (20.0, 11.0)})
    repository.commit()
    repository.results({"scratch": (val, 99.0), "concise": (20.0, 99.0)})
    verdict = gate.judge(find_revision("main"), find_revision("workspace"), 0.05)
    assert verdict.passed is passes
    if val == 10.51:
        assert verdict.reason == (
            "scratch val perplexity 10 → 10.51 (+5.1%): more than the tolerance of +5.0%"
        )


@pytest.mark.parametrize("val", [math.nan, math.inf, 0.99, 0, -1, True, "9", [9]])
def test_the_gate_refuses_what_is_no_perplexity(val: object, repository: Repository) -> None:
    repository.results({"scratch": (10.0, 11.0)})
    repository.commit()
    repository.write("metrics/evaluate/scratch.json", {"val": {"perplexity": val}})
    with pytest.raises(UserError, match=r"scratch\.json of workspace .* val\.perplexity cannot be"):
        gate.judge(find_revision("main"), find_revision("workspace"), 0.05)


def test_the_gate_command(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.results({"scratch": (10.0, 11.0)})
    repository.commit()
    repository.results({"scratch": (12.0, 11.0)})
    monkeypatch.setattr(gate, "max_rise", lambda: 0.1)
    monkeypatch.setattr(sys, "argv", ["gate", "--base", "main"])
    with pytest.raises(SystemExit) as stop:
        gate.run_stage("gate", gate.main)
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("gate: error: scratch val perplexity 10 → 12 (+20.0%)")
    assert error.count("\n") == 1
    monkeypatch.setattr(gate, "max_rise", lambda: 0.2)
    gate.run_stage("gate", gate.main)
    assert capsys.readouterr().out.startswith("gate: passed: scratch")


def test_the_gate_and_variants_on_one_side(repository: Repository) -> None:
    repository.results({"scratch": (10.0, 11.0)})
    repository.commit()
    repository.git("rm", "-r", "-q", "metrics", "dvclive", "samples", "dvc.lock")
    repository.results({"concise": (99.0, 99.0)})
    base, head = find_revision("main"), find_revision("workspace")
    verdict = gate.judge(base, head, 0.05)
    assert verdict.passed
    assert "concise is new (99)" in verdict.reason
    assert "scratch is gone (10)" in verdict.reason
    (repository.root / "metrics/evaluate/concise.json").unlink()
    verdict = gate.judge(base, find_revision("workspace"), 0.05)
    assert not verdict.passed
    assert verdict.reason == "workspace has no perplexity on val to judge: run dvc repro"


# The report


def make_report(output: Path, tolerance: float = 0.05) -> str:
    base, head = find_revision("main"), find_revision("workspace")
    ci_report.write_report(base, head, gate.judge(base, head, tolerance), output)
    return (output / "report.md").read_text(encoding="utf-8")


def test_the_report_of_a_change(repository: Repository, tmp_path: Path) -> None:
    repository.results({"scratch": (10.0, 30.0), "concise": (20.0, 30.0)})
    repository.commit()
    params = {"train": {"lr": 0.5, "seed": 0}, "gate": {"name": "a|b"}}
    repository.results({"scratch": (8.0, 30.0), "concise": (25.0, 30.0)}, params)
    text = make_report(tmp_path)

    assert text.startswith("# workspace against main\n")
    assert "2 params changed; 2 of 3 stages ran, came or went." in text
    assert "**Gate: failed.** concise val perplexity 20 → 25 (+25.0%): more than" in text

    metrics = rows_of(text, "## Metrics")
    assert metrics["metric"] == ["main", "workspace", "change", "verdict"]
    assert metrics["scratch evaluate val.perplexity"] == ["10", "8", "-2 (-20.0%)", "better"]
    assert metrics["concise evaluate val.perplexity"] == ["20", "25", "+5 (+25.0%)", "worse"]
    assert metrics["scratch evaluate test.perplexity"] == ["30", "30", "0", "same"]
    assert metrics["scratch timing tokens_per_second"][3] == "worse"
    assert metrics["concise timing tokens_per_second"][3] == "better"
    assert "scratch evaluate val.tokens" not in metrics
    assert "| `train.lr` | 1 | 0.5 |" in text
    assert "| `gate.name` | - | a\\|b |" in text

    greedy = rows_of(text, "### scratch")["greedy"]
    assert greedy[0].endswith("<code>traveller 10.0</code>")
    assert greedy[1].endswith("<code>traveller 8.0</code>")
    assert rows_of(text, "### scratch")["temperature 0.5"][1] == "(the same)"

    stages = rows_of(text, "## Stages")
    assert stages["`fetch`"][0] == "skipped"
    assert stages["`train@scratch`"][0] == "ran"
    assert "`train.lr` 1 → 0.5" in stages["`train@scratch`"][1]
    assert rows_of(text, "## Seconds by stage")["`train@concise`"][:2] == ["20.0", "25.0"]

    assert "![Training perplexity of main and workspace](curves.png)" in text
    width, height = size_of_png((tmp_path / "curves.png").read_bytes())
    assert 800 < width < 3000
    assert 300 < height < 1500


def test_a_passed_gate_is_reported(repository: Repository, tmp_path: Path) -> None:
    repository.results({"scratch": (10.0, 30.0)})
    repository.commit()
    repository.results({"scratch": (10.4, 30.0)})
    assert "**Gate: passed.** scratch val perplexity 10 → 10.4" in make_report(tmp_path)
    assert "**Gate: failed.**" in make_report(tmp_path, tolerance=0.01)


def test_equal_revisions_give_a_short_report(repository: Repository, tmp_path: Path) -> None:
    repository.results({"scratch": (10.0, 30.0)})
    repository.commit()
    (tmp_path / "curves.png").write_bytes(b"of an earlier report")
    text = make_report(tmp_path)
    assert "Nothing changed" in text
    assert len(text.splitlines()) <= 5
    assert not (tmp_path / "curves.png").exists()


def test_what_is_on_one_side_only_is_new_or_gone(repository: Repository, tmp_path: Path) -> None:
    repository.results({"scratch": (10.0, 30.0)})
    repository.commit()
    repository.git("rm", "-r", "-q", "metrics", "dvclive", "samples", "dvc.lock")
    repository.results({"concise": (11.0, 31.0)})
    text = make_report(tmp_path)
    assert "concise is new (11); scratch is gone (10)" in text
    metrics = rows_of(text, "## Metrics")
    assert metrics["concise evaluate val.perplexity"] == ["-", "11", "-", "new"]
    assert metrics["scratch evaluate val.perplexity"] == ["10", "-", "-", "gone"]
    stages = rows_of(text, "## Stages")
    assert (stages["`train@concise`"][0], stages["`train@scratch`"][0]) == ("new", "gone")
    assert rows_of(text, "### concise")["greedy"][0] == "-"


def test_a_base_without_any_result(repository: Repository, tmp_path: Path) -> None:
    repository.write("params.yaml", {"train": {"lr": 1.0, "seed": 0}})
    repository.commit()
    repository.results({"scratch": (10.0, 30.0)})
    text = make_report(tmp_path)
    assert "| `train@scratch` | new |" in text
    assert "## Params\n\nNone changed." in text
    assert size_of_png((tmp_path / "curves.png").read_bytes())


def test_the_reason_of_a_stage_is_named(repository: Repository) -> None:
    def stage(**changes: Any) -> dict[str, Any]:
        deps = {"a.py": "1", **changes.get("deps", {})}
        return {
            "cmd": changes.get("cmd", "x"),
            "deps": [{"path": path, "md5": value} for path, value in deps.items()],
            "params": {"params.yaml": {"prepare": {"split": {"val": changes.get("val", 10)}}}},
            "outs": [{"path": "out", "md5": changes.get("out", "1")}],
        }

    def why(old: dict[str, Any], new: dict[str, Any]) -> str:
        for branch, content in (("old", old), ("new", new)):
            repository.write("dvc.lock", {"stages": {"s": content}})
            repository.commit()
            repository.git("branch", "--force", branch)
        return ci_report.compare_stages(find_revision("old"), find_revision("new"))["s"]

    assert why(stage(), stage()) == "skipped"
    assert why(stage(), stage(deps={"a.py": "2"}, out="2")) == "`a.py` changed"
    assert why(stage(), stage(deps={"b.py": "1"})) == "`b.py` new"
    assert why(stage(deps={"b.py": "1"}), stage()) == "`b.py` gone"
    assert why(stage(), stage(val=20)) == "`prepare.split.val` 10 → 20"
    assert why(stage(), stage(cmd="y")) == "its command changed"
    assert "same inputs" in why(stage(), stage(out="2"))
    many = {f"{name}.py": "1" for name in "bcdefg"}
    assert why(stage(), stage(val=20, deps=many)) == (
        "`prepare.split.val` 10 → 20; `b.py` new; `c.py` new; `d.py` new; and 3 more"
    )


def test_results_older_than_the_code_are_flagged(repository: Repository, tmp_path: Path) -> None:
    repository.results({"scratch": (10.0, 30.0)})
    repository.commit()
    repository.git("branch", "start")
    assert ci_report.stale_files(find_revision("start")) == []
    repository.results({"scratch": (11.0, 30.0)})
    assert "out of date" not in make_report(tmp_path)
    repository.write("src/model.py", "CODE = 3\n")
    assert "**Results out of date.** " in (text := make_report(tmp_path))
    assert "src/model.py" in text


def test_the_text_of_a_sample_is_no_markup(repository: Repository, tmp_path: Path) -> None:
    repository.results({"scratch": (10.0, 30.0)})
    repository.commit()
    repository.write("samples/scratch.txt", "greedy\n  a|b <b>`c`\n")
    text = make_report(tmp_path)
    assert "<code>a&#124;b &lt;b&gt;&#96;c&#96;</code>" in text


# Sweep and table


def test_the_grid() -> None:
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


def test_a_sweep_trains_no_replicates_unless_it_is_about_them() -> None:
    (plain,) = sweep.grid(["train.lr=1"], "s")
    assert plain.queue[4:] == ["-S", "train.lr=1", "-S", "replicate.seeds=[]", "--name", plain.name]
    (own,) = sweep.grid(["replicate.seeds=[3,4]"], "s")
    assert own.queue[4:] == ["-S", "replicate.seeds=[3,4]", "--name", own.name]


@pytest.mark.parametrize("options", [["train.lr"], ["train.lr="], ["=1"], ["train.lr=1,1"]])
def test_a_grid_that_makes_no_sense(options: list[str]) -> None:
    with pytest.raises(UserError):
        sweep.grid(options, "s")


@pytest.mark.parametrize(("jobs", "cores", "threads"), [(1, 8, 8), (2, 8, 4), (3, 8, 2), (9, 8, 1)])
def test_jobs_share_the_cores(jobs: int, cores: int, threads: int) -> None:
    assert sweep.threads_per_job(jobs, cores) == threads


STATUS = """\
Task     Name          Created    Status
1ca1b99  sweep-lr0.5   05:29 PM   {}
7d90a8c  sweep-lr0.5   05:25 PM   Failed
8f8ce0c  sweep-lr2     Nov 22, 2026  Success

Worker status: {} active, {} idle
"""


def test_the_queue_is_read() -> None:
    queue = sweep.read_status(STATUS.format("Running", 1, 2))
    assert queue.states == {"sweep-lr0.5": "Running", "sweep-lr2": "Success"}
    assert queue.workers == 3


def test_the_reason_of_a_failure() -> None:
    log = "Running stage 'train'\ntrain: error: no room\nERROR: failed to reproduce 'train': 1\n"
    assert sweep.failure(log) == "train: error: no room"
    assert sweep.failure("ERROR: failed to reproduce 'x': 1\n\n").startswith("ERROR: failed")
    assert sweep.reached_a_stage(log)
    assert not sweep.reached_a_stage(f"ERROR: {sweep.NO_LOG} for experiment 'x'")


def test_a_task_lost_at_the_start_is_queued_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC's workers, played: the first fails the task before any stage, the second dies."""
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


def test_the_table_is_short() -> None:
    head = "Experiment,rev,typ,State,Executor,metrics/evaluate/a.json:val.perplexity,train.lr"
    rows = [",main,baseline,,,17.24776989656814,1.0", "x,f8bdb42,branch_base,Failed,,17.2477698,2"]
    assert table.summary("\n".join([head, *rows])) == [
        ["Experiment", "State", "a val", "train.lr"],
        ["main", "-", "17.248", "1.0"],
        ["x", "Failed", "-", "2"],
    ]


@pytest.mark.timeout(600)
def test_a_sweep_lists_what_failed(pipeline: Pipeline) -> None:
    # The copy's own library, as its stages use it.
    pipeline = Pipeline(pipeline.root, pipeline.env | {"PYTHONPATH": str(pipeline.root / "src")})
    command = ["-S", "train.batch_size=4,5000", "--name", "try", "--jobs", "2"]
    try:
        result = pipeline.run("python", "-m", "tools.sweep", *command, code=1, timeout=400)
        table = pipeline.run("python", "-m", "tools.table").stdout
    finally:
        pipeline.run("dvc", "queue", "stop", "--kill")
    assert "1 Failed, 1 Success" in result.stdout
    (reason,) = [line for line in result.stdout.splitlines() if line.startswith("try-")]
    assert reason.startswith("try-batch_size5000: train: error: the training split has 600 tokens")
    params = "-S train.batch_size=5000 -S 'replicate.seeds=[]'"
    assert f"    again: dvc exp run {params} --name try-batch_size5000" in result.stdout
    assert result.stderr == "sweep: error: 1 of 2 experiments failed\n"
    rows = {line.split()[0]: line.split() for line in table.splitlines()}
    assert rows["try-batch_size4"][1] == "Success"
    assert rows["try-batch_size5000"][1:4] == ["Failed", "-", "-"]
    compared = pipeline.run("python", "-m", "tools.compare", "try-*", "--output", "out")
    assert "scratch: only one setting" in compared.stdout
