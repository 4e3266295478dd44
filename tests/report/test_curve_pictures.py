"""The pictures of the training, for all possible results, and their titles."""

import math

import pytest
from examples import CARDS, TIMING, VARIANTS
from layout import figure_of, texts_of
from pictures import LOOKS, ONE, is_picture, strict

from gru_lm.report.drawing import curves, findings
from gru_lm.report.wording import EN_DASH

RISING = [(1, 20.0), (5, 9.8), (10, 40.0), (12, 113.2)]
LATER = [(1, 20.0), (5, 12.0), (10, 10.4), (12, 121.4)]
FALLING = [(1, 20.0), (5, 9.8), (10, 8.1), (12, 8.2)]
TEXTBOOK = {name: CARDS[name].textbook_perplexity for name in VARIANTS}


# ------------------------------------------------------------------------------------- training


@pytest.mark.parametrize(
    ("last", "title"),
    [
        (
            {"scratch": 1.07, "concise": 1.04, "fused": 1.3},
            "Scratch and concise reach the textbook's training perplexity (1.1 and 1.0)",
        ),
        ({"concise": 1.04}, "Concise reaches the textbook's training perplexity (1.0)"),
        (
            {"scratch": 1.35, "concise": 1.04},
            "Training perplexity ends above the textbook's for scratch (1.35, textbook 1.1)",
        ),
        (
            {"scratch": 17.4, "concise": 1.06},
            "Training perplexity ends above the textbook's for scratch (17.4, textbook 1.1) and "
            "concise (1.06, textbook 1.0)",
        ),
        ({"fused": 1.3}, "Training perplexity ends at 1.30"),
    ],
)
def test_variants_have_their_own_textbook_figure(last, title):
    assert findings.training(last, TEXTBOOK) == title


@pytest.mark.parametrize("looks", [LOOKS, ONE], ids=["three", "one"])
@pytest.mark.parametrize("rows", [RISING, [(1, 1.0)], [(1, 1e30), (2, 3e12)]])
def test_training_picture(looks, rows):
    with strict():
        drawn = curves.training(looks, dict.fromkeys(looks, rows), TEXTBOOK)
        assert is_picture(drawn)
        assert curves.training(looks, dict.fromkeys(looks, rows), TEXTBOOK) == drawn
        without = curves.training(looks, dict.fromkeys(looks, rows), dict.fromkeys(looks))
    assert without != drawn


def test_textbook_line_is_in_its_own_panel():
    figure = figure_of(lambda: curves.training(LOOKS, dict.fromkeys(LOOKS, RISING), TEXTBOOK))
    panels = dict(zip(LOOKS, figure.axes, strict=True))
    labels = {name: [text.get_text() for text in axes.texts] for name, axes in panels.items()}
    assert labels == {"scratch": ["textbook: 1.1"], "concise": ["textbook: 1.0"], "fused": []}
    assert panels["fused"].get_title().endswith("not in the textbook")


@pytest.mark.parametrize("device", ["CPU, 1 thread", "another"])
def test_common_device_is_named_once(device):
    timings = {
        **dict.fromkeys(LOOKS, TIMING),
        "fused": TIMING.model_copy(update={"device": device}),
    }
    texts = [text for text, _ in texts_of(figure_of(lambda: curves.speed(LOOKS, timings)))]
    named = sum("CPU, 1 thread" in text for text in texts)
    assert named == (1 if device == "CPU, 1 thread" else 2)
    assert sum(text.startswith("33,000") for text in texts) == 3


def test_fastest_variant_is_named():
    slow = TIMING.model_copy(update={"tokens_per_second": 1000.0})
    timings = {"scratch": slow, "fused": TIMING}
    assert findings.speed(timings) == "Fused trains fastest, at about 33,000 tokens per second"
    assert findings.speed({"fused": slow}) == "Fused trains at about 1,000 tokens per second"
    with strict():
        assert is_picture(curves.speed(LOOKS, dict.fromkeys(LOOKS, TIMING)))
        assert is_picture(curves.speed(ONE, {"concise": TIMING}))


# --------------------------------------------------------------------------------- overfitting


def test_overfitting_starts_at_lowest_epoch():
    assert findings.overfitting({"scratch": RISING}) == (
        "Overfitting: validation perplexity is lowest at epoch 5 (9.80)\nand ends at 113"
    )
    assert findings.overfitting({"scratch": RISING, "fused": LATER}) == (
        f"Overfitting: validation perplexity is lowest at epoch 5{EN_DASH}10 (9.80{EN_DASH}10.4)\n"
        f"and ends at 113{EN_DASH}121"
    )


def test_overfitting_variants_are_named():
    found = findings.overfitting({"scratch": FALLING, "concise": RISING, "fused": LATER})
    assert found.startswith("Overfitting of concise and fused: validation perplexity is lowest at")
    assert findings.overfitting({"scratch": FALLING, "fused": []}) == (
        "No overfitting: validation perplexity ends at or near its lowest value (8.10)"
    )


def test_curves_count_steps_if_training_does():
    curve = {"scratch": [(1000, 20.0), (5000, 9.8), (12_000, 40.0)]}
    assert "lowest at step 5,000 (9.80)" in findings.overfitting(curve, "step")
    figure = figure_of(
        lambda: curves.overfitting({"scratch": LOOKS["scratch"]}, curve, curve, "step")
    )
    texts = " ".join(text.replace("\n", " ") for text, *_ in texts_of(figure))
    assert "lowest 9.80 at step 5,000" in texts and "best step (lowest" in texts
    assert figure.axes[0].get_xlabel() == "step" and "epoch" not in texts


def test_no_claim_without_validation_curve():
    assert "There is no validation perplexity" in findings.overfitting({"scratch": []})


@pytest.mark.parametrize(
    "val",
    [RISING, FALLING, [], [(3, 17.0)], [(1, 30.0), (2, math.inf), (3, 1e30)]],
    ids=["rising", "falling", "none", "one row", "diverged"],
)
@pytest.mark.parametrize("looks", [LOOKS, ONE], ids=["three", "one"])
def test_overfitting_picture(looks, val):
    train = [(1, 20.0), (5, 8.0), (10, 2.0), (12, 1.2)]
    assert is_picture(
        curves.overfitting(looks, dict.fromkeys(looks, train), dict.fromkeys(looks, val))
    )
