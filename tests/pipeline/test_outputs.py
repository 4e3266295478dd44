"""The results of one run of both pipelines, on the bundled corpus and with small models."""

from __future__ import annotations

import csv
import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import PROJECT, SMALL, Pipeline
from safetensors.numpy import load_file
from stages_of import SPLITS, STAGES, VARIANTS, declared, read_json

# The session's run is made within the first test that asks for it.
pytestmark = pytest.mark.timeout(600)

PICTURES = [path for out in declared("dvc.yaml")["plot"]["plots"] for path in out]


def read_tsv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_corpus_is_the_chosen_one(finished_pipeline: Pipeline) -> None:
    raw = (finished_pipeline.root / "data/raw/corpus.txt").read_bytes()
    assert raw == (PROJECT / "corpora/sample.txt").read_bytes()
    assert read_json(finished_pipeline.root / "data/raw/corpus.json") == {
        "corpus": "sample",
        "sha256": hashlib.sha256(raw).hexdigest(),
        "bytes": len(raw),
    }


def test_vocabulary_fits_splits(finished_pipeline: Pipeline) -> None:
    prepared = finished_pipeline.root / "data/prepared"
    tokens = read_json(prepared / "vocab.json")["tokens"]
    assert tokens[0] == "<unk>"
    assert sorted(tokens[1:]) == [" ", *"abcdefghijklmnopqrstuvwxyz"]
    text = ""
    for split in SPLITS:
        numbers = np.load(prepared / f"{split}.npy", allow_pickle=False)
        assert numbers.shape == (SMALL[f"prepare.split.{split}"],)
        assert numbers.dtype.kind == "u"
        text += "".join(tokens[number] for number in numbers)
    raw = (PROJECT / "corpora/sample.txt").read_text(encoding="utf-8").lower()
    letters = "".join(character for character in raw if "a" <= character <= "z")
    assert letters.startswith(text.replace(" ", ""))


