"""A whole run in one process, with its rows, the weights that are kept and its resumption.

tests/pipeline/test_crash.py kills real processes. Here a run ends at a known epoch or step.
"""

from __future__ import annotations

import copy
import io
import math
import re
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from trainings import train_tree

from gru_lm.core.errors import Interrupted, MissingFile, UserError
from gru_lm.core.params import load_params
from gru_lm.core.variants import checked
from gru_lm.data.prepared import Prepared
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.models.base import BEST, CONFIG, WEIGHTS, build_model, load_model, loop_threads
from gru_lm.models.settings import ModelSettings
from gru_lm.results.training import TIMES_TRAINED
from gru_lm.training.idle_cores import IdleCores
from gru_lm.training.loop import Diverged
from gru_lm.training.run import TrainingRun, alone
from gru_lm.training.settings import TrainingSettings
from gru_lm.training.state import to_tensors
from gru_lm.training.trainer import Sums, Trainer, validate

PROJECT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("process_wide_settings")
SCRIPT = PROJECT / "stages" / "train.py"
EPOCHS = 7
VALIDATED = [3, 6, 7]
Row = tuple[int, float, float | None]


class Killed(Exception):
    """Raised instead of killing the process."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder with prepared data of random text, which can only be memorised."""
    text = "".join(np.random.default_rng(0).choice(list("abcde fgh"), 400))
    vocabulary = Vocabulary.build(text)
    tokens = vocabulary.encode(text)
    splits = {"train": tokens[:300], "val": tokens[300:]}
    Prepared.write(vocabulary, splits, tmp_path / "prepared")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shorten_validation(folder: Path, kept: slice) -> None:
    prepared = Prepared(folder / "prepared")
    Prepared.write(prepared.vocabulary, {"val": prepared.tokens("val")[kept]}, prepared.folder)


def start(
    folder: Path,
    variant: str = "scratch",
    say: Callable[[str], None] | None = None,
    script: Path = SCRIPT,
    every: int | str = 1,
    **train: Any,
) -> TrainingRun:
    """Return a run that overfits. With Adam, its validation perplexity rises after a few epochs."""
    params = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    params["model"]["hidden_size"] = 32
    params["checkpoint"]["every"] = every
    small = {"epochs": EPOCHS, "batch_size": 4, "num_steps": 5, "validate_every": 3}
    params["train"] = train_tree(**(small | {"optimizer": "adam", "lr": 0.02} | train))
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(params), encoding="utf-8")
    return TrainingRun(
        name=variant,
        variant=checked(variant),
        options=load_params(ModelSettings, path).model.options(checked(variant)),
        settings=load_params(TrainingSettings, path),
        device="cpu",
        prepared=Prepared(folder / "prepared"),
        script=script,
        say=say or (lambda line: None),
    )


def tensors(of: Mapping[str, Tensor] | None) -> dict[str, list[Any]]:
    return {name: weight.tolist() for name, weight in (of or {}).items()}


def weights(run: TrainingRun) -> dict[str, list[Any]]:
    return tensors(run.model.state_dict())


def val_tokens(folder: Path) -> Tensor:
    return Prepared(folder / "prepared").tensor("val")


def test_validation_reads_the_stated_tokens(folder: Path) -> None:
    run = start(folder, validate_tokens=50)
    run.train()
    tokens = val_tokens(folder)
    assert len(tokens) > 50
    measured = run.history.validation[-1].perplexity
    assert measured == validate(run.model, tokens[:50], 4, 5)
    assert measured != validate(run.model, tokens, 4, 5)


