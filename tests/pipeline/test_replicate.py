"""The stages train and replicate run the same training with different seeds and outputs.

test_crash.py kills both. Here they run in the process of the test.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from gru_lm.core.errors import MissingFile, UserError
from gru_lm.data.prepared import SPLITS, Prepared
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.evaluation.perplexity import evaluate
from gru_lm.models.base import BEST, CONFIG, WEIGHTS, load_model
from gru_lm.results.training import TIMES_TRAINED
from gru_lm.training.loop import Diverged
from stages import replicate, train

PROJECT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("process_wide_settings")
SELECTED = [("scratch", "last"), ("concise", "best_val"), ("fused", "best_val")]
Run = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a project with prepared data of random text, which can only be memorised."""
    text = "".join(np.random.default_rng(0).choice(list("abcde fgh"), 420))
    vocabulary = Vocabulary.build(text)
    tokens = vocabulary.encode(text)
    splits = {"train": tokens[:200], "val": tokens[200:300], "test": tokens[300:]}
    Prepared.write(vocabulary, splits, tmp_path / "data/prepared")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a stage with arguments and changes of ``train``'s params."""

    def run_stage(stage: ModuleType, *arguments: str, **changes: Any) -> Path:
        params = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
        params["device"] = "cpu"
        params["model"]["hidden_size"] = 24
        params["train"] |= {"epochs": 7, "batch_size": 4, "num_steps": 5, "validate_every": 3}
        params["train"] |= {"optimizer": "adam", "lr": 0.03, "seed": 5} | changes
        (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        monkeypatch.setattr(sys, "argv", [stage.__name__, *arguments])
        stage.main()
        return folder

    return run_stage


def read(folder: Path, path: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / path).read_text(encoding="utf-8"))
    return document


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def weights_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of a model's files, including those of the best epoch."""
    names = [f"{part}{name}" for part in ("", f"{BEST}/") for name in (WEIGHTS, CONFIG)]
    return {name: (folder / name).read_bytes() for name in names}


def scores_of_model(folder: Path, variant: str) -> dict[str, Any]:
    """Return the metrics of stages.evaluate for the model of stages.train."""
    prepared = Prepared(folder / "data/prepared")
    model = load_model(folder / "training" / variant, prepared.vocabulary.fingerprint)
    return {name: evaluate(model, prepared.tokens(name)).as_metrics() for name in SPLITS}


@pytest.mark.parametrize(("variant", "select"), SELECTED)
def test_train_and_replicate_agree_for_same_seed(
    variant: str, select: str, run: Run, folder: Path
) -> None:
    run(train, "--variant", variant, select=select)
    run(replicate, "--variant", variant, "--seed", "5", select=select)
    trained = read(folder, f"training/{variant}/training.json")
    assert trained["selected_epoch"] == (7 if select == "last" else trained["best_val"]["epoch"])
    assert trained["best_val"]["epoch"] < 7, "both choices are the same: the test says little"
    assert read(folder, f"analysis/replicate/{variant}-5.json") == {
        "variant": variant,
        "seed": 5,
        "train_perplexity": trained["perplexity"],
        "best_val": trained["best_val"],
        "epochs": 7,
        "selected_epoch": trained["selected_epoch"],
        "scores": scores_of_model(folder, variant),
    }
    kept = weights_of(folder / "training" / variant)
    assert weights_of(folder / f"analysis/replicate/{variant}/5") == kept
    assert (kept[WEIGHTS] == kept[f"{BEST}/{WEIGHTS}"]) == (select == "best_val")


