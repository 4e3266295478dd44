"""The LSTM of docs/new-variant.md is in every result if you follow the page exactly."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from conftest import PROJECT, SMALL, Pipeline, ran
from ruamel.yaml import YAML

# The session's run, or that of the LSTM, is made within the first test that asks for it.
pytestmark = pytest.mark.timeout(900)

PAGE = (PROJECT / "docs/new-variant.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w/.]+)`:\n\n```python\n(.*?)^```$", PAGE, re.M | re.S))
(WORD,) = re.findall(r"^```yaml\n(variants: .*?)\n```$", PAGE, re.M)

LABEL = "lstm (nn.LSTM)"
OTHERS = {"scratch", "concise", "fused"}


@pytest.fixture(scope="module")
def repro(finished_pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    """Apply the page to a finished pipeline, and return it with the output of ``dvc repro -P``."""
    pipeline = finished_pipeline.copy(tmp_path_factory.mktemp("lstm") / "project")
    for name, code in FILES.items():
        path = pipeline.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code, encoding="utf-8")
    pipeline.set_params(YAML(typ="safe").load(WORD))
    output = pipeline.dvc("repro", "-P", timeout=600)
    pipeline.commit("Add the LSTM")
    return pipeline, output


@pytest.fixture(scope="module")
def pipeline(repro: tuple[Pipeline, str]) -> Pipeline:
    return repro[0]


def read_json(path: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return tree


def test_page_adds_one_folder_and_one_param() -> None:
    assert {Path(name).parent.as_posix() for name in FILES} == {"src/gru_lm/models/lstm"}
    assert len(FILES) == 3
    params = YAML(typ="safe").load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    assert YAML(typ="safe").load(WORD) == {"variants": [*params["variants"], "lstm"]}


def test_other_variants_are_not_retrained(repro: tuple[Pipeline, str]) -> None:
    stages = ran(repro[1])
    names = {name.rpartition(":")[2] for name in stages}
    assert {f"{stage}@lstm" for stage in ("train", "evaluate", "sample", "gates", "export")} < names
    assert f"replicate@lstm-{SMALL['replicate.seeds'][0]}" in names
    assert {"plot", "summarise", "draw", "report"} < names
    assert not [name for name in names if name.partition("@")[2].partition("-")[0] in OTHERS]
    assert "up to date" in repro[0].dvc("status")


def test_new_variant_passes_common_tests(pipeline: Pipeline) -> None:
    name = "tests/models/test_every_variant.py"
    assert f"pytest {name}" in PAGE
    (pipeline.root / "tests/models").mkdir(parents=True)
    for path in (name, "tests/trainings.py", "pyproject.toml"):
        (pipeline.root / path).write_bytes((PROJECT / path).read_bytes())
    project = Pipeline(pipeline.root, pipeline.env | {"PYTHONPATH": "tests"})
    result = project.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", name, "-k=lstm")
    assert re.search(r"^\d{2} passed", result.stdout.splitlines()[-1])


def test_metrics_and_card(pipeline: Pipeline) -> None:
    shown = json.loads(pipeline.dvc("metrics", "show", "--json"))
    assert "metrics/lstm.json" in next(iter(shown.values()))["data"]
    scores = read_json(pipeline.root / "metrics/evaluate/lstm.json")
    assert scores["test"]["tokens"] == SMALL["prepare.split.test"] - 1
    assert 1 < scores["test"]["perplexity"] < 28
    assert read_json(pipeline.root / "models/lstm/card.json") == {
        "variant": "lstm",
        "label": LABEL,
        "description": "PyTorch's own nn.LSTM",
        "textbook_perplexity": None,
        "has_gates": False,
    }
    summary = read_json(pipeline.root / "analysis/summary.json")
    assert list(summary["models"]) == ["scratch", "concise", "fused", "lstm"]
    curve = (pipeline.root / "plots/train/lstm.tsv").read_text(encoding="utf-8").splitlines()
    assert len(curve) == 1 + SMALL["train.epochs"]


def test_samples(pipeline: Pipeline) -> None:
    texts = (pipeline.root / "samples/lstm.txt").read_text(encoding="utf-8")
    assert texts.startswith("greedy\n  time traveller")
    assert pipeline.stage("sample", "--variant", "lstm", "--prefix", "time").startswith("time")


def test_onnx_file(pipeline: Pipeline) -> None:
    found = read_json(pipeline.root / "metrics/export/lstm.json")
    assert found["max_logit_difference"] < 1e-4
    session = onnxruntime.InferenceSession(str(pipeline.root / "exports/lstm.onnx"))
    state = np.zeros((2, 2 * SMALL["model.hidden_size"]), np.float32)
    feed = {"tokens": np.ones((2, 5), np.int64), "state": state}
    logits, last = session.run(["logits", "next_state"], feed)
    assert logits.shape == (2, 5, 28)
    assert last.shape == state.shape and last.any()


def test_gates_are_left_out(repro: tuple[Pipeline, str]) -> None:
    pipeline, output = repro
    lines = [line for line in output.splitlines() if "no gates" in line]
    assert "gates@lstm: lstm has no gates to read: left out" in lines
    assert len(lines) <= 3  # once each by gates, draw and report
    assert read_json(pipeline.root / "analysis/gates/lstm.json") == {
        "left_out": "lstm has no gates to read"
    }


def test_stack_is_refused_before_training(pipeline: Pipeline, tmp_path: Path) -> None:
    """The folder has no recurrent.py."""
    other = pipeline.copy(tmp_path / "other")
    other.set_params({"variants": ["scratch", "lstm"], "model.num_layers": 2})
    result = other.run("python", "-m", "stages.params", code=1)
    assert result.stderr.startswith("params: error: model.num_layers = 2: lstm has no layer")
    assert len(result.stderr.splitlines()) == 1
    other.set_params({"variants": ["scratch", "concise"]})
    other.stage("params")


def test_pictures(pipeline: Pipeline, tmp_path: Path) -> None:
    """The pictures differ without the LSTM."""
    without = pipeline.copy(tmp_path / "without")
    without.set_params({"variants": ["scratch", "concise", "fused"]})
    without.stage("plot")
    for name in ("training", "overfitting", "coverage", "calibration", "uncertainty", "speed"):
        mine, others = (
            (one.root / f"plots/{name}.png").read_bytes() for one in (pipeline, without)
        )
        assert mine.startswith(b"\x89PNG\r\n\x1a\n")
        assert mine != others, name


def test_report(pipeline: Pipeline) -> None:
    page = (pipeline.root / "reports/index.html").read_text(encoding="utf-8")
    assert "own nn.LSTM" in page  # its description
    # A row of the figures, the other tables, and a text for each way of sampling.
    params = YAML(typ="safe").load((pipeline.root / "params.yaml").read_text(encoding="utf-8"))
    assert page.count(">lstm<") >= 2 + 1 + len(params["sample"]["temperatures"])


def test_comparison(pipeline: Pipeline) -> None:
    pipeline.run("python", "-m", "tools.compare", "workspace")
    table = (pipeline.root / "comparison/compare.md").read_text(encoding="utf-8")
    assert re.search(r"^.*\blstm\b.*\d\.\d", table, re.M)


def test_single_variant(pipeline: Pipeline, tmp_path: Path) -> None:
    assert "dvc exp run -S 'variants=[lstm]'" in PAGE
    alone = pipeline.copy(tmp_path / "alone")
    alone.set_params({"variants": ["lstm"]})
    names = {name.rpartition(":")[2] for name in ran(alone.dvc("repro", "-P", timeout=600))}
    assert names == {"params", "plot", "summarise", "draw", "report"}
    page = (alone.root / "reports/index.html").read_text(encoding="utf-8")
    assert ">lstm<" in page and ">scratch<" not in page
    assert list(read_json(alone.root / "analysis/summary.json")["models"]) == ["lstm"]
