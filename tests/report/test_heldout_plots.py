"""The held-out pictures: PNGs are made of all that the stages may hand over, and the titles say
what the numbers show.
"""

import io
import math

import matplotlib.image
import pytest

from gru_lm.report import heldout as heldout_plots
from gru_lm.report.heldout import (
    calibration_finding,
    held_out,
    held_out_finding,
    overfitting_finding,
    where_finding,
)

VARIANTS = ("scratch", "concise", "fused")
DASH = "\N{EN DASH}"


def is_picture(png):
    pixels = matplotlib.image.imread(io.BytesIO(png), format="png")
    assert pixels.shape[1] == 1140  # 7.6 in at 150 dots an inch
    assert pixels[..., :3].min() < 0.2 and pixels[..., :3].max() == 1
    return True


# --------------------------------------------------------------------------------- overfitting

RISING = [(1, 20.0), (5, 9.8), (10, 40.0), (12, 113.2)]
LATER = [(1, 20.0), (5, 12.0), (10, 10.4), (12, 121.4)]
FALLING = [(1, 20.0), (5, 9.8), (10, 8.1), (12, 8.2)]


def test_overfitting_is_found_at_the_lowest_epoch():
    assert overfitting_finding({"scratch": RISING}) == (
        "Overfitting after epoch 5: validation perplexity\nis lowest there, 9.80, and ends at 113"
    )
    assert overfitting_finding({"scratch": RISING, "fused": LATER}) == (
        f"Overfitting after epoch 5{DASH}10: validation perplexity\n"
        f"is lowest there, 9.80{DASH}10.4, and ends at 113{DASH}121"
    )


def test_only_those_that_overfit_are_named():
    finding = overfitting_finding({"scratch": FALLING, "concise": RISING, "fused": LATER})
    assert finding.startswith(f"Overfitting after epoch 5{DASH}10 (concise and fused):")
    assert overfitting_finding({"scratch": FALLING, "fused": []}) == (
        "No overfitting: validation perplexity ends at or near its lowest, 8.10"
    )


def test_without_a_validation_curve_nothing_is_claimed():
    assert "not looked at" in overfitting_finding({"scratch": []})


@pytest.mark.parametrize(
    "val",
    [RISING, FALLING, [], [(3, 17.0)], [(1, 30.0), (2, math.inf), (3, 1e30)]],
    ids=["rising", "falling", "none", "one look", "diverged"],
)
def test_overfitting_picture(val):
    train = [(1, 20.0), (5, 8.0), (10, 2.0), (12, 1.2)]
    assert is_picture(
        heldout_plots.overfitting({name: {"train": train, "val": val} for name in VARIANTS})
    )


# ------------------------------------------------------------------------------------ held out


def split_scores(bits):
    return {s: {"perplexity": 2**bits, "bits_per_token": bits, "tokens": 9} for s in SPLITS}


def model_scores(bits, sd):
    measured = {"mean": bits, "sd": sd, "min": bits, "max": bits, "median": bits}
    scores = {s: {"perplexity": measured, "bits_per_token": measured, "tokens": 9} for s in SPLITS}
    return {**scores, "training_perplexity": measured}


SPLITS = ("train", "val", "test")
BASELINES = {"uniform": 4.81, "unigram": 4.1, "5-gram": 2.6, "6-gram": 2.52, "xz": 2.79}


def summary(*model_bits, sd=0.1, baselines=BASELINES):
    return {
        "seeds": [0] if sd is None else [0, 1, 2],
        "models": {
            name: model_scores(bits, sd) for name, bits in zip(VARIANTS, model_bits, strict=True)
        },
        "baselines": {name: split_scores(bits) for name, bits in baselines.items()},
    }


@pytest.mark.parametrize(
    ("bits", "second_line"),
    [
        ((6.8, 6.9, 7.0), "every GRU ends up worse than a blind guess, 4.81"),
        ((4.7, 6.9, 4.2), "every GRU ends up worse than character counts, 4.10"),
        ((4.7, 4.0, 5.0), "the best GRU needs 1.48 more"),
    ],
)
def test_a_baseline_is_best(bits, second_line):
    finding = held_out_finding(summary(*bits))
    assert finding == (
        f"On unseen text the 6-gram model is best: 2.52 bits per character;\n{second_line}"
    )


def test_the_best_epoch_is_told_where_every_model_has_one():
    numbers = summary(6.8, 6.9, 7.0)
    for model, bits in zip(numbers["models"].values(), (2.9, 3.0, 3.04), strict=True):
        model["best_val"] = {"bits_per_token": {"mean": bits}}
    assert held_out_finding(numbers).endswith("4.81\n(at its best epoch 2.90\u20133.04)")
    assert held_out(numbers) != held_out(summary(6.8, 6.9, 7.0))
    numbers["models"]["fused"]["best_val"] = None
    assert held_out_finding(numbers).endswith("a blind guess, 4.81")