@pytest.mark.parametrize("select", ["last", "best_val"])
@pytest.mark.parametrize("variant", ["scratch", "concise", "fused"])
def test_selected_weights_are_of_selected_epoch(variant: str, select: str, folder: Path) -> None:
    run = start(folder, variant, select=select)
    rows: list[Row] = []
    seen: dict[int, dict[str, list[Any]]] = {}

    def log(epoch: int, perplexity: float, val_perplexity: float | None) -> None:
        rows.append((epoch, perplexity, val_perplexity))
        seen[epoch] = copy.deepcopy(weights(run))
        if val_perplexity is not None:
            assert val_perplexity == validate(run.model, val_tokens(folder), 4, 5)

    speeds = run.train(log)
    assert [row[0] for row in rows] == list(range(1, EPOCHS + 1))
    assert [row[:2] for row in rows] == run.curve
    validated = {epoch: value for epoch, _, value in rows if value is not None}
    assert list(validated) == VALIDATED
    assert validated == dict(run.validation)
    assert len(speeds) == EPOCHS and min(speeds) > 0

    best = min(validated, key=lambda epoch: validated[epoch])
    assert best < EPOCHS, "the last epoch is the best, so both choices are the same"
    assert run.history.best is not None
    assert (run.history.best.epoch, run.history.best.perplexity) == (best, validated[best])
    selected = {"last": EPOCHS, "best_val": best}[select]
    assert run.selected.epoch == selected
    assert weights(run) == seen[selected]
    assert seen[best] != seen[EPOCHS]
    run.save(folder / "kept")
    kept = load_model(folder / "kept", run.vocabulary.fingerprint)
    assert tensors(kept.state_dict()) == seen[selected]
    kept = load_model(folder / "kept" / BEST, run.vocabulary.fingerprint)
    assert tensors(kept.state_dict()) == seen[best], "the best weights are not kept"


