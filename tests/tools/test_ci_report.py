"""The report on how a change affects the results."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Pipeline
from rendered import OWN_TAGS, Rendered, without_spaces
from repositories import Repository, size_of_png

from gru_lm.evaluation.settings import Regression
from tools import ci_report, gate, revisions
from tools.revisions import find_revision


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    return Repository.new(tmp_path / "project", monkeypatch)


def rows_of(text: str, heading: str) -> dict[str, list[str]]:
    """Return the rows of the Markdown table under ``heading`` by their first cell.

    Names are code in the report and are given without their backticks here.
    """
    part = text.split(f"{heading}\n", 1)[1].split("\n##")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in cells}


def make_report(output: Path, tolerance: float = 0.05) -> str:
    base, head = find_revision("main"), find_revision("workspace")
    rule = Regression(max_perplexity_rise=tolerance, standard_errors=2.0)
    ci_report.write_report(base, head, gate.judge(base, head, rule), output)
    return (output / "report.md").read_text(encoding="utf-8")


def test_report_of_a_change(repository: Repository, tmp_path: Path) -> None:
    repository.results({"scratch": (10.0, 30.0), "concise": (20.0, 30.0)})
    repository.commit()
    params = {"train": {"lr": 0.5, "seed": 0}, "gate": {"name": "a|b"}}
    repository.results({"scratch": (8.0, 30.0), "concise": (25.0, 30.0)}, params)
    text = make_report(tmp_path)

    assert text.startswith("# `workspace` against `main`\n")
    assert "2 params changed; 4 of 6 stages ran, were added or were removed." in text
    assert "**Gate: failed.** `concise val perplexity 20 → 25 (+25.0%;" in text

    metrics = rows_of(text, "## Metrics")
    assert metrics["metric"] == ["main", "workspace", "change", "verdict"]
    assert metrics["scratch evaluate val.perplexity"] == ["10", "8", "-2 (-20.0%)", "better"]
    assert metrics["concise evaluate val.perplexity"] == ["20", "25", "+5 (+25.0%)", "worse"]
    assert metrics["scratch evaluate test.perplexity"] == ["30", "30", "0", "same"]
    assert metrics["scratch timing tokens_per_second"][3] == "worse"
    assert metrics["concise timing tokens_per_second"][3] == "better"
    assert "scratch evaluate val.tokens" not in metrics
    assert "| `train.lr` | 1 | 0.5 |" in text
    assert "| `gate.name` | - | <code>a&#124;b</code> |" in text

    greedy = rows_of(text, "### `scratch`")["greedy"]
    assert greedy[0].endswith("<br>`traveller 10.0")
    assert greedy[1].endswith("<br>`traveller 8.0")
    assert rows_of(text, "### `scratch`")["temperature 0.5"][1] == "(the same)"

    stages = rows_of(text, "## Stages")
    assert stages["fetch"][0] == "skipped"
    assert stages["train@scratch"][0] == "ran"
    assert "train.lr` 1 → 0.5" in stages["train@scratch"][1]
    assert rows_of(text, "## Seconds by stage")["train@concise"][:2] == ["20.0", "25.0"]

    assert "![Training perplexity of both revisions by epoch](curves.png)" in text
    width, height = size_of_png((tmp_path / "curves.png").read_bytes())
    assert 800 < width < 3000
    assert 300 < height < 1500


def test_passed_gate_is_reported(repository: Repository, tmp_path: Path) -> None:
    repository.results({"scratch": (10.0, 30.0)})
    repository.commit()
    repository.results({"scratch": (10.4, 30.0)})
    assert "**Gate: passed.** `scratch val perplexity 10 → 10.4" in make_report(tmp_path)
    assert "**Gate: failed.**" in make_report(tmp_path, tolerance=0.01)


def test_equal_revisions_give_short_report(repository: Repository, tmp_path: Path) -> None:
    repository.results({"scratch": (10.0, 30.0)})
    repository.commit()
    (tmp_path / "curves.png").write_bytes(b"of an earlier report")
    text = make_report(tmp_path)
    assert "Nothing changed" in text
    assert len(text.splitlines()) <= 5
    assert not (tmp_path / "curves.png").exists()


def test_one_sided_entries_are_new_or_gone(repository: Repository, tmp_path: Path) -> None:
    repository.results({"scratch": (10.0, 30.0)})
    repository.commit()
    repository.git("rm", "-r", "-q", "metrics", "plots", "samples", "dvc.lock")
    repository.results({"concise": (11.0, 31.0)})
    text = make_report(tmp_path)
    assert "concise is new (11); scratch is gone (10)" in text
    metrics = rows_of(text, "## Metrics")
    assert metrics["concise evaluate val.perplexity"] == ["-", "11", "-", "new"]
    assert metrics["scratch evaluate val.perplexity"] == ["10", "-", "-", "gone"]
    stages = rows_of(text, "## Stages")
    assert (stages["train@concise"][0], stages["train@scratch"][0]) == ("new", "gone")
    assert rows_of(text, "### `concise`")["greedy"][0] == "-"


def test_base_without_results(repository: Repository, tmp_path: Path) -> None:
    params = {"variants": ["scratch"], "train": {"lr": 1.0, "seed": 0}}
    repository.write("params.yaml", params)
    repository.commit()
    repository.results({"scratch": (10.0, 30.0)})
    text = make_report(tmp_path)
    assert "| `train@scratch` | new |" in text
    assert "## Params\n\nNone changed." in text
    assert size_of_png((tmp_path / "curves.png").read_bytes())


def test_reason_for_a_stage_run(repository: Repository) -> None:
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


def test_stale_results_are_flagged(repository: Repository, tmp_path: Path) -> None:
    repository.results({"scratch": (10.0, 30.0)})
    repository.commit()
    repository.git("branch", "start")
    assert ci_report.stale_files(find_revision("start")) == []
    repository.results({"scratch": (11.0, 30.0)})
    assert "out of date" not in make_report(tmp_path)
    repository.write("src/model.py", "CODE = 3\n")
    assert "**Results out of date.** " in (text := make_report(tmp_path))
    assert "src/model.py" in text


# It names variants and a branch, so it has no slash and no character that git refuses.
NAME = "@{}![x](y)`$z$|<b>"


def test_hostile_text_is_shown_as_code(repository: Repository, tmp_path: Path) -> None:
    """Put "evil" and markup into everything that a pull request can choose."""
    scratch, gone, branch = NAME.format("evil"), NAME.format("evilgone"), "@evil/x](y)`$z$|<b>"
    marked = "![{}](/proc/self/environ) @octocat | \\| `a` ``b <img src=x>\n# evil\n"

    def write(code: str, val: float) -> None:
        params = {"train": {"lr": 1.0, "seed": 0}, "prepare": {"tokens": "char"}}
        params |= {marked.format("evilkey" + code): 1, "a": marked.format("evilvalue" + code)}
        scores = {scratch: [val, val]} | ({gone: [9.0, 9.0]} if code == "1" else {})
        repository.seeds(scores, params=params, code=code)
        lock = yaml.safe_load((repository.root / "dvc.lock").read_text("utf-8"))
        stages = lock["stages"]
        stages[f"![evilstage{code}](x)`|<b>"] = {"cmd": "x"}
        stages["prepare"]["params"] = {"params.yaml": {"a": marked.format("evilread" + code)}}
        stages["fetch"]["deps"] = [{"path": marked.format("evildep" + code), "md5": code}]
        repository.write("src/evil`|<i>.py", code)
        stages["fetch"]["deps"].append({"path": "src/evil`|<i>.py", "md5": "stale"})
        repository.write("dvc.lock", lock)
        text = "".join(f"  {line}\n" for line in marked.format("evilsample" + code).splitlines())
        repository.write(f"samples/{scratch}.txt", f"greedy\n{text}")
        timing = {"tokens_per_second": val, "seconds": val, "device": marked.format("evildevice")}
        repository.write(f"metrics/timing/{scratch}.json", timing)
        splits = {split: {"perplexity": val, "tokens": 9} for split in ("train", "val", "test")}
        more = {marked.format("evilmetric"): marked.format("evilscore" + code)}
        repository.write(f"metrics/evaluate/{scratch}.json", splits | more)

    write("1", 10.0)
    repository.commit()
    repository.git("branch", branch)
    write("2", 20.0)
    rule = Regression(max_perplexity_rise=0.05, standard_errors=2.0)
    base, head = find_revision(branch), find_revision("workspace")
    ci_report.write_report(base, head, gate.judge(base, head, rule), tmp_path)
    page = Rendered((tmp_path / "report.md").read_text("utf-8"))
    assert page.tags <= OWN_TAGS
    assert page.images == ["curves.png"]
    assert "evil" not in page.text
    assert "octocat" not in page.text
    shown = [without_spaces(text) for text in page.code]
    stages = [f"![evilstage{code}](x)`|<b>" for code in "12"]
    for name in (scratch, branch, f"train@{scratch}", *stages):
        assert name in shown
    assert any("src/evil`|<i>.py" in one for one in shown)
    for kind in ("key", "value", "sample", "score"):
        for code in "12":
            text = without_spaces(marked.format(f"evil{kind}{code}"))
            assert any(text in one for one in shown), kind
    for kind in ("read1", "read2", "dep1", "dep2", "device", "metric"):
        text = without_spaces(marked.format(f"evil{kind}"))
        assert any(text in one for one in shown), kind
    assert size_of_png((tmp_path / "curves.png").read_bytes())


def test_gate_rule_is_reported(repository: Repository, tmp_path: Path) -> None:
    repository.seeds({"scratch": [9.0, 10.0, 11.0]})
    repository.commit()
    repository.seeds({"scratch": [10.0, 12.0]})
    text = make_report(tmp_path)
    table = rows_of(text, "## Held-out perplexity over the seeds")
    # 2 * 10 % * sqrt(1/3 + 1/2)
    assert table["scratch"] == ["10 (of 9, 10, 11)", "11 (of 10, 12)", "+10.0%", "+18.3%", "passed"]
    assert (
        "The tolerance is the larger of 5.0% and 2 standard errors of the difference of the means, "
        "with a spread of 10.0% over the seeds of main."
    ) in text


def test_incomparable_revisions_are_reported(repository: Repository, tmp_path: Path) -> None:
    repository.results({"scratch": (10.0, 30.0)})
    repository.corpus("time_machine")
    repository.commit()
    repository.results({"scratch": (10.0, 30.0)}, data="2")
    repository.corpus("sample")
    text = make_report(tmp_path)
    assert (
        "**Gate: failed.** `not comparable: main was trained on time_machine, workspace on" in text
    )
    assert "Nothing was compared." in text


def test_stages_of_both_lock_files_are_listed(repository: Repository, tmp_path: Path) -> None:
    repository.seeds({"scratch": [10.0, 11.0]})
    repository.commit()
    repository.seeds({"scratch": [10.0, 11.5]})
    stages = rows_of(make_report(tmp_path), "## Stages")
    assert stages["replicate@scratch-1"] == [
        "ran",
        "its outputs changed, with the same inputs",
    ]
    assert stages["train@scratch"][0] == "skipped"


def test_stale_folder_is_flagged(repository: Repository) -> None:
    """Hash a folder as DVC does, with the MD5 of the list of its files."""
    repository.write("src/core/a.py", "A\n")
    repository.write("src/core/b/c.py", "C\n")
    entries = [
        {"md5": hashlib.md5(text).hexdigest(), "relpath": path}
        for path, text in (("a.py", b"A\n"), ("b/c.py", b"C\n"))
    ]
    digest = hashlib.md5(json.dumps(entries).encode()).hexdigest() + ".dir"
    stage = {"cmd": "x", "deps": [{"path": "src/core", "md5": digest}]}
    repository.write("dvc.lock", {"stages": {"s": stage}})
    repository.commit()
    assert ci_report.stale_files(find_revision("main")) == []
    repository.write("src/core/__pycache__/a.pyc", "not hashed")
    assert ci_report.stale_files(find_revision("workspace")) == []
    repository.write("src/core/b/c.py", "D\n")
    assert ci_report.stale_files(find_revision("workspace")) == ["src/core"]


def test_files_of_any_size_are_hashed(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.write("big", "large enough\n")
    digest = hashlib.md5(b"large enough\n").hexdigest()
    repository.write("dvc.lock", {"stages": {"s": {"deps": [{"path": "big", "md5": digest}]}}})
    workspace = find_revision("workspace")
    assert workspace.lock  # read before the limit below applies
    monkeypatch.setattr(revisions, "LARGEST", 3)
    assert ci_report.stale_files(workspace) == []
    repository.write("big", "larger and changed\n")
    assert ci_report.stale_files(workspace) == ["big"]


@pytest.mark.timeout(600)
def test_report_of_real_pipeline(pipeline: Pipeline) -> None:
    pipeline = Pipeline(pipeline.root, pipeline.env | {"PYTHONPATH": str(pipeline.root / "src")})

    def report(*options: str) -> str:
        command = ["python", "-m", "tools.ci_report", "--base", "main", "--output", "out", *options]
        pipeline.run(*command)
        return (pipeline.root / "out/report.md").read_text("utf-8")

    assert "Nothing changed" in report()
    assert "Nothing changed" in report("--head", "main")
    pipeline.set_params({"model.fused.reset": "after"})  # only fused, as the rest takes minutes
    pipeline.dvc("repro")
    text = report()
    assert "Not used from workspace: fused-1 in analysis/replicate" in text
    pipeline.dvc("repro", "-P")
    text = report()
    assert "out of date" not in text
    table = rows_of(text, "## Held-out perplexity over the seeds")
    assert [row[-1] for name, row in table.items() if name in ("scratch", "concise", "fused")]
    metrics = yaml.safe_load((pipeline.root / "metrics/fused.json").read_text("utf-8"))
    own = f"{metrics['val_perplexity']:.4g}"
    assert f"(of {own}, " in table["fused"][1]
    stages = rows_of(text, "## Stages")
    for name in ("train@fused", "evaluate@fused", "replicate@fused-1", "draw"):
        assert stages[name][0] == "ran", name
    assert stages["prepare"][0] == "skipped"
    assert size_of_png((pipeline.root / "out/curves.png").read_bytes())
    seconds = rows_of(text, "## Seconds by stage")["train@fused"]
    assert all(float(value) > 0 for value in seconds[:2])  # main's from DVC's cache
