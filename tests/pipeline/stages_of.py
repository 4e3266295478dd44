"""The stages of the small pipeline by kind, for the tests of the pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from conftest import PROJECT, SMALL, Pipeline

VARIANTS = ("scratch", "concise", "fused")
SPLITS = ("train", "val", "test")


def by_variant(*stages: str) -> list[str]:
    return [f"{stage}@{variant}" for stage in stages for variant in VARIANTS]


REPLICATES = [f"replicate@{v}-{seed}" for v in VARIANTS for seed in SMALL["replicate.seeds"]]
FROM_MODELS = by_variant("sample", "export", "gates")
MAIN = ["params", "fetch", "prepare", *by_variant("train", "evaluate", "sample"), "plot"]
ANALYSIS = [*REPLICATES, "baseline", "summarise", *by_variant("gates", "export"), "draw", "report"]
STAGES = [*MAIN, *ANALYSIS]


def declared(pipeline: str) -> dict[str, Any]:
    """Return the stages as written in dvc.yaml or analysis/dvc.yaml."""
    stages: dict[str, Any] = yaml.safe_load((PROJECT / pipeline).read_text("utf-8"))["stages"]
    return stages


def read_json(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def is_timing(path: str) -> bool:
    """Return whether two equal runs can differ in this output."""
    return path.startswith(("metrics/timing/", "training/")) or path in (
        "plots/speed.png",
        "reports/index.html",
    )


FOLDERS = ("data", "training", "models", "metrics", "analysis", "samples", "plots", "exports")


def output_files(root: Path) -> dict[str, bytes]:
    """Return all results in ``root`` by name."""
    paths = [path for folder in (*FOLDERS, "reports") for path in (root / folder).rglob("*")]
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in paths
        if path.is_file() and path.name not in (".gitignore", "dvc.yaml", "dvc.lock")
    }


def status(pipeline: Pipeline) -> dict[str, object]:
    found: dict[str, object] = json.loads(pipeline.dvc("status", "--json"))
    return found
