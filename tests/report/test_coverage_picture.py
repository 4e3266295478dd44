"""The picture of the loss by how often a target was trained, and its title."""

import pytest
from examples import CARDS, NATS, TARGETS, coverage
from pictures import LOOKS, ONE, is_picture, strict

from gru_lm.report.drawing import coverage as drawing
from gru_lm.report.style import looks as looks_of
from gru_lm.report.wording import EN_DASH

ALL = {"75-100%": 9999}


@pytest.mark.parametrize(
    ("measured", "finding"),
    [
        (
            [coverage(), coverage(nats=NATS | {"never": 4.5})],
            f"78{EN_DASH}80 % of the loss on the training split comes from the 680 of 9,999 "
            "targets (6.8 %)\nthat were trained in less than 25 % of the epochs or never",
        ),
        (
            [coverage({"never": 1, "75-100%": 99}), coverage({"<25%": 3, "75-100%": 97})],
            f"70{EN_DASH}83 % of the loss on the training split comes from the 1{EN_DASH}3 of 100 "
            f"targets (1.0{EN_DASH}3.0 %)\n",
        ),
        (
            [coverage(ALL), coverage(ALL, {"75-100%": 0.5})],
            "Each of the 9,999 training targets was trained in at least 25 % of the epochs;\n"
            f"their perplexity is 1.02{EN_DASH}1.65",
        ),
        (
            [coverage({"never": 4, "25-50%": 3})],
            "84 % of the loss on the training split comes from the 4",
        ),
        ([coverage(ALL, {"75-100%": 1e4})], "was trained in at least 25 % of the epochs"),
    ],
)
def test_finding(measured, finding):
    assert finding in drawing.finding(measured)


MANY = looks_of(dict.fromkeys("abcdefgh", CARDS["scratch"]))


@pytest.mark.parametrize(
    ("targets", "nats"),
    [
        (TARGETS, NATS),
        (ALL, NATS),
        ({"<25%": 9, "75-100%": 9990}, NATS),
        ({"never": 1, "75-100%": 1}, {"never": 1e4, "75-100%": 500.0}),
        (ALL, {"75-100%": 1e4}),
        (ALL, {"75-100%": 0.0}),
        ({"never": 900_000, "50-75%": 200_000}, dict.fromkeys(NATS, 1.0)),
    ],
    ids=["default", "all trained", "few rarely", "huge", "no perplexity", "no loss", "flat"],
)
@pytest.mark.parametrize("looks", [LOOKS, ONE, MANY], ids=["three", "one", "eight"])
def test_pictures(looks, targets, nats):
    with strict():
        assert is_picture(drawing.coverage(looks, {n: coverage(targets, nats) for n in looks}))


def test_variants_with_different_groups():
    """With train.select best_val, the variants' weights may come from different epochs."""
    one = {"never": 300, "75-100%": 700}
    other = {"<25%": 100, "50-75%": 900}
    measured = dict(zip(LOOKS, map(coverage, (one, other, TARGETS)), strict=True))
    with strict():
        assert is_picture(drawing.coverage(LOOKS, measured))
