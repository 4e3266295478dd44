"""Checkpoints in one process. Intact ones are resumed, and damaged ones are skipped."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor
from trainings import train_settings

from gru_lm.models.base import build_model
from gru_lm.training.checkpoints import KEPT_RUNS, Checkpoints, fingerprint
from gru_lm.training.loop import Training
from gru_lm.training.resuming import resume
from gru_lm.training.state import COUNTS, NUMBERS, restore, to_tensors

V = 5
TOKENS = torch.randint(V, (130,), generator=torch.Generator().manual_seed(0))
EARLY, LATE = 8, 14  # steps; both are within an epoch, the late one after two validations


def training(steps: int = 0, variant: str = "concise", **changes: Any) -> Training:
    """Return a training with 5 or 6 minibatches per epoch, after ``steps`` steps."""
    torch.manual_seed(0)
    model = build_model(variant, V, hidden_size=3)
    small: dict[str, Any] = {"epochs": 4, "batch_size": 4, "num_steps": 5, "validate_every": 1}
    small |= {"optimizer": "adam", "lr": 0.01}
    of = Training(model, TOKENS, train_settings(**(small | changes)), TOKENS[:40])
    for _ in range(steps):
        of.advance()
    return of


def keep(checkpoints: Checkpoints, of: Training) -> None:
    checkpoints.save(of.position.steps, to_tensors(of))


def same(left: Training, right: Training) -> bool:
    one, other = to_tensors(left), to_tensors(right)
    for tensors in (one, other):
        tensors["numbers"] = tensors["numbers"][NUMBERS.index("nats") :]  # without the times
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def interrupted(of: Training) -> str:
    return f"going on after {of.position} of a run that was interrupted"


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "run-0123456789abcdef")


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def put(checkpoints: Checkpoints, steps: int, data: bytes, digest: str) -> Path:
    """Write a file with the name of a checkpoint and return its path."""
    checkpoints.folder.mkdir(exist_ok=True)
    path = checkpoints.folder / f"{steps:06d}-{digest}.safetensors"
    path.write_bytes(data)
    return path


def test_file_name_has_steps_and_checksum(
    checkpoints: Checkpoints,
) -> None:
    of = training(LATE)
    keep(checkpoints, of)
    [path] = checkpoints.folder.iterdir()
    data = path.read_bytes()
    assert path.name == f"{LATE:06d}-{digest_of(data)}.safetensors"
    tensors = load(data)
    parts = {"model", "optimizer", "best", "curve", "validation", "counts", "numbers", "state"}
    assert {name.split(".")[0] for name in tensors} == parts
    for name, weight in of.model.state_dict().items():
        assert torch.equal(tensors[f"model.{name}"], weight)
    lines: list[str] = []
    other = training()
    resume(other, checkpoints, lines.append)
    assert same(other, of)
    assert lines == [f"going on after step {LATE} in epoch 3 of a run that was interrupted"]


def test_missing_checkpoint_changes_nothing(checkpoints: Checkpoints) -> None:
    of, lines = training(), list[str]()
    resume(of, checkpoints, lines.append)
    checkpoints.folder.mkdir()
    resume(of, checkpoints, lines.append)
    assert same(of, training()) and not lines


def test_two_newest_are_kept_and_newest_is_resumed(checkpoints: Checkpoints) -> None:
    of = training()
    for _ in range(4):
        of.advance()
        keep(checkpoints, of)
    assert [name[:7] for name in names(checkpoints.folder)] == ["000003-", "000004-"]
    other = training()
    resume(other, checkpoints, lambda line: None)
    assert same(other, of)


def test_other_files_are_not_read_or_deleted(checkpoints: Checkpoints) -> None:
    checkpoints.folder.mkdir()
    digest = "0" * 16
    others = [
        ".000009-a.safetensors.x.tmp",
        f"00009-{digest}.safetensors",
        f"000009-{digest}.safetensors.tmp",
        f"x000009-{digest}.safetensors",
        "notes.txt",
    ]
    for name in others:
        (checkpoints.folder / name).write_bytes(b"")
    of = training()
    for _ in range(3):
        of.advance()
        keep(checkpoints, of)
    assert len(names(checkpoints.folder)) == len(others) + 2
    checkpoints.finish(of.position.steps, to_tensors(of))
    assert len(names(checkpoints.folder)) == len(others) + 1
    assert set(others) < set(names(checkpoints.folder))


def test_old_file_deleted_by_another_run_is_ignored(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.unlink

    def too_late(path: Path, missing_ok: bool = False) -> None:
        real(path)
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", too_late)
    for steps in (1, 2, 3):
        checkpoints.save(steps, {"x": torch.ones(1)})
    assert len(names(checkpoints.folder)) == 2


# Damage


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


BYTES: dict[str, tuple[Callable[[bytes], bytes], bool, str]] = {
    "empty": (lambda data: b"", False, "checksum"),
    "cut": (lambda data: data[:-1], False, "checksum"),
    "one bit": (flipped, False, "checksum"),
    "no safetensors": (lambda data: b"what is this", True, ""),
}

NAN = float("nan")
BIAS, BEST = "model.linear.bias", "best.linear.bias"
MOMENT, SQUARES, STEP = (f"optimizer.0.{name}" for name in ("exp_avg", "exp_avg_sq", "step"))
Forgery = Callable[[dict[str, Tensor]], dict[str, Tensor | None]]


def to(name: str, value: Tensor | None) -> Forgery:
    return lambda tensors: {name: value}


def cell(name: str, place: tuple[int, ...], value: float) -> Forgery:
    def forge(tensors: dict[str, Tensor]) -> dict[str, Tensor | None]:
        changed = tensors[name].clone()
        changed[place] = value
        return {name: changed}

    return forge


def number(key: str, value: float) -> Forgery:
    return cell("numbers", (NUMBERS.index(key),), value)


def count(key: str, value: int) -> Forgery:
    return cell("counts", (COUNTS.index(key),), value)


# The changes of tensors and the reasons in the messages. The checksums are correct.
FORGED: dict[str, tuple[Forgery, str]] = {
    "no curve": (to("curve", None), "it has no curve"),
    "no counts": (to("counts", None), "it has no counts"),
    "curve of none": (to("curve", torch.tensor(1.0)), "curve has the shape ()"),
    "curve of float32": (lambda t: {"curve": t["curve"].float()}, "the type float32, not float64"),
    "NaN curve": (cell("curve", (0, 2), NAN), "curve has a value that is not finite"),
    "curve below 1": (cell("curve", (0, 2), 0.5), "a perplexity below 1"),
    "late curve": (cell("curve", (1, 1), 15), "curve has other steps than the run"),
    "early curve": (cell("curve", (0, 1), 0), "curve has other steps than the run"),
    "curve turned": (lambda t: {"curve": t["curve"].flip(0).contiguous()}, "other steps"),
    "other epochs": (cell("curve", (0, 0), 9), "curve has other epochs than the run"),
    "no validation": (to("validation", None), "it has no validation"),
    "NaN validation": (cell("validation", (0, 2), NAN), "validation has a value that is not"),
    "other validation": (cell("validation", (0, 1), 2), "other steps than its curve"),
    "no best": (
        lambda t: dict.fromkeys(name for name in t if name.startswith("best.")),
        "it has no best weights",
    ),
    "best without validation": (
        lambda t: {"validation": torch.zeros((0, 3), dtype=torch.float64)},
        "best weights without a validation",
    ),
    "part of the best": (to(BEST, None), "linear.bias"),
    "best of another shape": (to(BEST, torch.ones(9)), "shape"),
    "NaN best": (to(BEST, torch.ones(5) * NAN), "linear.bias has a value that is not finite"),
    "a weight missing": (to(BIAS, None), "linear.bias"),
    "one too many": (to("model.x", torch.ones(1)), "weights: x"),
    "NaN weight": (to(BIAS, torch.ones(5) * NAN), "linear.bias has a value that is not finite"),
    "weight of int8": (to(BIAS, torch.ones(5, dtype=torch.int8)), "the type int8, not float32"),
    "moment of another shape": (to(MOMENT, torch.ones(9)), f"{MOMENT} has the shape (9,)"),
    "moment missing": (to(MOMENT, None), "memory of weight 0 is not complete"),
    "moment too many": (to("optimizer.0.x", torch.ones(1)), "memory of weight 0 is not complete"),
    "negative squares": (to(SQUARES, -torch.ones(9, 5)), f"{SQUARES} has a value below 0"),
    "no step": (to(STEP, torch.tensor(-1.0)), f"{STEP} has a value below 1"),
    "NaN step": (to(STEP, torch.tensor(NAN)), f"{STEP} has a value that is not finite"),
    "memory of no weight": (to("optimizer.99.step", torch.ones(())), "no part of a checkpoint"),
    "unknown": (to("x\x1b[31m\n", torch.ones(1)), r"x\x1b[31m is no part of a checkpoint"),
    "large": (to("model.x", torch.ones(1 << 19)), "it is larger than the "),
    "average of none": (to("average.0", torch.ones(9, 5)), "averaged weights are not complete"),
    "no state": (to("state", None), "it has no recurrent state"),
    "state of other sequences": (to("state", torch.ones(3, 3)), "state has the shape (3, 3)"),
    "counts too few": (to("counts", torch.ones(3).long()), "counts has the shape (3,)"),
    "negative count": (count("waited", -1), "counts has a value below 0"),
    "other steps": (count("steps", 15), "steps is not the one in its name"),
    "too many minibatches": (count("minibatches", 6), "epoch 3 has only"),
    "at an end of an epoch": (count("minibatches", 0), "it has a recurrent state"),
    "no targets": (count("targets since", 0), "its loss is of other steps"),
    "NaN loss": (number("nats", NAN), "numbers has a value that is not finite"),
    "best below 1": (number("best", 0.5), "a perplexity below 1"),
    "after the end": (count("epochs", 4), "its run has ended"),
}


@pytest.mark.parametrize("damage", [*BYTES, *FORGED])
def test_damaged_checkpoint_is_skipped_with_one_line(damage: str, checkpoints: Checkpoints) -> None:
    """The whole file is checked before the training changes, so the previous one can be loaded."""
    older, newer = training(EARLY), training(LATE)
    keep(checkpoints, older)
    keep(checkpoints, newer)
    intact = next(checkpoints.folder.glob(f"{LATE:06d}-*"))
    data = intact.read_bytes()
    intact.unlink()
    if damage in BYTES:
        change, checksum_is_right, reason = BYTES[damage]
        bad = change(data)
        path = put(checkpoints, LATE, bad, digest_of(bad if checksum_is_right else data))
    else:
        forge, reason = FORGED[damage]
        tensors = load(data)
        after = tensors | forge(tensors)
        bad = save({name: tensor for name, tensor in after.items() if tensor is not None})
        path = put(checkpoints, LATE, bad, digest_of(bad))
    lines: list[str] = []
    resumed = training()
    resume(resumed, checkpoints, lines.append)
    line, last = lines
    assert line.startswith(f"checkpoint {path} is damaged (") and reason in line
    assert line.isprintable() and len(line) < 1000
    assert last == interrupted(older)
    assert same(resumed, older)
    resumed.advance()
    older.advance()
    assert same(resumed, older)


@pytest.mark.parametrize("name", ["NaN weight", "negative squares", "no state", "average of none"])
def test_forged_checkpoint_changes_nothing(name: str) -> None:
    of = training()
    tensors = to_tensors(training(LATE))
    forged = {k: v for k, v in (tensors | FORGED[name][0](tensors)).items() if v is not None}
    with pytest.raises(ValueError):
        restore(of, forged)
    assert same(of, training())
    of.advance()


def test_state_of_another_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match="memory of weight 0 is not complete"):
        restore(training(optimizer="sgd", momentum=0.9), to_tensors(training(LATE)))


@pytest.mark.parametrize("step", ["first", "last"])
def test_checkpoint_before_first_or_after_last_step_is_refused(
    step: str, checkpoints: Checkpoints
) -> None:
    of = training()
    while step == "last" and not of.is_over:
        of.advance()
    keep(checkpoints, of)
    lines: list[str] = []
    resume(training(), checkpoints, lines.append)
    [line] = lines
    assert ("its run has ended" if step == "last" else "it is from before the first step") in line


@pytest.mark.skipif(os.name != "posix", reason="makes a pipe")
def test_pipe_as_checkpoint_does_not_block(checkpoints: Checkpoints) -> None:
    of = training(EARLY)
    keep(checkpoints, of)
    os.mkfifo(checkpoints.folder / f"000009-{'0' * 16}.safetensors")
    lines: list[str] = []
    resume(training(), checkpoints, lines.append)
    assert "is damaged (it is not a regular file): going on" in lines[0]
    assert lines[1] == interrupted(of)


def test_new_checkpoints_are_kept_beside_damaged_later_ones(
    checkpoints: Checkpoints,
) -> None:
    for steps in (17, 18, 19):
        put(checkpoints, steps, b"", "0" * 16)
    (checkpoints.folder / f"000001-{'0' * 16}.safetensors").mkdir()  # cannot be deleted as a file
    of = training()
    for _ in range(3):
        of.advance()
        keep(checkpoints, of)
    lines: list[str] = []
    resume(training(), checkpoints, lines.append)
    assert len(lines) == 4 and lines[3] == interrupted(of)
    kept = [int(name[:6]) for name in names(checkpoints.folder)]
    assert kept == [1, 2, 3, 17, 18, 19]


def test_run_restarts_if_all_checkpoints_are_damaged(checkpoints: Checkpoints) -> None:
    for steps in (1, 999_999, 1_000_000):
        put(checkpoints, steps, b"", "0" * 16)
    (checkpoints.folder / f"000003-{'0' * 16}.safetensors").mkdir()
    lines: list[str] = []
    of = training()
    resume(of, checkpoints, lines.append)
    steps = [int(found[1]) for line in lines if (found := re.search(r"(\d+)-0000", line))]
    assert steps == [1_000_000, 999_999, 3, 1]
    assert same(of, training())


@pytest.mark.parametrize("capturable", [False, True])
def test_optimizer_state_is_restored_to_its_device(
    capturable: bool,
) -> None:
    """The meta device replaces a GPU. Adam keeps its step count on it for CUDA graphs only."""
    tensors, there = to_tensors(training(LATE)), training()
    far = [torch.zeros_like(weight, device="meta") for weight in there.model.parameters()]
    there.optimizer = torch.optim.Adam(far, capturable=capturable)
    restore(there, tensors)
    for weight in far:
        memory = {name: value.device.type for name, value in there.optimizer.state[weight].items()}
        step_count = "meta" if capturable else "cpu"
        assert memory == {"step": step_count, "exp_avg": "meta", "exp_avg_sq": "meta"}


# The end of a run, and its extension


def finished(checkpoints: Checkpoints, **changes: Any) -> Training:
    of = training(**changes)
    of.at_end = lambda: checkpoints.finish(of.position.steps, to_tensors(of))
    while not of.is_over:
        of.advance()
    return of


@pytest.mark.parametrize(
    ("first", "then", "line"),
    [
        ({}, {"epochs": 6}, "going on after epoch 4 of a finished run"),
        ({}, {}, "training from the start: the finished run is as long"),
        ({}, {"epochs": 3}, "training from the start: the finished run is longer"),
        (
            {"epochs": 30, "patience": 1, "lr": 3.0},
            {"epochs": 40, "patience": 1, "lr": 3.0},
            "training from the start: train.patience ended the finished run",
        ),
    ],
)
def test_finished_run_is_extended_if_possible(
    first: dict[str, Any], then: dict[str, Any], line: str, checkpoints: Checkpoints
) -> None:
    ended = finished(checkpoints, **first)
    [kept] = names(checkpoints.folder)
    assert kept.startswith(f"finished-{ended.position.steps:06d}-")
    lines: list[str] = []
    of = training(**then)
    resume(of, checkpoints, lines.append)
    assert lines == [line]
    assert of.position.steps == (0 if "from the start" in line else ended.position.steps)


@pytest.mark.parametrize(("epochs", "goes_on"), [(6, True), (3, True), (2, False)])
def test_interrupted_run_resumes_with_another_length(
    epochs: int, goes_on: bool, checkpoints: Checkpoints
) -> None:
    of = training(LATE)
    keep(checkpoints, of)
    lines: list[str] = []
    resume(training(epochs=epochs), checkpoints, lines.append)
    anew = "training from the start: an interrupted run went on for longer"
    assert lines == [interrupted(of) if goes_on else anew]


def test_run_that_depends_on_its_length_restarts(tmp_path: Path) -> None:
    cosine = {"schedule": {"name": "cosine"}}
    first = finished(Checkpoints.of(tmp_path, "run", {}, 4), **cosine)
    assert first.is_over
    lines: list[str] = []
    resume(training(epochs=6, **cosine), Checkpoints.of(tmp_path, "run", {}, 6), lines.append)
    [line] = lines
    assert line.startswith("training from the start: with train.schedule.name = cosine each step")


# The folders


def test_each_set_of_determinants_has_its_own_folder(tmp_path: Path) -> None:
    tree = {"seed": 1, "lr": 0.5, "options": {"a": None, "b": [1, "x"]}}
    ours = Checkpoints.of(tmp_path, "scratch", tree).folder
    document = '{"lr": 0.5, "options": {"a": null, "b": [1, "x"]}, "seed": 1}'
    assert json.loads(document) == tree
    assert ours == tmp_path / f"scratch-{digest_of(document.encode())}"
    turned = {"options": {"b": [1, "x"], "a": None}, "lr": 0.5, "seed": 1}
    assert Checkpoints.of(tmp_path, "scratch", turned).folder == ours
    others = [
        Checkpoints.of(tmp_path, "concise", tree).folder,
        Checkpoints.of(tmp_path, "scratch", tree, 5).folder,
        *(Checkpoints.of(tmp_path, "scratch", tree | {key: 2}).folder for key in tree),
    ]
    assert len({ours, *others}) == 6


def test_newest_runs_of_a_name_are_kept(tmp_path: Path) -> None:
    state = {"x": torch.ones(1)}
    other = Checkpoints.of(tmp_path, "scratch-1", {})
    other.save(1, state)
    ours = [Checkpoints.of(tmp_path, "scratch", {"seed": seed}) for seed in range(KEPT_RUNS + 2)]
    for place, checkpoints in enumerate(ours):
        checkpoints.save(1, state)
        os.utime(checkpoints.folder, (place, place))
    ours[0].finish(2, state)
    kept = [ours[0], *ours[-KEPT_RUNS + 1 :], other]
    assert set(names(tmp_path)) == {checkpoints.folder.name for checkpoints in kept}
    ours[0].remove()
    ours[0].remove()  # already removed, which is not an error
    assert ours[0].folder.name not in names(tmp_path)


def test_fingerprint_depends_on_bytes_order_and_boundaries(tmp_path: Path) -> None:
    def of(*contents: bytes) -> str:
        paths = [tmp_path / str(number) for number in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        return fingerprint(*paths)

    contents = [(), (b"",), (b"", b""), (b"ab",), (b"a", b"b"), (b"b", b"a"), (b"", b"ab")]
    prints = [of(*each) for each in contents]
    assert len(set(prints)) == len(prints)
    assert of(b"a", b"b") == prints[4]
    assert all(re.fullmatch("[0-9a-f]{64}", one) for one in prints)
