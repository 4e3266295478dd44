"""A training that is killed after any step, or extended, ends with the same bytes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor
from trainings import train_settings

from gru_lm.models.base import LanguageModel, build_model
from gru_lm.models.scratch.model import ScratchGRU
from gru_lm.training.loop import CHECK, Diverged, Training, train
from gru_lm.training.state import NUMBERS, restore, to_tensors
from gru_lm.training.trainer import Sums, Trainer

V, H = 5, 4
TOKENS = torch.randint(V, (130,), generator=torch.Generator().manual_seed(0))
HELD_OUT = torch.randint(V, (30,), generator=torch.Generator().manual_seed(1))


class WithDropout(ScratchGRU):
    """A model that draws random numbers."""

    @property
    def has_dropout(self) -> bool:
        return True

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        logits, state = super().forward(tokens, state)
        return torch.nn.functional.dropout(logits, 0.3, self.training), state


def training(
    kind: str = "scratch", at_end: Callable[[], None] = lambda: None, **changes: Any
) -> Training:
    """Return a training with 5 or 6 minibatches per epoch."""
    torch.manual_seed(3)
    model: LanguageModel
    if kind == "dropout":
        model = WithDropout(V, hidden_size=H, reset="before")
    else:
        model = build_model(kind, V, hidden_size=H)
    small: dict[str, Any] = {"batch_size": 4, "num_steps": 5, "epochs": 3, "validate_every": 2}
    return Training(model, TOKENS, train_settings(**(small | changes)), HELD_OUT, at_end=at_end)


def stored(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors after saving and loading."""
    return load(save(tensors))


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    """Assert that all values are equal, except the times and the length."""
    assert left.keys() == right.keys()
    for name in left:
        one, other = left[name], right[name]
        if name == "numbers":
            times = [NUMBERS.index(key) for key in NUMBERS if "second" in key or key == "length"]
            kept = [index for index in range(len(NUMBERS)) if index not in times]
            one, other = one[kept], other[kept]
        assert torch.equal(one, other), name


def run(of: Training) -> list[tuple[int, float, float | None]]:
    rows = []
    while not of.is_over:
        if row := of.advance():
            rows.append((row.number, row.perplexity, row.val_perplexity))
    return rows


RUNS: dict[str, dict[str, Any]] = {
    "the default": {},
    "random": {"partition": "random", "drop_last": False},
    "momentum": {"momentum": 0.9, "lr": 0.1, "schedule": {"name": "step", "every": 1}},
    "adam": {"optimizer": "adam", "lr": 0.01, "average": {"name": "ema", "decay": 0.9}},
    "adamw": {
        "optimizer": "adamw",
        "lr": 0.01,
        "weight_decay": 0.1,
        "epochs": None,
        "steps": 17,
        "log_every": "3 steps",
        "validate_every": "4 steps",
        "average": {"name": "swa", "start": 0.4},
        "schedule": {"name": "cosine", "warmup": 0.2},
    },
    "accumulate": {"accumulate": 2, "drop_last": False, "schedule": {"name": "linear"}},
    "plateau": {
        "validate_every": "1 step",
        "patience": 9,
        "lr": 3.0,
        "schedule": {"name": "plateau", "patience": 1, "factor": 0.5},
    },
    "fused": {"kind": "fused", "log_every": "4 steps", "optimizer": "adamw", "lr": 0.01},
    "concise": {"kind": "concise", "log_every": "4 steps", "optimizer": "adam", "lr": 0.01},
    "dropout": {"kind": "dropout", "accumulate": 2},
}


@pytest.mark.parametrize("name", RUNS)
def test_resumed_step_equals_uninterrupted_step(name: str) -> None:
    """Therefore a run that is killed after any step ends like an uninterrupted one."""
    uninterrupted = training(**RUNS[name])
    states, rows = [], []
    while not uninterrupted.is_over:
        rows.append(uninterrupted.advance())
        states.append(stored(to_tensors(uninterrupted)))
    assert len(states) > 8
    for before, after, row in zip(states, states[1:], rows[1:], strict=False):
        resumed = training(**RUNS[name])
        restore(resumed, before)
        assert_same(stored(to_tensors(resumed)), before)
        again = resumed.advance()
        assert_same(to_tensors(resumed), after)
        found = [one and (one.number, one.perplexity, one.val_perplexity) for one in (row, again)]
        assert found[0] == found[1]


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ({"epochs": 3}, {"epochs": 5}),
        ({"epochs": 3, "average": {"name": "ema"}}, {"epochs": 4, "average": {"name": "ema"}}),
        *(
            ({"epochs": None, "steps": steps, **more}, {"epochs": None, "steps": 23, **more})
            for steps in (9, 10)
            for more in [{"log_every": "4 steps", "optimizer": "adamw", "lr": 0.01}]
        ),
    ],
)
def test_extended_run_equals_uninterrupted_run(short: Any, long: Any) -> None:
    """The validation at the end of the shorter run is not part of the longer run."""
    kept: dict[str, Tensor] = {}
    first = training(at_end=lambda: kept.update(to_tensors(first)), **short)
    rows = run(first)
    assert rows[-1][2] is not None, "the run does not end with a validation"
    uninterrupted, extended = training(**long), training(**long)
    restore(extended, stored(kept))
    found, wanted = run(extended), run(uninterrupted)
    assert found == wanted[-len(found) :]
    assert_same(to_tensors(extended), to_tensors(uninterrupted))


