"""The memory of the stages that read tokens does not grow with the number of tokens.

The tests limit what a process may allocate beyond its imports. A memory-mapped file does not count.
"""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import PROJECT

from gru_lm.data.prepared import Prepared
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.evaluation.coverage import CoverageSums
from gru_lm.evaluation.uncertainty import Observations, UncertaintySums
from gru_lm.gate_study.reading import Activity

TOKENS = 40_000_000  # 320 MB in int64
LIMIT = 256 << 20  # bytes
# One thread, and large blocks apart from the heap, so that they are given back when they are freed.
LEAN = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(1 << 16)}

# Limits the memory after the imports, then runs the stages.
LIMITED = """
import json, re, resource, sys
from pathlib import Path
import stages
from stages import evaluate, export, replicate, train
import torch

torch.set_num_threads(1)
used = int(re.search(r"VmData:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
limit = used + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
for arguments in json.loads(sys.argv[2]):
    sys.argv = arguments
    getattr(stages, arguments[0]).main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is that of Linux")
@pytest.mark.parametrize("partition", ["sequential", "random"])
def test_stages_stay_within_a_limit(tmp_path: Path, partition: str) -> None:
    vocabulary = Vocabulary(("<unk>", *"abcdefg "))
    tokens = np.random.default_rng(0).integers(1, 9, TOKENS, np.uint8)
    splits = {"train": tokens, "val": tokens, "test": tokens[:5000]}
    Prepared.write(vocabulary, splits, tmp_path / "data/prepared")
    params = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    params["device"] = "cpu"
    params["model"]["hidden_size"] = 8
    params["train"] |= {"epochs": None, "steps": 3, "partition": partition}
    params["train"] |= {"validate_every": "2 steps", "validate_tokens": 3000}
    params["evaluate"] |= {"max_tokens": 2000, "block": 100}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    stages = [["train", "--variant", "scratch"], ["evaluate", "--variant", "scratch"]]
    if partition == "sequential":
        stages.append(["replicate", "--variant", "scratch", "--seed", "1"])
        stages.append(["export", "--variant", "scratch"])
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(LIMIT), str(stages).replace("'", '"')],
        cwd=tmp_path,
        env={"PYTHONPATH": str(PROJECT), **LEAN},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    scores = yaml.safe_load((tmp_path / "metrics/evaluate/scratch.json").read_text())
    assert {name: scores[name]["tokens"] for name in splits} == dict.fromkeys(splits, 1999)
    assert scores["blocks"]["val"]["tokens"] == 1999
    if partition == "random":
        return
    replicated = yaml.safe_load((tmp_path / "analysis/replicate/scratch-1.json").read_text())
    assert replicated["scores"]["train"]["tokens"] == 1999
    exported = yaml.safe_load((tmp_path / "metrics/export/scratch.json").read_text())
    assert exported["tokens_compared"] == 2000


# Reads the gates of a model with many units whose steps cost nothing.
GATES = """
import re, resource, sys
from pathlib import Path
import numpy as np
import torch
from gru_lm.gate_study.reading import read

class Still:
    vocab_size = 3

    def begin_state(self, batch_size):
        return torch.zeros(batch_size, 4096)

    def steps(self, tokens, state):
        for _ in range(tokens.shape[1]):
            yield state, state, state

    def logits(self, states):
        return torch.zeros(len(states), 3)

torch.set_num_threads(1)
read(Still(), np.zeros(600, np.uint8), 0, 1)
used = int(re.search(r"VmData:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
limit = used + (192 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
found = read(Still(), np.zeros(12_000, np.uint8), 6000, 10)
print(found.passage.Z.shape)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is that of Linux")
def test_reading_gates_keeps_only_the_passage() -> None:
    """All gates of the text would take 590 MB."""
    done = subprocess.run(
        [sys.executable, "-c", GATES],
        env={"PYTHONPATH": str(PROJECT / "src"), **LEAN},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "(10, 4096)\n"), done.stderr


def peak_of_sums(length: int) -> int:
    """Return the peak memory of the sums over ``length`` predictions, in bytes."""
    vocabulary = Vocabulary(("<unk>", "a", " "))
    tokens = np.resize(np.array([1, 1, 2], np.uint8), length + 1)
    times = np.ones(length, np.uint8)
    logits, chunk = torch.zeros(1000, 3), 1000
    tracemalloc.start()
    uncertainty, covered = UncertaintySums(tokens, vocabulary), CoverageSums(times, 1)
    activity = Activity(tokens, vocabulary, block=4000)
    observed = Observations(
        uncertainty.add,
        lambda found: covered.add(found.surprise),
        lambda found: activity.add(found.surprise, found.entropy),
        block=4000,
    )
    for start in range(0, length, chunk):
        observed.add(logits, torch.from_numpy(tokens[start + 1 :][:chunk].astype(np.int64)))
    observed.end()
    assert uncertainty.result()["overall"]["tokens"] == length
    assert covered.result()["overall"]["tokens"] == length
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_of_sums_does_not_grow() -> None:
    peak_of_sums(8000)  # what is made once
    assert peak_of_sums(400_000) < 1.2 * peak_of_sums(50_000)
