"""The summary over seeds agrees with values computed by hand, and the stage collects it."""

import json
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import PROJECT

from gru_lm.core.errors import DamagedFile, UnusableFile, UserError
from gru_lm.core.files import read_json, write_json
from gru_lm.evaluation.seeds import Run, spread, summarise
from gru_lm.results.scores import Score, Scores
from gru_lm.results.seeds import Spread, Summary
from gru_lm.results.training import Best
from stages import summarise as stage

VARIANTS = ("scratch", "concise", "fused")
SPLITS = ("train", "val", "test")


def test_spread_by_hand():
    # mean 5; deviations -3, -1, -1, 5: squares sum to 36, over 3 is 12
    assert spread([2.0, 4.0, 4.0, 10.0]).model_dump() == pytest.approx(
        {"mean": 5, "sd": 12**0.5, "min": 2, "max": 10, "median": 4}, rel=1e-15
    )
    assert spread([4.0, 1.0]).model_dump() == pytest.approx(
        {"mean": 2.5, "sd": 4.5**0.5, "min": 1, "max": 4, "median": 2.5}, rel=1e-15
    )
    assert spread([7.0, 7.0, 7.0]) == Spread(mean=7, sd=0, min=7, max=7, median=7)


def test_one_value_has_no_deviation():
    assert spread([7.5]) == Spread(mean=7.5, sd=None, min=7.5, max=7.5, median=7.5)


def test_spread_equals_numpy():
    values = np.random.default_rng(0).normal(100, 5, size=11)
    result = spread(values.tolist())
    assert result.mean == pytest.approx(values.mean(), rel=1e-14)
    assert result.sd == pytest.approx(values.std(ddof=1), rel=1e-12)
    assert result.median == np.median(values)


def test_summary_of_two_runs_by_hand():
    def scored(perplexity, bits):
        """Return scores that differ by split, so mix-ups are detected."""
        splits = {"train": (0, 97), "val": (1, 98), "test": (2, 99)}
        return Scores(
            **{
                name: Score(perplexity=perplexity + add, bits_per_token=bits + add, tokens=tokens)
                for name, (add, tokens) in splits.items()
            }
        )

    runs = [
        Run(1.0, Best(epoch=10, step=90, perplexity=4.0), scored(8.0, 3.0)),
        Run(2.0, Best(epoch=20, step=180, perplexity=8.0), scored(16.0, 4.0)),
    ]
    assert summarise(runs).model_dump() == {
        **{
            name: {
                "perplexity": {
                    "mean": 12 + add,
                    "sd": 32**0.5,
                    "min": 8 + add,
                    "max": 16 + add,
                    "median": 12 + add,
                },
                "bits_per_token": {
                    "mean": 3.5 + add,
                    "sd": 0.5**0.5,
                    "min": 3 + add,
                    "max": 4 + add,
                    "median": 3.5 + add,
                },
                "tokens": tokens,
            }
            for name, add, tokens in (("train", 0, 97), ("val", 1, 98), ("test", 2, 99))
        },
        "training_perplexity": {"mean": 1.5, "sd": 0.5**0.5, "min": 1, "max": 2, "median": 1.5},
        "best_val": {
            "epoch": {"mean": 15, "sd": 50**0.5, "min": 10, "max": 20, "median": 15},
            "step": {"mean": 135, "sd": 4050**0.5, "min": 90, "max": 180, "median": 135},
            "perplexity": {"mean": 6, "sd": 8**0.5, "min": 4, "max": 8, "median": 6},
            "bits_per_token": {"mean": 2.5, "sd": 0.5**0.5, "min": 2, "max": 3, "median": 2.5},
        },
    }


def test_best_epoch_is_none_if_missing_in_a_run():
    score = Score(perplexity=8.0, bits_per_token=3.0, tokens=99)
    same = Scores(train=score, val=score, test=score)
    best = Best(epoch=10, step=90, perplexity=4.0)
    assert summarise([Run(1.0, best, same), Run(1.0, None, same)]).best_val is None
    assert summarise([Run(1.0, best, same)]).best_val is not None


