"""The files of the stage gates, and variants and texts without gate results."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import yaml
from conftest import PROJECT
from gated import random_model

from gru_lm.core.files import read_arrays
from gru_lm.data.prepared import Prepared
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.models.base import LanguageModel
from gru_lm.models.gru.family import GRU
from stages import gates as gates_stage


def make_project(root: Path, level="char", lengths=(600, 300), start=0, length=40, seeds=(5,)):
    """Write models, as after a training, their data and params.yaml to ``root``."""
    seeds = list(seeds)
    rng = np.random.default_rng(2)
    words = ["a", "b", " "] if level == "char" else [f"word{n}" for n in range(40)]
    vocabulary = Vocabulary(("<unk>", *words), level)
    splits = {
        name: rng.integers(1, len(vocabulary), size).astype(vocabulary.dtype)
        for name, size in zip(("train", "val"), lengths, strict=True)
    }
    Prepared.write(vocabulary, splits, root / "data/prepared")
    for number, folder in enumerate(
        ["models/scratch", *(f"analysis/replicate/scratch/{seed}" for seed in seeds if seed != 5)]
    ):
        model = random_model("scratch", len(vocabulary), hidden_size=8, reset="before")
        for kept, name in ((0, folder), (1, f"{folder}/best")):
            with torch.no_grad():
                model.W_hq.mul_(1 + (2 * number + kept) / 10)  # all are different
            model.save(root / name, vocabulary.fingerprint)
    params = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    params["train"]["seed"], params["replicate"]["seeds"] = 5, seeds
    params["gate_study"] = {"start": start, "length": length}
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return splits


def run_stage(root: Path):
    return subprocess.run(
        [sys.executable, "-m", "stages.gates", "--variant", "scratch"],
        cwd=root,
        env={"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def results(root: Path):
    vocabulary = Vocabulary.load(root / "data/prepared/vocab.json")
    path = root / "analysis/gates/scratch.npz"
    arrays = read_arrays(path, owner=vocabulary.fingerprint)
    return arrays, json.loads((root / "analysis/gates/scratch.json").read_text(encoding="utf-8"))


def test_stage_writes_valid_results(tmp_path):
    splits = make_project(tmp_path, seeds=(1, 5))  # train.seed among them counts once
    assert (ran := run_stage(tmp_path)).returncode == 0, ran.stderr
    arrays, found = results(tmp_path)
    expected = {f"{part}": (np.float32, (8,)) for part in ("mean_Z", "mean_R", "time_constant")}
    for name in ("train", "val"):
        expected |= {
            f"{name}_tokens": (np.int64, (40,)),
            f"{name}_Z": (np.float32, (40, 8)),
            f"{name}_R": (np.float32, (40, 8)),
            f"{name}_surprise": (np.float32, (40,)),
            f"{name}_top_tokens": (np.int64, (40, 4)),  # the whole vocabulary, fewer than five
            f"{name}_top_probabilities": (np.float32, (40, 4)),
        }
        assert arrays[f"{name}_tokens"].tolist() == splits[name][:40].tolist()
        assert np.isnan(arrays[f"{name}_surprise"]).tolist() == [True] + [False] * 39
    assert {name: (a.dtype, a.shape) for name, a in arrays.items()} == expected
    np.testing.assert_allclose(
        arrays["time_constant"], -1 / np.log(arrays["mean_Z"].astype(float)), rtol=1e-4
    )
    assert found["activity"]["train"].keys() == {"first letter", "inside words", "space"}
    total = sum(place["tokens"] for place in found["activity"]["val"].values())
    assert total == len(splits["val"])
    assert (found["seeds"], found["selected"]) == ([5, 1], "last")
    bits = []
    for text, curves in found["context"].items():
        for curve in curves.values() if text != "tolerance" else ():
            assert curve["lengths"][:4] == [0, 1, 2, 3] and curve["lengths"][-1] == 48
            assert [one["seed"] for one in curve["trainings"]] == [5, 1]
            bits += [tuple(one["scores"]["bits"]) for one in curve["trainings"]]
    assert len(set(bits)) == 8  # two trainings, two weights, two texts
    for of in found["interventions"].values():
        assert [one["seed"] for one in of["gates"]] == [5, 1]
        compared = of["reset_against_update"]["fresh"]["calibrated_bits"]["near"]
        assert (
            compared["outcome"] == "undecided" and compared["low"] is None
        )  # there are two trainings
    selected, best = (
        [one["scores"] for one in found["context"]["val"][w]["trainings"]]
        for w in ("selected", "best")
    )
    plain = found["interventions"]["val"]["gates"][0]["plain"]["bits"]
    assert plain[1] == best[0]["bits"][1] != selected[0]["bits"][1]

    files = [tmp_path / f"analysis/gates/scratch.{kind}" for kind in ("npz", "json")]
    before = [path.read_bytes() for path in files]
    assert run_stage(tmp_path).returncode == 0
    assert [path.read_bytes() for path in files] == before


def test_words_and_short_splits(tmp_path):
    make_project(tmp_path, "word", lengths=(300, 2), start=1, length=5000)
    assert (ran := run_stage(tmp_path)).returncode == 0, ran.stderr
    arrays, found = results(tmp_path)
    assert found["activity"] == {"train": None, "val": None}
    assert arrays["train_tokens"].shape == (299,) and arrays["val_tokens"].shape == (1,)
    assert not np.isnan(arrays["train_surprise"]).any()  # not the split's first token
    assert found["interventions"]["val"]["gates"] == []
    assert arrays["val_top_tokens"].shape == (1, 5)


def test_passage_beyond_split_is_refused(tmp_path):
    make_project(tmp_path, start=300)
    ran = run_stage(tmp_path)
    assert ran.returncode == 1
    assert ran.stderr.splitlines() == [
        "gates: error: gate_study.start = 300, but the split has only 300 tokens: "
        "choose a smaller one"
    ]
    assert not (tmp_path / "analysis").exists()


def test_variant_without_gates_is_left_out(tmp_path, monkeypatch, capsys):
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gates", "--variant", "scratch"])
    monkeypatch.setattr(GRU, "gates", LanguageModel.gates)
    threads = torch.get_num_threads()
    gates_stage.main()
    torch.set_num_threads(threads)
    assert capsys.readouterr().out == "gates@scratch: scratch has no gates to read: left out\n"
    arrays, found = results(tmp_path)
    assert found == {"left_out": "scratch has no gates to read"}
    assert arrays == {}
