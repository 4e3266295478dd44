"""A whole run within one process: its rows, the weights that are kept, and how it is resumed.

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
import yaml
from torch import Tensor
from trainings import train_tree

from gru_lm.core.errors import Interrupted, MissingFile, UserError
from gru_lm.core.params import load_params
from gru_lm.core.variants import checked
from gru_lm.data.prepared import Prepared
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.models.base import BEST, CONFIG, WEIGHTS, build_model, load_model
from gru_lm.models.settings import ModelSettings
from gru_lm.results.training import TIMES_TRAINED
from gru_lm.training.loop import Diverged
from gru_lm.training.run import TrainingRun, alone
from gru_lm.training.settings import TrainingSettings
from gru_lm.training.state import to_tensors
from gru_lm.training.trainer import Sums, Trainer, validate

PROJECT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("process_wide_settings")
SCRIPT = PROJECT / "stages" / "train.py"
EPOCHS = 7
LOOKS = [3, 6, 7]
Row = tuple[int, float, float | None]


class Killed(Exception):
    """Raised in place of a kill of the process."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with prepared data of random text, which can only be memorised."""
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
    """A run that overfits soon: with Adam the validation perplexity rises after a few epochs."""
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


@pytest.mark.parametrize("select", ["last", "best_val"])
@pytest.mark.parametrize("variant", ["scratch", "concise", "fused"])
def test_the_selected_weights_are_those_of_the_epoch_named(
    variant: str, select: str, folder: Path
) -> None:
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
    looks = {epoch: value for epoch, _, value in rows if value is not None}
    assert list(looks) == LOOKS
    assert looks == dict(run.validation)
    assert len(speeds) == EPOCHS and min(speeds) > 0

    best = min(looks, key=lambda epoch: looks[epoch])
    assert best < EPOCHS, "the last epoch is the best: both choices are the same"
    assert run.history.best is not None
    assert (run.history.best.epoch, run.history.best.perplexity) == (best, looks[best])
    selected = {"last": EPOCHS, "best_val": best}[select]
    assert run.selected.epoch == selected
    assert weights(run) == seen[selected]
    assert seen[best] != seen[EPOCHS]
    run.save(folder / "kept")
    kept = load_model(folder / "kept", run.vocabulary.fingerprint)
    assert tensors(kept.state_dict()) == seen[selected]
    kept = load_model(folder / "kept" / BEST, run.vocabulary.fingerprint)
    assert tensors(kept.state_dict()) == seen[best], "kept whatever is selected"


def test_a_forged_checkpoint_of_a_whole_run_makes_no_model(folder: Path) -> None:
    """Its checksum is right, and it has all epochs. The run starts anew and gives the same."""
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


def test_selection_changes_nothing_but_the_weights_kept(folder: Path) -> None:
    runs = [start(folder, select=select) for select in ("last", "best_val")]
    for run in runs:
        run.train()
    last, best = (run.history for run in runs)
    assert (last.curve, last.validation) == (best.curve, best.validation)


@pytest.mark.parametrize("broken_off", range(1, EPOCHS + 1))
@pytest.mark.parametrize(("variant", "select"), [("scratch", "last"), ("fused", "best_val")])
def test_a_run_broken_off_anywhere_ends_with_the_same_bytes(
    variant: str, select: str, broken_off: int, folder: Path
) -> None:
    """Before and after each look, and before and after the best one, which is not the last."""
    calm = start(folder, variant, select=select)
    wanted: list[Row] = []
    calm.train(lambda *row: wanted.append(row))
    calm.save(folder / "calm")
    calm.checkpoints.remove()
    assert calm.history.best is not None and calm.history.best.epoch == 3, (
        "some of the runs break off after their best epoch"
    )

    def die(epoch: int, *_: float | None) -> None:
        if epoch == broken_off:
            raise Killed

    with pytest.raises(Killed):
        start(folder, variant, select=select).train(die)
    lines: list[str] = []
    resumed = start(folder, variant, lines.append, select=select)
    done = broken_off - 1  # its checkpoint came after the epoch was logged
    assert (f"going on after epoch {done} of a run that was interrupted" in lines) == (done > 0)
    rows: list[Row] = []
    speeds = resumed.train(lambda *row: rows.append(row))
    assert rows == wanted
    assert len(speeds) == EPOCHS - done
    assert weights(resumed) == weights(calm)
    assert resumed.selected == calm.selected
    assert resumed.history.best == calm.history.best
    resumed.save(folder / "resumed")
    files = [f"{part}{name}" for part in ("", f"{BEST}/") for name in (WEIGHTS, CONFIG)]
    assert [(folder / "resumed" / name).read_bytes() for name in files] == [
        (folder / "calm" / name).read_bytes() for name in files
    ]
    best, last = ((folder / "calm" / part / WEIGHTS).read_bytes() for part in (BEST, ""))
    assert (best != last) == (select == "last")