def test_a_model_is_best():
    assert held_out_finding(summary(2.3, 2.1, 2.6), "word") == (
        "On unseen text concise is best: 2.10 bits per word,\n0.42 fewer than the 6-gram model"
    )
    compressed = held_out_finding(summary(2.3, 2.1, 2.6, baselines={"xz": 2.79}))
    assert compressed.endswith("0.69 fewer than xz")


@pytest.mark.parametrize("sd", [0.1, 0.0, None])
@pytest.mark.parametrize("baselines", [BASELINES, {"uniform": 4.81}, {"uniform": 4.81, "xz": 0.0}])
def test_held_out_picture(sd, baselines):
    assert is_picture(heldout_plots.held_out(summary(6.8, 6.9, 0.4, sd=sd, baselines=baselines)))
    assert is_picture(heldout_plots.held_out(summary(900.0, 6.9, 7.0, sd=sd), "word"))


# ----------------------------------------------------------------- calibration, where uncertain


def group(perplexity, expected=2.0):
    return {
        "tokens": 10,
        "share": 0.5,
        "perplexity": perplexity if perplexity < 1e300 else None,
        "bits_per_token": math.log2(perplexity) if perplexity < 1e300 else 1e5,
        "entropy_bits": math.log2(expected),
    }


def split_uncertainty(confidence=0.78, accuracy=0.33, ece=0.45, overall=118.0, groups=None):
    empty = {"count": 0, "confidence": None, "accuracy": None}
    bins = [{"low": i / 15, "high": (i + 1) / 15, **empty} for i in range(15)]
    bins[11] |= {"count": 10, "confidence": confidence, "accuracy": accuracy}
    return {
        "calibration": {"ece": ece, "accuracy": accuracy, "confidence": confidence, "bins": bins},
        "overall": group(overall),
        "position_in_word": groups,
        "character_class": groups and {"vowel": group(20.0)},
    }


def measured(*values):
    return {
        name: dict.fromkeys(SPLITS, split_uncertainty(**value))
        for name, value in zip(VARIANTS, values, strict=False)
    }


@pytest.mark.parametrize(
    ("values", "finding"),
    [
        (
            [{}, {"confidence": 0.77, "accuracy": 0.31}],
            f"the models are overconfident: 77{DASH}78 % sure, 31{DASH}33 % right",
        ),
        (
            [{"confidence": 0.3, "accuracy": 0.6}],
            "the models are underconfident: 30 % sure, 60 % right",
        ),
        (
            [{"ece": 0.03, "confidence": 0.5, "accuracy": 0.48}] * 2,
            "the probabilities can be believed: 50 % sure, 48 % right",
        ),
        ([{"ece": 0.03}, {}], "only those of scratch can be believed"),
        (
            [{"confidence": 0.5, "accuracy": 0.4}, {"confidence": 0.5, "accuracy": 0.6}],
            "the probabilities cannot be believed",
        ),
    ],
)
def test_whether_probabilities_can_be_believed(values, finding):
    assert finding in calibration_finding(measured(*values))


def test_where_it_is_hardest():
    groups = {"1": group(640.0), "2": group(70.0), "end": group(11.5), "other": group(9000.0)}
    assert where_finding(measured({"groups": groups}, {"groups": groups})) == (
        "On unseen text the models expect a perplexity of 2.00 and reach 118;\n"
        "hardest is a word's first letter (640), easiest the space after a word (11.5)"
    )


def test_a_mean_over_the_models_is_taken_in_bits():
    low, high = {"1": group(10.0), "2": group(2.0)}, {"1": group(1000.0), "2": group(2.0)}
    finding = where_finding(measured({"groups": low}, {"groups": high}))
    assert "hardest is a word's first letter (100)" in finding


@pytest.mark.parametrize(
    "groups", [None, {}, {"3": group(5.0)}, {"1": group(5.0), "end": group(math.inf)}]
)
def test_fewer_than_two_places_are_not_compared(groups):
    finding = where_finding(measured({"groups": groups}))
    assert finding == "On unseen text the models expect a perplexity of 2.00 and reach 118"


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
@pytest.mark.parametrize("count", [1, 3])
def test_uncertainty_pictures(groups, count):
    uncertainty = measured(*[{"groups": groups}] * count)
    assert is_picture(heldout_plots.where_uncertain(uncertainty))
    assert is_picture(heldout_plots.calibration(uncertainty))


def test_groups_of_one_split_only():
    uncertainty = measured({"groups": {"1": group(5.0)}})
    uncertainty["scratch"] = uncertainty["scratch"] | {"val": split_uncertainty(groups={})}
    assert is_picture(heldout_plots.where_uncertain(uncertainty))


def test_the_same_numbers_give_the_same_bytes():
    assert heldout_plots.held_out(summary(6.8, 6.9, 7.0)) == heldout_plots.held_out(
        summary(6.8, 6.9, 7.0)
    )
