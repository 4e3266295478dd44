"""The formats of numbers, names and white space."""

import pytest

from gru_lm.report.wording import (
    capitalised,
    count,
    figures,
    listed,
    minutes,
    percent,
    power,
    rounded,
    span,
    visible,
)


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("a", ("a", "a")),
        ("<", ("<", "<")),
        (" ", ("␣", "space")),
        ("\n", ("⏎", "line break")),
        ("\t", ("⇥", "tab")),
        (" the", ("␣the", " the")),
        ("  ", ("␣␣", "space, space")),
        ("a\t", ("a⇥", "a\t")),
        ("\u00a0", ("U+00A0", "U+00A0")),
        ("\u200b", ("U+200B", "U+200B")),
        ("\u0301", ("◌\u0301", "\u0301")),
        ("time", ("time", "time")),
    ],
)
def test_tokens_are_visible_and_named(token, expected):
    assert visible(token) == expected


def test_numbers_are_formatted():
    values = (1.0661, 17.4, 113.02, 999.7, 12345.6, 1.23e8)
    assert [figures(x) for x in values] == ["1.07", "17.4", "113", "1,000", "12,346", "1.23e+08"]
    assert power(5.9e-5).replace("\u202f", " ") == "6 \u00d7 10⁻⁵"
    assert power(0) == "0"
    assert minutes(140.6) == "2:21"
    assert [count(3), count(12)] == ["three", "12"]


def test_span_of_equal_figures_is_one_figure():
    assert span([3.001, 2.999]) == "3.00"
    assert span([2.5, 9.0, 1.25]) == "1.25\u20139.00"
    assert percent([0.334, 0.31]) == "31\u201333 %"


def test_lists_and_capitals():
    assert [listed(list(names)) for names in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]
    assert capitalised("nn.GRU is") == "Nn.GRU is"


@pytest.mark.parametrize(
    ("value", "text"),
    [(51516.4, "52,000"), (187183, "190,000"), (9.96, "10"), (1.234, "1.2"), (0.0031, "0.0031")],
)
def test_speeds_have_two_digits(value, text):
    assert rounded(value) == text
