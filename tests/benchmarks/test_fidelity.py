"""The comparisons of trainings are computed correctly, and one epoch runs."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from benchmarks.common import PARAMS, RESULTS, sample_corpus
from benchmarks.fidelity import seeds, trajectory
from gru_lm.core.variants import Variant
from gru_lm.data.prepared import Prepared

VARIANTS = [Variant(name) for name in ("scratch", "concise", "fused")]


def run(variant: str, precision: str, seed: int, final: float = 1.0) -> dict[str, Any]:
    return {"variant": variant, "precision": precision, "seed": seed, "final_perplexity": final}


def test_new_runs_replace_earlier_ones() -> None:
    earlier = [run("fused", "fp32", 0), run("scratch", "fp32", 10), run("scratch", "fp32", 2)]
    new = [run("scratch", "fp32", 2, final=3.0), run("concise", "bf16", 0)]
    assert seeds.merged(earlier, new, VARIANTS) == [new[0], earlier[1], new[1], earlier[0]]


def test_committed_runs_are_sorted() -> None:
    runs = json.loads((RESULTS / "seeds.json").read_text())["runs"]
    assert seeds.merged(runs, [], VARIANTS) == runs


def test_committed_summary_matches_runs() -> None:
    result = json.loads((RESULTS / "seeds.json").read_text())
    assert result["held_out"] == list(seeds.held_out_spreads(result["runs"]))
    assert all(one["ends_in_a_spike"] == seeds.ends_in_a_spike(one) for one in result["runs"])


@pytest.mark.parametrize("last, spike", [(1.05, False), (1.0501, True), (0.9, False), (9, True)])
def test_spike_threshold(last, spike) -> None:
    assert seeds.ends_in_a_spike({"final_perplexity": last, "median_of_last_50": 1.0}) == spike


def test_best_weights_have_lowest_validation_perplexity(tmp_path, monkeypatch) -> None:
    """The validation text is different, so its perplexity rises while the model memorises."""
    corpus = sample_corpus()
    tokens = corpus.tokens.numpy().astype("uint8")
    splits = {"train": tokens[:60], "val": tokens[4000:4300], "test": tokens[5000:5200]}
    Prepared.write(corpus.vocabulary, splits, tmp_path)
    document = PARAMS.read_text().replace("batch_size: 32 ", "batch_size: 2 ")
    document = document.replace("num_steps: 35 ", "num_steps: 5 ").replace(
        "hidden_size: 256", "hidden_size: 16"
    )
    (tmp_path / "params.yaml").write_text(
        document.replace("validate_every: 5 ", "validate_every: 1 ")
    )
    monkeypatch.setattr(seeds, "PREPARED", tmp_path)
    monkeypatch.setattr(seeds, "PARAMS", tmp_path / "params.yaml")
    reached = seeds.run(Variant("concise"), "fp32", 0, epochs=60)
    best, last = reached["best"], reached["last"]
    assert 0 < best["epoch"] < last["epoch"] == 60
    assert best["val"]["perplexity"] < 0.9 * last["val"]["perplexity"]
    until_then = seeds.run(Variant("concise"), "fp32", 0, epochs=best["epoch"])
    assert until_then["last"] == best


def test_means_skip_unmeasured_runs() -> None:
    def measured(seed: int, bits: float) -> dict[str, Any]:
        calibration = {"ece": 0.5, "accuracy": 0.25, "confidence": 0.75}
        split = {"bits_per_token": bits}
        one = {"epoch": 5, "val": split, "test": split, "test_calibration": calibration}
        return {**run("scratch", "fp32", seed), "last": one, "best": one}

    runs = [measured(0, 3.0), run("scratch", "fp32", 1), measured(2, 4.0), run("fused", "fp32", 0)]
    last, best = seeds.held_out_spreads(runs)
    assert (last["weights"], best["weights"]) == ("last", "best")
    assert last["seeds"] == [0, 2]
    assert last["val_bits_per_token"] == {"mean": 3.5, "sd": pytest.approx(0.5**0.5)}
    assert seeds.spread([2.0]) == {"mean": 2.0, "sd": None}


@pytest.mark.parametrize(
    "differences, epoch", [([0.0, 0.0], 2), ([0.0, 1e-9, 0.0], 1), ([math.nan], 0)]
)
def test_last_identical_epoch(differences, epoch) -> None:
    assert trajectory._last_within(differences, 0.0) == epoch


def test_run_trains_default_experiment(tmp_path, monkeypatch) -> None:
    corpus = sample_corpus()
    tokens = corpus.tokens[:2000].numpy().astype("uint8")
    splits = {"train": tokens, "val": tokens[:300], "test": tokens[300:500]}
    Prepared.write(corpus.vocabulary, splits, tmp_path)
    monkeypatch.setattr(seeds, "PREPARED", tmp_path)
    reached = seeds.run(Variant("fused"), "fp32", 3, epochs=2)
    assert reached["epochs"] == 2
    assert reached["final_perplexity"] < corpus.vocab_size + 1
    assert reached["share_above_1.1_of_last_50"] == 1.0
    assert (
        reached["last"]["epoch"] == reached["best"]["epoch"] == 2
    )  # the only validation is the last
    assert reached["last"] == reached["best"]
    assert [reached["last"][split]["tokens"] for split in ("val", "test")] == [299, 199]
    assert reached["last"]["val"]["perplexity"] != reached["last"]["test"]["perplexity"]
    assert 0 <= reached["last"]["test_calibration"]["ece"] < 1
    assert reached == seeds.run(Variant("fused"), "fp32", 3, epochs=2)
    assert (
        reached["final_perplexity"]
        != seeds.run(Variant("fused"), "fp32", 4, epochs=2)["final_perplexity"]
    )
