"""The arithmetic and the pages of timings, and small real measurements of this project's models."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.common import (
    PARAMS,
    RESULTS,
    ROOT,
    Experiment,
    sample_corpus,
    textbook_settings,
)
from benchmarks.ours import OURS, our_loop, our_model
from benchmarks.peers.packages import PeerMissingError
from benchmarks.speed import report, training
from benchmarks.speed.implementations import (
    Implementation,
    Implementations,
    Turn,
    all_epochs,
    turn_here,
)
from benchmarks.speed.redraw import write_scaling
from benchmarks.speed.scaling import measure_point
from gru_lm.core.params import load_params
from gru_lm.training.settings import TrainingSettings

CPU = torch.device("cpu")
PAGES = sorted(RESULTS.glob("speed-*.json"))
CURVES = sorted(RESULTS.glob("scaling-*.json"))


@pytest.fixture
def experiment() -> Experiment:
    settings = textbook_settings(load_params(TrainingSettings, PARAMS).train)
    small = settings.model_copy(update={"batch_size": 8, "num_steps": 10, "lr": 1.0})
    return Experiment(sample_corpus(), small, 16, {})


def read(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_committed_page_matches_result(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / path.name
    shutil.copy(path, copy)
    command = [sys.executable, "-m", "benchmarks.speed.redraw", str(copy)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"redrawn: {copy}\n"), done.stderr
    assert copy.with_suffix(".md").read_bytes() == path.with_suffix(".md").read_bytes()
    assert copy.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("path", CURVES, ids=lambda path: path.stem)
def test_committed_curves_can_be_redrawn(path: Path, tmp_path: Path) -> None:
    write_scaling(tmp_path / path.name, read(path))
    drawn = (tmp_path / path.name).with_suffix(".png").read_bytes()
    assert drawn.startswith(b"\x89PNG")


def test_ratio_of_medians_and_range_of_alternations() -> None:
    assert report.ratio([2.0, 6.0, 4.0], [1.0, 2.0, 4.0]) == {
        "of_medians": 2.0,
        "min": 1.0,
        "max": 3.0,
    }


def test_targets_are_judged_on_their_device() -> None:
    speeds = {"textbook-scratch": [100.0], "fused-fp32": [199.0], "scratch-fp32": [2000.0]}
    verdicts = {row["target"]: row["verdict"] for row in report.judge("cpu", speeds, {})}
    assert verdicts["CPU, fused in fp32, textbook scratch"] == "no"
    assert verdicts["GPU, scratch in fp32, textbook scratch"] == "unmeasured"
    verdicts = {row["target"]: row["verdict"] for row in report.judge("cuda", speeds, {})}
    assert verdicts["GPU, scratch in fp32, textbook scratch"] == "yes"
    assert verdicts["CPU, fused in fp32, textbook scratch"] == "unmeasured"


def test_warm_up_is_dropped_and_failure_left_out(capsys) -> None:
    turns = iter(range(1, 10))

    def fail() -> Turn:
        raise PeerMissingError("its process ended: killed")

    implementations = Implementations()
    implementations.present = {
        "sound": Implementation("sound", lambda: Turn(10 * next(turns), 2.0, 3.0)),
        "broken": Implementation("broken", fail),
    }
    assert training.measure(implementations, {}, alternations=2) == {}
    assert implementations.speeds() == {"sound": [10.0, 15.0]}
    assert implementations.missing == {"broken": "its process ended: killed"}
    assert "missing: broken (its process ended: killed)" in capsys.readouterr().out


def test_turn_counts_tokens(experiment) -> None:
    epochs = all_epochs(experiment, CPU)
    seen = []

    def loop(minibatches) -> float:
        seen.append([Y.numel() for _, Y in minibatches])
        return 7.0

    turn = turn_here(loop, lambda: next(epochs), 2, CPU)
    assert len(seen) == 2
    assert turn.tokens == sum(map(sum, seen)) > 0
    assert turn.perplexity == 7.0


def test_variants_train_at_every_size(experiment) -> None:
    sizes = {"hidden_size": 8, "batch_size": 2, "num_steps": 3}
    speeds = measure_point(list(OURS), None, experiment, sizes, seconds=0.0, device=CPU)
    assert list(speeds) == ["scratch", "concise", "fused"]
    assert min(speeds.values()) > 0


def test_our_loop_learns(experiment) -> None:
    torch.manual_seed(0)
    loop = our_loop(our_model(OURS[1], experiment.corpus.vocab_size, 16, CPU), experiment.settings)
    epochs = all_epochs(experiment, CPU)
    perplexities = [loop(next(epochs)) for _ in range(4)]
    assert perplexities[-1] < perplexities[0] < experiment.corpus.vocab_size + 1
