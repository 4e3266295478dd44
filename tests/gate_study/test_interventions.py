"""What interventions on gates and units do, by distance: against the models and by hand."""

import json
import math

import numpy as np
import pytest
import torch
from gated import MODELS, H, N, V, plain_gates, random_model, random_stream

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
from gru_lm.gate_study.reading import read, spread
from gru_lm.models.gru.equations import Equations


@pytest.fixture
def gates():
    return random_model(reset="before").gates()


@pytest.fixture
def stream():
    return random_stream()


def test_holding_a_gate_at_the_value_it_has_changes_nothing(stream):
    b_z = torch.tensor([-1.0, 0, 1, 2, 3, 4, 5])
    gates = plain_gates(b_z=b_z, b_r=torch.full((V,), 40.0))
    reading = read(gates, stream)
    np.testing.assert_allclose(reading.mean_R, 1)
    np.testing.assert_allclose(reading.mean_Z, torch.sigmoid(b_z), rtol=1e-6)
    probe = Probe.of(stream)
    plain = answer(gates, probe)["bits"]
    held = gate_interventions(reading)
    for name in ("reset_open", "reset_mean", "update_mean"):
        np.testing.assert_allclose(answer(gates, probe, held[name])["bits"], plain, atol=1e-5)
    assert np.abs(answer(gates, probe, held["update_zero"])["bits"] - plain).max() > 0.1


def test_ablation_holds_the_units_and_no_others(gates, stream):
    reading = read(gates, stream)
    held = unit_interventions(reading)
    assert [name for name in held if name.startswith("random")] == [
        f"random_units_{draw}" for draw in range(1, DRAWS + 1)
    ]
    tokens = stream[None, :20]
    for one in held.values():
        units = one.dose == 1
        assert int(units.sum()) == 1  # a tenth of ten
        assert not one.dose[~units].any()
        free = next(gates.steps(tokens, torch.zeros(1, H)))[2]
        for index, (_, _, state) in enumerate(gates.steps(tokens, torch.zeros(1, H), one)):
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
    found = answer(model.gates(), probe)
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


def test_a_study_of_a_short_split(gates, stream):
    assert study(gates, stream[:2], read(gates, stream[:2])) is None
    found = study(gates, stream[:3], read(gates, stream[:3]))
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
    return Equations(w), torch.tensor(tokens)


def test_a_study_compares_at_equal_damage():
    gates, stream = latch()
    reading = read(gates, stream)
    found = study(gates, stream, reading)
    json.dumps(found, allow_nan=False)

    none, verdict = found["conditions"]["none"], found["verdict"]
    assert none["gain"] == pytest.approx((-np.diff(none["calibrated_bits"])).tolist())
    assert found["bands"] == ["1", "2", "3-4", "5-8", "9-16", "17-32", "33-64"]
    probe = Probe.of(stream)
    plain = answer(gates, probe)["calibrated_bits"].mean(1)
    held = {**gate_interventions(reading), **unit_interventions(reading)}
    assert (verdict["near"], verdict["far"]) == (8, 64)
    assert len(verdict["doses"]) == 4 + DRAWS and max(verdict["doses"].values()) <= 1
    for name, dose in verdict["doses"].items():
        bits = answer(gates, probe, held[name].at(dose))["calibrated_bits"].mean(1)
        assert bits[-1] - plain[-1] == pytest.approx(verdict["rise"], rel=0.05)
        if not name.startswith("random"):
            lost = verdict["calibrated_bits"]["losses"][name]
            near = 1 - (bits[0] - bits[4]) / (plain[0] - plain[4])
            far = 1 - (bits[4] - bits[7]) / (plain[4] - plain[7])
            assert (lost["near"]["value"], lost["far"]["value"]) == pytest.approx((near, far))
    # The update gate is what keeps the marker: a fixed leak loses all that is far, not all near.
    lost = verdict["calibrated_bits"]["losses"]["update_mean"]
    assert lost["near"]["value"] < 0.7 and lost["far"]["value"] > 0.9
