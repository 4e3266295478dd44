"""The pictures of the gates and of memory, and their titles."""

import dataclasses

import numpy as np
import pytest
from examples import HOLDS, PLACES, gate_arrays, gate_study
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
def test_pictures_have_common_width(looks):
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
        ([" the", "$", "\n", "  ", " traveller"] * 20, "token"),
    ],
)
def test_heat_map_of_any_text(tokens, unit):
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
def test_evenly_spaced_units_are_shown(units, most):
    shown = evenly_spaced(units, most)
    assert len(shown) == min(units, most)
    assert shown[0] == 0 and shown[-1] == units - 1
    steps = np.diff(shown)
    assert not len(steps) or (steps.min() > 0 and steps.max() - steps.min() <= 1)


def test_time_constants_are_cumulative_shares():
    values = np.array([1.0, 2.0, 2.0, np.inf], np.float32)
    figure = figure_of(lambda: time_constants(ONE, {"concise": values}, "character"))
    line = figure.axes[0].lines[1]
    assert dict(zip(line.get_xdata(), line.get_ydata(), strict=True)) == pytest.approx(
        {line.get_xdata()[0]: 0, 1.0: 0.25, 2.0: 0.75, line.get_xdata()[-1]: 0.75}
    )


def test_activity_axes_have_full_scale_without_lines(studies):
    figure = figure_of(lambda: activity(LOOKS, activities(studies)))
    for axes in figure.axes:
        assert axes.get_ylim() == (0, 1)
        assert {line.get_linestyle() for line in axes.lines} == {"None"}


def test_word_level_has_no_activity():
    words = dict.fromkeys(LOOKS, gate_study(places=None).activity)
    assert findings.activity(words).startswith("The tokens are not characters")
    assert is_picture(activity(LOOKS, words))


def test_absent_place_is_left_out(studies):
    studies["fused"] = gate_study(places={**PLACES, "space": None})
    assert is_picture(activity(LOOKS, activities(studies)))


def test_untestable_claim_is_not_drawn(studies):
    studies = dict.fromkeys(LOOKS, gate_study(near=()))
    assert findings.claim(studies, "word") == (
        "The claim about the gates cannot be tested: far context gains too little"
    )
    assert is_picture(claim(LOOKS, studies, "word"))
    assert is_picture(context(LOOKS, studies, "word"))  # one training


def test_variant_without_comparison_is_left_out(studies):
    studies["fused"] = gate_study(near=())
    assert is_picture(claim(LOOKS, studies, "character"))
    assert "in all 2 variants" in findings.claim(studies, "character")


# -------------------------------------------------------------------------------------- titles


def test_heat_map_title_counts_open_gates():
    gates = {"Z": np.array([[0.6, 0.4, 0.2, 0.1]]), "R": np.array([[0.6, 0.9, 0.7, 0.1]])}
    title = findings.heat_map(gates, "fused")
    assert title.startswith("fused: ") and "in 25 % of the steps" in title
    assert title.endswith("in 75 %")


def test_time_constants_title():
    values = {"scratch": np.array([0.5, 0.7, 3.0]), "concise": np.array([0.2, 0.9, 1.0])}
    title = findings.time_constants(values, "character")
    assert "0.70\u20130.90 characters" in title and "slowest of all within 3.0" in title
    same = findings.time_constants({"scratch": values["scratch"]}, "word")
    assert "within 0.70 words" in same
    assert "some never do" in findings.time_constants({"scratch": np.array([1.0, np.inf])}, "word")


def test_activity_title_names_lowest_place(studies):
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


def test_context_title(studies):
    assert findings.context(studies, "character") == (
        "Context helps up to 28 characters back on training text, 3\u20134 on unseen text "
        "(to 0.05 bits);\n"
        "there, last-epoch weights lose 0.25 bits by reading on beyond 2 characters"
    )
    studies["concise"] = gate_study(val=(4.0, 3.5, 3.0, 3.0, 3.04), reach=(26, 2, 0))
    first, second = findings.context(studies, "word").split("\n")
    assert first.startswith("Context helps up to 26\u201328 words back on training text, 0\u20134")
    assert second.endswith("lose 0.25 bits by reading on beyond 2 words (scratch and fused)")