@pytest.mark.parametrize(("idle_cores", "used"), [(True, 3), (False, 1)])
def test_loops_use_idle_cores_during_training_only(
    idle_cores: bool, used: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(IdleCores, "threads", lambda self: 3)
    threads: list[tuple[int, int]] = []
    run = start(folder, "fused", epochs=2, idle_cores=idle_cores)
    run.train(lambda *row: threads.append((loop_threads(), torch.get_num_threads())))
    assert threads == [(used, 1)] * 2
    assert loop_threads() == 1


def test_forged_checkpoint_of_whole_run_is_refused(folder: Path) -> None:
    """It has a correct checksum and all epochs. The run restarts and gives the same weights."""
    run = start(folder, epochs=2)
    run.train()
    expected = weights(run)
    for weight in run.model.parameters():
        weight.data.zero_()
    run.checkpoints.save(run.training.position.steps, to_tensors(run.training))
    lines: list[str] = []
    again = start(folder, epochs=2, say=lines.append)
    assert any("is damaged (its run has ended)" in line for line in lines)
    assert len(again.train()) > 0
    assert weights(again) == expected


def test_selection_does_not_change_curves(folder: Path) -> None:
    runs = [start(folder, select=select) for select in ("last", "best_val")]
    for run in runs:
        run.train()
    last, best = (run.history for run in runs)
    assert (last.curve, last.validation) == (best.curve, best.validation)


@pytest.mark.parametrize("interrupted_in", range(1, EPOCHS + 1))
@pytest.mark.parametrize(("variant", "select"), [("scratch", "last"), ("fused", "best_val")])
def test_run_interrupted_in_any_epoch_gives_same_bytes(
    variant: str, select: str, interrupted_in: int, folder: Path
) -> None:
    """The interruptions are before and after each validation. The best one is not the last."""
    uninterrupted = start(folder, variant, select=select)
    wanted: list[Row] = []
    uninterrupted.train(lambda *row: wanted.append(row))
    uninterrupted.save(folder / "uninterrupted")
    uninterrupted.checkpoints.remove()
    assert uninterrupted.history.best is not None and uninterrupted.history.best.epoch == 3, (
        "no run is interrupted after its best epoch"
    )

    def die(epoch: int, *_: float | None) -> None:
        if epoch == interrupted_in:
            raise Killed

    with pytest.raises(Killed):
        start(folder, variant, select=select).train(die)
    lines: list[str] = []
    resumed = start(folder, variant, lines.append, select=select)
    done = interrupted_in - 1  # the checkpoint is written after the epoch is logged
    assert (f"going on after epoch {done} of a run that was interrupted" in lines) == (done > 0)
    rows: list[Row] = []
    speeds = resumed.train(lambda *row: rows.append(row))
    assert rows == wanted
    assert len(speeds) == EPOCHS - done
    assert weights(resumed) == weights(uninterrupted)
    assert resumed.selected == uninterrupted.selected
    assert resumed.history.best == uninterrupted.history.best
    resumed.save(folder / "resumed")
    files = [f"{part}{name}" for part in ("", f"{BEST}/") for name in (WEIGHTS, CONFIG)]
    assert [(folder / "resumed" / name).read_bytes() for name in files] == [
        (folder / "uninterrupted" / name).read_bytes() for name in files
    ]
    best, last = ((folder / "uninterrupted" / part / WEIGHTS).read_bytes() for part in (BEST, ""))
    assert (best != last) == (select == "last")


def test_first_of_equally_good_epochs_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = iter([5.0, 4.0, 4.0])
    monkeypatch.setattr("gru_lm.training.loop.validate", lambda *_: next(figures))
    run = start(folder, select="best_val")
    seen: dict[int, dict[str, list[Any]]] = {}
    run.train(lambda epoch, *_: seen.update({epoch: weights(run)}))
    assert run.selected.epoch == 6
    assert weights(run) == seen[6]


@pytest.mark.parametrize("figures", [[math.nan, 4.0, 5.0], [math.nan, 4.0, math.inf]])
def test_non_finite_validation_is_never_best(
    figures: list[float], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(figures)
    monkeypatch.setattr("gru_lm.training.loop.validate", lambda *_: next(left))
    run = start(folder, select="best_val")
    seen: dict[int, dict[str, list[Any]]] = {}
    run.train(lambda epoch, *_: seen.update({epoch: weights(run)}))
    assert dict(run.validation) == {6: 4.0} | ({7: 5.0} if 5.0 in figures else {})
    assert run.selected.epoch == 6
    assert weights(run) == seen[6]


def test_run_without_finite_validation_ends_in_one_line(folder: Path) -> None:
    # Training does not contain the letters, and at this rate the weights grow without limit.
    text = "abcd" * 100 + " efgh" * 20
    vocabulary = Vocabulary.build(text)
    tokens = vocabulary.encode(text)
    splits = {"train": tokens[:400], "val": tokens[400:]}
    Prepared.write(vocabulary, splits, folder / "prepared")
    hopeless: dict[str, Any] = {"variant": "concise", "lr": 30.0, "clip_norm": None}
    for _ in range(2):  # the second run resumes from the checkpoint of the first
        lines: list[str] = []
        run = start(folder, say=lines.append, **hopeless)
        with pytest.raises(Diverged, match=r"validation perplexity was never finite; lower train"):
            run.train()
        assert len(run.history.curve) == EPOCHS
        assert all(math.isfinite(perplexity) for _, perplexity in run.curve)
        assert str(run.checkpoints.folder) in lines[-1]
    assert run.history.validation == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_signal_ends_run_after_step(
    number: signal.Signals, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run has one long epoch of about 290 steps and no checkpoint before its end."""
    long: dict[str, Any] = {"batch_size": 1, "num_steps": 1, "epochs": 1, "every": 9}
    uninterrupted = start(folder, **long)
    uninterrupted.train()
    real = Trainer.step

    def ask_at_30(trainer: Trainer, *arguments: Any) -> Tensor:
        if arguments[4] == 30:
            signal.raise_signal(number)
        return real(trainer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", ask_at_30)
        with pytest.raises(Interrupted, match="interrupted after step 31 in epoch 1; run it again"):
            start(folder, **long).train()
    lines: list[str] = []
    again = start(folder, say=lines.append, **long)
    assert lines[1:] == ["going on after step 31 in epoch 1 of a run that was interrupted"]
    again.train()
    assert weights(again) == weights(uninterrupted) and again.curve == uninterrupted.curve


def test_extended_run_gives_same_bytes_as_longer_run(folder: Path) -> None:
    changes: dict[str, Any] = {"average": {"name": "ema", "decay": 0.9}, "select": "best_val"}
    uninterrupted = start(folder, epochs=9, **changes)
    wanted: list[Row] = []
    uninterrupted.train(lambda *row: wanted.append(row))
    uninterrupted.save(folder / "uninterrupted")
    first = start(folder, epochs=5, **changes)
    first.train()
    first.save(folder / "first")
    first.finish()
    lines: list[str] = []
    longer = start(folder, epochs=9, say=lines.append, **changes)
    assert lines[1:] == ["going on after epoch 5 of a finished run"]
    rows: list[Row] = []
    assert len(longer.train(lambda *row: rows.append(row))) == 4
    longer.save(folder / "longer")
    assert rows == wanted
    for name in (WEIGHTS, CONFIG, f"{BEST}/{WEIGHTS}", TIMES_TRAINED):
        expected = (folder / "uninterrupted" / name).read_bytes()
        assert (folder / "longer" / name).read_bytes() == expected


def test_averaged_weights_are_validated_and_kept(folder: Path) -> None:
    run = start(folder, average={"name": "swa", "start": 10})
    seen: dict[int, float] = {}
    run.train(lambda number, _, value: seen.update({number: value or 0.0}))
    assert not run.model.training
    assert seen[EPOCHS] == validate(run.model, val_tokens(folder), 4, 5)
    assert run.training.average is not None
    for weight, mean in zip(run.model.parameters(), run.training.average.weights, strict=True):
        assert weight.tolist() == mean.tolist()


def test_run_starts_from_trained_model(folder: Path) -> None:
    first = start(folder, epochs=2, lr=0.05)
    first.train()
    first.save(folder / "base/scratch")
    lines: list[str] = []
    tuned = start(folder, epochs=2, init_from="base/{variant}", say=lines.append)
    assert weights(tuned) == weights(first)
    assert lines[-1] == "starting from the weights in base/scratch"
    plain = start(folder, epochs=2)
    assert tuned.checkpoints.folder != plain.checkpoints.folder
    first.model.W_xz.data.add_(1)  # type: ignore[union-attr, operator]
    first.save(folder / "base/scratch")
    assert start(folder, epochs=2, init_from="base/{variant}").checkpoints != tuned.checkpoints


def test_unsuitable_initial_model_is_refused(folder: Path) -> None:
    run = start(folder, epochs=2)
    fingerprint = run.vocabulary.fingerprint
    for name, vocabulary in (("other", "f" * 64), ("small", fingerprint)):
        build_model("scratch", len(run.vocabulary), hidden_size=8).save(folder / name, vocabulary)
    build_model("concise", len(run.vocabulary), hidden_size=8).save(folder / "kind", fingerprint)
    after = build_model("scratch", len(run.vocabulary), hidden_size=32, reset="after")
    after.save(folder / "after", fingerprint)
    for name, why in {
        "nowhere": "there is no trained model",
        "other": "this model has another vocabulary than data/prepared/vocab.json",
        "small": "this model has other sizes than the section model",
        "kind": "this model is of the variant 'concise', not 'scratch'",
        "after": "this model has other options",
    }.items():
        with pytest.raises(UserError) as caught:
            start(folder, init_from=name)
        assert str(caught.value).startswith(f"train.init_from = {name}: {why}")


def test_warmup_longer_than_run_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"train\.schedule\.warmup = 500: the run has only 9\d"):
        start(folder, schedule={"warmup": 500})
    with pytest.raises(UserError, match=r"train\.average\.start = 500: the run has only 9\d"):
        start(folder, average={"name": "ema", "start": 500})


def test_run_without_terminal_prints_about_ten_lines(folder: Path) -> None:
    lines: list[str] = []
    start(folder, epochs=20, say=lines.append).train()
    assert [line.split(",")[0] for line in lines[1:]] == [f"epoch {n}" for n in range(2, 21, 2)]
    lines.clear()
    steps: dict[str, Any] = {"epochs": None, "steps": 45, "validate_every": "20 steps"}
    start(folder, say=lines.append, log_every="2 steps", **steps).train()
    assert 9 <= len(lines) - 1 <= 11
    assert lines[-1].startswith("step 45, perplexity ") and lines[-1].endswith(" tokens/s")


def test_terminal_bar_shows_figures_and_time_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", terminal)
    lines: list[str] = []
    run = start(folder, epochs=3, say=lines.append)
    run.train()
    last = terminal.getvalue().rsplit("\r", 1)[-1]
    assert re.search(r"100%\|.*\| 3/3 epochs \[\d\d:\d\d<00:00, valid", last)
    assert "perplexity" in last and "tokens/s" in last
    assert len(lines) == 1


@pytest.mark.parametrize("change", [{"select": "best_val"}, {"validate_every": 2}, {"seed": 1}])
def test_changed_params_start_another_run(change: dict[str, Any], folder: Path) -> None:
    def die(epoch: int, *_: float | None) -> None:
        if epoch == 4:
            raise Killed

    with pytest.raises(Killed):
        start(folder).train(die)
    assert start(folder, **change).history.curve == []
    assert len(start(folder).history.curve) == 3


def test_changed_validation_split_starts_another_run(folder: Path) -> None:
    def die(epoch: int, *_: float | None) -> None:
        if epoch == 4:
            raise Killed

    with pytest.raises(Killed):
        start(folder).train(die)
    shorten_validation(folder, slice(None, -1))
    assert start(folder).history.curve == []


def test_changed_script_starts_another_run(folder: Path) -> None:
    script = folder / "script.py"

    def die(epoch: int, *_: float | None) -> None:
        if epoch == 4:
            raise Killed

    script.write_text("first", encoding="utf-8")
    with pytest.raises(Killed):
        start(folder, script=script).train(die)
    assert len(start(folder, script=script).history.curve) == 3
    script.write_text("second", encoding="utf-8")
    assert start(folder, script=script).history.curve == []


def test_fingerprint_has_code_but_no_settings(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each settings.py is loaded only for validation. A comment in it must not restart a run."""
    names: list[str] = []

    def note(*paths: Path) -> str:
        names.extend(path.relative_to(PROJECT).as_posix() for path in paths if path.suffix == ".py")
        return "same"

    monkeypatch.setattr("gru_lm.training.run.fingerprint", note)
    start(folder)
    assert {"stages/train.py", "src/gru_lm/training/loop.py", "src/gru_lm/models/base.py"} <= set(
        names
    )
    assert "src/gru_lm/models/scratch/model.py" in names
    assert not [name for name in names if name.endswith("settings.py")]


def test_second_training_of_a_name_is_refused(folder: Path) -> None:
    with alone("scratch"):
        with pytest.raises(UserError, match=f"another process is training scratch in {folder}"):
            alone("scratch").__enter__()
        with alone("scratch-1"):
            pass
    with alone("scratch"):
        assert (folder / ".checkpoints/scratch.lock").exists()
    assert not list((folder / ".checkpoints").iterdir())


def test_divergence_keeps_previous_epoch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Trainer.step
    seen: list[dict[str, list[Any]]] = []

    def diverges_in_epoch_4(trainer: Trainer, *arguments: Any) -> Tensor:
        state = real(trainer, *arguments)
        sums: Sums = arguments[3]
        if len(seen) == 3:
            sums.nats += math.nan
        return state

    monkeypatch.setattr(Trainer, "step", diverges_in_epoch_4)
    lines: list[str] = []
    run = start(folder, say=lines.append, select="best_val")
    with pytest.raises(Diverged, match="diverged in epoch 4:"):
        run.train(lambda *_: seen.append(weights(run)))
    assert lines[-1] == f"the weights of epoch 3 are kept in {run.checkpoints.folder}"
    again = start(folder, select="best_val")
    assert again.history.curve == run.history.curve
    assert [number for number, _ in again.validation] == [3]
    assert weights(again) == seen[2]


@pytest.mark.parametrize("split", ["train", "val"])
def test_missing_split_is_named(split: str, folder: Path) -> None:
    (folder / f"prepared/{split}.npy").unlink()
    with pytest.raises(MissingFile, match=rf"{split}\.npy is missing") as caught:
        start(folder)
    assert caught.value.path == folder / f"prepared/{split}.npy"


def test_validation_split_of_two_tokens_is_enough(folder: Path) -> None:
    shorten_validation(folder, slice(2))
    run = start(folder, epochs=2)
    run.train()
    assert [number for number, _ in run.validation] == [2]
