"""The pictures of the gates: that they are PNGs of their size, and that titles say what is so."""

import struct
import warnings

import numpy as np
import pytest

from gru_lm.report.gates import (
    activity,
    activity_finding,
    claim,
    claim_finding,
    context,
    context_finding,
    heat_map,
    heat_map_finding,
    time_constants,
    time_constants_finding,
)

VARIANTS = ("scratch", "concise", "fused")
LENGTHS = ["1", "2", "4", "all"]


def size(png):
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", png[16:24])


@pytest.fixture(autouse=True)
def no_warnings():
    """A missing glyph, a figure without room or an empty slice would be a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def place(Z, R):
    return {"Z": Z, "R": R, "tokens": 10}


def analysis(train=(9.0, 4.1, 4.0, 4.0), val=(9.0, 20.0, 30.0, 40.0), outcome="supported"):
    """An analysis/gates JSON; ``outcome`` is that of every part of the claim by every measure."""
    band = {"value": 0.2, "low": 0.1, "high": 0.3}
    names = ("reset_mean", "update_mean", "long_units", "short_units", "random_units")
    parts = ("reset_near", "update_far", "long_units_far")
    measured = {
        "losses": {name: {"near": band, "far": band} for name in names},
        "claim": dict.fromkeys(parts, outcome),
    }
    verdict = {"near": 8, "far": 64, "rise": 1.0, "calibrated_bits": measured, "bits": measured}
    places = {
        "first letter": place(0.2, 0.5),
        "inside words": place(0.3, 0.6),
        "space": place(0.4, 0.7),
    }
    return {
        "activity": {"train": places, "val": places},
        "context": {
            "train": dict(zip(LENGTHS, train, strict=True)),
            "val": dict(zip(LENGTHS, val, strict=True)),
        },
        "effective_context": {"train": 2, "val": None},
        "interventions": {"verdict": {**verdict, "accuracy": None}},
    }


@pytest.fixture
def analyses():
    return {variant: analysis() for variant in VARIANTS}


def passage(length=90, units=8):
    rng = np.random.default_rng(0)
    return {
        "train_Z": rng.random((length, units), np.float32),
        "train_R": rng.random((length, units), np.float32),
        "time_constant": np.arange(units, dtype=np.float32) + 1,
    }


# --------------------------------------------------------------------------------------- drawn


@pytest.mark.parametrize("draw", [activity, context, claim])
def test_a_picture_has_the_common_width(draw, analyses):
    assert size(draw(analyses))[0] == 1140
    assert draw(analyses) == draw(analyses)


@pytest.mark.parametrize(
    "tokens, unit",
    [
        (list("the time machine ") * 6, "character"),
        (["a"] * 3, "character"),
        (["$", "\n", "\t", "é", "ж"] * 5, "character"),
        (["incomprehensibilities", "$x$", "a"] * 30, "word"),
    ],
)
def test_a_heat_map_of_any_text(tokens, unit):
    assert size(heat_map(passage(len(tokens)), tokens, "scratch", unit))[0] == 1140


@pytest.mark.parametrize(
    "constants", [[0.5, 1, 2], [0.0, 1.0, np.inf], [np.inf, np.inf], [1.0], [0.0, 0.0]]
)
def test_time_constants_of_any_size(constants):
    values = dict.fromkeys(VARIANTS, np.array(constants, np.float32))
    assert size(time_constants(values))[0] == 1140


def test_words_have_no_activity(analyses):
    for one in analyses.values():
        one["activity"] = {"train": None, "val": None}
    assert size(activity(analyses))[0] == 1140


def test_a_place_that_never_occurs_is_left_out(analyses):
    analyses["fused"]["activity"] = {
        split: {**places, "space": None} for split, places in analyses["fused"]["activity"].items()
    }
    assert size(activity(analyses))[0] == 1140


@pytest.mark.parametrize("interventions", [None, {"verdict": None}])
def test_a_claim_that_cannot_be_tested(interventions, analyses):
    for one in analyses.values():
        one["interventions"] = interventions
    assert "cannot be tested" in claim_finding(analyses)
    assert size(claim(analyses))[0] == 1140


# -------------------------------------------------------------------------------------- titles


def test_the_heat_maps_title_counts_open_gates():
    gates = {"Z": np.array([[0.6, 0.4, 0.2, 0.1]]), "R": np.array([[0.6, 0.9, 0.7, 0.1]])}
    title = heat_map_finding(gates, "fused")
    assert title.startswith("fused: ") and "25% of the steps" in title
    assert title.endswith("in 75%")


def test_the_title_of_the_time_constants():
    values = {"scratch": np.array([0.5, 0.7, 3.0]), "concise": np.array([0.2, 0.9, 1.0])}
    title = time_constants_finding(values)
    assert "0.70 to 0.90 characters" in title and "slowest of all within 3.0" in title
    same = time_constants_finding({"scratch": values["scratch"]}, "word")
    assert "within 0.70 words" in same
    assert "some never do" in time_constants_finding({"scratch": np.array([1.0, np.inf])})


def test_the_title_of_the_activity_names_the_lowest(analyses):
    assert activity_finding(analyses).startswith("Both gates are lowest at a word's first letter")
    for one in analyses.values():
        one["activity"]["train"]["first letter"] = place(0.2, 0.9)
    assert activity_finding(analyses) == (
        "The update gate is lowest at a word's first letter; the reset gate is lowest inside words"
    )
    analyses["fused"]["activity"]["train"] = {
        "first letter": place(0.9, 0.9),
        "inside words": place(0.3, 0.6),
        "space": place(0.4, 0.7),
    }
    assert activity_finding(analyses).startswith("The variants differ in where the update gate")


def test_the_title_of_the_context(analyses):
    assert context_finding(analyses) == (
        "On the training split context helps up to 2 characters back;\n"
        "on the validation split more than one character of it only misleads"
    )
    useful = {variant: analysis(val=(9.0, 6.0, 5.0, 5.0)) for variant in VARIANTS}
    for one, reach in zip(useful.values(), (4, 8, 16), strict=True):
        one["effective_context"]["val"] = reach
    assert "validation split context helps up to 4 to 16 words back" in context_finding(
        useful, "word"
    )
    useful["scratch"]["effective_context"]["val"] = None
    assert "validation split it helps some variants only" in context_finding(useful)


def test_the_title_of_the_claim_counts_what_is_supported(analyses):
    assert claim_finding(analyses).count("3 of 3") == 3
    for variant, outcome in (("scratch", "undecided"), ("fused", "contradicted")):
        verdict = analyses[variant]["interventions"]["verdict"]
        verdict["calibrated_bits"]["claim"]["reset_near"] = outcome
    near, far, units = claim_finding(analyses).split("\n")
    assert "reset gate in 1 of 3" in near
    assert "update gate in 3 of 3" in far
    assert "random ones in 3 of 3" in units
    analyses["concise"]["interventions"] = None  # too little to measure
    assert "reset gate in 0 of 2" in claim_finding(analyses)
