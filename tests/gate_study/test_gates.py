"""The gates as they are read, and what interventions do: against the models and by hand."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import PROJECT
from reference import gru_numpy

from gru_lm.core.errors import UserError
from gru_lm.core.files import read_arrays
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.evaluation.perplexity import evaluate
from gru_lm.gate_study.interventions import (
    DRAWS,
    Probe,
    answer,
    compare,
    dose_of,
    gate_interventions,
    inverse_temperature,
    study,
    unit_interventions,
)
from gru_lm.gate_study.reading import (
    Intervention,
    activity,
    bits_with_context,
    context_curve,
    describe_time_constants,
    effective_context,
    last_state,
    logits,
    powers,
    read,
    spread,
    steps,
    time_constants,
)
from gru_lm.models.base import build_model
from gru_lm.preparation.splits import save_splits

V, H, N = 7, 10, 300
MODELS = [
    ("scratch", {"reset": "before"}),
    ("scratch", {"reset": "after"}),
    ("concise", {}),
    ("fused", {"reset": "before"}),
    ("fused", {"reset": "after"}),
]


def random_model(variant="scratch", vocab_size=V, hidden_size=H, **options):
    torch.manual_seed(5)
    model = build_model(variant, vocab_size, hidden_size=hidden_size, **options)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.7)
    return model


@pytest.fixture
def weights():
    return random_model(reset="before").textbook_weights()


@pytest.fixture
def stream():
    return torch.randint(V, (N,), generator=torch.Generator().manual_seed(6))


def plain_weights(reset="before", **biases):
    """One symbol a unit: no recurrence, gates set by their biases alone; token v drives unit v."""
    zeros = torch.zeros(V, V)
    w = {f"W_{kind}{gate}": zeros.clone() for kind in "xh" for gate in "zrh"}
    w |= {f"b_{gate}": torch.zeros(V) for gate in "zrh"}
    w |= {"W_xh": torch.eye(V) * 20, "W_hq": torch.eye(V), "b_q": torch.zeros(V)}  # tanh(20) = 1
    return w | biases


# ----------------------------------------------------------------------------------- equations


@pytest.mark.parametrize("variant, options", MODELS)
def test_the_steps_are_the_models_own(variant, options):
    model = random_model(variant, **options)
    tokens = torch.randint(V, (4, 23), generator=torch.Generator().manual_seed(1))
    state = torch.randn(4, H, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted, last = model(tokens, state)
    w = model.textbook_weights()
    states = torch.stack([new for _, _, new in steps(w, tokens, state)])
    torch.testing.assert_close(logits(w, states), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(states[-1], last, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(last_state(w, tokens, state), last, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reset", ["before", "after"])
def test_gates_by_hand(reset):
    w = random_model(reset=reset).textbook_weights()
    old = torch.randn(1, H, generator=torch.Generator().manual_seed(3))
    Z, R, new = next(steps(w, torch.tensor([[4]]), old))
    for gate, name in ((Z, "z"), (R, "r")):
        total = w[f"W_x{name}"][4] + old[0] @ w[f"W_h{name}"] + w[f"b_{name}"]
        torch.testing.assert_close(gate[0], 1 / (1 + torch.exp(-total)))
    _, wanted = gru_numpy(w, np.array([[4]]), old.numpy(), reset)
    np.testing.assert_allclose(new.numpy(), wanted, atol=1e-5)


def test_reading_nothing_leaves_the_state(weights):
    state = torch.ones(2, H)
    assert torch.equal(last_state(weights, torch.zeros(2, 0, dtype=torch.int64), state), state)


# ------------------------------------------------------------------------------- interventions


def test_holding_a_gate_at_the_value_it_has_changes_nothing(stream):
    w = plain_weights(b_z=torch.tensor([-1.0, 0, 1, 2, 3, 4, 5]), b_r=torch.full((V,), 40.0))
    reading = read(w, stream)
    np.testing.assert_allclose(reading.mean_R, 1)
    np.testing.assert_allclose(reading.mean_Z, torch.sigmoid(w["b_z"]), rtol=1e-6)
    probe = Probe.of(stream)
    plain = answer(w, probe)["bits"]
    held = gate_interventions(reading)
    for name in ("reset_open", "reset_mean", "update_mean"):
        np.testing.assert_allclose(answer(w, probe, held[name])["bits"], plain, atol=1e-5)
    assert np.abs(answer(w, probe, held["update_zero"])["bits"] - plain).max() > 0.1


@pytest.mark.parametrize("reset", ["before", "after"])
def test_a_held_gate_enters_the_equations(reset):
    w = random_model(reset=reset).double().textbook_weights()
    tokens, state = torch.tensor([[3]]), torch.randn(1, H, dtype=torch.float64)
    value = torch.linspace(0, 1, H, dtype=torch.float64)
    Z, R, plain = next(steps(w, tokens, state))
    held = Intervention("Z", value, torch.ones_like(value))
    Z_held, R_same, new = next(steps(w, tokens, state, held))
    assert torch.equal(Z_held[0], value) and torch.equal(R_same, R)
    candidate = (plain - Z * state) / (1 - Z)
    torch.testing.assert_close(new, value * state + (1 - value) * candidate)
    # Halfway is halfway.
    Z_half, *_ = next(steps(w, tokens, state, held.at(0.5)))
    torch.testing.assert_close(Z_half, (Z + value) / 2)
    # A closed reset gate cuts the old state off: all that is left of it is Z's share.
    closed = Intervention("R", torch.zeros_like(value), torch.ones_like(value))
    _, R_held, new = next(steps(w, tokens, state, closed))
    assert not R_held.any()
    candidate = torch.tanh(w["W_xh"][3] + w["b_h"])
    torch.testing.assert_close(new, Z * state + (1 - Z) * candidate)


def test_ablation_holds_the_units_and_no_others(weights, stream):
    reading = read(weights, stream)
    held = unit_interventions(reading)
    assert [name for name in held if name.startswith("random")] == [
        f"random_units_{draw}" for draw in range(1, DRAWS + 1)
    ]
    tokens = stream[None, :20]
    for one in held.values():
        units = one.dose == 1
        assert int(units.sum()) == 1  # a tenth of ten
        assert not one.dose[~units].any()
        free = next(steps(weights, tokens, torch.zeros(1, H)))[2]
        for index, (_, _, state) in enumerate(steps(weights, tokens, torch.zeros(1, H), one)):
            np.testing.assert_allclose(state[0, units], reading.mean_H[units.numpy()], rtol=1e-6)
            if index == 0:
                assert torch.equal(state[0, ~units], free[0, ~units])


def test_the_tenths_are_chosen_by_memory_and_reset():
    rng = np.random.default_rng(4)
    mean_Z, mean_R = rng.permutation(40) / 50 + 0.1, rng.permutation(40) / 50

    class Given:
        mean_H = np.zeros(40)

    Given.mean_Z, Given.mean_R = mean_Z, mean_R
    chosen = {name: one.dose.numpy() == 1 for name, one in unit_interventions(Given).items()}
    assert all(units.sum() == 4 for units in chosen.values())
    assert mean_Z[chosen["long_units"]].min() > np.sort(mean_Z)[-5]
    assert mean_Z[chosen["short_units"]].max() < np.sort(mean_Z)[4]
    assert mean_R[chosen["reset_units"]].max() < np.sort(mean_R)[4]
    assert len({units.tobytes() for units in chosen.values()}) > 4  # the draws differ


# ------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("variant, options", MODELS[:3])
def test_surprise_sums_to_the_evaluation(variant, options, stream):
    model = random_model(variant, **options)
    passage = read(model.textbook_weights(), stream, 0, N, chunk=37).passage
    score = evaluate(model, stream)
    assert math.isnan(passage["surprise"][0])
    bits = passage["surprise"][1:].sum(dtype=np.float64)
    assert bits == pytest.approx(score.nats / math.log(2), rel=1e-5)


@pytest.mark.parametrize("start, length", [(0, 5), (1, 5), (36, 40), (37, 1), (299, 50), (40, 400)])
def test_a_passage_is_cut_from_the_whole(weights, stream, start, length):
    whole = read(weights, stream, 0, N, chunk=1000).passage
    cut = read(weights, stream, start, length, chunk=37).passage
    assert whole.keys() == cut.keys()
    for name, array in cut.items():
        assert len(array) == min(length, N - start)
        np.testing.assert_allclose(array, whole[name][start : start + length], atol=1e-6)


def test_predictions_are_made_before_reading(weights, stream):
    passage = read(weights, stream, 0, 30).passage
    wanted, _ = gru_numpy(weights, stream[None, :30].numpy(), np.zeros((1, H)), "before")
    p = np.exp(wanted[:, 0]) / np.exp(wanted[:, 0]).sum(1, keepdims=True)
    assert not passage["top_tokens"][0].any() and np.isnan(passage["top_probabilities"][0]).all()
    for t in range(1, 30):
        best = np.argsort(-p[t - 1])[:5]
        assert passage["top_tokens"][t].tolist() == best.tolist()
        np.testing.assert_allclose(passage["top_probabilities"][t], p[t - 1][best], rtol=1e-4)
        assert passage["surprise"][t] == pytest.approx(-math.log2(p[t - 1][stream[t]]), rel=1e-4)


def test_means_are_over_the_whole_split(weights, stream):
    rows = [torch.cat(row) for row in steps(weights, stream[None], torch.zeros(1, H))]
    Z, R, states = torch.stack(rows, dim=1)
    reading = read(weights, stream, 10, 3, chunk=41)
    np.testing.assert_allclose(reading.mean_Z, Z.mean(0), rtol=1e-5)
    np.testing.assert_allclose(reading.mean_R, R.mean(0), rtol=1e-5)
    np.testing.assert_allclose(reading.mean_H, states.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(reading.Z_by_token, Z.mean(1), rtol=1e-5)
    np.testing.assert_allclose(reading.R_by_token, R.mean(1), rtol=1e-5)


def test_a_passage_beyond_the_split_is_the_users_error(weights, stream):
    with pytest.raises(UserError, match=r"gates\.start = 300, but the split has only 300 tokens"):
        read(weights, stream, N, 5)


def test_a_known_leak_has_its_time_constant(stream):
    # Z = 0.5, 0.9, 0.99 by their biases: -1 / ln Z by hand.
    b_z = torch.logit(torch.tensor([0.5, 0.9, 0.99, 0.5, 0.5, 0.5, 0.5]))
    constants = time_constants(read(plain_weights(b_z=b_z), stream).mean_Z)
    np.testing.assert_allclose(constants[:3], [1.442695, 9.491222, 99.499162], rtol=1e-4)


def test_time_constants_at_the_ends():
    constants = time_constants(np.array([0.0, 1.0, math.exp(-1)]))
    assert constants.tolist() == [0.0, math.inf, pytest.approx(1.0)]
    found = describe_time_constants(constants)
    assert found == {"min": 0.0, "p10": 0.0, "median": pytest.approx(1.0), "p90": None, "max": None}
    json.dumps(found, allow_nan=False)


# ------------------------------------------------------------------------------------ activity


def test_activity_is_the_mean_at_each_place(weights, stream):
    reading = read(weights, stream)
    where = np.arange(N) % 2
    found = activity(reading, where)
    assert found["space"] is None
    assert found["first letter"]["Z"] == pytest.approx(reading.Z_by_token[::2].mean())
    assert found["inside words"]["R"] == pytest.approx(reading.R_by_token[1::2].mean())
    assert found["inside words"]["tokens"] == N // 2
    assert activity(reading, None) is None


# ------------------------------------------------------------------------------------- context


def test_context_that_reaches_the_start_is_all_of_it(weights, stream):
    bits = read(weights, stream).bits
    for k in (1, 5, 40):
        found = bits_with_context(weights, stream, torch.tensor([k]), k)
        assert float(found) == pytest.approx(bits[k], rel=1e-5)


def test_context_is_only_the_last_k_tokens(weights, stream):
    other = stream.clone()
    other[:90] = (other[:90] + 1) % V
    target = torch.tensor([100])
    same = [bits_with_context(weights, s, target, 10) for s in (stream, other)]
    assert torch.equal(*same)
    more = [bits_with_context(weights, s, target, 11) for s in (stream, other)]
    assert not torch.equal(*more)


def test_the_context_curve_compares_the_same_tokens(weights, stream):
    bits = read(weights, stream).bits
    curve = context_curve(weights, stream, bits, count=20)
    assert list(curve) == ["1", "2", "4", "8", "16", "32", "64", "128", "all"]
    targets = spread(128, N, 20)
    assert len(targets) == 20 and targets[0] == 128 and targets[-1] == N - 1
    assert curve["all"] == pytest.approx(2 ** bits[targets].mean())
    found = bits_with_context(weights, stream, targets, 4)
    assert curve["4"] == pytest.approx(2 ** float(found.mean()))
    shortest = context_curve(weights, stream[:2], bits[:2])
    assert shortest["1"] == pytest.approx(shortest["all"], rel=1e-5)


def test_powers_and_effective_context():
    assert powers(0) == powers(1) == [1]
    assert powers(9) == [1, 2, 4, 8]
    assert effective_context({"1": 9.0, "2": 4.1, "4": 4.0, "all": 4.0}) == 2
    assert effective_context({"1": 9.0, "2": 8.0, "all": 4.0}) is None
    assert effective_context({"1": 9.0, "2": 12.0, "all": 9.0}) is None


# ------------------------------------------------------------------------------------ distance


def test_scrambling_leaves_the_last_tokens_in_place(stream):
    probe = Probe.of(stream, count=50, seed=3)
    assert probe.lengths == [0, 1, 2, 4, 8, 16, 32, 64]
    targets = spread(128, N, 50).tolist()
    for row, place in enumerate(targets):
        assert probe.targets[row] == stream[place]
        assert torch.equal(probe.true[row], stream[place - 64 : place])
        for k in probe.lengths:
            assert torch.equal(probe.last(k)[row], stream[place - k : place])
        before = stream[place - 128 : place - 64]
        assert torch.equal(probe.scrambled[row].sort().values, before.sort().values)
        assert not torch.equal(probe.scrambled[row], before)
    again, other = Probe.of(stream, 50, seed=3), Probe.of(stream, 50, seed=4)
    assert torch.equal(again.scrambled, probe.scrambled)
    assert not torch.equal(other.scrambled, probe.scrambled)


@pytest.mark.parametrize("variant, options", MODELS[:3])
def test_answers_are_the_models_own(variant, options, stream):
    model = random_model(variant, **options)
    probe = Probe.of(stream, count=9)
    found = answer(model.textbook_weights(), probe)
    for index, k in enumerate(probe.lengths):
        tokens = torch.cat([probe.scrambled, probe.last(k)], dim=1)
        with torch.no_grad():
            log_p = model(tokens, model.begin_state(9))[0][-1].double().log_softmax(1)
        wanted = -log_p[torch.arange(9), probe.targets] / math.log(2)
        np.testing.assert_allclose(found["bits"][index], wanted, rtol=1e-4)
        right = log_p.argmax(1) == probe.targets
        assert found["accuracy"][index].tolist() == right.double().tolist()
    # The best temperature is at least as good as 1, but for its rounding.
    assert (found["calibrated_bits"].mean(1) < found["bits"].mean(1) + 1e-3).all()


def test_the_best_temperature_by_hand():
    # Two outcomes with logits +-1: 3 of 4 right means p = 3/4, so a factor of ln(3) / 2.
    scores = torch.tensor([[1.0, -1.0]]).repeat(4, 1)
    assert inverse_temperature(scores, torch.tensor([0, 0, 0, 1])) == pytest.approx(
        math.log(3) / 2, rel=0.02
    )
    assert inverse_temperature(100 * scores, torch.tensor([1, 1, 1, 1])) == pytest.approx(
        1 / 64, rel=0.02
    )


@pytest.mark.parametrize("power", [1, 2, 3])
def test_the_dose_gives_the_damage_wanted(power):
    trials = []

    def rise_at(dose):
        trials.append(dose)
        return 3 * dose**power

    assert 3 * dose_of(1.0, rise_at, 3.0) ** power == pytest.approx(1, rel=0.03)
    assert len(trials) <= 6
    assert dose_of(3.0, rise_at, 3.0) == 1


def scores_with(near, far, rng, noise=0.05):
    """Bits of 200 tokens after contexts of 0, 8 and 64 that gain ``near`` and ``far`` bits."""
    rows = np.array([4.0, 4 - near, 4 - near - far])[:, None]
    return rows + rng.normal(0, noise, (3, 200))


def test_the_comparison_finds_what_was_put_in():
    rng = np.random.default_rng(1)
    plain = scores_with(1.0, 2.0, rng)
    changed = {
        "reset_mean": scores_with(0.5, 2.0, rng),  # loses half of near
        "update_mean": scores_with(1.0, 1.0, rng),  # loses half of far
        "long_units": scores_with(1.0, 1.5, rng),
        "short_units": scores_with(1.0, 2.0, rng),
        **{f"random_units_{draw}": scores_with(1.0, 2.0, rng) for draw in range(1, DRAWS + 1)},
    }
    found = compare(plain, changed, near=1)
    losses = {
        name: (by_band["near"]["value"], by_band["far"]["value"])
        for name, by_band in found["losses"].items()
    }
    assert losses["reset_mean"] == pytest.approx((0.5, 0), abs=0.03)
    assert losses["update_mean"] == pytest.approx((0, 0.5), abs=0.03)
    assert losses["random_units"] == pytest.approx((0, 0), abs=0.03)
    assert found["claim"] == dict.fromkeys(
        ("reset_near", "update_far", "long_units_far"), "supported"
    )
    for by_band in found["losses"].values():
        assert all(one["low"] <= one["value"] <= one["high"] for one in by_band.values())
    # Accuracy rises where bits fall: the same shares, whatever the sign.
    assert compare(-plain, {n: -s for n, s in changed.items()}, 1) == found

    swapped = changed | {
        "reset_mean": changed["update_mean"],
        "update_mean": changed["reset_mean"],
        "long_units": changed["short_units"],
    }
    outcome = compare(plain, swapped, near=1)["claim"]
    assert outcome["reset_near"] == outcome["update_far"] == "contradicted"
    # One draw that loses as much as the long units: they stand out no more.
    unlucky = changed | {"random_units_2": changed["long_units"]}
    assert compare(plain, unlucky, near=1)["claim"]["long_units_far"] == "undecided"


def test_no_comparison_where_context_gains_nothing():
    rng = np.random.default_rng(1)
    units = [f"random_units_{draw}" for draw in range(1, DRAWS + 1)]
    names = ["reset_mean", "update_mean", "long_units", "short_units", *units]
    plain = scores_with(1.0, 0.0, rng)
    assert compare(plain, dict.fromkeys(names, plain), near=1) is None


def test_a_study_of_a_short_split(weights, stream):
    assert study(weights, stream[:2], read(weights, stream[:2])) is None
    found = study(weights, stream[:3], read(weights, stream[:3]))
    assert found["lengths"] == [0, 1] and found["verdict"] is None
    json.dumps(found, allow_nan=False)


def latch():
    """Two units that recall at a query the last marker, and a text that needs just that.

    Unit 0 takes A as 1 and B as -1, and keeps it as long as its update gate is 1: until the next
    marker. Its reset gate lets it through at a query only; unit 1 passes it on to the output.
    """
    filler, query, A, B = range(4)
    w = {f"W_{kind}": torch.zeros(4, 2) for kind in ("xz", "xr", "xh")}
    w |= {f"W_{kind}": torch.zeros(2, 2) for kind in ("hz", "hr", "hh")}
    w["W_xz"][[A, B], 0] = -16
    w["W_xr"][query, 0] = 16
    w["W_xh"][A, 0], w["W_xh"][B, 0], w["W_hh"][0, 1] = 5, -5, 5
    w |= {"b_z": torch.tensor([8.0, -8]), "b_r": torch.tensor([-8.0, 8]), "b_h": torch.zeros(2)}
    w |= {"W_hq": torch.tensor([[0.0, 0, 0, 0], [0, 0, 3, -3]])}
    w |= {"b_q": torch.tensor([2.0, 0, 0, 0])}
    rng = np.random.default_rng(8)
    tokens = []
    while len(tokens) < 6000:
        marker = int(rng.integers(A, B + 1))
        distance = int(rng.choice([1, 2, 3, 10, 12]))
        tokens += [marker, *[filler] * distance, query, marker]
    return w, torch.tensor(tokens)


def test_a_study_compares_at_equal_damage():
    w, stream = latch()
    reading = read(w, stream)
    found = study(w, stream, reading)
    json.dumps(found, allow_nan=False)

    none, verdict = found["conditions"]["none"], found["verdict"]
    assert none["gain"] == pytest.approx((-np.diff(none["calibrated_bits"])).tolist())
    assert found["bands"] == ["1", "2", "3-4", "5-8", "9-16", "17-32", "33-64"]
    probe = Probe.of(stream)
    plain = answer(w, probe)["calibrated_bits"].mean(1)
    held = {**gate_interventions(reading), **unit_interventions(reading)}
    assert (verdict["near"], verdict["far"]) == (8, 64)
    assert len(verdict["doses"]) == 4 + DRAWS and max(verdict["doses"].values()) <= 1
    for name, dose in verdict["doses"].items():
        bits = answer(w, probe, held[name].at(dose))["calibrated_bits"].mean(1)
        assert bits[-1] - plain[-1] == pytest.approx(verdict["rise"], rel=0.05)
        if not name.startswith("random"):
            lost = verdict["calibrated_bits"]["losses"][name]
            near = 1 - (bits[0] - bits[4]) / (plain[0] - plain[4])
            far = 1 - (bits[4] - bits[7]) / (plain[4] - plain[7])
            assert (lost["near"]["value"], lost["far"]["value"]) == pytest.approx((near, far))
    # The update gate is what keeps the marker: a fixed leak loses all that is far, not all near.
    lost = verdict["calibrated_bits"]["losses"]["update_mean"]
    assert lost["near"]["value"] < 0.7 and lost["far"]["value"] > 0.9


# --------------------------------------------------------------------------------------- stage


def make_project(root: Path, level="char", lengths=(600, 300), start=0, length=40):
    """A trained-looking model and its data in ``root``, with params.yaml beside."""
    rng = np.random.default_rng(2)
    words = ["a", "b", " "] if level == "char" else [f"word{n}" for n in range(40)]
    vocabulary = Vocabulary(("<unk>", *words), level)
    vocabulary.save(root / "data/prepared/vocab.json")
    splits = {
        name: rng.integers(1, len(vocabulary), size).astype(vocabulary.dtype)
        for name, size in zip(("train", "val"), lengths, strict=True)
    }
    save_splits(root / "data/prepared", splits, vocabulary)
    model = random_model("scratch", len(vocabulary), hidden_size=8, reset="before")
    model.save(root / "models/scratch", vocabulary.fingerprint)
    params = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    params["gates"] = {"start": start, "length": length}
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
    arrays = read_arrays(path, "gates@scratch", owner=vocabulary.fingerprint)
    return arrays, json.loads((root / "analysis/gates/scratch.json").read_text(encoding="utf-8"))


def test_the_stage_keeps_its_contract(tmp_path):
    splits = make_project(tmp_path)
    assert (ran := run_stage(tmp_path)).returncode == 0, ran.stderr
    arrays, found = results(tmp_path)
    expected = {f"{part}": (np.float32, (8,)) for part in ("mean_Z", "mean_R", "time_constant")}
    for name in ("train", "val"):
        expected |= {
            f"{name}_tokens": (np.int64, (40,)),
            f"{name}_Z": (np.float32, (40, 8)),
            f"{name}_R": (np.float32, (40, 8)),
            f"{name}_surprise": (np.float32, (40,)),
            f"{name}_top_tokens": (np.int64, (40, 4)),  # all of the vocabulary, less than five
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
    assert list(found["context"]["train"]) == [str(2**n) for n in range(9)] + ["all"]
    assert list(found["context"]["val"])[-2:] == ["128", "all"]
    assert found["interventions"]["conditions"]["none"]["rise"] == 0

    files = [tmp_path / f"analysis/gates/scratch.{kind}" for kind in ("npz", "json")]
    before = [path.read_bytes() for path in files]
    assert run_stage(tmp_path).returncode == 0
    assert [path.read_bytes() for path in files] == before


def test_the_stage_reads_words_and_short_splits(tmp_path):
    make_project(tmp_path, "word", lengths=(300, 2), start=1, length=5000)
    assert (ran := run_stage(tmp_path)).returncode == 0, ran.stderr
    arrays, found = results(tmp_path)
    assert found["activity"] == {"train": None, "val": None}
    assert arrays["train_tokens"].shape == (299,) and arrays["val_tokens"].shape == (1,)
    assert not np.isnan(arrays["train_surprise"]).any()  # not the split's first token
    assert arrays["val_top_tokens"].shape == (1, 5)


def test_the_stage_names_a_passage_beyond_the_split(tmp_path):
    make_project(tmp_path, start=300)
    ran = run_stage(tmp_path)
    assert ran.returncode == 1
    assert ran.stderr.splitlines() == [
        "gates: error: gates.start = 300, but the split has only 300 tokens: choose a smaller one"
    ]
    assert not (tmp_path / "analysis").exists()
