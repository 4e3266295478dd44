"""The recurrent layers against their equations, and the folders they are kept in."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from reference import as_nn_gru, gru_numpy
from torch import nn

import gru_lm
from gru_lm.core.errors import UserError
from gru_lm.models.base import build_model, load_model
from gru_lm.models.concise.model import ConciseGRU
from gru_lm.models.scratch.model import ScratchGRU

V, H, B, T = 6, 5, 3, 7
RESETS = ["before", "after"]


def shapes(reset, vocab_size=V, hidden_size=H):
    """The parameters' names and shapes, as the class documents them."""
    result = {}
    for gate in "zrh":
        result[f"W_x{gate}"] = (vocab_size, hidden_size)
        result[f"W_h{gate}"] = (hidden_size, hidden_size)
        result[f"b_{gate}"] = (hidden_size,)
    if reset == "after":
        result["b_hh"] = (hidden_size,)
    return {**result, "W_hq": (hidden_size, vocab_size), "b_q": (vocab_size,)}


def random_weights(reset, dtype=torch.float32, **sizes):
    """Weights large enough that every gate and every bias matters."""
    generator = torch.Generator().manual_seed(11)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).mul(0.7).to(dtype)
        for name, shape in shapes(reset, **sizes).items()
    }


def random_inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(12)
    tokens = torch.randint(V, (B, T), generator=generator)
    return tokens, torch.randn(B, H, generator=generator, dtype=torch.float64).to(dtype)


# ------------------------------------------------------------------------------------ equations


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("reset", RESETS)
def test_scratch_is_the_equations(reset, dtype, tolerance):
    weights = random_weights(reset, dtype)
    tokens, state = random_inputs(dtype)
    logits, last = ScratchGRU.from_weights(weights, reset)(tokens, state)
    expected_logits, expected_last = gru_numpy(weights, tokens.numpy(), state.numpy(), reset)
    assert logits.shape == (T, B, V)
    assert last.shape == (B, H)
    np.testing.assert_allclose(logits.detach().numpy(), expected_logits, atol=tolerance)
    np.testing.assert_allclose(last.detach().numpy(), expected_last, atol=tolerance)


def test_concise_in_bfloat16_converts_no_state_at_a_step():
    """The state is in bfloat16, as the products are; the results are float32's to two digits."""
    torch.manual_seed(3)
    model = ConciseGRU(V, H)
    tokens, state = random_inputs()
    logits, last = model(tokens, state)
    with torch.autocast("cpu", torch.bfloat16), torch.profiler.profile() as calls:
        rough_logits, rough_last = model(tokens, state)
    conversions = [call.count for call in calls.key_averages() if call.key == "aten::_to_copy"]
    assert 0 < sum(conversions) < 2 * T
    assert rough_logits.dtype == rough_last.dtype == torch.bfloat16
    torch.testing.assert_close(rough_logits.float(), logits, rtol=0, atol=0.02)
    torch.testing.assert_close(rough_last.float(), last, rtol=0, atol=0.02)
    assert not torch.equal(rough_logits.float(), logits)


def test_the_two_resets_are_different_functions():
    weights = random_weights("after")
    weights["b_hh"].zero_()
    tokens, state = random_inputs()
    after, _ = ScratchGRU.from_weights(weights, "after")(tokens, state)
    del weights["b_hh"]
    before, _ = ScratchGRU.from_weights(weights, "before")(tokens, state)
    assert (after - before).abs().max() > 0.01


def loss_of(logits, last):
    """A scalar that depends on every output, each with a weight of its own."""
    generator = torch.Generator().manual_seed(13)
    return (logits * torch.randn(logits.shape, generator=generator)).sum() + (
        last * torch.randn(last.shape, generator=generator)
    ).sum()


