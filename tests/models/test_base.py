"""Saved models load exactly, and damaged folders are refused."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from textbook import H, V, random_inputs

import gru_lm
from gru_lm.core.errors import DamagedFile, MissingFile, UnusableFile, UserError
from gru_lm.models.base import build_model, load_model
from gru_lm.models.concise.model import ConciseGRU
from gru_lm.models.scratch.model import ScratchGRU


def test_begin_state_is_zero_with_type_of_weights():
    state = ScratchGRU(V, H).double().begin_state(4)
    assert state.shape == (4, H)
    assert state.dtype == torch.float64
    assert state.count_nonzero() == 0


@pytest.mark.parametrize(
    "variant, options",
    [("scratch", {"reset": "before"}), ("scratch", {"reset": "after"}), ("concise", {})],
)
def test_saved_model_loads_exactly(tmp_path, variant, options):
    torch.manual_seed(1)
    model = build_model(variant, V, hidden_size=H, **options)
    folder = tmp_path / "models" / variant
    model.save(folder, "f" * 64)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert config["vocab_size"] == V
    assert config["hidden_size"] == H
    assert config.get("reset") == options.get("reset")

    loaded = load_model(folder, "f" * 64)
    assert type(loaded) is type(model)
    mine, theirs = model.state_dict(), loaded.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    tokens, state = random_inputs()
    assert torch.equal(model(tokens, state)[0], loaded(tokens, state)[0])


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(1)
    folder = tmp_path / "scratch"
    ScratchGRU(V, H).save(folder, "f" * 64)
    return folder


def refusal(folder, fingerprint="f" * 64, variant=None, kind=DamagedFile):
    with pytest.raises(kind) as caught:
        load_model(folder, fingerprint, variant)
    message = str(caught.value)
    assert caught.value.path.is_relative_to(folder)
    assert str(folder) in message
    assert "train" not in message or kind is UnusableFile  # the library does not name stages
    assert len(message.splitlines()) == 1
    assert len(message) < 1000
    return message


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert f"{name} is missing" in refusal(folder, kind=MissingFile)


def test_missing_folder_is_named(tmp_path):
    assert "config.json is missing" in refusal(tmp_path / "concise", kind=MissingFile)


@pytest.mark.parametrize("keep", [0, 4, 8, 60, -1, -100])
def test_truncated_weights_are_refused(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "model.safetensors is damaged" in refusal(folder)


def test_weights_in_another_format_are_refused(folder):
    (folder / "model.safetensors").write_bytes(b"\x80\x04K\x05." * 40)
    assert "model.safetensors is damaged" in refusal(folder)


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda w: w.pop("b_z"), "b_z"),
        (lambda w: w.update(extra=torch.zeros(1)), "extra"),
        (lambda w: w.update(W_hq=torch.zeros(H, V + 1)), "W_hq"),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_weights_of_another_model_are_refused(folder, change, named):
    path = folder / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    change(weights)
    safetensors.torch.save_file(weights, path)
    message = refusal(folder)
    assert "model.safetensors is damaged" in message
    assert named in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(folder, value):
    torch.manual_seed(1)
    model = ScratchGRU(V, H)
    weights = model.state_dict()
    weights["W_hz"][1, 2] = value
    with pytest.raises(ValueError, match="W_hz has a value that is not finite"):
        ScratchGRU(V, H).load_weights(weights)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match=r"^training diverged: W_hz is no longer finite; lower"):
        model.save(folder, "f" * 64)  # nothing is written
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    put(folder, weights)
    assert "model.safetensors is damaged (W_hz has a value that is not finite)" in refusal(folder)


def put(folder, weights):
    """Write other weights with a matching checksum."""
    data = safetensors.torch.save(weights)
    (folder / "model.safetensors").write_bytes(data)
    path = folder / "config.json"
    config = {**json.loads(path.read_text("utf-8")), "weights": hashlib.sha256(data).hexdigest()}
    path.write_text(json.dumps(config), "utf-8")


TYPES = ["bool", "uint8", "int8", "int64", "float16", "bfloat16", "float64", "complex64"]


@pytest.mark.parametrize("name", TYPES)
def test_weights_of_another_type_are_refused(folder, name):
    weights = ScratchGRU(V, H).state_dict()
    put(folder, {**weights, "b_r": weights["b_r"].to(getattr(torch, name))})
    assert f"is damaged (b_r has the type {name}, not float32)" in refusal(folder)


def test_weights_of_unknown_type_are_refused(folder):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    for name in (b"F4 ", b"\\u001b[31m"):
        path.write_bytes(data.replace(b'"F32"', b'"' + name + b'"', 1))
        assert "model.safetensors is damaged (" in refusal(folder)


def test_tensor_name_is_escaped(folder):
    weights = ScratchGRU(V, H).state_dict()
    put(folder, {**weights, "x\x1b[31m\nsample: done" + "y" * 10**4: torch.zeros(1)})
    message = refusal(folder)
    assert r"weights: x\x1b[31m sample: done" in message and message.isprintable()


def test_oversized_weights_are_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes() + bytes(2 << 20))
    assert "is damaged (it is larger than the 1,0" in refusal(folder)


def test_edited_weights_are_refused(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert "model.safetensors is damaged (its checksum" in refusal(folder)


def test_weights_of_another_run_are_refused(folder):
    torch.manual_seed(2)
    other = folder.parent / "other"
    ScratchGRU(V, H).save(other, "f" * 64)
    (other / "model.safetensors").replace(folder / "model.safetensors")
    assert "model.safetensors is damaged (its checksum" in refusal(folder)


EDITS = {
    "variant-other": {"variant": "concise"},
    "variant-path": {"variant": "../evil"},
    "variant-number": {"variant": 3},
    "variant-list": {"variant": ["scratch"]},
    "vocab-text": {"vocab_size": "6"},
    "vocab-float": {"vocab_size": 6.5},
    "vocab-whole-float": {"vocab_size": 6.0},
    "vocab-null": {"vocab_size": None},
    "vocab-list": {"vocab_size": [6]},
    "vocab-negative": {"vocab_size": -6},
    "vocab-zero": {"vocab_size": 0},
    "vocab-one-more": {"vocab_size": V + 1},
    "vocab-huge": {"vocab_size": 10**12},
    "vocab-beyond-64-bits": {"vocab_size": 10**30},
    "hidden-text": {"hidden_size": "5"},
    "hidden-true": {"hidden_size": True},
    "hidden-zero": {"hidden_size": 0},
    "hidden-huge": {"hidden_size": 10**12},
    "reset-unknown": {"reset": "during"},
    "reset-other": {"reset": "after"},
    "reset-list": {"reset": ["before"]},
    "unknown-key": {"layers": 2},
    "self": {"self": 1},
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_edited_config_is_refused(folder, edit):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **edit}), "utf-8")
    assert "is damaged" in refusal(folder)


LOADER = """
import resource, sys
from pathlib import Path
from gru_lm.models.scratch import model as scratch
from gru_lm.core.errors import UserError
from gru_lm.models.base import load_model
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load_model(Path(sys.argv[1]), "f" * 64)
except UserError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory in Linux's unit")
def test_large_size_in_config_allocates_no_memory(folder):
    path = folder / "config.json"
    config = {**json.loads(path.read_text("utf-8")), "vocab_size": 10**7}
    path.write_text(json.dumps(config), "utf-8")
    source = str(Path(gru_lm.__file__).parent.parent)
    result = subprocess.run(
        [sys.executable, "-c", LOADER, str(folder)],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    megabytes = int(result.stdout) / 1024
    assert megabytes < 200, f"{megabytes:.0f} MB used for weights of 1 kB"


def test_config_without_checksum_is_refused(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    del config["weights"]
    path.write_text(json.dumps(config), "utf-8")
    assert "checksum" in refusal(folder)


@pytest.mark.parametrize("key", ["variant", "vocab_size", "hidden_size"])
def test_config_without_a_key_is_refused(folder, key):
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    del config[key]
    path.write_text(json.dumps(config), "utf-8")
    assert key in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b'{"a": "\xff"}'])
