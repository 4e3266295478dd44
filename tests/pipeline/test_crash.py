"""Training processes are killed, and the resumed training ends with the same bytes."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file
from small_trainings import ROOT, checkpoint_files, copy_with_params, prepare, set_param
from warm import Stage

KILLS = 4  # per variant and partition, 24 in all
RESULTS = ("training", "analysis")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with prepared data of random text, which can only be memorised."""
    return prepare(tmp_path_factory.mktemp("crash"))


def start(folder: Path, variant: str, seed: int | None = None) -> Stage:
    """Start the training stage or, with a seed, the stage that trains a replicate."""
    stage = ["stages.train"] if seed is None else ["stages.replicate", "--seed", str(seed)]
    env = {"PYTHONPATH": str(ROOT)}
    return Stage(*stage, "--variant", variant, cwd=folder, env=env)


def start_with(folder: Path, what: int, most: int) -> subprocess.Popen[str]:
    """Start the training of scratch in a new Python process with a limit of the system."""
    # The limit would also apply to the measurement of coverage.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    return subprocess.Popen(
        [sys.executable, "-m", "stages.train", "--variant", "scratch"],
        cwd=folder,
        env=env | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: limit(what, most),
    )


def limit(what: int, most: int) -> None:
    resource.setrlimit(what, (most, most))


def failure(process: Stage | subprocess.Popen[str]) -> str:
    """Return the error of a failed stage, which must be its only line of stderr."""
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    errors = [line for line in output.splitlines() if not line.startswith("train@")]
    assert len(errors) == 1, output
    return errors[0]


