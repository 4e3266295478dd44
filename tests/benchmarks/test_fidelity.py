"""The comparisons of trainings are computed correctly, and one epoch runs."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from benchmarks.common import RESULTS, sample_corpus
from benchmarks.fidelity import seeds, trajectory
from gru_lm.core.variants import Variant
from gru_lm.data.prepared import Prepared

VARIANTS = [Variant(name) for name in ("scratch", "concise", "fused")]


def run(variant: str, precision: str, seed: int, final: float = 1.0) -> dict[str, Any]:
    return {"variant": variant, "precision": precision, "seed": seed, "final_perplexity": final}


def test_new_runs_take_the_place_of_earlier_ones() -> None:
    earlier = [run("fused", "fp32", 0), run("scratch", "fp32", 10), run("scratch", "fp32", 2)]
    new = [run("scratch", "fp32", 2, final=3.0), run("concise", "bf16", 0)]
    assert seeds.merged(earlier, new, VARIANTS) == [new[0], earlier[1], new[1], earlier[0]]


def test_the_committed_runs_are_in_order() -> None:
    runs = json.loads((RESULTS / "seeds.json").read_text())["runs"]
    assert seeds.merged(runs, [], VARIANTS) == runs


@pytest.mark.parametrize(
    "differences, epoch", [([0.0, 0.0], 2), ([0.0, 1e-9, 0.0], 1), ([math.nan], 0)]
)
def test_identical_up_to_the_last_epoch_before_a_difference(differences, epoch) -> None:
    assert trajectory._last_within(differences, 0.0) == epoch


def test_a_run_from_a_seed_trains_the_default_experiment(tmp_path, monkeypatch) -> None:
    corpus = sample_corpus()
    tokens = corpus.tokens[:2000].numpy().astype("uint8")
    Prepared.write(corpus.vocabulary, {"train": tokens}, tmp_path)
    monkeypatch.setattr(seeds, "PREPARED", tmp_path)
    reached = seeds.run(Variant("fused"), "fp32", 3, epochs=2)
    assert reached["epochs"] == 2
    assert reached["final_perplexity"] < corpus.vocab_size + 1
    assert reached["share_above_1.1_of_last_50"] == 1.0
    assert reached == seeds.run(Variant("fused"), "fp32", 3, epochs=2)
    assert (
        reached["final_perplexity"]
        != seeds.run(Variant("fused"), "fp32", 4, epochs=2)["final_perplexity"]
    )