@pytest.mark.parametrize(
    ("reach", "train", "unseen"),
    [
        ((0, 1, 1), "hardly", "1"),
        ((8, 0, 0), "up to 8 words back", "hardly"),
        ((None, 2, 3), "beyond 4 words back", "2\u20133"),
        ((8, 2, None), "up to 8 words back", "beyond 4"),
    ],
)
def test_context_title_states_each_reach(reach, train, unseen):
    harmless = (4.0, 3.5, 3.0, 3.0, 3.0)
    studies = {"scratch": gate_study(val=harmless, reach=reach, selected="best_val")}
    assert findings.context(studies, "word") == (
        f"Context helps {train} on training text, {unseen} on unseen text (to 0.05 bits);\n"
        "there, reading more than that does no harm"
    )


UNDECIDED = (0.1, -0.2, 0.15)
CONTRADICTED = tuple(-value for value in HOLDS)
DEPENDS = "near context depends more"
OPEN = "it is undecided which gate near context depends on more"


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ((HOLDS,) * 3, f"{DEPENDS} on the reset gate in all 3 variants"),
        (
            (HOLDS, UNDECIDED, HOLDS),
            f"{DEPENDS} on the reset gate in 2 of 3 variants, undecided in 1",
        ),
        (
            (HOLDS, UNDECIDED, CONTRADICTED),
            "near context: reset gate in 1 of 3 variants, update gate in 1, undecided in 1",
        ),
        (
            (CONTRADICTED, HOLDS),
            "near context: reset gate in 1 of 2 variants, update gate in 1",
        ),
        ((CONTRADICTED,) * 3, f"{DEPENDS} on the update gate in all 3 variants"),
        ((UNDECIDED,) * 3, OPEN),
        ((HOLDS[:2],) * 3, f"{OPEN} (2 trainings)"),
        ((HOLDS[:1],) * 3, f"{OPEN} (1 training)"),
        ((HOLDS,), f"{DEPENDS} on the reset gate"),
        ((UNDECIDED,), OPEN),
        ((CONTRADICTED,), f"{DEPENDS} on the update gate"),
    ],
)
def test_claim_title_states_each_outcome(found, verdict):
    studies = {name: gate_study(near=near) for name, near in zip(LOOKS, found, strict=False)}
    assert findings.claim(studies, "character") == (
        f"Training text: {verdict};\n"
        "unseen text cannot tell: there characters 9 to 32 back gain 0.00 bits"
    )
    on_val = {name: gate_study(near_on_val=near) for name, near in zip(LOOKS, found, strict=False)}
    assert findings.claim(on_val, "character").endswith(f";\nunseen text: {verdict}")


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ((HOLDS,), "Compared with a random tenth, holding the longest-memory tenth costs more"),
        ((CONTRADICTED,), "costs less far context."),
        ((UNDECIDED,), "It is undecided whether the units with the longest memory matter more"),
        ((UNDECIDED,) * 3, "It is undecided whether"),
        (
            (HOLDS, CONTRADICTED, UNDECIDED),
            "costs more far context in 1, less in 1, undecided in 1 of 3 variants.",
        ),
        ((CONTRADICTED,) * 3, "costs less far context in 3 of 3 variants."),
    ],
)
def test_units_sentence_states_each_outcome(found, sentence):
    studies = {name: gate_study(long=long) for name, long in zip(LOOKS, found, strict=False)}
    assert sentence in findings.units(studies)


def test_titles_fit_on_the_canvas(studies):
    """The longest outcomes fit into 7.6 inches at 11 points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    studies["fused"] = gate_study(near=UNDECIDED, near_on_val=UNDECIDED)
    studies["concise"] = gate_study(near=CONTRADICTED, val=(4.0, 3.5, 3.0, 3.0, 3.0))
    for title in (findings.claim(studies, "character"), findings.context(studies, "character")):
        lines = title.split("\n")
        assert len(lines) == 2
        for line in lines:
            width = TextPath((0, 0), line, prop=FontProperties(size=11)).get_extents().width
            assert width < 7.6 * 72, line