def finish(folder: Path, variant: str, seed: int | None = None) -> str:
    process = start(folder, variant, seed)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def results(folder: Path) -> dict[str, bytes]:
    """Return all outputs that must be the same in every run, all but the timings."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for kind in RESULTS
        for path in sorted((folder / kind).rglob("*"))
        if path.is_file() and path.name != "timing.json"
    }


def epochs_of(checkpoint: Path) -> int:
    """Return the number of finished epochs in ``checkpoint``."""
    return int(load_file(checkpoint)["counts"][0])


def moments(seed: int, kills: int = KILLS) -> Iterator[tuple[str, int]]:
    """Yield times to kill: after a number of new checkpoints, at any moment or within a write."""
    generator = random.Random(seed)
    for number in range(kills):
        yield ("write", 1) if number % 2 else ("moment", generator.randint(1, 6))


def kill(folder: Path, variant: str, kind: str, checkpoints: int, seed: int | None = None) -> bool:
    """Start the training and kill it at the given time. Return whether it was still running."""
    before = set(checkpoint_files(folder))
    seen: set[Path] = set()
    process = start(folder, variant, seed)
    while process.poll() is None and len(seen) < checkpoints:
        seen |= set(checkpoint_files(folder)) - before
        time.sleep(0.002)
    if kind == "write":
        deadline = time.monotonic() + 5
        while process.poll() is None and time.monotonic() < deadline:
            if any(folder.glob(".checkpoints/*/.*.tmp")):
                break
    else:
        time.sleep(random.Random(checkpoints).uniform(0, 0.01))
    running = process.poll() is None
    process.kill()
    process.communicate()
    return running


@pytest.mark.parametrize("partition", ["sequential", "random"])
@pytest.mark.parametrize("variant", ["scratch", "concise", "fused"])
def test_killed_training_gives_same_bytes(
    prepared: Path, tmp_path: Path, variant: str, partition: str
) -> None:
    optimizer = "adam" if partition == "random" else "sgd"
    options = {"partition": partition, "optimizer": optimizer, "epochs": 50}
    if optimizer == "adam":
        options["lr"] = 0.005
    uninterrupted = copy_with_params(prepared, tmp_path / "uninterrupted", **options)
    finish(uninterrupted, variant)

    interrupted = copy_with_params(prepared, tmp_path / "interrupted", **options)
    killed = sum(kill(interrupted, variant, *moment) for moment in moments(seed=len(variant)))
    assert killed == KILLS, "a run ended before its kill; make the runs longer"
    assert not (interrupted / "training").exists()
    assert "going on after epoch" in finish(interrupted, variant)
    assert results(interrupted) == results(uninterrupted)
    assert not checkpoint_files(interrupted), "the finished run keeps more than its last state"


@pytest.mark.parametrize(("variant", "seed"), [("scratch", None), ("fused", None), ("concise", 3)])
def test_killed_training_gives_same_best_weights(
    prepared: Path, tmp_path: Path, variant: str, seed: int | None
) -> None:
    """Some kills are after the best epoch, whose weights are then in the checkpoints only."""
    options = {"select": "best_val", "validate_every": 2, "epochs": 120}
    options |= {"optimizer": "adam", "lr": 0.005}
    uninterrupted = copy_with_params(prepared, tmp_path / "uninterrupted", **options)
    finish(uninterrupted, variant, seed)
    name = "training/{}/training" if seed is None else "analysis/replicate/{}-3"
    figures = json.loads((uninterrupted / f"{name.format(variant)}.json").read_text())
    selected = figures["selected_epoch"]
    assert selected < 120, "the best epoch is the last"

    interrupted = copy_with_params(prepared, tmp_path / "interrupted", **options)
    for moment in moments(seed=len(variant), kills=2):
        assert kill(interrupted, variant, *moment, seed), "the run ended before its kill"
    while epochs_of(checkpoint_files(interrupted)[-1]) <= selected:
        assert kill(interrupted, variant, "moment", 4, seed), "the run ended before its kill"
    assert "going on after epoch" in finish(interrupted, variant, seed)
    assert results(interrupted) == results(uninterrupted)
    assert not checkpoint_files(interrupted), "the finished run keeps more than its last state"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_training_keeps_a_checkpoint(
    prepared: Path, tmp_path: Path, number: signal.Signals
) -> None:
    folder = copy_with_params(prepared, tmp_path / "run", epochs=2000)
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    params["checkpoint"]["every"] = 1000
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    process = start(folder, "scratch")
    log = folder / "live/scratch/plots/metrics/train/perplexity.tsv"
    while process.poll() is None and not log.exists():
        time.sleep(0.01)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in output
    assert "interrupted after" in output
    [kept] = checkpoint_files(folder)
    steps = int(kept.name.split("-")[0])
    assert f"step {steps} in epoch" in output or f"after epoch {epochs_of(kept)};" in output
    assert not (folder / "training").exists()
    assert not list((folder / "live").glob("*"))


def test_stopped_replicate_resumes(prepared: Path, tmp_path: Path) -> None:
    uninterrupted, folder = (
        copy_with_params(prepared, tmp_path / name, epochs=50) for name in ("uninterrupted", "run")
    )
    finish(uninterrupted, "scratch", seed=3)
    process = start(folder, "scratch", seed=3)
    while process.poll() is None and not checkpoint_files(folder):
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "replicate: error: interrupted after" in output
    assert "Traceback" not in output
    assert not results(folder)
    assert "going on after" in finish(folder, "scratch", seed=3)
    assert "analysis/replicate/scratch-3.json" in results(folder)
    assert results(folder) == results(uninterrupted)


def test_damaged_checkpoint_is_skipped_for_previous_one(prepared: Path, tmp_path: Path) -> None:
    uninterrupted = copy_with_params(prepared, tmp_path / "uninterrupted", epochs=50)
    finish(uninterrupted, "scratch")
    folder = copy_with_params(prepared, tmp_path / "run", epochs=50)
    while len(checkpoint_files(folder)) < 2:
        assert kill(folder, "scratch", "moment", 5)
    newest = checkpoint_files(folder)[-1]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    before = epochs_of(checkpoint_files(folder)[-2])

    output = finish(folder, "scratch")
    assert f"{newest.relative_to(folder)} is damaged" in output
    assert f"going on after epoch {before} " in output
    assert results(folder) == results(uninterrupted)


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"lr": 0.25}, {"accumulate": 2}, {"partition": "random"}, {"clip_norm": None}],
    ids=lambda change: next(iter(change)),
)
def test_checkpoint_of_another_experiment_is_not_used(
    prepared: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    folder = copy_with_params(prepared, tmp_path / "run", epochs=120)
    assert kill(folder, "scratch", "moment", 1)
    assert checkpoint_files(folder)
    for key, value in change.items():
        set_param(folder, "train", key, value)
    process = start(folder, "scratch")
    line = process.lines(2)
    process.kill()
    process.communicate()
    assert "going on after epoch" not in line


@pytest.mark.parametrize("variant", ["scratch", "concise", "fused"])
def test_deterministic_training_changes_nothing_on_cpu(
    prepared: Path, tmp_path: Path, variant: str
) -> None:
    folders = [
        copy_with_params(prepared, tmp_path / str(asked), epochs=3, deterministic=asked)
        for asked in (False, True)
    ]
    for folder in folders:
        finish(folder, variant)
    assert results(folders[0]) == results(folders[1])


def test_training_uses_requested_threads(prepared: Path, tmp_path: Path) -> None:
    for threads, words in ((1, "CPU, 1 thread"), (2, "CPU, 2 threads")):
        folder = copy_with_params(prepared, tmp_path / str(threads), epochs=1, threads=threads)
        assert f"on {words}\n" in finish(folder, "scratch")


def test_second_training_of_a_variant_is_refused(prepared: Path, tmp_path: Path) -> None:
    folder = copy_with_params(prepared, tmp_path / "run", epochs=120)
    alone = copy_with_params(prepared, tmp_path / "alone", epochs=120)
    finish(alone, "scratch")
    first = start(folder, "scratch")
    while first.poll() is None and not checkpoint_files(folder):
        time.sleep(0.002)
    line = failure(start(folder, "scratch"))
    assert line.startswith("train: error: another process is training scratch in ")
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 0, output
    assert results(folder) == results(alone)
    assert not list((folder / ".checkpoints").glob("*.lock"))


def test_killed_training_leaves_no_lock(prepared: Path, tmp_path: Path) -> None:
    folder = copy_with_params(prepared, tmp_path / "run", epochs=50)
    assert kill(folder, "scratch", "moment", 1)
    assert "going on after epoch" in finish(folder, "scratch")


def test_unusable_params_keep_earlier_results(prepared: Path, tmp_path: Path) -> None:
    folder = copy_with_params(prepared, tmp_path / "run", epochs=2)
    finish(folder, "scratch")
    before = results(folder)
    set_param(folder, "train", "batch_size", 4000)
    assert "but a minibatch of train.batch_size = 4000" in failure(start(folder, "scratch"))
    assert results(folder) == before


@pytest.mark.parametrize("every", [1, 1000], ids=["checkpoint", "curve"])
def test_refused_write_stops_with_one_line(prepared: Path, tmp_path: Path, every: int) -> None:
    """The kernel refuses the write. DVCLive, which writes the curve, does not name the file."""
    folder = copy_with_params(prepared, tmp_path / "run")
    set_param(folder, "checkpoint", "every", every)
    process = start_with(folder, resource.RLIMIT_FSIZE, 500)
    place = folder if every > 1 else ".checkpoints/scratch-"
    line = failure(process)
    assert line.startswith(f"train: error: {place}")
    assert "File too large: raise the limit" in line
    assert not (folder / "training").exists()
    assert not list((folder / "live").glob("*"))


def test_model_too_large_for_memory_stops_with_one_line(prepared: Path, tmp_path: Path) -> None:
    folder = copy_with_params(prepared, tmp_path / "run")
    set_param(folder, "model", "hidden_size", 16_384)  # 1 GiB per matrix
    process = start_with(folder, resource.RLIMIT_AS, 3 << 30)
    assert "out of memory: lower model.hidden_size" in failure(process)


def test_divergence_stops_with_one_line_and_no_model(prepared: Path, tmp_path: Path) -> None:
    folder = copy_with_params(prepared, tmp_path / "run", lr=40.0, clip_norm=None, epochs=120)
    process = start(folder, "scratch")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    [error] = [line for line in output.splitlines() if "error:" in line]
    assert "diverged in epoch" in error
    assert "last finite perplexity" in error
    assert "train.lr" in error
    assert "Traceback" not in output
    assert not (folder / "training").exists()
    assert not list((folder / "live").glob("*"))
    match = re.search(r"diverged in epoch (\d+)", error)
    assert match is not None
    newest = checkpoint_files(folder)[-1]
    assert epochs_of(newest) == int(match[1]) - 1 >= 1
    assert str(newest.parent.relative_to(folder)) in output
    tensors = load_file(newest)
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())