@pytest.mark.parametrize("variant", VARIANTS)
def test_trained_model_is_complete(variant: str, finished_pipeline: Pipeline) -> None:
    folder = finished_pipeline.root / "models" / variant
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")) == [
        "best/config.json",
        "best/model.safetensors",
        "card.json",
        "config.json",
        "model.safetensors",
        "token_counts.npy",
    ]
    config = read_json(folder / "config.json")
    hidden_size = SMALL["model.hidden_size"]
    assert (config["variant"], config["hidden_size"]) == (variant, hidden_size)
    weights = load_file(folder / "model.safetensors")
    assert all(np.isfinite(weight).all() for weight in weights.values())
    trained = read_json(finished_pipeline.root / f"metrics/train/{variant}.json")
    assert trained["parameters"] == sum(weight.size for weight in weights.values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_curve_has_one_row_per_epoch(variant: str, finished_pipeline: Pipeline) -> None:
    root = finished_pipeline.root
    rows = read_tsv(root / f"plots/train/{variant}.tsv")
    assert {"step", "perplexity"} <= rows[0].keys()
    assert [int(row["step"]) for row in rows] == [1, 2, 3]
    looks = read_tsv(root / f"plots/val/{variant}.tsv")
    assert [int(row["step"]) for row in looks] == [2, 3]
    curve = [float(row["perplexity"]) for row in rows]
    assert curve == sorted(curve, reverse=True), "three epochs should each improve on the last"
    trained = read_json(root / f"metrics/train/{variant}.json")
    assert trained["epochs"] == len(rows)
    assert trained["perplexity"] == curve[-1]
    assert not (root / "live").exists() or not any((root / "live").iterdir())


@pytest.mark.parametrize("variant", VARIANTS)
def test_headline_matches_results(variant: str, finished_pipeline: Pipeline) -> None:
    metrics = finished_pipeline.root / "metrics"
    training = read_json(metrics / f"train/{variant}.json")
    scores = read_json(metrics / f"evaluate/{variant}.json")
    assert read_json(metrics / f"{variant}.json") == {
        "training_perplexity": training["perplexity"],
        "val_perplexity": scores["val"]["perplexity"],
        "test_perplexity": scores["test"]["perplexity"],
        "best_val_perplexity": training["best_val"]["perplexity"],
        "best_epoch": training["best_val"]["epoch"],
    }


@pytest.mark.parametrize("name", VARIANTS)
def test_evaluation_covers_each_split(name: str, finished_pipeline: Pipeline) -> None:
    scores = read_json(finished_pipeline.root / f"metrics/evaluate/{name}.json")
    assert list(scores) == list(SPLITS)
    for split, score in scores.items():
        assert score.keys() == {"perplexity", "bits_per_token", "tokens"}
        assert score["tokens"] == SMALL[f"prepare.split.{split}"] - 1
        assert 1 < score["perplexity"] < 28
        assert math.log2(score["perplexity"]) == pytest.approx(score["bits_per_token"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_timing_names_device(variant: str, finished_pipeline: Pipeline) -> None:
    timing = read_json(finished_pipeline.root / f"metrics/timing/{variant}.json")
    assert {"tokens_per_second", "seconds", "device"} <= timing.keys()
    assert timing["tokens_per_second"] > 0
    assert timing["seconds"] > 0
    assert "CPU" in timing["device"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_samples_continue_prefixes(variant: str, finished_pipeline: Pipeline) -> None:
    params = yaml.safe_load((finished_pipeline.root / "params.yaml").read_text())["sample"]
    lines = (finished_pipeline.root / f"samples/{variant}.txt").read_text().splitlines()
    for prefix in params["prefixes"]:
        texts = [line.strip(" ") for line in lines if line.strip().startswith(prefix)]
        assert len(texts) == 1 + len(params["temperatures"])
    drawn = [
        line.removeprefix("  ").replace("<unk>", "?") for line in lines if line.startswith("  ")
    ]
    lengths = [len(prefix) + params["length"] for prefix in params["prefixes"]]
    assert [len(text) for text in drawn] == lengths * (1 + len(params["temperatures"]))


def test_pictures_are_png(finished_pipeline: Pipeline) -> None:
    root = finished_pipeline.root
    drawn = [*(root / "plots").glob("*.png"), *(root / "analysis/plots").iterdir()]
    assert {path.relative_to(root).as_posix() for path in drawn} > set(PICTURES)
    assert {f"gates-{variant}.png" for variant in VARIANTS} < {path.name for path in drawn}
    for path in drawn:
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        assert data.endswith(b"IEND\xaeB`\x82")


def test_declared_outputs_equal_written_files(finished_pipeline: Pipeline) -> None:
    assert sorted(finished_pipeline.lock()) == sorted(STAGES)
    artifacts = yaml.safe_load((PROJECT / "dvc.yaml").read_text("utf-8"))["artifacts"]
    assert {name: artifact["path"] for name, artifact in artifacts.items()} == {
        variant: f"models/{variant}" for variant in VARIANTS
    }
    assert all(artifact["type"] == "model" for artifact in artifacts.values())


def test_pipeline_files_are_short() -> None:
    main, analysis = (
        len((PROJECT / name).read_text("utf-8").splitlines())
        for name in ("dvc.yaml", "analysis/dvc.yaml")
    )
    assert main <= 150
    assert main + analysis <= 260


def test_dvc_shows_one_row_per_variant(finished_pipeline: Pipeline) -> None:
    heading, *rows = finished_pipeline.dvc("metrics", "show").splitlines()
    assert sorted(row.split()[0] for row in rows) == sorted(f"metrics/{v}.json" for v in VARIANTS)
    assert len(heading.split()) <= 10


def test_git_ignores_timings_and_pictures(finished_pipeline: Pipeline) -> None:
    kept = finished_pipeline.git("ls-files").split()
    assert not [path for path in kept if "timing" in path or path.startswith("training/")]
    assert not [path for path in kept if path.startswith(("plots/", "analysis/")) and "png" in path]
    for variant in VARIANTS:
        assert {f"metrics/{variant}.json", f"plots/train/{variant}.tsv"} < set(kept)