def test_the_first_of_equally_good_epochs_is_kept(
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
def test_a_look_without_a_number_is_never_the_best(
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


def test_a_run_no_look_of_which_gave_a_number_ends_in_one_line(folder: Path) -> None:
    # Letters never met in training, at a rate at which the weights grow without end.
    text = "abcd" * 100 + " efgh" * 20
    vocabulary = Vocabulary.build(text)
    tokens = vocabulary.encode(text)
    splits = {"train": tokens[:400], "val": tokens[400:]}
    Prepared.write(vocabulary, splits, folder / "prepared")
    hopeless: dict[str, Any] = {"variant": "concise", "lr": 30.0, "clip_norm": None}
    for _ in range(2):  # the second goes on from the checkpoint of the first
        lines: list[str] = []
        run = start(folder, say=lines.append, **hopeless)
        with pytest.raises(Diverged, match=r"validation perplexity was never finite; lower train"):
            run.train()
        assert len(run.history.curve) == EPOCHS
        assert all(math.isfinite(perplexity) for _, perplexity in run.curve)
        assert str(run.checkpoints.folder) in lines[-1]
    assert run.history.validation == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_ends_the_run_after_the_step(
    number: signal.Signals, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run has one long epoch of some 290 steps and no checkpoint before its end."""
    long: dict[str, Any] = {"batch_size": 1, "num_steps": 1, "epochs": 1, "every": 9}
    calm = start(folder, **long)
    calm.train()
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
    assert weights(again) == weights(calm) and again.curve == calm.curve


def test_a_finished_run_is_extended_with_the_bytes_of_a_longer_one(folder: Path) -> None:
    changes: dict[str, Any] = {"average": {"name": "ema", "decay": 0.9}, "select": "best_val"}
    calm = start(folder, epochs=9, **changes)
    wanted: list[Row] = []
    calm.train(lambda *row: wanted.append(row))
    calm.save(folder / "calm")
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
        assert (folder / "longer" / name).read_bytes() == (folder / "calm" / name).read_bytes()


def test_averaged_weights_are_validated_selected_and_saved(folder: Path) -> None:
    run = start(folder, average={"name": "swa", "start": 10})
    seen: dict[int, float] = {}
    run.train(lambda number, _, value: seen.update({number: value or 0.0}))
    assert not run.model.training
    assert seen[EPOCHS] == validate(run.model, val_tokens(folder), 4, 5)
    assert run.training.average is not None
    for weight, mean in zip(run.model.parameters(), run.training.average.weights, strict=True):
        assert weight.tolist() == mean.tolist()


def test_a_run_can_start_from_a_trained_model(folder: Path) -> None:
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


def test_an_initial_model_that_does_not_fit_is_refused_in_one_line(folder: Path) -> None:
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


def test_a_warmup_beyond_the_end_of_the_run_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"train\.schedule\.warmup = 500: the run has only 9\d"):
        start(folder, schedule={"warmup": 500})
    with pytest.raises(UserError, match=r"train\.average\.start = 500: the run has only 9\d"):
        start(folder, average={"name": "ema", "start": 500})


def test_about_ten_lines_tell_of_a_run_without_a_terminal(folder: Path) -> None:
    lines: list[str] = []
    start(folder, epochs=20, say=lines.append).train()
    assert [line.split(",")[0] for line in lines[1:]] == [f"epoch {n}" for n in range(2, 21, 2)]
    lines.clear()
    steps: dict[str, Any] = {"epochs": None, "steps": 45, "validate_every": "20 steps"}
    start(folder, say=lines.append, log_every="2 steps", **steps).train()
    assert 9 <= len(lines) - 1 <= 11
    assert lines[-1].startswith("step 45, perplexity ") and lines[-1].endswith(" tokens/s")


def test_a_bar_on_a_terminal_shows_the_figures_and_the_time_left(
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
def test_other_params_start_another_run(change: dict[str, Any], folder: Path) -> None:
    def die(epoch: int, *_: float | None) -> None:
        if epoch == 4:
            raise Killed

    with pytest.raises(Killed):
        start(folder).train(die)
    assert start(folder, **change).history.curve == []
    assert len(start(folder).history.curve) == 3


def test_another_validation_split_starts_another_run(folder: Path) -> None:
    def die(epoch: int, *_: float | None) -> None:
        if epoch == 4:
            raise Killed

    with pytest.raises(Killed):
        start(folder).train(die)
    shorten_validation(folder, slice(None, -1))
    assert start(folder).history.curve == []


def test_another_script_starts_another_run(folder: Path) -> None:
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


def test_only_the_code_that_computes_and_no_setting_is_part_of_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other packages' settings.py are loaded to be validated: their comments restart no run."""
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


def test_one_training_of_a_name_at_a_time(folder: Path) -> None:
    with alone("scratch"):
        with pytest.raises(UserError, match=f"another process is training scratch in {folder}"):
            alone("scratch").__enter__()
        with alone("scratch-1"):
            pass
    with alone("scratch"):
        assert (folder / ".checkpoints/scratch.lock").exists()
    assert not list((folder / ".checkpoints").iterdir())


def test_divergence_keeps_the_epoch_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_missing_split_is_named(split: str, folder: Path) -> None:
    (folder / f"prepared/{split}.npy").unlink()
    with pytest.raises(MissingFile, match=rf"{split}\.npy is missing") as caught:
        start(folder)
    assert caught.value.path == folder / f"prepared/{split}.npy"


def test_a_validation_split_of_two_tokens_will_do(folder: Path) -> None:
    shorten_validation(folder, slice(2))
    run = start(folder, epochs=2)
    run.train()
    assert [number for number, _ in run.validation] == [2]
