"""The gate fails if held-out perplexity rises too far."""

from __future__ import annotations

import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest
from repositories import Repository

from gru_lm.core.errors import UserError
from gru_lm.evaluation.settings import Regression
from tools import gate
from tools.revisions import find_revision

PROJECT = Path(__file__).resolve().parents[2]
RULE = Regression(max_perplexity_rise=0.05, standard_errors=2.0)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    return Repository.new(tmp_path / "project", monkeypatch)


def recorded_seeds(variant: str) -> list[float]:
    """Return the validation perplexities in the project's own result files by seed."""
    own = json.loads((PROJECT / f"metrics/evaluate/{variant}.json").read_text("utf-8"))
    others = sorted((PROJECT / "analysis/replicate").glob(f"{variant}-*.json"))
    scores = [own, *(json.loads(path.read_text("utf-8"))["scores"] for path in others)]
    return [score["val"]["perplexity"] for score in scores]


@pytest.mark.parametrize(
    ("val", "passes"), [(9.0, True), (10.0, True), (10.5, True), (10.51, False), (1.0, True)]
)
def test_gate_verdicts(val: float, passes: bool, repository: Repository) -> None:
    repository.results({"scratch": (10.0, 11.0), "concise": (20.0, 11.0)})
    repository.commit()
    repository.results({"scratch": (val, 99.0), "concise": (20.0, 99.0)})
    verdict = gate.judge(find_revision("main"), find_revision("workspace"), RULE)
    assert verdict.passed is passes
    if val == 10.51:
        assert verdict.reason == (
            "scratch val perplexity 10 → 10.51 (+5.1%; 1 seed → 1 seed; tolerance +5.0%): "
            "more than the tolerance"
        )
    assert verdict.notes == (
        "main and workspace have one seed per variant, so the spread over seeds is unknown and the "
        "tolerance is 5.0%. dvc repro -P also trains the seeds in replicate.seeds.",
    )


@pytest.mark.parametrize("val", [math.nan, math.inf, 0.99, 0, -1, True, "9", [9]])
def test_invalid_perplexity_is_refused(val: object, repository: Repository) -> None:
    repository.results({"scratch": (10.0, 11.0)})
    repository.commit()
    repository.write("metrics/evaluate/scratch.json", {"val": {"perplexity": val}})
    with pytest.raises(UserError, match=r"scratch\.json of workspace .* val\.perplexity is"):
        gate.judge(find_revision("main"), find_revision("workspace"), RULE)