# ------------------------------------------------------------------------------------ the stage


def figure(variant, seed, split):
    """Return a different perplexity for each run, so mix-ups are detected."""
    return 100.0 * VARIANTS.index(variant) + 10 * SPLITS.index(split) + 2.0**seed


def training(variant, seed):
    return 1000.0 + 100 * VARIANTS.index(variant) + 2.0**seed


def scores(variant, seed):
    return {
        split: {
            "perplexity": figure(variant, seed, split),
            "bits_per_token": figure(variant, seed, split) / 2,
            "tokens": 10 + SPLITS.index(split),
        }
        for split in SPLITS
    }


BASELINES = {
    name: {
        split: {"perplexity": perplexity, "bits_per_token": bits, "tokens": 9} for split in SPLITS
    }
    for name, perplexity, bits in (("uniform", 32.0, 5.0), ("xz", None, 2000.0))
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Make a folder with seed 5 as the models' results and seeds 1, 2 and 5 as replicates."""
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    for variant in VARIANTS:
        metrics = {"perplexity": training(variant, 5), "val_perplexity": 25.0, "epochs": 9}
        metrics |= {"seed": 5, "selected_epoch": 9, "parameters": 9}
        metrics["best_val"] = {"epoch": 8, "step": 72, "perplexity": 24.0}
        metrics |= {"steps": 81, "selected_step": 81, "tokens": 999, "axis": "epoch"}
        write_json(tmp_path / f"metrics/train/{variant}.json", metrics)
        write_json(tmp_path / f"metrics/evaluate/{variant}.json", scores(variant, 5))
        for seed in (1, 2, 5):
            replicate = {
                "variant": variant,
                "seed": seed,
                # The mean would differ if seed 5 were taken from here, or twice.
                "train_perplexity": 1.0 if seed == 5 else training(variant, seed),
                "epochs": 3,
                "best_val": {"epoch": 2, "step": 18, "perplexity": 12.0},
                "selected_epoch": 3,
                "scores": scores(variant, seed),
            }
            write_json(tmp_path / f"analysis/replicate/{variant}-{seed}.json", replicate)
    write_json(tmp_path / "analysis/baselines.json", BASELINES)
    return tmp_path


def run_stage_with(project, train_seed, replicate_seeds):
    path = project / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    params["train"]["seed"] = train_seed
    params["replicate"]["seeds"] = replicate_seeds
    path.write_text(yaml.safe_dump(params), encoding="utf-8")
    stage.main()
    path = project / "analysis/summary.json"
    assert Summary.read(path).model_dump() == read_json(path)
    return read_json(path)


@pytest.mark.parametrize(
    ("replicates", "seeds"),
    [([1, 2], [5, 1, 2]), ([2, 5, 1], [5, 2, 1]), ([5], [5])],
)
def test_seeds_count_once(project, replicates, seeds):
    summary = run_stage_with(project, 5, replicates)
    assert list(summary) == ["seeds", "models", "baselines"]
    assert summary["seeds"] == seeds
    assert summary["baselines"] == BASELINES
    best = [24.0, *(12.0 for seed in seeds[1:])]
    for model in summary["models"].values():
        assert model["best_val"]["perplexity"]["mean"] == statistics.fmean(best)
        assert model["best_val"]["epoch"]["max"] == 8
    assert list(summary["models"]) == list(VARIANTS)

    def expected(values):
        return {
            "mean": sum(values) / len(values),
            "sd": statistics.stdev(values) if len(values) > 1 else None,
            "min": min(values),
            "max": max(values),
            "median": float(np.median(values)),
        }

    for variant, model in summary["models"].items():
        trainings = [training(variant, seed) for seed in seeds]
        assert model["training_perplexity"] == pytest.approx(expected(trainings))
        for split in SPLITS:
            values = [figure(variant, seed, split) for seed in seeds]
            assert model[split]["perplexity"] == pytest.approx(expected(values))
            bits = [value / 2 for value in values]
            assert model[split]["bits_per_token"] == pytest.approx(expected(bits))
            assert model[split]["tokens"] == 10 + SPLITS.index(split)


@pytest.mark.parametrize(
    "path",
    [
        "metrics/train/scratch.json",
        "metrics/evaluate/fused.json",
        "analysis/replicate/concise-2.json",
        "analysis/baselines.json",
    ],
)
@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_missing_or_damaged_file_is_named(project, path, content):
    if content is None:
        (project / path).unlink()
    else:
        (project / path).write_text(content, encoding="utf-8")
    with pytest.raises(UnusableFile, match=rf"^{path} is (missing|damaged)") as caught:
        run_stage_with(project, 5, [1, 2])
    assert caught.value.path == Path(path)
    assert not (project / "analysis/summary.json").exists()


def change(path, key, value):
    document = json.loads(path.read_text(encoding="utf-8"))
    section = document
    *outer, last = key.split(".")
    for name in outer:
        section = section[name]
    section[last] = value
    path.write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.parametrize(
    ("path", "key", "value", "why"),
    [
        ("metrics/train/scratch.json", "seed", 0, "its seed is not 5"),
        ("analysis/replicate/fused-1.json", "seed", 2, "it is not the result of fused with seed 1"),
        (
            "analysis/replicate/fused-1.json",
            "variant",
            "scratch",
            "it is not the result of fused with seed 1",
        ),
        (
            "metrics/train/scratch.json",
            "perplexity",
            0.99,
            "perplexity: Input should be greater than or equal to 1",
        ),
        (
            "metrics/train/scratch.json",
            "best_val.perplexity",
            0,
            "best_val.perplexity: Input should be greater than or equal to 1",
        ),
        (
            "metrics/evaluate/fused.json",
            "val.perplexity",
            -1,
            "val.perplexity: Input should be greater than or equal to 1",
        ),
        (
            "analysis/replicate/fused-1.json",
            "train_perplexity",
            0,
            "train_perplexity: Input should be greater than or equal to 1",
        ),
        ("analysis/baselines.json", "unigram", float("nan"), "NaN is not a number"),
    ],
)
def test_file_of_another_run_is_named(project, path, key, value, why):
    change(project / path, key, value)
    with pytest.raises(UserError) as refused:
        run_stage_with(project, 5, [1, 2])
    assert f"{path} is damaged ({why})" in str(refused.value)
    assert not (project / "analysis/summary.json").exists()


def test_runs_on_different_splits_are_refused(project):
    change(project / "metrics/evaluate/scratch.json", "val.tokens", 7)
    with pytest.raises(UserError, match=r"val splits of different sizes \(7, 11 tokens\)"):
        run_stage_with(project, 5, [1, 2])
    assert not (project / "analysis/summary.json").exists()


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("metrics/train/scratch.json", ["perplexity"]),
        ("metrics/evaluate/fused.json", ["val", "tokens"]),
        ("analysis/replicate/concise-2.json", ["train_perplexity"]),
        ("analysis/replicate/concise-2.json", ["scores", "test", "perplexity"]),
        ("analysis/replicate/concise-2.json", ["scores", "test"]),
        ("analysis/baselines.json", ["uniform", "val", "tokens"]),
    ],
)
@pytest.mark.parametrize("value", [None, "1.5", True, []])
def test_invalid_figure_is_named(project, path, keys, value):
    document = json.loads((project / path).read_text(encoding="utf-8"))
    section = document
    for key in keys[:-1]:
        section = section[key]
    section[keys[-1]] = value
    (project / path).write_text(json.dumps(document), encoding="utf-8")
    named = r"\.".join(keys)
    with pytest.raises(DamagedFile, match=rf"{path} is damaged \({named}: .*valid") as caught:
        run_stage_with(project, 5, [1, 2])
    assert caught.value.path == Path(path)
    assert not (project / "analysis/summary.json").exists()
