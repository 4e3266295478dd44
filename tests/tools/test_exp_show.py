"""DVC's own commands show experiments in a few readable columns."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import pytest
from conftest import Pipeline

PROJECT = Path(__file__).resolve().parents[2]
# The first test waits for the small pipeline to be made.
pytestmark = pytest.mark.timeout(600)

VARIANTS = ("scratch", "concise", "fused")

# As in docs/experiments.md.
SHOW = "dvc exp show --only-changed --drop '(?!.*:val_).*/|params.yaml|Created'"


@pytest.fixture(scope="module")
def experiments(finished_pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """Make the small pipeline with an experiment of a long name."""
    pipeline = finished_pipeline.copy(tmp_path_factory.mktemp("experiments") / "project")
    evaluated = [f"evaluate@{variant}" for variant in VARIANTS]
    pipeline.dvc("exp", "run", "-S", "train.lr=2", "--name", "sweep-lr2-seed0", *evaluated)
    return pipeline


def test_exp_show_has_few_metrics(experiments: Pipeline) -> None:
    header = next(csv.reader(experiments.dvc("exp", "show", "--csv").splitlines()))
    metrics = [name for name in header if name.startswith("metrics/") and ":" in name]
    assert {f"metrics/{variant}.json:val_perplexity" for variant in VARIANTS} <= {*metrics}
    assert len(metrics) <= 16


def test_metrics_show_has_one_row_per_variant(experiments: Pipeline) -> None:
    head, *rows = experiments.dvc("metrics", "show").splitlines()
    assert [row.split()[0] for row in rows] == [f"metrics/{name}.json" for name in VARIANTS]
    assert len(re.split(r"\s{2,}", head.strip())) <= 10


def test_documented_table_fits_screen(experiments: Pipeline) -> None:
    wide = Pipeline(experiments.root, experiments.env | {"COLUMNS": "160"})
    shown = wide.run(*shlex.split(SHOW), "--no-pager").stdout
    assert max(map(len, shown.splitlines())) <= 160
    assert "\u2026" not in shown, "a cell is cut off"
    (head,) = [line for line in shown.splitlines() if "Experiment" in line]
    names = [f"metrics/{name}.json:val_perplexity" for name in VARIANTS]
    assert head.split() == ["Experiment", *names, "train.lr"]
    (row,) = [line for line in shown.splitlines() if "[sweep-lr2-seed0]" in line]
    (revision,) = re.findall(r"[0-9a-f]{7}", row)
    scores = [
        json.loads(experiments.git("show", f"{revision}:metrics/{name}.json"))["val_perplexity"]
        for name in VARIANTS
    ]
    assert row.split()[-4:] == [*(f"{score:.5g}" for score in scores), "2"]


def test_readme_has_command() -> None:
    assert SHOW in (PROJECT / "docs/experiments.md").read_text("utf-8")
