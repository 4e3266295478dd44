"""The pictures of the gates and of memory: PNGs of their size, with titles that are so."""

import dataclasses

import numpy as np
import pytest
from examples import PLACES, gate_arrays, gate_study, verdict
from hypothesis import given
from hypothesis import strategies as st
from layout import figure_of
from pictures import LOOKS, ONE, is_picture, strict

from gru_lm.report.drawing import gate_findings as findings
from gru_lm.report.drawing.gates import activity, evenly_spaced, heat_map, time_constants
from gru_lm.report.drawing.memory import claim, context


@pytest.fixture(autouse=True)
def no_warnings():
    with strict():
        yield


@pytest.fixture
def studies():
    return {variant: gate_study() for variant in LOOKS}


def activities(studies):
    return {name: study.activity for name, study in studies.items()}


# --------------------------------------------------------------------------------------- drawn


@pytest.mark.parametrize("looks", [LOOKS, ONE], ids=["three", "one"])
def test_a_picture_has_the_common_width(looks):
    studies = dict.fromkeys(looks, gate_study())
    for draw in (context, claim):
        assert is_picture(draw(looks, studies, "character"))
        assert draw(looks, studies, "character") == draw(looks, studies, "character")
    assert is_picture(activity(looks, activities(studies)))


@pytest.mark.parametrize(
    "tokens, unit",
    [
        (list("the time machine ") * 6, "character"),
        (["a"] * 3, "character"),
        (["$", "\n", "\t", "é", "ж", "\u0301", "\u00a0"] * 5, "character"),
        (["incomprehensibilities", "$x$", "a"] * 30, "word"),
    ],
)
def test_a_heat_map_of_any_text(tokens, unit):
    arrays = gate_arrays(length=len(tokens))
    reading = dataclasses.replace(arrays.readings["train"], tokens=np.arange(len(tokens)))
    arrays = dataclasses.replace(arrays, readings={"train": reading})
    assert is_picture(heat_map(LOOKS["scratch"], arrays, tuple(tokens), unit))


@pytest.mark.parametrize(
    "constants", [[0.5, 1, 2], [0.0, 1.0, np.inf], [np.inf, np.inf], [1.0], [0.0, 0.0]]
)
def test_time_constants_of_any_size(constants):
    values = dict.fromkeys(LOOKS, np.array(constants, np.float32))
    assert is_picture(time_constants(LOOKS, values, "character"))


@given(st.integers(1, 2000), st.integers(2, 60))
def test_units_are_shown_at_equal_steps(units, most):
    shown = evenly_spaced(units, most)
    assert len(shown) == min(units, most)
    assert shown[0] == 0 and shown[-1] == units - 1
    steps = np.diff(shown)
    assert not len(steps) or (steps.min() > 0 and steps.max() - steps.min() <= 1)


def test_a_line_is_the_share_of_units_with_at_most_that_time_constant():
    values = np.array([1.0, 2.0, 2.0, np.inf], np.float32)
    figure = figure_of(lambda: time_constants(ONE, {"concise": values}, "character"))
    line = figure.axes[0].lines[1]
    assert dict(zip(line.get_xdata(), line.get_ydata(), strict=True)) == pytest.approx(
        {line.get_xdata()[0]: 0, 1.0: 0.25, 2.0: 0.75, line.get_xdata()[-1]: 0.75}
    )


def test_both_gates_have_the_whole_scale_and_no_lines_between_places(studies):
    figure = figure_of(lambda: activity(LOOKS, activities(studies)))
    for axes in figure.axes:
        assert axes.get_ylim() == (0, 1)
        assert {line.get_linestyle() for line in axes.lines} == {"None"}


def test_words_have_no_activity():
    words = dict.fromkeys(LOOKS, gate_study(places=None).activity)
    assert findings.activity(words).startswith("Words have no letters")
    assert is_picture(activity(LOOKS, words))


def test_a_place_that_never_occurs_is_left_out(studies):
    studies["fused"] = gate_study(places={**PLACES, "space": None})
    assert is_picture(activity(LOOKS, activities(studies)))