def test_config_that_is_not_a_json_object_is_refused(folder, content):
    (folder / "config.json").write_bytes(content)
    assert "config.json is damaged" in refusal(folder)


def test_concise_config_with_invalid_size_is_refused(tmp_path):
    folder = tmp_path / "concise"
    ConciseGRU(V, H).save(folder, "f" * 64)
    path = folder / "config.json"
    for size in (10**12, -1, "6", 0):
        config = {**json.loads(path.read_text("utf-8")), "vocab_size": size}
        path.write_text(json.dumps(config), "utf-8")
        assert "is damaged" in refusal(folder)


def test_another_vocabulary_is_refused(folder):
    assert "trained with another vocabulary" in refusal(folder, "0" * 64, kind=UnusableFile)


def test_folder_of_another_variant_is_refused(folder):
    assert "variant is 'scratch'" in refusal(folder, variant="concise")
    assert load_model(folder, "f" * 64, "scratch").variant == "scratch"


def test_model_loads_without_params(folder, monkeypatch):
    moved = folder.rename(folder.with_name("elsewhere"))
    monkeypatch.chdir(moved)
    assert load_model(moved, "f" * 64).variant == "scratch"


def test_unknown_variant_is_refused():
    with pytest.raises(ValueError, match=r"'skratch' is not a variant .did you mean 'scratch'"):
        build_model("skratch", V, hidden_size=H)
