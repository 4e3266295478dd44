"""Checkpoints within one process: what is saved comes back, and what is damaged does not."""

from __future__ import annotations

import copy
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

from gru_lm.models.base import LanguageModel, build_model
from gru_lm.training.checkpoints import Checkpoints, History, fingerprint
from gru_lm.training.loop import Epoch

CURVE = [7.5, 4 / 3, 2.0]
OPTIMIZERS = ["sgd", "momentum", "adam"]


def make(
    kind: str = "adam", variant: str = "concise", seed: int = 0
) -> tuple[LanguageModel, torch.optim.Optimizer]:
    """A small model and an optimizer that has made two steps."""
    torch.manual_seed(seed)
    model = build_model(variant, 5, hidden_size=3)
    optimizer: torch.optim.Optimizer
    if kind == "adam":
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
    else:
        optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9 if kind == "momentum" else 0.0)
    for number in range(2):
        step(model, optimizer, seed + number)
    return model, optimizer


def step(model: LanguageModel, optimizer: torch.optim.Optimizer, seed: int) -> None:
    """One step with gradients that follow from ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)
    optimizer.step()


def weights(model: LanguageModel) -> dict[str, list[Any]]:
    return {name: weight.tolist() for name, weight in model.state_dict().items()}


def history(epochs: int = 3, best: dict[str, torch.Tensor] | None = None) -> History:
    """Of a run that was validated after its epochs 2 and 3."""
    validation = {2: 8 / 7, 3: 9.5}
    return History(
        (CURVE * epochs)[:epochs],
        {epoch: value for epoch, value in validation.items() if epoch <= epochs},
        best,
    )


def best_weights(variant: str = "concise") -> dict[str, torch.Tensor]:
    """Other weights than those at the end."""
    return make(variant=variant, seed=9)[0].state_dict()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fail(line: str) -> None:
    raise AssertionError(f"a warning: {line}")


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "run")


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def put(checkpoints: Checkpoints, epoch: int, data: bytes, digest: str) -> Path:
    """A file named as a checkpoint."""
    path = checkpoints.folder / f"{epoch:06d}-{digest}.safetensors"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("variant", ["scratch", "concise", "fused"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_resumed_run_goes_on_with_the_same_bytes(
    kind: str, variant: str, checkpoints: Checkpoints
) -> None:
    model, optimizer = make(kind, variant)
    checkpoints.save(model, optimizer, history())
    other, its_optimizer = make(kind, variant, seed=1)
    its_optimizer.state.clear()
    assert weights(other) != weights(model)
    assert checkpoints.resume(other, its_optimizer, fail) == history()
    for seed in range(5, 8):
        assert weights(other) == weights(model)
        step(model, optimizer, seed)
        step(other, its_optimizer, seed)


@pytest.mark.parametrize("variant", ["scratch", "concise", "fused"])
def test_the_best_weights_come_back_beside_the_last(variant: str, checkpoints: Checkpoints) -> None:
    model, optimizer = make(variant=variant)
    best = best_weights(variant)
    checkpoints.save(model, optimizer, history(best=best))
    other, its_optimizer = make(variant=variant, seed=1)
    resumed = checkpoints.resume(other, its_optimizer, fail)
    assert (resumed.curve, resumed.validation) == (CURVE, {2: 8 / 7, 3: 9.5})
    assert resumed.best_weights is not None
    assert resumed.best_weights.keys() == best.keys()
    assert all(torch.equal(resumed.best_weights[name], best[name]) for name in best)
    assert weights(other) == weights(model)
    assert weights(other) != weights(other.load_weights(resumed.best_weights))


def test_without_memory_nothing_is_made_up(checkpoints: Checkpoints) -> None:
    model, optimizer = make("sgd")
    optimizer.state.clear()
    checkpoints.save(model, optimizer, history())
    checkpoints.resume(model, optimizer, fail)
    assert not optimizer.state


def test_where_there_is_none_everything_stays(checkpoints: Checkpoints) -> None:
    model, optimizer = make()
    before, memory = weights(model), copy.deepcopy(optimizer.state_dict())
    assert checkpoints.resume(model, optimizer, fail) == History([], {}, None)
    checkpoints.folder.mkdir()
    assert checkpoints.resume(model, optimizer, fail) == History([], {}, None)
    assert weights(model) == before
    assert str(optimizer.state_dict()) == str(memory)


def test_a_file_says_what_it_is_by_its_name_and_holds_plain_tensors(
    checkpoints: Checkpoints,
) -> None:
    model, optimizer = make()
    checkpoints.save(model, optimizer, history(best=best_weights()))
    [path] = checkpoints.folder.iterdir()
    data = path.read_bytes()
    assert path.name == f"000003-{digest_of(data)}.safetensors"
    tensors = load(data)
    assert tensors["curve"].dtype == torch.float64
    assert tensors["validation.curve"].dtype == torch.float64
    assert tensors["validation.epochs"].tolist() == [2, 3]
    parts = {"model", "optimizer", "curve", "validation", "best"}
    assert {name.split(".")[0] for name in tensors} == parts
    for name, weight in model.state_dict().items():
        assert torch.equal(tensors[f"model.{name}"], weight)


def test_the_two_newest_are_kept_and_the_newest_is_resumed(checkpoints: Checkpoints) -> None:
    model, optimizer = make()
    for epoch in (1, 2, 3, 4):
        checkpoints.save(model, optimizer, history(epoch))
    assert [name[:7] for name in names(checkpoints.folder)] == ["000003-", "000004-"]
    assert checkpoints.resume(model, optimizer, fail) == history(4)


def test_other_files_are_neither_read_nor_deleted(checkpoints: Checkpoints) -> None:
    model, optimizer = make()
    checkpoints.folder.mkdir()
    digest = "0" * 16
    others = [
        ".000009-a.safetensors.x.tmp",
        f"00009-{digest}.safetensors",
        f"000009-{digest}.safetensors.tmp",
        f"000009-{digest}0.safetensors",
        f"x000009-{digest}.safetensors",
        f"000009-{digest}-safetensors",
        "notes.txt",
    ]
    for name in others:
        (checkpoints.folder / name).write_bytes(b"")
    for epoch in (1, 2, 3):
        checkpoints.save(model, optimizer, history(epoch))
    assert len(names(checkpoints.folder)) == len(others) + 2
    assert set(others) < set(names(checkpoints.folder))
    assert checkpoints.resume(model, optimizer, fail) == history(3)


def test_an_old_file_that_another_run_deleted_first_is_no_failure(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.unlink

    def too_late(path: Path, missing_ok: bool = False) -> None:
        real(path)
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", too_late)
    for epoch in (1, 2, 3):
        checkpoints.save(*make(), history(epoch))
    assert len(names(checkpoints.folder)) == 2


# History


def test_a_history_notes_each_epoch_and_finds_the_first_of_the_best() -> None:
    growing = History()
    assert growing.best_epoch is None
    assert growing.best_val is None
    best = []
    for number, value in enumerate([None, 5.0, None, 4.0, 4.0, 6.0], start=1):
        growing.add(Epoch(number, 10.0 - number, 100, 1.0, value))
        best.append(growing.best_epoch)
    assert best == [None, 2, 2, 4, 4, 4]
    assert growing.best_val == {"epoch": 4, "perplexity": 4.0}
    assert growing.curve == [9.0, 8.0, 7.0, 6.0, 5.0, 4.0]
    assert growing.validation == {2: 5.0, 4: 4.0, 5: 4.0, 6: 6.0}
    assert growing.best_weights is None


def test_a_history_with_a_look_after_every_epoch_comes_back(checkpoints: Checkpoints) -> None:
    model, optimizer = make()
    kept = History([9.0, 8.0, 7.0], {1: 6.0, 2: 5.5, 3: 5.25}, best_weights())
    checkpoints.save(model, optimizer, kept)
    resumed = checkpoints.resume(model, optimizer, fail)
    assert (resumed.curve, resumed.validation) == (kept.curve, kept.validation)
    assert resumed.best_weights is not None


# Damage


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def changed(data: bytes, tensors: dict[str, torch.Tensor | None]) -> bytes:
    """The checkpoint with these tensors in it; None: without that one."""
    after = load(data) | tensors
    return save({name: tensor for name, tensor in after.items() if tensor is not None})


# What happens to the bytes, whether the checksum in the name is of the new ones, and the reason.
BIAS, BEST = "model.linear.bias", "best.linear.bias"
LOOKS, EPOCHS = "validation.curve", "validation.epochs"
DAMAGE: dict[str, tuple[Callable[[bytes], bytes], bool, str]] = {
    "empty": (lambda data: b"", False, "checksum"),
    "cut": (lambda data: data[:-1], False, "checksum"),
    "one bit": (flipped, False, "checksum"),
    "no safetensors": (lambda data: b"what is this", True, ""),
    "no curve": (lambda data: changed(data, {"curve": None}), True, "curve"),
    "short curve": (lambda data: changed(data, {"curve": torch.ones(2)}), True, "has the shape"),
    "long curve": (lambda data: changed(data, {"curve": torch.ones(4)}), True, "has the shape"),
    "a weight missing": (lambda data: changed(data, {BIAS: None}), True, "linear.bias"),
    "one too many": (lambda data: changed(data, {"model.x": torch.ones(1)}), True, "weights: x"),
    "another shape": (lambda data: changed(data, {BIAS: torch.ones(9)}), True, "shape"),
    "no validation": (lambda data: changed(data, {LOOKS: None}), True, LOOKS),
    "short validation": (lambda data: changed(data, {LOOKS: torch.ones(1)}), True, ""),
    "late look": (lambda data: changed(data, {EPOCHS: torch.tensor([2, 4])}), True, "other epochs"),
    "early look": (lambda data: changed(data, {EPOCHS: torch.tensor([0, 2])}), True, "epochs"),
    "looks turned": (lambda data: changed(data, {EPOCHS: torch.tensor([3, 2])}), True, "epochs"),
    "one look twice": (lambda data: changed(data, {EPOCHS: torch.tensor([2, 2])}), True, "epochs"),
    "part of the best": (lambda data: changed(data, {BEST: None}), True, "linear.bias"),
    "best of another shape": (lambda data: changed(data, {BEST: torch.ones(9)}), True, "shape"),
}

NAN = float("nan")
MOMENT, SQUARES, STEP = (f"optimizer.0.{name}" for name in ("exp_avg", "exp_avg_sq", "step"))
ONES = torch.ones(3, dtype=torch.float64)
# Tensors that are exchanged, and the reason. The checksum is right.
FORGED: dict[str, tuple[dict[str, torch.Tensor | None], str]] = {
    "NaN curve": ({"curve": ONES * NAN}, "curve has a value that is not finite"),
    "infinite curve": ({"curve": ONES * torch.inf}, "curve has a value that is not finite"),
    "curve below 1": ({"curve": ONES * 0.9}, "a perplexity below 1"),
    "curve of float32": ({"curve": ONES.float()}, "curve has the type float32, not float64"),
    "complex curve": ({"curve": ONES.cfloat()}, "curve has the type complex64, not float64"),
    "curve of two dimensions": ({"curve": ONES[None]}, "curve has the shape (1, 3), not (3,)"),
    "curve of none": ({"curve": ONES[0].clone()}, "curve has the shape (), not (3,)"),
    "NaN validation": ({LOOKS: ONES[:2] * NAN}, f"{LOOKS} has a value that is not finite"),
    "validation below 1": ({LOOKS: ONES[:2] * -5}, "a perplexity below 1"),
    "validation of two dimensions": ({EPOCHS: torch.ones(2, 2).long()}, "has the shape (2, 2)"),
    "epochs of floats": ({EPOCHS: torch.tensor([2.0, 3.0])}, "has the type float32, not int64"),
    "epochs of none": ({EPOCHS: torch.tensor(2)}, LOOKS),
    "best without validation": (
        {EPOCHS: torch.ones(0, dtype=torch.int64), LOOKS: ONES[:0]},
        "best weights without a validation",
    ),
    "NaN weight": ({BIAS: torch.ones(5) * NAN}, "linear.bias has a value that is not finite"),
    "weight of int8": ({BIAS: torch.ones(5, dtype=torch.int8)}, "has the type int8, not float32"),
    "best of float64": ({BEST: torch.ones(5).double()}, "has the type float64, not float32"),
    "NaN best": ({BEST: torch.ones(5) * NAN}, "linear.bias has a value that is not finite"),
    "moment of another shape": ({MOMENT: torch.ones(9)}, f"{MOMENT} has the shape (9,)"),
    "moment of a scalar": ({MOMENT: torch.tensor(1.0)}, f"{MOMENT} has the shape ()"),
    "moment missing": ({MOMENT: None}, "memory of weight 0 is not complete"),
    "moment too many": ({"optimizer.0.x": torch.ones(1)}, "memory of weight 0 is not complete"),
    "negative squares": ({SQUARES: -torch.ones(9, 5)}, f"{SQUARES} has a value below 0"),
    "step of a list": ({STEP: torch.ones(1)}, f"{STEP} has the shape (1,)"),
    "no step": ({STEP: torch.tensor(-1.0)}, f"{STEP} has a value below 1"),
    "NaN step": ({STEP: torch.tensor(NAN)}, f"{STEP} has a value that is not finite"),
    "memory of no weight": ({"optimizer.99.step": torch.ones(())}, "is no part of a checkpoint"),
    "unknown": ({"x\x1b[31m\n": torch.ones(1)}, r"x\x1b[31m is no part of a checkpoint"),
    "large": ({"model.x": torch.ones(1 << 19)}, "it is larger than the "),
}
DAMAGE |= {
    name: (lambda data, tensors=tensors: changed(data, tensors), True, reason)
    for name, (tensors, reason) in FORGED.items()
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_with_one_warning(
    damage: str, checkpoints: Checkpoints
) -> None:
    change, checksum_is_right, reason = DAMAGE[damage]
    older, older_optimizer = make(seed=1)
    checkpoints.save(older, older_optimizer, history(2))
    model, optimizer = make()
    checkpoints.save(model, optimizer, history(best=best_weights()))
    sound = next(checkpoints.folder.glob("000003-*"))
    data = sound.read_bytes()
    sound.unlink()
    bytes_of_name = change(data) if checksum_is_right else data
    bad = put(checkpoints, 3, change(data), digest_of(bytes_of_name))

    lines: list[str] = []
    assert checkpoints.resume(model, optimizer, lines.append) == history(2)
    assert weights(model) == weights(older)
    step(model, optimizer, 5)
    step(older, older_optimizer, 5)
    assert weights(model) == weights(older)
    [line] = lines
    assert line.startswith(f"checkpoint {bad} is damaged (")
    assert reason in line
    assert "\n" not in line


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_checkpoint_changes_nothing(name: str, checkpoints: Checkpoints) -> None:
    """All of a checkpoint is checked before any of it is used."""
    model, optimizer = make()
    checkpoints.save(model, optimizer, history(best=best_weights()))
    [path] = checkpoints.folder.iterdir()
    data = changed(path.read_bytes(), FORGED[name][0])
    path.unlink()
    put(checkpoints, 3, data, digest_of(data))
    other, its_optimizer = make(seed=1)
    before, memory = weights(other), copy.deepcopy(its_optimizer.state_dict())
    lines: list[str] = []
    assert checkpoints.resume(other, its_optimizer, lines.append) == History()
    assert len(lines) == 1 and lines[0].isprintable() and len(lines[0]) < 1000
    assert weights(other) == before
    assert str(its_optimizer.state_dict()) == str(memory)
    step(other, its_optimizer, 5)  # the optimizer still works


@pytest.mark.parametrize("kind", ["sgd", "momentum"])
def test_the_memory_of_another_optimizer_is_refused(kind: str, checkpoints: Checkpoints) -> None:
    model, adam = make("adam")
    checkpoints.save(model, adam, history())
    lines: list[str] = []
    assert checkpoints.resume(*make(kind), lines.append) == History()
    assert "memory of weight 0 is not complete" in lines[0]


@pytest.mark.parametrize(
    ("epochs", "most", "validated", "why"),
    [
        (0, None, False, "the run has no epoch 0"),
        (3, 2, True, "the run has no epoch 3"),
        (3, 3, True, "its run has ended"),
        (3, 3, False, ""),  # a run no validation of which gave a number
        (3, 4, True, ""),
    ],
)
def test_a_checkpoint_is_of_a_run_that_has_begun_and_not_ended(
    epochs: int, most: int | None, validated: bool, why: str, checkpoints: Checkpoints
) -> None:
    model, optimizer = make()
    kept = history(epochs)
    if not validated:
        kept.validation.clear()
    checkpoints.save(model, optimizer, kept)
    lines: list[str] = []
    resumed = checkpoints.resume(*make(seed=1), lines.append, most)
    assert resumed == (History() if why else kept)
    assert [why in line for line in lines] == ([True] if why else [])


@pytest.mark.parametrize("validated", [True, False])
def test_a_validation_without_its_best_weights_is_refused_if_they_are_needed(
    validated: bool, checkpoints: Checkpoints
) -> None:
    model, optimizer = make()
    kept = history()
    if not validated:
        kept.validation.clear()
    checkpoints.save(model, optimizer, kept)
    lines: list[str] = []
    resumed = checkpoints.resume(*make(seed=1), lines.append, with_best=True)
    assert resumed == (History() if validated else kept)
    assert ["it has no best weights" in line for line in lines] == ([True] if validated else [])


@pytest.mark.skipif(os.name != "posix", reason="makes a pipe")
def test_a_pipe_as_checkpoint_does_not_block(checkpoints: Checkpoints) -> None:
    model, optimizer = make()
    checkpoints.save(model, optimizer, history(2))
    os.mkfifo(checkpoints.folder / f"000003-{'0' * 16}.safetensors")
    lines: list[str] = []
    assert checkpoints.resume(model, optimizer, lines.append) == history(2)
    assert "is damaged (it is not a regular file): going on" in lines[0]


def test_damaged_files_of_later_epochs_do_not_push_out_the_new_ones(
    checkpoints: Checkpoints,
) -> None:
    checkpoints.folder.mkdir()
    for epoch in (7, 8, 9):
        put(checkpoints, epoch, b"", "0" * 16)
    (checkpoints.folder / f"000001-{'0' * 16}.safetensors").mkdir()  # cannot be deleted as a file
    model, optimizer = make()
    for epoch in (1, 2, 3):
        checkpoints.save(model, optimizer, history(epoch))
    lines: list[str] = []
    assert checkpoints.resume(model, optimizer, lines.append) == history(3)
    assert len(lines) == 3
    assert [name[:6] for name in names(checkpoints.folder)] == [
        "000001",
        *("000002", "000003", "000007", "000008", "000009"),
    ]


def test_where_all_are_damaged_the_run_starts_anew_after_trying_the_newest_first(
    checkpoints: Checkpoints,
) -> None:
    checkpoints.folder.mkdir()
    for epoch in (1, 999_999, 1_000_000):
        put(checkpoints, epoch, b"", "0" * 16)
    (checkpoints.folder / f"000003-{'0' * 16}.safetensors").mkdir()
    model, optimizer = make()
    before = weights(model)
    lines: list[str] = []
    assert checkpoints.resume(model, optimizer, lines.append) == History()
    epochs = [int(found[1]) for line in lines if (found := re.search(r"(\d+)-0000", line))]
    assert epochs == [1_000_000, 999_999, 3, 1]
    assert weights(model) == before


# Where the optimizer's memory belongs


@pytest.mark.parametrize("capturable", [False, True])
def test_memory_goes_to_the_weights_device_and_the_step_count_where_it_must(
    capturable: bool, checkpoints: Checkpoints
) -> None:
    """The meta device stands for a GPU: Adam keeps its step count there for CUDA graphs only."""
    model, optimizer = make()
    checkpoints.save(model, optimizer, history())
    far = [torch.zeros_like(weight, device="meta") for weight in model.parameters()]
    there = torch.optim.Adam(far, capturable=capturable)
    checkpoints.resume(model, there, fail)
    for weight in far:
        memory = {name: value.device.type for name, value in there.state[weight].items()}
        step_count = "meta" if capturable else "cpu"
        assert memory == {"step": step_count, "exp_avg": "meta", "exp_avg_sq": "meta"}


# One run's folder


def test_a_folder_belongs_to_exactly_one_set_of_determinants(tmp_path: Path) -> None:
    tree = {"seed": 1, "lr": 0.5, "options": {"a": None, "b": [1, "x"]}}
    ours = Checkpoints.of(tmp_path, "scratch", tree).folder
    document = '{"lr": 0.5, "options": {"a": null, "b": [1, "x"]}, "seed": 1}'
    assert json.loads(document) == tree
    assert ours == tmp_path / f"scratch-{digest_of(document.encode())}"
    turned = {"options": {"b": [1, "x"], "a": None}, "lr": 0.5, "seed": 1}
    assert Checkpoints.of(tmp_path, "scratch", turned).folder == ours
    others = [
        Checkpoints.of(tmp_path, "concise", tree).folder,
        *(Checkpoints.of(tmp_path, "scratch", tree | {key: 2}).folder for key in tree),
    ]
    assert len({ours, *others}) == 5


def test_only_its_own_folder_is_removed(tmp_path: Path) -> None:
    ours, other = (Checkpoints.of(tmp_path, "scratch", {"seed": seed}) for seed in (0, 1))
    for checkpoints in (ours, other):
        checkpoints.save(*make(), history())
    ours.remove()
    ours.remove()  # not there any more: no error
    assert names(tmp_path) == [other.folder.name]
    assert len(names(other.folder)) == 1


def test_the_fingerprint_of_files_follows_their_bytes_order_and_borders(tmp_path: Path) -> None:
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
