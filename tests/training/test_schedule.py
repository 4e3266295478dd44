"""The schedules agree with those of torch and with their formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch.optim import lr_scheduler
from trainings import train_settings

from gru_lm.training.schedule import Plateaus, depends_on_length, factor, is_varied
from gru_lm.training.settings import Schedule


def schedule(**changes: Any) -> Schedule:
    return train_settings(schedule=changes).schedule


def torchs(make: Any, steps: int) -> list[float]:
    """Return the learning rate of torch's scheduler at each step, starting at 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    made, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made.step()
    return rates


@examples(deadline=None, max_examples=25)
@given(st.integers(2, 40), st.data(), st.sampled_from([0.0, 0.1, 0.5]))
def test_warmup_linear_and_cosine_match_torch(steps: int, data: Any, final: float) -> None:
    warmup = data.draw(st.integers(0, steps - 1))

    def after_warmup(optimizer: torch.optim.Optimizer, name: str) -> lr_scheduler.LRScheduler:
        rest = steps - warmup
        later: lr_scheduler.LRScheduler
        if name == "cosine":
            later = lr_scheduler.CosineAnnealingLR(optimizer, rest, final)
        else:
            later = lr_scheduler.LinearLR(optimizer, 1.0, final, rest)
        if not warmup:
            return later
        rise = lr_scheduler.LinearLR(optimizer, 1 / (warmup + 1), 1.0, warmup)
        return lr_scheduler.SequentialLR(optimizer, [rise, later], [warmup])

    for name in ("linear", "cosine"):
        chosen = schedule(name=name, warmup=warmup, final_lr=final)
        mine = [factor(chosen, step, steps) for step in range(steps)]
        wanted = torchs(lambda optimizer, name=name: after_warmup(optimizer, name), steps)
        assert mine == pytest.approx(wanted, abs=1e-9)


def test_known_values() -> None:
    cosine = schedule(name="cosine", final_lr=0.2)
    assert factor(cosine, 0, 100) == 1.0
    assert factor(cosine, 50, 100) == pytest.approx(0.6)
    assert factor(cosine, 100, 100) == pytest.approx(0.2)
    assert factor(schedule(), 10**6, None) == 1.0
    assert factor(schedule(name="step", every=2, factor=0.1), 0, None, 3) == pytest.approx(1e-3)
    fraction = schedule(warmup=0.1)
    assert [factor(fraction, step, 40) for step in (0, 1, 3, 4)] == [0.2, 0.4, 0.8, 1.0]


@examples(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from([3.0, 2.0, 2.5, 1.5, math.nan]), max_size=30), st.integers(1, 4))
def test_plateaus_match_torch(values: list[float], patience: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    theirs = lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=patience - 1, threshold=0.0, eps=0.0
    )
    mine = Plateaus(patience)
    for value in values:
        theirs.step(value)
        mine.add(None if math.isnan(value) else value)
        assert 0.5**mine.count == optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({}, ""),
        ({"schedule": {"name": "step", "every": 3}}, ""),
        ({"schedule": {"warmup": 20}, "average": {"name": "ema"}}, ""),
        ({"schedule": {"name": "cosine"}}, "train.schedule.name = cosine"),
        ({"schedule": {"warmup": 0.05}}, "train.schedule.warmup = 0.05"),
        ({"average": {"name": "swa", "start": 0.75}}, "train.average.start = 0.75"),
    ],
)
def test_settings_that_depend_on_length(changes: dict[str, Any], setting: str) -> None:
    assert depends_on_length(train_settings(**changes)) == setting
    varied = bool({"name", "warmup"} & changes.get("schedule", {}).keys())
    assert is_varied(train_settings(**changes).schedule) == varied
