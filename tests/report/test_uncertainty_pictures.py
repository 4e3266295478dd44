"""The pictures of calibration and of uncertainty by group, and their titles."""

import math

import pytest
from examples import group, split_uncertainty, uncertainty
from hypothesis import given
from hypothesis import strategies as st
from layout import figure_of, texts_of
from pictures import LOOKS, ONE, is_picture, strict

from gru_lm.report.drawing import findings
from gru_lm.report.drawing.uncertainty import calibration, where_uncertain, wilson
from gru_lm.report.wording import EN_DASH


def measured(*values):
    return {name: uncertainty(**value) for name, value in zip(LOOKS, values, strict=False)}


@pytest.mark.parametrize(
    ("values", "finding"),
    [
        (
            [{}, {"confidence": 0.77, "accuracy": 0.31}],
            "On unseen text (validation) the models are overconfident:\n"
            f"mean confidence 77{EN_DASH}78 %, accuracy 31{EN_DASH}33 %",
        ),
        (
            [{"confidence": 0.3, "accuracy": 0.6}],
            "scratch is underconfident:\nmean confidence 30 %, accuracy 60 %",
        ),
        (
            [{"ece": 0.03, "confidence": 0.5, "accuracy": 0.48}] * 2,
            "the models are well calibrated:\nmean confidence 50 %, accuracy 48 %",
        ),
        ([{"ece": 0.03}, {}], "only scratch is well calibrated"),
        (
            [{"confidence": 0.5, "accuracy": 0.4}, {"confidence": 0.5, "accuracy": 0.6}],
            "the models are not well calibrated",
        ),
    ],
)
def test_calibration_title(values, finding):
    assert finding in findings.calibration(measured(*values))


def test_uncertainty_title():
    groups = {"1": group(640.0), "2": group(70.0), "end": group(11.5), "other": group(9000.0)}
    assert findings.where_uncertain(measured({"groups": groups}, {"groups": groups})) == (
        "On unseen text (validation) the models expect a perplexity of 2.00 and reach 118;\n"
        "it is highest at a word's first letter (640) and lowest at the space after a word (11.5)"
    )


def test_mean_over_models_is_in_bits():
    low, high = {"1": group(10.0), "2": group(2.0)}, {"1": group(1000.0), "2": group(2.0)}
    found = findings.where_uncertain(measured({"groups": low}, {"groups": high}))
    assert "it is highest at a word's first letter (100)" in found


@pytest.mark.parametrize(
    "groups", [None, {}, {"3": group(5.0)}, {"1": group(5.0), "end": group(math.inf)}]
)
def test_single_place_is_not_compared(groups):
    found = findings.where_uncertain(measured({"groups": groups}))
    assert found == (
        "On unseen text (validation) scratch expects a perplexity of 2.00 and reaches 118"
    )


@pytest.mark.parametrize(
    "groups",
    [
        None,
        {},
        {"3": group(5.0)},
        {"1": group(5.0), "end": group(math.inf)},
        {name: group(3.0, 40.0) for name in ("1", "2", "3", "4", "5", "6+", "end", "other")},
        {"1": group(1.0, 1.0), "2": group(1e250, 1.0)},
    ],
    ids=["words", "no group", "one", "no perplexity", "underconfident", "huge"],
)
@pytest.mark.parametrize("looks", [LOOKS, ONE], ids=["three", "one"])
def test_uncertainty_pictures(looks, groups):
    results = {name: uncertainty(groups=groups) for name in looks}
    with strict():
        assert is_picture(where_uncertain(looks, results))
        assert is_picture(calibration(looks, results))


def test_groups_of_one_split_only():
    one = uncertainty(groups={"1": group(5.0)})
    one = one.model_copy(update={"val": split_uncertainty(groups={})})
    assert is_picture(where_uncertain(ONE, {"concise": one}))


@given(st.integers(1, 10_000), st.data())
def test_wilson_interval_equals_definition(count, data):
    share = data.draw(st.integers(0, count)) / count
    low, high = wilson(share, count)
    assert 0 <= low <= share + 1e-9 and share - 1e-9 <= high <= 1
    for bound in (low, high):  # 1.96 standard deviations from the share
        if 1e-9 < bound < 1 - 1e-9:
            deviation = math.sqrt(bound * (1 - bound) / count)
            assert abs(share - bound) == pytest.approx(1.96 * deviation, abs=1e-6)


def test_calibration_is_shown_on_each_split():
    measured = uncertainty(confidence=0.8, accuracy=0.3)
    test = split_uncertainty(confidence=0.77, accuracy=0.28, ece=0.49)
    measured = measured.model_copy(update={"test": test})
    figure = figure_of(lambda: calibration(ONE, {"concise": measured}))
    texts = [text for text, _ in texts_of(figure)]
    assert "test split\nmean confidence 77 %\naccuracy 28 %\ncalibration error 0.49" in texts
    validation = "validation split\nmean confidence 80 %\naccuracy 30 %\ncalibration error 0.45"
    assert validation in texts
    assert sum("training split" in text for text in texts) == 1


@pytest.mark.parametrize(("spaces", "shown"), [(10, False), (11, True)])
def test_spaces_after_words_are_shown_once(spaces, shown):
    end, space = group(11.5), {**group(12.0), "tokens": spaces}
    measured = split_uncertainty(groups={"1": group(5.0), "end": end})
    kinds = {"vowel": group(20.0), "space": space}
    measured = type(measured).model_validate({**measured.model_dump(), "character_class": kinds})
    both = uncertainty().model_copy(update={"val": measured, "train": measured})
    figure = figure_of(lambda: where_uncertain(ONE, {"concise": both}))
    texts = [text for text, _ in texts_of(figure)]
    assert texts.count("space\nafter it") == 2  # one per split
    assert texts.count("any\nspace") == 2 * shown