@pytest.mark.parametrize("found", [None, "no interventions"])
def test_a_claim_that_cannot_be_tested(found):
    study = gate_study(found=None)
    if found:
        study = study.model_copy(update={"interventions": None})
    studies = dict.fromkeys(LOOKS, study)
    assert "cannot be tested" in findings.claim(findings.verdicts(studies))
    assert is_picture(claim(LOOKS, studies, "character"))


# -------------------------------------------------------------------------------------- titles


def test_the_heat_maps_title_counts_open_gates():
    gates = {"Z": np.array([[0.6, 0.4, 0.2, 0.1]]), "R": np.array([[0.6, 0.9, 0.7, 0.1]])}
    title = findings.heat_map(gates, "fused")
    assert title.startswith("fused: ") and "in 25 % of the steps" in title
    assert title.endswith("in 75 %")


def test_the_title_of_the_time_constants():
    values = {"scratch": np.array([0.5, 0.7, 3.0]), "concise": np.array([0.2, 0.9, 1.0])}
    title = findings.time_constants(values, "character")
    assert "0.70\u20130.90 characters" in title and "slowest of all within 3.0" in title
    same = findings.time_constants({"scratch": values["scratch"]}, "word")
    assert "within 0.70 words" in same
    assert "some never do" in findings.time_constants({"scratch": np.array([1.0, np.inf])}, "word")


def test_the_title_of_the_activity_names_the_lowest(studies):
    found = findings.activity(activities(studies))
    assert found.startswith("Both gates are lowest at a word's first letter")
    higher = {**PLACES, "first letter": {"Z": 0.2, "R": 0.9, "tokens": 10}}
    studies = dict.fromkeys(LOOKS, gate_study(places=higher))
    assert findings.activity(activities(studies)) == (
        "The update gate is lowest at a word's first letter; the reset gate is lowest inside words"
    )
    other = {**PLACES, "first letter": {"Z": 0.9, "R": 0.9, "tokens": 10}}
    studies["fused"] = gate_study(places=other)
    found = findings.activity(activities(studies))
    assert found.startswith("The variants differ in where the update gate")


def test_the_title_of_the_context(studies):
    assert findings.context(studies, "character") == (
        "On the training split context helps up to 2 characters back;\n"
        "on the validation split more than one character of it only misleads"
    )
    useful = {
        variant: gate_study(val=(9.0, 6.0, 5.0, 5.0), reach=(2, reach))
        for variant, reach in zip(LOOKS, (4, 8, 16), strict=True)
    }
    assert "validation split context helps up to 4\u201316 words back" in findings.context(
        useful, "word"
    )
    useful["scratch"] = gate_study(val=(9.0, 6.0, 5.0, 5.0))
    assert "validation split it helps some variants only" in findings.context(useful, "word")
    alone = {"scratch": useful["scratch"]}
    assert findings.context(alone, "word").endswith("validation split context hardly helps")


def test_the_title_of_the_claim_counts_what_is_supported(studies):
    assert findings.claim(findings.verdicts(studies)).count("3 of 3") == 3
    for variant, outcome in (("scratch", "undecided"), ("fused", "contradicted")):
        studies[variant] = gate_study(found=verdict(reset_near=outcome))
    found = findings.verdicts(studies)
    near, far, units = findings.claim(found).split("\n")
    assert "reset gate in 1 of 3 variants" in near
    assert "update gate in 3 of 3" in far
    assert "random ones in 3 of 3" in units
    assert findings.claim_by_measure(found) == (
        "The title's three counts, of 3, by: calibrated bits (shown) 1, 3, 3; "
        "bits as they are 3, 3, 3; right answers 0, 0, 0."
    )
    studies["concise"] = gate_study(found=None)  # too little to measure
    assert "reset gate in 0 of 2" in findings.claim(findings.verdicts(studies))


def test_of_one_variant_the_outcomes_are_given():
    found = {"concise": gate_study(found=verdict(update_far="undecided")).interventions.verdict}
    assert findings.claim(found) == (
        "concise, in calibrated bits: near context leans more on the reset gate (supported),\n"
        "far context more on the update gate (undecided),\n"
        "and on long-memory units more than on random ones (supported)"
    )
    assert "bits as they are supported, supported, supported" in findings.claim_by_measure(found)