def test_seed_option_overrides_params(run: Run, folder: Path) -> None:
    figures = {}
    for given, in_params in ((6, 5), (6, 6), (6, 7), (7, 5)):
        run(replicate, "--variant", "scratch", "--seed", str(given), seed=in_params)
        path = folder / f"analysis/replicate/scratch-{given}.json"
        figures[given, in_params] = path.read_bytes()
        path.unlink()
    assert figures[6, 5] == figures[6, 6] == figures[6, 7]
    run(train, "--variant", "scratch", seed=7)
    perplexity = read(folder, "training/scratch/training.json")["perplexity"]
    assert json.loads(figures[7, 5])["train_perplexity"] == perplexity
    assert json.loads(figures[6, 5])["train_perplexity"] != perplexity


def test_replicate_outputs(run: Run, folder: Path) -> None:
    before = files(folder) | {"params.yaml"}
    run(replicate, "--variant", "concise", "--seed", "0")
    weights = {f"{part}{name}" for part in ("", f"{BEST}/") for name in (WEIGHTS, CONFIG)}
    new = files(folder) - before
    [kept] = [name for name in new if name.startswith(".checkpoints/")]
    assert "/finished-" in kept
    assert new - {kept} == {
        "analysis/replicate/concise-0.json",
        *(f"analysis/replicate/concise/0/{name}" for name in {*weights, TIMES_TRAINED}),
    }


def test_training_logs_curves_and_summary(run: Run, folder: Path) -> None:
    run(train, "--variant", "fused")
    curves = {}
    for name in ("train", "val"):
        path = folder / f"training/fused/{name}.tsv"
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t")
            curves[name] = {int(row["step"]): float(row["perplexity"]) for row in rows}
    assert list(curves["train"]) == [1, 2, 3, 4, 5, 6, 7]
    assert list(curves["val"]) == [3, 6, 7]
    assert not list((folder / "live").glob("*")), "what DVC follows ends with the training"
    best = min(curves["val"], key=lambda epoch: curves["val"][epoch])
    metrics = read(folder, "training/fused/training.json")
    assert metrics.pop("parameters") > 0
    assert metrics.pop("tokens") > 0
    steps = metrics.pop("steps")
    assert metrics == {
        "perplexity": curves["train"][7],
        "val_perplexity": curves["val"][7],
        "best_val": {"epoch": best, "step": steps * best // 7, "perplexity": curves["val"][best]},
        "epochs": 7,
        "seed": 5,
        "selected_epoch": 7,
        "selected_step": steps,
        "axis": "epoch",
    }


def test_infinite_last_validation_is_null(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([5.0, 4.0, float("inf")])
    monkeypatch.setattr("gru_lm.training.loop.validate", lambda *_: next(looks))
    run(train, "--variant", "scratch")
    metrics = read(folder, "training/scratch/training.json")
    assert (metrics["val_perplexity"], metrics["selected_epoch"]) == (None, 7)
    assert metrics["best_val"]["epoch"] == 6 and metrics["best_val"]["perplexity"] == 4.0


def test_divergence_writes_no_results(run: Run, folder: Path) -> None:
    with pytest.raises(Diverged, match=r"train\.lr"):
        run(
            replicate,
            *("--variant", "scratch", "--seed", "1"),
            **{"optimizer": "sgd", "lr": 1000.0, "clip_norm": None, "epochs": 200},
        )
    assert not (folder / "analysis").exists()


@pytest.mark.parametrize("seed", ["-1", str(2**32)])
def test_invalid_seed_is_refused(seed: str, run: Run, folder: Path) -> None:
    with pytest.raises(UserError, match=f"--seed = {seed}: must be 0 to 4294967295"):
        run(replicate, "--variant", "scratch", "--seed", seed)
    assert not (folder / "analysis").exists()


@pytest.mark.parametrize("split", SPLITS)
def test_missing_split_stops_before_training(
    split: str, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("it trains")

    monkeypatch.setattr("gru_lm.training.run.TrainingRun.train", never)
    (folder / f"data/prepared/{split}.npy").unlink()
    with pytest.raises(MissingFile, match=rf"{split}\.npy is missing"):
        run(replicate, "--variant", "scratch", "--seed", "1")
