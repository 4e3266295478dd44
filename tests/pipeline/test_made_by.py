"""The command that creates a file is found from the outputs of both pipelines."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import PROJECT

import stages
from gru_lm.core.errors import DamagedFile, MissingFile
from stages import PIPELINES, made_by

VALUES = {"item.variant": "scratch", "item.seed": "1"}


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)


def declared() -> Iterator[tuple[str, str]]:
    """Return every output of both pipelines with its stage, for scratch and seed 1."""
    for pipeline in PIPELINES:
        tree: dict[str, Any] = yaml.safe_load((PROJECT / pipeline).read_text(encoding="utf-8"))
        prefix = "" if pipeline == "dvc.yaml" else f"{pipeline}:"
        for name, stage in tree["stages"].items():
            loops = [VALUES[f"item.{key}"] for key in stage.get("matrix", {})]
            target = f"{prefix}{name}{'@' if loops else ''}{'-'.join(loops)}"
            for kind in ("outs", "metrics", "plots"):
                for out in stage.get(kind, []):
                    path = out if isinstance(out, str) else next(iter(out))
                    yield re.sub(r"\$\{(item\.\w+)\}", lambda found: VALUES[found[1]], path), target


OUTPUTS = dict(declared())


def test_both_pipelines_are_covered() -> None:
    assert len(OUTPUTS) > 25
    assert {target.partition("@")[0] for target in OUTPUTS.values()} == {
        *("params", "fetch", "prepare", "train", "evaluate", "sample", "plot"),
        *(
            f"analysis/dvc.yaml:{name}"
            for name in ("replicate", "baseline", "summarise", "gates", "export", "draw", "report")
        ),
    }


@pytest.mark.parametrize("path", OUTPUTS)
def test_outputs_have_a_command(path: str) -> None:
    assert made_by(Path(path)) == f"dvc repro {OUTPUTS[path]}"


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("data/options/scratch.json", "params"),
        ("data/raw/corpus.txt", "fetch"),
        ("data/prepared/vocab.json", "prepare"),
        ("data/prepared/train.npy", "prepare"),
        ("training/fused/model.safetensors", "train@fused"),
        ("training/scratch/train.tsv", "train@scratch"),
        ("training/my-lstm/deeper/file", "train@my-lstm"),
        ("models/scratch/config.json", "evaluate@scratch"),
        ("metrics/scratch.json", "evaluate@scratch"),
        ("metrics/train/concise.json", "evaluate@concise"),
        ("metrics/evaluate/concise.json", "evaluate@concise"),
        ("metrics/timing/fused.json", "evaluate@fused"),
        ("plots/train/fused.tsv", "evaluate@fused"),
        ("samples/concise.txt", "sample@concise"),
        ("plots/training.png", "plot"),
        ("analysis/replicate/scratch-1.json", "analysis/dvc.yaml:replicate@scratch-1"),
        ("analysis/replicate/fused-23.json", "analysis/dvc.yaml:replicate@fused-23"),
        ("analysis/replicate/my-lstm-23.json", "analysis/dvc.yaml:replicate@my-lstm-23"),
        ("analysis/baselines.json", "analysis/dvc.yaml:baseline"),
        ("analysis/summary.json", "analysis/dvc.yaml:summarise"),
        ("analysis/gates/fused.npz", "analysis/dvc.yaml:gates@fused"),
        ("exports/concise.onnx", "analysis/dvc.yaml:export@concise"),
        ("metrics/export/concise.json", "analysis/dvc.yaml:export@concise"),
        ("analysis/plots/claim.png", "analysis/dvc.yaml:draw"),
        ("reports/index.html", "analysis/dvc.yaml:report"),
    ],
)
def test_known_files(path: str, target: str) -> None:
    assert made_by(Path(path)) == f"dvc repro {target}"


@pytest.mark.parametrize(
    "path",
    [
        "params.yaml",
        "corpora/sample.txt",
        "src/gru_lm/core/files.py",
        "metrics",
        "metrics/scratch.txt",
        "metrics/scratch.json.tmp",
        "metrics/other/deeper/scratch.json",
        "analysis/replicate/scratch.json",
        "elsewhere/models/scratch/config.json",
        "models",
        "data",
        "dataXprepared/vocab.json",
        "/data/prepared/vocab.json",
        "../data/prepared/vocab.json",
        "",
    ],
)
def test_other_files_have_no_command(path: str) -> None:
    assert made_by(Path(path)) is None


STRANGE = [
    "- a",
    "stages: 3",
    "stages: [a]",
    "stages: {a: 3}",
    "stages: {a: {outs: 3, metrics: {b: c}}}",
    "stages: {a: {outs: [3, null, {}, [], {3: data}]}}",
    "a: {b: &b [*b]}",
    "#" * (1 << 21),
]


@pytest.mark.parametrize(
    "content",
    [None, "stages: [", "\xff", *STRANGE],
    ids=["none", "no YAML", "bytes", *(text[:50] for text in STRANGE)],
)
def test_no_command_without_pipelines(
    content: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A stage that runs by hand in a folder without pipelines still reports one line."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    if content is not None:
        (tmp_path / "dvc.yaml").write_bytes(content.encode("latin-1"))
    assert made_by(Path("data/prepared/vocab.json")) is None

    def main() -> None:
        raise MissingFile(Path("data/prepared/vocab.json"))

    with pytest.raises(SystemExit):
        stages.run_stage("train", main)
    assert capsys.readouterr().err == "train: error: data/prepared/vocab.json is missing\n"


@pytest.mark.parametrize("path", ["data/prepared/vocab.json", "analysis/summary.json", "README.md"])
def test_stage_error_names_command(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise DamagedFile(Path(path), "why")

    with pytest.raises(SystemExit):
        stages.run_stage("draw", main)
    command = {
        "data/prepared/vocab.json": ": delete it and recreate it with dvc repro prepare",
        "analysis/summary.json": ": delete it and recreate it with dvc repro "
        "analysis/dvc.yaml:summarise",
        "README.md": "",
    }[path]
    assert capsys.readouterr().err == f"draw: error: {path} is damaged (why){command}\n"