def test_length_in_steps_equals_length_in_epochs() -> None:
    epochs = training(epochs=3, log_every=1)
    steps = sum(epochs.plan.steps_in(epoch) for epoch in (1, 2, 3))
    by_epoch = run(epochs)
    other = training(epochs=None, steps=steps, log_every=1)
    by_step = run(other)
    assert [row[1:] for row in by_epoch] == [row[1:] for row in by_step]
    assert [row[0] for row in by_epoch] == [1, 2, 3]
    assert [row[0] for row in by_step] == [p.step for p in epochs.history.curve]
    for left, right in zip(epochs.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(left, right)


def test_minutes_determine_end_and_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step takes one second. A validation takes one hour, which does not count."""
    clock = [0.0]
    real = Trainer.step

    def a_second(trainer: Trainer, *arguments: Any) -> Tensor:
        clock[0] += 1.0
        return real(trainer, *arguments)

    def an_hour(*_: Any) -> float:
        clock[0] += 3600.0
        return 2.0

    monkeypatch.setattr(Trainer, "step", a_second)
    monkeypatch.setattr("gru_lm.training.loop.validate", an_hour)
    monkeypatch.setattr("gru_lm.training.loop.time.perf_counter", lambda: clock[0])
    schedule = {"name": "linear", "warmup": 0.0}
    timed = training(epochs=None, minutes=0.2, validate_every="5 steps", schedule=schedule)
    rates = []
    while not timed.is_over:
        timed.advance()
        rates.append(timed.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1 - second / 12 for second in range(12)])
    assert timed.position.seconds == 12.0


def test_patience_ends_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = iter([5.0, 4.0, math.nan, 4.5, 4.0, 3.0])
    monkeypatch.setattr("gru_lm.training.loop.validate", lambda *_: next(measured))
    of = training(epochs=100, validate_every=1, patience=3)
    rows = run(of)
    assert [row[2] for row in rows] == [5.0, 4.0, None, 4.5, 4.0]
    assert of.stopped and of.history.best is not None and of.history.best.epoch == 2


@pytest.mark.parametrize("log_every", ["1000 steps", "7 steps"])
def test_divergence_restores_last_finite_state(
    log_every: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"epochs": None, "steps": 5000, "log_every": log_every}
    changes |= {"validate_every": None, "average": {"name": "ema", "decay": 0.5}}
    of = training(**changes)
    good = to_tensors(of)
    real = Trainer.step

    def breaks_at_20(trainer: Trainer, *arguments: Any) -> Tensor:
        state = real(trainer, *arguments)
        sums: Sums = arguments[3]
        if arguments[4] >= 20:
            sums.nats += math.nan
        return state

    monkeypatch.setattr(Trainer, "step", breaks_at_20)
    steps = 0
    with pytest.raises(Diverged, match=r"in steps (1|15) to (100|21): the loss is no longer"):
        while True:
            row = of.advance()
            steps += 1
            if row is not None:
                good = to_tensors(of)
    assert steps < CHECK
    assert_same(to_tensors(of), good)


@pytest.mark.parametrize("partition", ["random", "sequential"])
def test_accumulation_equals_one_large_minibatch(partition: str) -> None:
    """Two random minibatches of 4 pieces equal one of 8. Sequential ones carry the state."""
    if partition == "sequential":
        model = build_model("scratch", V, hidden_size=H).double()
        pieces = [
            (TOKENS[i : i + 20].view(4, 5), TOKENS[i + 1 : i + 21].view(4, 5)) for i in (0, 40)
        ]
        whole = [torch.cat(part, dim=1) for part in zip(*pieces, strict=True)]
        twin = copy.deepcopy(model)
        for one, minibatches in ((model, pieces), (twin, [tuple(whole)])):
            several = len(minibatches) > 1
            trainer = Trainer(one, torch.optim.SGD(one.parameters(), 1.0), None, accumulate=several)
            sums = Sums(one.device)
            trainer.step(minibatches, None, True, sums)  # type: ignore[arg-type]
            assert sums.targets.item() == 40
        # Only this gradient is equal. No gradient flows from the second piece to the first.
        torch.testing.assert_close(model.get_parameter("b_q"), twin.get_parameter("b_q"))
        return
    ends = []
    for batch_size, accumulate in ((4, 2), (8, 1)):
        model = build_model("scratch", V, hidden_size=H, reset="before")
        with torch.no_grad():
            for index, weight in enumerate(model.parameters()):
                weight.copy_(torch.randn(weight.shape, generator=torch.manual_seed(index)) * 0.3)
        chosen = train_settings(
            epochs=2,
            batch_size=batch_size,
            accumulate=accumulate,
            num_steps=5,
            partition="random",
            drop_last=False,
        )
        rows = list(train(model.double(), TOKENS, chosen))
        ends.append(([row.perplexity for row in rows], model.state_dict()))
    (left, weights), (right, others) = ends
    assert left == pytest.approx(right, rel=1e-10)
    for name in weights:
        torch.testing.assert_close(weights[name], others[name], rtol=1e-9, atol=1e-10)


def test_dropout_differs_by_step_and_is_off_in_validation() -> None:
    of = training("dropout", epochs=2, validate_every=1)
    drawn = []
    handle = of.model.register_forward_hook(
        lambda module, _, out: drawn.append((module.training, int((out[0] == 0).sum())))
    )
    run(of)
    handle.remove()
    assert {count for is_training, count in drawn if not is_training} == {0}
    in_training = [count for is_training, count in drawn if is_training]
    assert min(in_training) > 0 and len(set(in_training)) > 3
    assert of.model.training