def test_reset_after_is_nn_gru_in_outputs_and_all_gradients():
    weights = random_weights("after")
    tokens, state = random_inputs()
    model = ScratchGRU.from_weights(weights, "after")
    my_state = state.clone().requires_grad_()
    logits, last = model(tokens, my_state)

    stacked, output = as_nn_gru(weights)
    gru, linear = nn.GRU(V, H), nn.Linear(H, V)
    gru.load_state_dict(stacked)
    linear.load_state_dict(output)
    their_state = state.clone().requires_grad_()
    outputs, their_last = gru(torch.eye(V)[tokens.T], their_state[None])
    their_logits = linear(outputs)

    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(logits, their_logits, **close)
    torch.testing.assert_close(last, their_last[0], **close)

    loss_of(logits, last).backward()
    loss_of(their_logits, their_last[0]).backward()
    mine = {name: weight.grad for name, weight in model.named_parameters()}
    assert mine.keys() == weights.keys()
    # torch's gates in the order r, z, n: a third of the rows each.
    ih_r, ih_z, ih_n = gru.weight_ih_l0.grad.chunk(3)
    hh_r, hh_z, hh_n = gru.weight_hh_l0.grad.chunk(3)
    b_ir, b_iz, b_in = gru.bias_ih_l0.grad.chunk(3)
    b_hr, b_hz, b_hn = gru.bias_hh_l0.grad.chunk(3)
    theirs = {
        **{"W_xr": ih_r.T, "W_xz": ih_z.T, "W_xh": ih_n.T},
        **{"W_hr": hh_r.T, "W_hz": hh_z.T, "W_hh": hh_n.T},
        **{"b_r": b_ir, "b_z": b_iz, "b_h": b_in, "b_hh": b_hn},
        **{"W_hq": linear.weight.grad.T, "b_q": linear.bias.grad},
    }
    for name, gradient in theirs.items():
        assert gradient.abs().max() > 1e-3, f"{name}: the loss does not depend on it"
        torch.testing.assert_close(mine[name], gradient, **close, msg=lambda m, n=name: f"{n}: {m}")
    # Of a gate's two biases only the sum acts, so that both have the gradient of scratch's one.
    torch.testing.assert_close(mine["b_r"], b_hr, **close)
    torch.testing.assert_close(mine["b_z"], b_hz, **close)
    torch.testing.assert_close(my_state.grad, their_state.grad, **close)


def test_concise_computes_reset_after():
    weights = random_weights("after")
    gru, linear = as_nn_gru(weights)
    model = ConciseGRU(V, H).load_weights(
        {f"gru.{name}": weight for name, weight in gru.items()}
        | {f"linear.{name}": weight for name, weight in linear.items()}
    )
    tokens, state = random_inputs()
    logits, last = model(tokens, state)
    expected_logits, expected_last = gru_numpy(weights, tokens.numpy(), state.numpy(), "after")
    assert logits.shape == (T, B, V)
    np.testing.assert_allclose(logits.detach().numpy(), expected_logits, atol=1e-5)
    np.testing.assert_allclose(last.detach().numpy(), expected_last, atol=1e-5)


@pytest.mark.parametrize("other", ["scratch", "fused"])
def test_concise_weights_go_into_scratch_and_fused(other):
    torch.manual_seed(0)
    concise = build_model("concise", V, hidden_size=H).double()
    named = concise.textbook_weights()
    model = build_model(other, V, hidden_size=H, reset="after").double().load_weights(named)
    tokens, state = random_inputs(torch.float64)
    for mine, theirs in zip(model(tokens, state), concise(tokens, state), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variant", ["scratch", "concise", "fused"])
def test_reading_in_two_parts_is_reading_at_once(variant):
    torch.manual_seed(0)
    model = build_model(variant, V, hidden_size=H).double()
    tokens, state = random_inputs(torch.float64)
    whole, last = model(tokens, state)
    first, middle = model(tokens[:, :3], state)
    second, end = model(tokens[:, 3:], middle)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(end, last)


@pytest.mark.parametrize("reset", RESETS)
def test_gradients_against_finite_differences(reset):
    weights = random_weights(reset, torch.float64, vocab_size=4, hidden_size=3)
    model = ScratchGRU.from_weights(weights, reset)
    tokens = torch.tensor([[0, 1, 3], [2, 2, 1]])
    state = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    names = list(weights)

    def run(state, *values):
        by_name = dict(zip(names, values, strict=True))
        return torch.func.functional_call(model, by_name, (tokens, state))

    inputs = [state, *weights.values()]
    assert torch.autograd.gradcheck(run, [value.clone().requires_grad_() for value in inputs])


# -------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("reset", RESETS)
def test_scratch_starts_small_with_biases_zero(reset):
    torch.manual_seed(0)
    model = ScratchGRU(28, 64, reset)
    named = dict(model.named_parameters())
    assert {name: tuple(w.shape) for name, w in named.items()} == shapes(reset, 28, 64)
    for name, weight in named.items():
        if name.startswith("b"):
            assert weight.count_nonzero() == 0, name
        else:
            assert weight.std().item() == pytest.approx(0.01, rel=0.08), name
            assert abs(weight.mean().item()) < 0.001, name
            assert weight.abs().max() > 0.025, f"{name} has no tails: is it normal?"


def test_concise_starts_as_torch_does():
    torch.manual_seed(3)
    model = ConciseGRU(28, 16)
    torch.manual_seed(3)
    gru, linear = nn.GRU(28, 16), nn.Linear(16, 28)
    assert torch.equal(model.gru.weight_hh_l0, gru.weight_hh_l0)
    assert torch.equal(model.linear.weight, linear.weight)


def test_begin_state_is_zero_in_the_weights_type():
    state = ScratchGRU(V, H).double().begin_state(4)
    assert state.shape == (4, H)
    assert state.dtype == torch.float64
    assert state.count_nonzero() == 0


@pytest.mark.parametrize("reset", RESETS)
def test_from_weights_copies(reset):
    weights = random_weights(reset)
    kept = {name: weight.clone() for name, weight in weights.items()}
    model = ScratchGRU.from_weights(weights, reset)
    for weight in weights.values():
        weight.fill_(9.0)
    for name, weight in model.named_parameters():
        assert torch.equal(weight, kept[name]), name
    again = ScratchGRU.from_weights(model.state_dict(), reset)
    assert all(torch.equal(again.state_dict()[name], kept[name]) for name in kept)


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda w: w.pop("b_z"), "b_z"),
        (lambda w: w.pop("W_hq"), "W_hq"),
        (lambda w: w.update(W_hx=torch.zeros(2, 2)), "W_hx"),
        (lambda w: w.update(W_xz=torch.zeros(V, H + 1)), "W_xz"),
        (lambda w: w.update(W_hr=torch.zeros(H)), "W_hr"),
        (lambda w: w.update(b_h=torch.zeros(1)), "b_h"),
        (lambda w: w.update(b_hh=torch.zeros(H)), "b_hh"),
    ],
    ids=["missing", "output-missing", "unknown", "shape", "dimensions", "broadcast", "other-reset"],
)
def test_from_weights_refuses_what_does_not_fit(change, named):
    weights = random_weights("before")
    change(weights)
    with pytest.raises(ValueError, match=rf"\b{named}\b"):
        ScratchGRU.from_weights(weights, "before")


