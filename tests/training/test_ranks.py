"""Several processes train the model that one process trains."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_worker import Result, train
from safetensors.torch import load_file
from torch import Tensor
from warm import Stage

from gru_lm.training.ranks import Ranks
from gru_lm.training.state import COUNTS, NUMBERS

TESTS = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).with_name("rank_worker.py")
DROPOUT = {"model": {"dropout": {"output": 0.4}}}

# Of 2 ranks with 4 rows, and of 3 ranks with 8 rows.
TWO: dict[str, dict[str, Any]] = {
    "scratch": {},
    "concise": {"variant": "concise"},
    "fused": {"variant": "fused"},
    "adam": {"optimizer": "adam", "lr": 0.01, "average": {"name": "ema", "decay": 0.9}},
    "dropout": DROPOUT,
}
THREE: dict[str, dict[str, Any]] = {
    "rows": {"batch_size": 8, "num_steps": 3, "clip_norm": 0.05},
    "accumulate": {"batch_size": 8, "num_steps": 3, "accumulate": 2, "drop_last": False},
    # An epoch has 25 or 26 pieces, so its last minibatch has fewer rows than there are ranks.
    "random": {"batch_size": 8, "num_steps": 7, "partition": "random", "drop_last": False},
    # The last row, all that a rank has, ends in one or two positions without a target.
    "padding": {"batch_size": 3, "num_steps": 1, "drop_last": False, "epochs": 2},
    # A validation of 30 targets has two rows of 15.
    "validation": {"batch_size": 3, "num_steps": 15, "epochs": 5},
    "minutes": {"epochs": None, "minutes": 0.001, "log_every": "5 steps"},
}


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def run(size: int, cases: dict[str, dict[str, Any]], folder: Path) -> None:
    """Train all ``cases`` in ``size`` processes."""
    port = free_port()
    path = f"{TESTS.parent / 'src'}:{TESTS}"
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    processes = [
        Stage(
            *(str(WORKER), json.dumps(cases), str(folder)),
            cwd=folder,
            env=shared | {"RANK": str(rank), "PYTHONPATH": path},
        )
        for rank in range(size)
    ]
    for process in processes:
        output = process.communicate()[0]
        assert process.returncode == 0, output


def results(name: str, folder: Path) -> Result:
    """Return the result of a case, whose rows must be the same in all ranks."""
    rows = [json.loads(path.read_text()) for path in folder.glob(f"{name}-*.json")]
    assert len(rows) > 1 and all(one == rows[0] for one in rows)
    return rows[0], load_file(folder / f"{name}.middle"), load_file(folder / f"{name}.end")


def assert_close(left: dict[str, Tensor], right: dict[str, Tensor], rel: float) -> None:
    """Assert that two states are equal, except the times."""
    assert left.keys() == right.keys()
    for name in left:
        one, other = left[name].double(), right[name].double()
        if name == "numbers":
            kept = [NUMBERS.index(key) for key in ("nats", "best", "plateau")]
            one, other = one[kept], other[kept]
        torch.testing.assert_close(
            one, other, rtol=rel, atol=rel, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    run(2, TWO, folder)
    return folder


@pytest.fixture(scope="module")
def three(two: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of three ranks, of which one goes on from the state of two ranks."""
    folder = tmp_path_factory.mktemp("three")
    shutil.copy(two / "adam.middle", folder / "resumed.start")
    run(3, THREE | {"resumed": TWO["adam"]}, folder)
    return folder


@pytest.mark.parametrize("name", ["scratch", "concise", "fused", "adam"])
def test_two_ranks_equal_one_process(name: str, two: Path) -> None:
    rows, middle, end = train(TWO[name])
    found = results(name, two)
    assert "state" in middle, "the state in the middle carries nothing"
    assert [row[0] for row in found[0]] == [1, 2, 3]
    for row, one in zip(found[0], rows, strict=True):
        assert row == pytest.approx(one, rel=1e-6)
    assert_close(found[1], middle, 1e-6)
    assert_close(found[2], end, 1e-6)


@pytest.mark.parametrize("name", ["rows", "accumulate", "random", "padding", "validation"])
def test_three_ranks_equal_one_process(name: str, three: Path) -> None:
    rows, _, end = train(THREE[name])
    found = results(name, three)
    for row, one in zip(found[0], rows, strict=True):
        assert row == pytest.approx(one, rel=1e-6)
    assert_close(found[2], end, 1e-6)


def test_another_number_of_ranks_goes_on_with_same_curve(three: Path) -> None:
    rows, _, end = train(TWO["adam"])
    found = results("resumed", three)
    assert [row[0] for row in found[0]] == [2, 3]
    for row, one in zip(found[0], rows[1:], strict=True):
        assert row == pytest.approx(one, rel=1e-6)
    assert_close(found[2], end, 1e-6)


def test_length_in_minutes_ends_all_ranks_at_one_step(three: Path) -> None:
    rows, _, end = results("minutes", three)
    assert end["counts"][COUNTS.index("steps")] == rows[-1][0] > 1


def test_ranks_draw_masks_of_their_own(two: Path) -> None:
    """The masks of the first rank are those of one process, so only other ones differ."""
    rows = results("dropout", two)[0]
    assert [row[0] for row in rows] == [1, 2, 3]
    assert rows[0][1] != pytest.approx(train(DROPOUT)[0][0][1], rel=1e-6)


def test_rows_are_shared_out_evenly() -> None:
    rows = torch.arange(8)
    parts = [Ranks(rank, 3).rows(rows).tolist() for rank in range(3)]
    assert parts == [[0, 1], [2, 3, 4], [5, 6, 7]]
    assert [len(Ranks(rank, 3).rows(rows[:2])) for rank in range(3)] == [0, 1, 1]
