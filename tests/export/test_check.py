"""The exported file, run by ONNX Runtime, gives the results of the model."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import PROJECT
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import KINDS, any_size, each_kind, random_model, reset_of

from gru_lm.core.errors import UserError
from gru_lm.data.prepared import Prepared
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.export.check import (
    INITIAL_SEED,
    TOLERANCE,
    freshly_initialised,
    largest_differences,
    open_session,
    require_agreement,
    to_onnx,
)
from gru_lm.generation.sampling import generate
from gru_lm.models.base import build_model
from gru_lm.results.export import Differences, ExportCheck

# For logits and states of order 1 and up to 24 units. The largest of 600 random models was 1e-6.
ROUNDING = 5e-6

LETTERS = Vocabulary(("<unk>", *" abcdefghijklmnopqrstuvwxyz"), "char", "letters")


def any_vocabulary(V):
    return Vocabulary(("<unk>", *(f"w{number}" for number in range(1, V))), "word")


def exported(kind, V, H, seed=0):
    """Return a random model, its file and a session with the file."""
    model = random_model(kind, V, H, seed)
    data = to_onnx(model, any_vocabulary(V))
    return model, data, open_session(data)


def varied_model(kind):
    """Return a model whose greedy text has several letters and does not depend on rounding.

    The most likely letter leads by at least 0.006. Rounding errors are at most 0.00002.
    """
    model = random_model(kind, len(LETTERS), 24, 4)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)
    return model


def read(session, tokens, state):
    """Return the logits (B, T, V) and the next state (B, H) of the file."""
    return session.run(["logits", "next_state"], {"tokens": tokens, "state": state})


# ----------------------------------------------------------------------------------- the graph


@each_kind
@any_size
@settings(max_examples=20, deadline=None)
def test_file_gives_results_of_model(kind, V, H, B, T, seed):
    model, _, session = exported(kind, V, H, seed)
    tokens, state = torch.randint(V, (B, T)), torch.randn(B, H)
    with torch.no_grad():
        expected_logits, expected_state = model(tokens, state)
    logits, next_state = read(session, tokens.numpy(), state.numpy())
    assert (logits.shape, logits.dtype) == ((B, T, V), np.float32)
    assert (next_state.shape, next_state.dtype) == ((B, H), np.float32)
    np.testing.assert_allclose(logits, expected_logits.transpose(0, 1), rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(next_state, expected_state, rtol=0, atol=ROUNDING)


@each_kind
def test_single_tokens_give_results_of_one_call(kind):
    _, _, session = exported(kind, 9, 12)
    tokens, state = torch.randint(9, (3, 15)).numpy(), torch.randn(3, 12).numpy()
    logits, last = read(session, tokens, state)
    for step in range(15):
        one, state = read(session, tokens[:, step : step + 1], state)
        np.testing.assert_allclose(one[:, 0], logits[:, step], rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(state, last, rtol=0, atol=ROUNDING)


@each_kind
def test_greedy_text_matches_sampling(kind):
    model = varied_model(kind)
    session = open_session(to_onnx(model, LETTERS))
    text, state = "time traveller", np.zeros((1, 24), np.float32)
    tokens = LETTERS.encode(text)[None].astype(np.int64)
    for _ in range(60):
        logits, state = read(session, tokens, state)
        tokens = logits[:, -1:].argmax(-1)
        text += LETTERS.tokens[tokens.item()]
    assert text == generate(model, LETTERS, "time traveller", 60)
    assert len(set(text[14:])) > 3


def test_number_outside_vocabulary_has_no_input_weights():
    model, _, session = exported("scratch-before", 5, 6)
    state = torch.randn(1, 6)
    _, read_beyond = read(session, np.array([[5]]), state.numpy())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("W_x"):
                weight.zero_()
        _, expected = model(torch.tensor([[0]]), state)
    np.testing.assert_allclose(read_beyond, expected, rtol=0, atol=1e-6)


@each_kind
def test_file_is_valid_with_standard_operators(kind):
    _, data, _ = exported(kind, 7, 5)
    file = onnx.load_from_string(data)
    onnx.checker.check_model(file, full_check=True)
    assert [(opset.domain, opset.version) for opset in file.opset_import] == [("", 17)]
    assert all(node.domain == "" for node in file.graph.node)
    assert not any(tensor.external_data for tensor in file.graph.initializer)
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*file.graph.input, *file.graph.output)
    }
    assert shapes == {
        "tokens": ["batch", "steps"],
        "state": ["batch", 5],
        "logits": ["batch", "steps", 7],
        "next_state": ["batch", 5],
    }


def test_large_vocabulary_adds_only_weights_and_tokens():
    model, data, _ = exported("concise", 3000, 4)
    weights = sum(4 * weight.numel() for weight in model.textbook_weights().values())
    assert len(data) < weights + 60_000  # the tokens take 30 kB; a table (V, V) would take 36 MB


def test_same_model_gives_same_bytes():
    first, second, other = (exported("concise", 7, 5, seed)[1] for seed in (0, 0, 1))
    assert first == second
    assert first != other


def test_model_too_large_for_onnx_is_refused():
    with torch.device("meta"):  # allocates no memory
        model = build_model("scratch", 700_000, hidden_size=256)
    with pytest.raises(UserError, match=r"2\.7 GiB.*model\.hidden_size"):
        to_onnx(model, LETTERS)


# -------------------------------------------------------------------------------------- metadata

ODD = (
    "<unk>",
    "\n",
    "\0",
    " ",
    '"',
    "\\",
    "\u2028",
    "é",
    "e\u0301",
    "中",
    "\U0001f600",
    "\ud800",
    "']",
)


@each_kind
def test_metadata_suffice_to_generate_text(kind):
    vocabulary = Vocabulary(ODD, "char", "none")
    session = open_session(to_onnx(random_model(kind, len(ODD), 3, 0), vocabulary))
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata.pop("vocabulary")) == list(ODD)
    assert metadata == {
        "variant": kind.partition("-")[0],
        "reset": reset_of(kind),
        "level": "char",
        "normalize": "none",
    }
    description = session.get_modelmeta().description
    assert "3 hidden units, 13 tokens" in description
    assert f"reset gate {reset_of(kind)} the recurrent product" in description


def test_metadata_have_byte_pairs():
    alphabet = Vocabulary(("<unk>", *"ab "), "bpe")
    vocabulary = alphabet.with_merges([(" ", "a"), (" a", "b")])
    session = open_session(to_onnx(random_model("concise", len(vocabulary), 2, 0), vocabulary))
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["level"] == "bpe"
    assert json.loads(metadata["merges"]) == [[" ", "a"], [" a", "b"]]
    assert json.loads(metadata["vocabulary"]) == ["<unk>", "a", "b", " ", " a", " ab"]


@given(tokens=st.lists(st.text(min_size=1), unique=True, max_size=20))
@settings(max_examples=25, deadline=None)
def test_tokens_round_trip_through_metadata(tokens):
    vocabulary = Vocabulary(("<unk>", *(token for token in tokens if token != "<unk>")), "word")
    session = open_session(to_onnx(random_model("concise", len(vocabulary), 2, 0), vocabulary))
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["vocabulary"]) == list(vocabulary.tokens)
    assert (metadata["level"], metadata["normalize"]) == ("word", "none")


# ------------------------------------------------------------------------------------- the check


@each_kind
@pytest.mark.parametrize("chunk", [1, 7, 50, 1000])
def test_model_and_file_agree(kind, chunk):
    model, data, _ = exported(kind, 9, 12)
    tokens = torch.randint(9, (50,))
    found = largest_differences(model, data, tokens, chunk)
    assert found.keys() == Differences.model_fields.keys()
    assert 0 < found["max_logit_difference"] < ROUNDING
    assert 0 < found["max_state_difference"] < ROUNDING
    with torch.inference_mode():
        logits, _ = model(tokens[None], model.begin_state(1))
    scales = logits[:, 0].abs().amax(dim=1)
    assert found["max_logit"] == pytest.approx(scales.max().item(), rel=1e-5)
    assert 0 < found["max_relative_logit_difference"] < ROUNDING / scales.min().item()
    require_agreement(found)


def test_difference_is_relative_to_largest_logit_of_step():
    model, data, _ = exported("scratch-before", 9, 12)
    tokens = torch.randint(9, (50,))
    with torch.inference_mode():
        model.b_q[4] += 0.25
        logits, _ = model(tokens[None], model.begin_state(1))
        found = largest_differences(model, data, tokens, 7)
    scales = logits[:, 0].abs().amax(dim=1)
    assert found["max_relative_logit_difference"] == pytest.approx(
        0.25 / scales.min().item(), rel=1e-4
    )
    assert found["max_logit"] == pytest.approx(scales.max().item(), rel=1e-5)


def test_zero_logits_agree():
    model, _, _ = exported("scratch-before", 9, 12)
    with torch.no_grad():
        model.W_hq.zero_()
        model.b_q.zero_()
    found = largest_differences(model, to_onnx(model, any_vocabulary(9)), torch.zeros(9).long())
    assert found["max_logit_difference"] == found["max_relative_logit_difference"] == 0
    require_agreement(found)


@pytest.mark.parametrize("kind", ["scratch-before", "concise", "fused-before"])
def test_initial_weights_of_default_size_agree_to_2e_6(kind):
    variant, options = KINDS[kind]
    model = freshly_initialised(build_model(variant, len(LETTERS), hidden_size=256, **options))
    tokens = torch.randint(len(LETTERS), (2000,), generator=torch.Generator().manual_seed(0))
    found = largest_differences(model, to_onnx(model, LETTERS), tokens)
    assert found["max_relative_logit_difference"] < 2e-6
    assert found["max_logit_difference"] < 2e-6 * found["max_logit"]


@each_kind
def test_initial_weights_are_those_before_training(kind):
    variant, options = KINDS[kind]
    torch.manual_seed(INITIAL_SEED)
    expected = build_model(variant, 9, hidden_size=4, **options)
    before = torch.random.get_rng_state()
    fresh = freshly_initialised(random_model(kind, 9, 4, 0))
    assert fresh.options == expected.options
    for name, weight in expected.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], weight), name
    torch.random.set_rng_state(before)
    freshly_initialised(expected)
    assert torch.equal(torch.random.get_rng_state(), before)


@each_kind
def test_changed_weights_are_detected(kind):
    model, data, _ = exported(kind, 9, 12)
    bias = model.linear.bias if kind == "concise" else model.b_q
    with torch.no_grad():
        bias[4] += 0.25
    found = largest_differences(model, data, torch.randint(9, (50,)), 7)
    assert found["max_logit_difference"] == pytest.approx(0.25, abs=ROUNDING)
    assert found["max_state_difference"] < ROUNDING
    with pytest.raises(UserError):
        require_agreement(found)

    with torch.no_grad():
        bias[4] -= 0.25
        next(model.parameters()).mul_(1.1)
    found = largest_differences(model, data, torch.randint(9, (50,)), 7)
    assert found["max_state_difference"] > 1e-3


def test_file_that_ignores_state_is_detected():
    model, data, _ = exported("scratch-before", 9, 12)
    file = onnx.load_from_string(data)
    gru = next(node for node in file.graph.node if node.op_type == "GRU")
    gru.input[list(gru.input).index("initial_h")] = ""
    tokens = torch.randint(9, (50,))
    fed_back = largest_differences(model, file.SerializeToString(), tokens, 7)
    assert fed_back["max_logit_difference"] > 0.01
    at_once = largest_differences(model, file.SerializeToString(), tokens, 50)
    assert at_once["max_logit_difference"] < ROUNDING


@pytest.mark.parametrize("first", [True, False])
def test_nan_is_detected_at_first_and_last_token(first):
    model, data, _ = exported("scratch-before", 9, 12)
    with torch.no_grad():
        model.W_xh[3] = math.nan
    tokens = torch.zeros(21, dtype=torch.long)
    tokens[0 if first else -1] = 3
    found = largest_differences(model, data, tokens, 7)
    assert math.isnan(found["max_logit_difference"])
    assert math.isnan(found["max_state_difference"])
    with pytest.raises(UserError):
        require_agreement(found)


@pytest.mark.parametrize(
    "logit, state, max_logit, agree",
    [
        (0.09 * TOLERANCE, 0.9 * TOLERANCE, 0.1, True),
        (0.11 * TOLERANCE, 0.0, 0.1, False),
        (0.0, 1.1 * TOLERANCE, 0.1, False),
        (29 * TOLERANCE, 0.0, 30.0, True),
        (31 * TOLERANCE, 0.0, 30.0, False),
        (0.0, 1.1 * TOLERANCE, 30.0, False),
        (math.nan, 0.0, math.nan, False),
        (0.0, math.nan, 1.0, False),
        (math.inf, 0.0, 1.0, False),
    ],
)
def test_differences_up_to_tolerance_are_accepted(logit, state, max_logit, agree):
    found = {
        "max_logit_difference": logit,
        "max_state_difference": state,
        "max_logit": max_logit,
    }
    if agree:
        require_agreement(found)
    else:
        with pytest.raises(UserError, match=r"give different results.*train\.lr"):
            require_agreement(found)


# ------------------------------------------------------------------------------------- the stage


def prepare(folder: Path, model, length: int) -> None:
    """Write the inputs of the stage to ``folder``: a model and a validation split."""
    tokens = np.random.default_rng(0).integers(len(LETTERS), size=length).astype(np.uint8)
    Prepared.write(LETTERS, {"val": tokens}, folder / "data/prepared")
    model.save(folder / "models" / model.variant, LETTERS.fingerprint)
    shutil.copy(PROJECT / "params.yaml", folder)


def run_stage_in(folder: Path, variant: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stages.export", "--variant", variant],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("kind, length", [("scratch-before", 2), ("concise", 1200)])
def test_stage_writes_file_and_differences(tmp_path, kind, length):
    model = random_model(kind, len(LETTERS), 8, 0)
    prepare(tmp_path, model, length)
    result = run_stage_in(tmp_path, model.variant)
    assert (result.returncode, result.stderr) == (0, "")
    data = (tmp_path / f"exports/{model.variant}.onnx").read_bytes()
    assert data == to_onnx(model, LETTERS)
    found = json.loads((tmp_path / f"metrics/export/{model.variant}.json").read_text())
    assert found["tokens_compared"] == length
    assert found.keys() == ExportCheck.model_fields.keys()
    initial = freshly_initialised(model)
    tokens = Prepared(tmp_path / "data/prepared").tokens("val")
    assert found["initial"]["max_logit"] == pytest.approx(
        largest_differences(initial, to_onnx(initial, LETTERS), tokens)["max_logit"], rel=1e-5
    )
    assert found["initial"]["max_relative_logit_difference"] < ROUNDING
    assert found["initial"]["max_logit"] != found["max_logit"]
    assert found["max_logit_difference"] < ROUNDING
    assert found["max_state_difference"] < ROUNDING


def test_stage_writes_nothing_if_results_differ(tmp_path):
    model = random_model("scratch-before", len(LETTERS), 16, 0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(20)  # chaotic, so rounding errors grow
    prepare(tmp_path, model, 1200)
    result = run_stage_in(tmp_path, "scratch")
    assert result.returncode == 1
    assert result.stderr.startswith(
        "export: error: the ONNX file and the model give different results"
    )
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "exports").exists()
    assert not (tmp_path / "metrics").exists()


# ------------------------------------------------------------------------------------ the docs


def documented_snippet() -> str:
    """Return the Python block of docs/models.md that runs the exported file."""
    blocks = (PROJECT / "docs/models.md").read_text("utf-8").split("```python\n")[1:]
    (snippet,) = [code for code, *_ in (b.split("```") for b in blocks) if "onnxruntime" in code]
    return snippet


SNIPPET = documented_snippet()


def test_documented_snippet_needs_only_the_file(tmp_path):
    model = varied_model("scratch-before")
    (tmp_path / "scratch.onnx").write_bytes(to_onnx(model, LETTERS))
    assert len([line for line in SNIPPET.splitlines() if line]) <= 10
    code = SNIPPET + (
        "import os, sys\n"
        "print(*os.listdir())\n"
        "print(sorted({'torch', 'gru_lm', 'onnx'} & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    text, files, modules = result.stdout.splitlines()
    assert text == generate(model, LETTERS, "time traveller", 50)
    assert (files, modules) == ("scratch.onnx", "[]")