def test_an_unknown_reset_is_refused():
    with pytest.raises(ValueError, match="reset = 'during'"):
        ScratchGRU(V, H, "during")


# -------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize(
    "variant, options",
    [("scratch", {"reset": "before"}), ("scratch", {"reset": "after"}), ("concise", {})],
)
def test_a_saved_model_comes_back_to_the_bit(tmp_path, variant, options):
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


def refusal(folder, fingerprint="f" * 64):
    with pytest.raises(UserError) as caught:
        load_model(folder, fingerprint)
    message = str(caught.value)
    assert f"dvc repro train@{folder.name}" in message
    assert str(folder) in message
    assert len(message.splitlines()) == 1
    assert len(message) < 1000
    return message


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files(folder, name):
    (folder / name).unlink()
    assert f"{name} is missing" in refusal(folder)


def test_a_missing_folder(tmp_path):
    assert "config.json is missing" in refusal(tmp_path / "concise")


@pytest.mark.parametrize("keep", [0, 4, 8, 60, -1, -100])
def test_cut_weights(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "model.safetensors is damaged" in refusal(folder)


def test_weights_that_are_no_safetensors(folder):
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
def test_weights_of_another_model(folder, change, named):
    path = folder / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    change(weights)
    safetensors.torch.save_file(weights, path)
    message = refusal(folder)
    assert "model.safetensors is damaged" in message
    assert named in message


def test_edited_weights(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert "model.safetensors is damaged (its checksum" in refusal(folder)


def test_weights_of_another_run(folder):
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
def test_edited_configs(folder, edit):
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
def test_a_size_that_would_fit_into_memory_is_not_believed_either(folder):
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
    assert megabytes < 200, f"{megabytes:.0f} MB taken for weights of 1 kB"


def test_a_config_without_a_checksum(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    del config["weights"]
    path.write_text(json.dumps(config), "utf-8")
    assert "checksum" in refusal(folder)


@pytest.mark.parametrize("key", ["variant", "vocab_size", "hidden_size"])
def test_configs_without_a_key(folder, key):
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    del config[key]
    path.write_text(json.dumps(config), "utf-8")
    assert key in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b'{"a": "\xff"}'])
def test_configs_that_are_no_json_object(folder, content):
    (folder / "config.json").write_bytes(content)
    assert "config.json is damaged" in refusal(folder)


def test_a_concise_config_with_a_huge_size(tmp_path):
    folder = tmp_path / "concise"
    ConciseGRU(V, H).save(folder, "f" * 64)
    path = folder / "config.json"
    for size in (10**12, -1, "6", 0):
        config = {**json.loads(path.read_text("utf-8")), "vocab_size": size}
        path.write_text(json.dumps(config), "utf-8")
        assert "is damaged" in refusal(folder)


def test_another_vocabulary(folder):
    assert "trained with another vocabulary" in refusal(folder, "0" * 64)


def test_a_folder_of_another_variant(folder):
    moved = folder.with_name("concise")
    folder.rename(moved)
    assert "scratch" in refusal(moved)
