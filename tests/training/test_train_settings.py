"""Impossible combinations in the section train give one line that names the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from trainings import PARAMS, train_settings, train_tree

from gru_lm.core.errors import UserError
from gru_lm.core.params import load_params
from gru_lm.training.settings import TrainingSettings, interval

STEPS: dict[str, Any] = {"epochs": None, "steps": 100}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"steps": 5}, "train.epochs = 500, train.steps = 5, train.minutes = null: set exactly"),
        ({"epochs": None}, "train.epochs = null, train.steps = null, train.minutes = null: set"),
        (
            {"momentum": 0.9, "optimizer": "adam"},
            "train.momentum = 0.9: only sgd has it",
        ),
        (
            {"weight_decay": 0.1, "optimizer": "adam"},
            "train.weight_decay = 0.1: only",
        ),
        (
            {"patience": 3, "validate_every": None},
            "train.validate_every = null: train.",
        ),
        (
            {"schedule": {"name": "plateau"}, "validate_every": None},
            "train.validate_every = null: train.schedule.name = plateau needs validations",
        ),
        (STEPS | {"schedule": {"warmup": 100}}, "train.schedule.warmup = 100: the run has only"),
        (
            STEPS | {"average": {"name": "swa", "start": 200}},
            "train.average.start = 200: the run has only 100 steps",
        ),
        (
            {"epochs": None, "minutes": 1.0, "schedule": {"warmup": 10}},
            "train.schedule.warmup = 10: with minutes, set a fraction of",
        ),
        (
            {"schedule": {"name": "step"}},
            "train.schedule.every = null: train.",
        ),
        ({"schedule": {"warmup": 1.5}}, "train.schedule.warmup = 1.5: should be a number of steps"),
        ({"schedule": {"warmup": True}}, "train.schedule.warmup = True: should be a number of"),
        ({"log_every": "5 minutes"}, "train.log_every = '5 minutes': should be a number of epochs"),
        ({"log_every": "0 steps"}, "train.log_every = '0 steps': should be a number of epochs"),
        ({"betas": [0.9]}, "train.betas = [0.9]: "),
        ({"betas": [0.9, 1.0]}, "train.betas.1 = 1.0: should be less than 1"),
        ({"schedule": {"warmups": 3}}, "unknown key 'train.schedule.warmups' (did you mean 'warm"),
    ],
)
def test_impossible_combination_is_refused_in_one_line(
    changes: dict[str, Any], line: str, tmp_path: Path
) -> None:
    params = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    params["train"] = train_tree(**changes)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(params), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_params(TrainingSettings, path)
    assert str(caught.value).startswith(f"{path}: {line}")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("value", "number", "unit"),
    [
        (5, 5, "epochs"),
        ("5", 5, "epochs"),
        ("1 epoch", 1, "epochs"),
        ("250 steps", 250, "steps"),
        ("1 step", 1, "steps"),
    ],
)
def test_intervals_are_in_epochs_or_steps(value: Any, number: int, unit: str) -> None:
    assert train_settings(validate_every=value).validate_every == value
    assert interval(value) == (number, unit)


@pytest.mark.parametrize(
    ("changes", "logging", "axis"),
    [
        ({}, 1, "epoch"),
        ({"validate_every": None}, 1, "epoch"),
        ({"validate_every": "9 steps"}, 1, "step"),
        ({"log_every": "10 steps"}, "10 steps", "step"),
        (STEPS, "100 steps", "step"),
        (STEPS | {"log_every": 1}, 1, "step"),
    ],
)
def test_curves_count_epochs_or_steps(
    changes: dict[str, Any], logging: int | str, axis: str
) -> None:
    chosen = train_settings(**changes)
    assert (chosen.logging, chosen.axis) == (logging, axis)
