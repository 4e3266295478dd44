"""No text of any picture is cut or overlaps another text, for all kinds of results."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from conftest import PROJECT
from examples import (
    CARDS,
    CHARACTERS,
    HOLDS,
    PLACES,
    SPLITS,
    TARGETS,
    TIMING,
    coverage,
    gate_arrays,
    gate_study,
    group,
    model_summary,
    summary,
    training,
    uncertainty,
)
from layout import figure_of, flaws_of
from matplotlib.figure import Figure

from benchmarks.speed.pictures import scaling_curves, speed_bars
from gru_lm.core.files import read_json
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.report.figures import figures
from gru_lm.report.inputs import Inputs
from tools.pictures import Row, comparison, overlay

RISING = [(1, 20.0), (205, 7.95), (500, 113.2)]
FALLING = [(1, 20.0), (205, 9.8), (500, 1.07)]
BASELINES = {
    "uniform": 4.81,
    "unigram": 4.1,
    **{f"{n}-gram": 4 - n / 4 for n in range(2, 7)},
    "xz": 2.79,
    "bzip2": 2.63,
}
GROUPS = {
    name: group(value)
    for name, value in zip(
        ("1", "2", "3", "4", "5", "6+", "end", "other"),
        (640.0, 66.0, 130.0, 155.0, 250.0, 210.0, 11.5, 9000.0),
        strict=True,
    )
}
LONG_NAME = "a_gru_with_layer_normalisation_and_zoneout"
LONG_LABEL = (
    "a GRU with layer normalisation before each gate and zoneout on the state (after a paper)"
)


def results(variants=("scratch", "concise", "fused"), **given) -> Inputs:
    """Return results of ``variants``; ``given`` replaces results by name."""
    cards = {
        name: CARDS.get(name)
        or CARDS["scratch"].model_copy(update={"variant": name, "label": name})
        for name in variants
    }
    found = {
        "vocabulary": CHARACTERS,
        "cards": cards,
        "train_curves": dict.fromkeys(variants, FALLING),
        "val_curves": dict.fromkeys(variants, RISING),
        "training": dict.fromkeys(variants, training()),
        "timings": dict.fromkeys(variants, TIMING),
        "coverage": dict.fromkeys(variants, coverage()),
        "uncertainty": dict.fromkeys(variants, uncertainty(groups=GROUPS)),
        "summary": summary(models(variants, 6.8, best=3.0), BASELINES),
        "_gate_studies": dict.fromkeys(variants, gate_study()),
        "gate_arrays": dict.fromkeys(variants, gate_arrays()),
    }
    inputs = Inputs(variants)
    vars(inputs).update(found | given)  # as if they had been read
    return inputs


def models(variants, bits, sd=0.2, best=None):
    return {name: model_summary(dict.fromkeys(SPLITS, bits), sd, best) for name in variants}


def of_one_unit(constant: float):
    arrays = gate_arrays()
    readings = {
        split: replace(reading, Z=reading.Z[:, :1], R=reading.R[:, :1])
        for split, reading in arrays.readings.items()
    }
    one = np.array([constant], "float32")
    return replace(arrays, readings=readings, mean_Z=one, mean_R=one, time_constant=one)


def of_many_units():
    arrays = gate_arrays()
    readings = {
        split: replace(reading, Z=np.tile(reading.Z, 50), R=np.tile(reading.R, 50))
        for split, reading in arrays.readings.items()
    }
    constants = np.geomspace(1e-3, 1e5, 300).astype("float32")
    return replace(
        arrays, readings=readings, mean_Z=constants, mean_R=constants, time_constant=constants
    )


def of_text(tokens):
    """Return the arrays and the vocabulary of a passage of ``tokens``."""
    arrays = gate_arrays(length=len(tokens))
    readings = {
        split: replace(reading, tokens=np.arange(len(tokens)))
        for split, reading in arrays.readings.items()
    }
    return replace(arrays, readings=readings), tokens


def long_labels() -> Inputs:
    # claim has room for the names of five variants, which are folders, of up to 32 characters.
    names = [f"a_gru_with_layer_normalisation_{number}" for number in range(5)]
    cards = {
        name: CARDS["scratch"].model_copy(update={"variant": name, "label": LONG_LABEL})
        for name in names
    }
    return results(names, cards=cards)


def extremes() -> Inputs:
    curve = [(1, 1e30), (2, 3e12), (100_000, 1.0)]
    speeds = (3e-3, 4.5e10, 120.0)
    names = ("scratch", "concise", "fused")
    timings = {
        name: TIMING.model_copy(update={"tokens_per_second": value, "device": "NVIDIA H100 80GB"})
        for name, value in zip(names, speeds, strict=True)
    }
    timings["fused"] = TIMING
    return results(
        train_curves=dict.fromkeys(names, curve),
        val_curves=dict.fromkeys(names, curve),
        timings=timings,
        coverage=dict.fromkeys(names, coverage(nats=dict.fromkeys(TARGETS, 600.0))),
        uncertainty=dict.fromkeys(
            names, uncertainty(groups={"1": group(1.0, 1.0), "2": group(1e250, 1.0)})
        ),
        summary=summary(models(names, 900.0, sd=300.0, best=1.0), {"uniform": 16.0, "xz": 0.0}),
        _gate_studies=dict.fromkeys(
            names, gate_study(train=(1e3, 1e2, 3.0, 1.0, 0.0), reach=(None, 4, 0))
        ),
        gate_arrays=dict.fromkeys(names, of_many_units()),
    )


def words() -> Inputs:
    tokens = ("incomprehensibilities", "$x$", "a", "\N{GREEK SMALL LETTER ALPHA}" * 20) * 10
    arrays, tokens = of_text(tokens)
    names = ("scratch", "concise", "fused")
    vocabulary = Vocabulary(("<unk>", *(f"{token}{n}" for n, token in enumerate(tokens))), "word")
    return results(
        vocabulary=vocabulary,
        uncertainty=dict.fromkeys(names, uncertainty()),
        _gate_studies=dict.fromkeys(names, gate_study(places=None)),
        gate_arrays=dict.fromkeys(names, arrays),
    )


def one_unit(constant=1.4) -> Inputs:
    names = ("scratch", "concise", "fused")
    return results(gate_arrays=dict.fromkeys(names, of_one_unit(constant)))


# The results of each case and its pictures; no names mean all pictures.
CASES = {
    "three variants": (results, ()),
    "one variant": (lambda: results(["concise"]), ()),
    "five long labels": (long_labels, ()),
    "extremes": (extremes, ()),
    "words": (words, ("held_out", "uncertainty", "activity", "context", "gates-scratch")),
    "one hidden unit": (one_unit, ("time_constants", "gates-scratch")),
}


@pytest.mark.parametrize("case", CASES)
def test_texts_fit_without_overlap(case):
    make, names = CASES[case]
    inputs = make()
    first = next(iter(inputs.variants))  # the other heat maps are alike
    flaws = {}
    for figure in figures(inputs):
        if (not names or figure.name in names) and figure.variant in ("", first):
            found = flaws_of(figure_of(lambda figure=figure: figure.png(inputs)))
            if found:
                flaws[figure.name] = found
    assert not flaws


def studies(**given):
    return {"_gate_studies": dict.fromkeys(("scratch", "concise", "fused"), gate_study(**given))}


def mixed(*near):
    names = ("scratch", "concise", "fused")
    found = {
        name: gate_study(near=one, near_on_val=one) for name, one in zip(names, near, strict=True)
    }
    return {"_gate_studies": found}


def calibrated(**values):
    return {"uncertainty": dict.fromkeys(("scratch", "concise", "fused"), uncertainty(**values))}


def scored(bits, baselines=BASELINES, **given):
    return {"summary": summary(models(("scratch", "concise", "fused"), bits, **given), baselines)}


def curves(rows):
    return dict.fromkeys(("scratch", "concise", "fused"), rows)


NO_LETTER = {**PLACES, "first letter": {"Z": 0.2, "R": 0.9, "tokens": 10}}
TITLES = [
    ("training", {"train_curves": curves([(1, 17.4)])}),
    ("overfitting", {"val_curves": curves([])}),
    ("overfitting", {"val_curves": curves(FALLING)}),
    ("overfitting", {"val_curves": {**curves(RISING), "fused": FALLING}}),
    ("coverage", {"coverage": curves(coverage({"75-100%": 9_999_999}))}),
    ("coverage", {"coverage": curves(coverage({"never": 1, "<25%": 9, "75-100%": 9_989}))}),
    ("held_out", scored(2.1)),
    ("held_out", scored(2.1, baselines={})),
    ("held_out", scored(4.0)),
    ("held_out", scored(4.5)),
    ("held_out", scored(6.8, sd=None)),
    ("calibration", calibrated(confidence=0.3, accuracy=0.6)),
    ("calibration", calibrated(ece=0.03, confidence=0.5, accuracy=0.48)),
    ("calibration", calibrated(ece=0.0, confidence=1.0, accuracy=1.0)),
    (
        "calibration",
        {
            "uncertainty": {
                "scratch": uncertainty(ece=0.03),
                "concise": uncertainty(confidence=0.5, accuracy=0.6),
                "fused": uncertainty(),
            }
        },
    ),
    ("uncertainty", calibrated(groups={"1": group(5.0), "end": group(math.inf)})),
    ("activity", studies(places=NO_LETTER)),
    ("activity", studies(places={**PLACES, "space": None})),
    ("time_constants", {"gate_arrays": curves(of_one_unit(0.0))}),
    ("time_constants", {"gate_arrays": curves(of_one_unit(np.inf))}),
    ("context", studies(val=(4.0, 3.0, 2.0, 2.0, 2.0), reach=(None, None, None))),
    ("context", studies(reach=(0, 0, 0))),
    ("claim", studies(near=())),
    ("claim", studies(near=HOLDS[:1], near_on_val=HOLDS[:2])),
    ("claim", studies(near=(0.1, -0.2, 0.15), near_on_val=(0.1, -0.2, 0.15))),
    ("claim", mixed(HOLDS, (0.1, -0.2, 0.15), tuple(-value for value in HOLDS))),
    ("gates-fused", {"gate_arrays": curves(of_many_units())}),
]


@pytest.mark.parametrize(("name", "given"), TITLES)
def test_titles_fit_on_the_canvas(name, given):
    inputs = results(**given)
    cards = inputs.cards.items()
    vars(inputs)["cards"] = {
        variant: card.model_copy(update={"label": LONG_LABEL}) for variant, card in cards
    }
    (figure,) = (one for one in figures(inputs) if one.name == name)
    assert not flaws_of(figure_of(lambda: figure.png(inputs)))


def test_texts_of_tools_pictures_fit():
    setting = "train.lr={}, model.fused.reset=after, data.path=a/long/folder/and/its/only/file.txt"
    curve = [(1, 20.0), (2, 1.1)]
    rows = [Row(setting.format(lr), [lr + 1.0, lr + 2.0], [curve] * 2) for lr in range(9)]
    drawn = figure_of(lambda: comparison({"scratch": rows, "fused": rows[:1]}, "test perplexity"))
    assert not flaws_of(drawn)
    sides = {"base: main": curve, f"head: {LONG_NAME}": curve}
    assert not flaws_of(figure_of(lambda: overlay(dict.fromkeys((LONG_NAME, "fused"), sides))))


@pytest.mark.parametrize("draw", [speed_bars, scaling_curves])
def test_texts_of_benchmark_pictures_fit(draw):
    name = "speed" if draw is speed_bars else "scaling"
    (path,) = (PROJECT / "benchmarks/results").glob(f"{name}-*.json")
    result = read_json(path)
    assert not flaws_of(figure_of(lambda: draw(result)))


def test_flaws_are_found():
    figure = Figure(figsize=(3, 1), dpi=100)
    figure.text(0.5, 0.5, "one")
    figure.text(0.52, 0.5, "two")
    figure.text(0.95, 0.1, "too long for it")
    assert flaws_of(figure) == ["cut: 'too long for it'", "overlap: 'one' and 'two'"]
    axes = Figure().add_subplot()
    axes.set_xticks([0, 1], ["a very long tick label " * 5] * 2)
    assert any("overlap" in flaw for flaw in flaws_of(axes.figure))
