"""Student's t interval agrees with closed forms and a sum over the density."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gru_lm.gate_study.trainings import interval, paired, t_quantile


def test_quantiles_with_closed_form():
    # One degree of freedom: Cauchy. Two: p = t / sqrt(2 + t^2).
    assert t_quantile(1) == pytest.approx(math.tan(math.pi * 0.475), rel=1e-9)
    assert t_quantile(2) == pytest.approx(math.sqrt(2 * 0.95**2 / (1 - 0.95**2)), rel=1e-9)
    assert t_quantile(10**4) == pytest.approx(1.959964, rel=1e-3)  # nearly normal


@pytest.mark.parametrize("freedom", [3, 4, 5, 8])
def test_quantiles_by_integrating_density(freedom):
    t = t_quantile(freedom)
    x = np.linspace(0, t, 200_001)
    constant = math.gamma((freedom + 1) / 2) / (
        math.sqrt(freedom * math.pi) * math.gamma(freedom / 2)
    )
    density = constant * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    assert 2 * np.trapezoid(density, x) == pytest.approx(0.95, abs=1e-6)


def test_interval_by_hand():
    # Mean 2, standard deviation 1, three values: 2 +- 4.3027 / sqrt(3).
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-4)


@given(
    values=st.lists(st.floats(-10, 10), min_size=3, max_size=9),
    shift=st.floats(-5, 5),
)
def test_interval_is_shift_and_sign_equivariant(values, shift):
    low, high = interval(values)
    assert low <= sum(values) / len(values) + 1e-9 and sum(values) / len(values) <= high + 1e-9
    moved = interval([value + shift for value in values])
    assert moved == pytest.approx((low + shift, high + shift), abs=1e-6)
    mirrored = interval([-value for value in values])
    assert mirrored == pytest.approx((-high, -low), abs=1e-6)


@pytest.mark.parametrize(
    ("differences", "outcome"),
    [
        ([0.9, 1.0, 1.1], "supported"),
        ([-0.9, -1.0, -1.1], "contradicted"),
        ([-0.9, 1.0, 1.1], "undecided"),
        ([1.0, 1.0], "undecided"),  # too few
        ([1.0], "undecided"),
        ([], "undecided"),
        ([0.0, 0.0, 0.0], "undecided"),
    ],
)
def test_outcome_follows_interval(differences, outcome):
    found = paired(differences)
    assert found["outcome"] == outcome
    assert found["differences"] == differences
    assert (found["mean"] is None) == (not differences)
    assert (found["low"] is None) == (found["high"] is None) == (len(differences) < 3)