def test_gate_command(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.results({"scratch": (10.0, 11.0)})
    repository.commit()
    repository.results({"scratch": (12.0, 11.0)})
    rule = RULE.model_copy(update={"max_perplexity_rise": 0.1})
    monkeypatch.setattr(gate, "rule", lambda: rule)
    monkeypatch.setattr(sys, "argv", ["gate", "--base", "main"])
    with pytest.raises(SystemExit) as stop:
        gate.run_main("gate", gate.main)
    assert stop.value.code == 1
    out, error = capsys.readouterr()
    assert out.startswith("gate: main and workspace have one seed per variant")
    assert error.startswith("gate: error: scratch val perplexity 10 → 12 (+20.0%;")
    assert error.count("\n") == 1
    rule = RULE.model_copy(update={"max_perplexity_rise": 0.2})
    gate.run_main("gate", gate.main)
    assert "\ngate: passed: scratch" in capsys.readouterr().out


def test_one_sided_variants(repository: Repository) -> None:
    repository.results({"scratch": (10.0, 11.0)})
    repository.commit()
    repository.git("rm", "-r", "-q", "metrics", "plots", "samples", "dvc.lock")
    repository.results({"concise": (99.0, 99.0)})
    base, head = find_revision("main"), find_revision("workspace")
    verdict = gate.judge(base, head, RULE)
    assert verdict.passed
    assert "concise is new (99)" in verdict.reason
    assert "scratch is gone (10)" in verdict.reason
    (repository.root / "metrics/evaluate/concise.json").unlink()
    verdict = gate.judge(base, find_revision("workspace"), RULE)
    assert not verdict.passed
    assert verdict.reason == ("workspace has no perplexity of concise on val: run dvc repro")


@pytest.mark.parametrize(
    ("head", "passes"),
    [
        # Spread of the base: sqrt((1 + 0 + 1) / 2) / 10 = 10 %. Two standard errors of the
        # difference of two means of three: 2 * 10 % * sqrt(1/3 + 1/3) = 16.3 %.
        ([11.5, 11.6, 11.7], True),  # +16.0 %
        ([11.6, 11.7, 11.8], False),  # +17.0 %
        ([9.0, 11.0, 14.8], True),  # +16.0 %: the mean counts, not one seed
        ([30.0, 9.0, 9.0], False),  # the head's own spread does not count
        ([12.2], True),  # one seed: 2 * 10 % * sqrt(1/3 + 1) = 23.1 %
        ([12.4], False),
    ],
)
def test_tolerance_includes_spread_of_seeds(
    head: list[float], passes: bool, repository: Repository
) -> None:
    repository.seeds({"scratch": [9.0, 10.0, 11.0]})
    repository.commit()
    repository.git("rm", "-r", "-q", "analysis")
    repository.seeds({"scratch": head})
    verdict = gate.judge(find_revision("main"), find_revision("workspace"), RULE)
    assert verdict.passed is passes, verdict
    (change,) = verdict.changes
    assert change.means == pytest.approx((10.0, statistics.fmean(head)))
    assert change.tolerance == pytest.approx(0.2 * math.sqrt(1 / 3 + 1 / len(head)))
    assert f"3 seeds → {len(head)} seed" in verdict.reason
    assert verdict.notes == (
        "The tolerance is the larger of 5.0% and 2 standard errors of the difference of the means, "
        "with a spread of 10.0% over the seeds of main.",
    )


def test_small_spread_keeps_fraction(repository: Repository) -> None:
    repository.seeds({"scratch": [10.0, 10.01]})
    repository.commit()
    repository.seeds({"scratch": [10.4, 10.41]})
    verdict = gate.judge(find_revision("main"), find_revision("workspace"), RULE)
    assert verdict.passed
    assert [change.tolerance for change in verdict.changes] == [0.05]


def test_spread_is_pooled_over_variants() -> None:
    by_variant = {"a": {0: 9.0, 1: 11.0}, "b": {0: 20.0, 1: 20.0}, "c": {0: 5.0}}
    # Squares of -10 % and 10 %, and of two zeros, over one degree of freedom each.
    assert gate.pooled_spread(by_variant) == pytest.approx(math.sqrt(0.02 / 2))
    assert gate.pooled_spread({"c": {0: 5.0}}) is None


def test_base_with_one_seed_uses_spread_of_head(repository: Repository) -> None:
    repository.results({"scratch": (10.0, 11.0)})
    repository.commit()
    repository.seeds({"scratch": [9.9, 11.0, 12.1]})
    verdict = gate.judge(find_revision("main"), find_revision("workspace"), RULE)
    assert verdict.passed  # +10 %, of 2 * 10 % * sqrt(1 + 1/3)
    assert "with a spread of 10.0% over the seeds of workspace" in verdict.notes[0]


def test_stale_replicates_are_named(repository: Repository) -> None:
    repository.seeds({"scratch": [10.0, 11.0, 12.0]})
    repository.commit()
    params = {"train": {"lr": 2.0, "seed": 0, "epochs": 3}, "replicate": {"seeds": [1, 2]}}
    repository.results({"scratch": (10.0, 20.0)}, params)
    verdict = gate.judge(find_revision("main"), find_revision("workspace"), RULE)
    assert verdict.passed
    assert "3 seeds → 1 seed" in verdict.reason
    assert verdict.notes[1].startswith("Not used from workspace: scratch-1, scratch-2 in analysis/")


def test_listed_variant_without_result_fails(repository: Repository) -> None:
    repository.results({"scratch": (10.0, 11.0), "concise": (10.0, 11.0)})
    repository.commit()
    (repository.root / "metrics/evaluate/concise.json").unlink()
    verdict = gate.judge(find_revision("main"), find_revision("workspace"), RULE)
    assert not verdict.passed
    assert verdict.reason.startswith("workspace has no perplexity of concise on val")


@pytest.mark.parametrize(
    ("corpus", "changes", "reason"),
    [
        (
            "tiny_shakespeare",
            {"data": "2"},
            "main was trained on time_machine, workspace on tiny_shakespeare",
        ),
        (
            "time_machine",
            {"data": "2", "params": {"prepare": {"tokens": "word"}}},
            "main has prepare.tokens=char, workspace has word",
        ),
        (
            "time_machine",
            {"data": "2"},
            "main and workspace have different splits or vocabularies, with the same corpus and "
            "the same prepare params (data/prepared differs in dvc.lock)",
        ),
        # The same data with other params or another name.
        ("time_machine", {"params": {"prepare": {"tokens": "char", "min_freq": 1}}}, None),
        ("renamed", {}, None),
    ],
)
def test_different_data_are_not_comparable(
    corpus: str, changes: dict[str, Any], reason: str | None, repository: Repository
) -> None:
    repository.seeds({"scratch": [15.78, 15.0]})
    repository.corpus("time_machine")
    repository.commit()
    repository.seeds({"scratch": [15.95, 15.0]}, **changes)
    repository.corpus(corpus)
    verdict = gate.judge(find_revision("main"), find_revision("workspace"), RULE)
    assert verdict.passed is (reason is None)
    if reason:
        assert verdict.reason == f"not comparable: {reason}"


def test_number_of_tokens_is_compared_without_hashes(repository: Repository) -> None:
    repository.results({"scratch": (10.0, 11.0)})
    repository.git("rm", "-q", "--cached", "--ignore-unmatch", "dvc.lock")
    (repository.root / "dvc.lock").unlink()
    repository.commit()
    scores = {split: {"perplexity": 10.0, "tokens": 1234} for split in ("train", "val", "test")}
    repository.write("metrics/evaluate/scratch.json", scores)
    verdict = gate.judge(find_revision("main"), find_revision("workspace"), RULE)
    assert verdict.reason == ("not comparable: train has 99 tokens in main, 1,234 in workspace")


def test_rounding_differences_pass(repository: Repository) -> None:
    """fused differs from scratch by rounding, as results of another processor do.

    With one seed, or with 5 % as the tolerance, the gate would fail.
    """
    scratch, fused, concise = map(recorded_seeds, ("scratch", "fused", "concise"))
    repository.seeds({"scratch": scratch, "concise": concise})
    repository.commit()
    repository.seeds({"scratch": fused, "concise": concise})
    verdict = gate.judge(find_revision("main"), find_revision("workspace"), RULE)
    assert verdict.passed, verdict
    assert max(new / old for old, new in zip(scratch, fused, strict=True)) > 1.05
    # Twice the perplexity exceeds the tolerance.
    repository.seeds({"scratch": [2 * one for one in scratch], "concise": concise})
    assert not gate.judge(find_revision("main"), find_revision("workspace"), RULE).passed
