"""Titles of the pictures. Each title states a finding about the results it is given.

A token is a ``unit``, which is a character, a word or a token of byte pairs. The keys of
mappings are variants.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Final

from gru_lm.report.wording import capitalised, figures, listed, percent, rounded, span, subject
from gru_lm.results.seeds import Summary
from gru_lm.results.training import Axis, Curve, Timing
from gru_lm.results.uncertainty import Uncertainty

UNSEEN: Final = "On unseen text (validation)"
OVERFITTED: Final = 1.05  # a larger ratio of last to lowest validation perplexity is overfitting
CALIBRATED: Final = 0.05  # largest expected calibration error of a well calibrated model
POSITIONS_IN_TEXT: Final = {
    "1": "a word's first letter",
    "2": "a word's second letter",
    "3": "a word's third letter",
    "4": "a word's fourth letter",
    "5": "a word's fifth letter",
    "6+": "a letter after the fifth",
    "end": "the space after a word",
}


def perplexity(bits: float) -> float:
    """Return the perplexity for a mean of ``bits`` per token; infinite beyond the largest float."""
    return 2**bits if bits < 1024 else float("inf")


# ------------------------------------------------------------------------------------- training


def training(last: Mapping[str, float], textbook: Mapping[str, float | None]) -> str:
    """Compare the ``last`` training perplexities with the textbook's, which can be None."""
    known = {name: value for name in last if (value := textbook[name]) is not None}
    if not known:
        return f"Training perplexity ends at {span(last.values())}"
    # The textbook gives one decimal place.
    short = [name for name, value in known.items() if round(last[name], 1) > value]
    if not short:
        values = listed(list(dict.fromkeys(f"{value:.1f}" for value in known.values())))
        reach = "reaches" if len(known) == 1 else "reach"
        who = capitalised(listed(list(known)))
        return f"{who} {reach} the textbook's training perplexity ({values})"
    values = listed(
        [f"{name} ({figures(last[name])}, textbook {known[name]:.1f})" for name in short]
    )
    return f"Training perplexity ends above the textbook's for {values}"


def speed(timings: Mapping[str, Timing]) -> str:
    """Name the variant that trains fastest, and its speed."""
    fastest = max(timings, key=lambda name: timings[name].tokens_per_second)
    figure = f"about {rounded(timings[fastest].tokens_per_second)} tokens per second"
    if len(timings) == 1:
        return f"{capitalised(fastest)} trains at {figure}"
    return f"{capitalised(fastest)} trains fastest, at {figure}"


def overfitting(curves: Mapping[str, Curve], axis: Axis = "epoch") -> str:
    """State whether validation perplexity rises after its lowest. A curve may have no rows."""
    curves = {name: rows for name, rows in curves.items() if rows}
    if not curves:
        return (
            f"Training perplexity by {axis}. There is no validation perplexity to compare it with"
        )
    lows = {name: lowest(rows) for name, rows in curves.items()}
    over = [name for name in curves if curves[name][-1][1] > OVERFITTED * lows[name][1]]
    if not over:
        best = span(value for _, value in lows.values())
        return f"No overfitting: validation perplexity ends at or near its lowest value ({best})"
    who = "" if len(over) == len(curves) else f" of {listed(over)}"
    places = place((lows[name][0] for name in over), axis)
    best = span(lows[name][1] for name in over)
    last = span(curves[name][-1][1] for name in over)
    return (
        f"Overfitting{who}: validation perplexity is lowest at {places} ({best})\n"
        f"and ends at {last}"
    )


def place(numbers: int | Iterable[int], axis: Axis) -> str:
    """Name an epoch or step, or the range of several, as in "epoch 155" and "step 4,000"."""
    found = [numbers] if isinstance(numbers, int) else numbers
    return f"{axis} {span(found, str if axis == 'epoch' else '{:,}'.format)}"


def lowest(rows: Curve) -> tuple[int, float]:
    """Return the row with the lowest perplexity, the first of equals."""
    return min(rows, key=lambda row: row[1])


# -------------------------------------------------------------------------------------- held out


def held_out(summary: Summary, unit: str) -> str:
    """Compare the models with the best baseline on the validation split.

    The models are not ranked, because they may differ by less than their spread over the seeds.
    """
    bits = bits_per_token(summary, "val")
    models = [bits[name] for name in summary.models]
    who, _, ending = subject(list(summary.models))
    models_take = f"{who} take{ending} {_hundredths(models)}"
    if not summary.baselines:
        return f"{UNSEEN} {models_take} bits per {unit}"
    rival = min(summary.baselines, key=bits.__getitem__)
    value = f"{bits[rival]:.2f}"
    if max(models) < bits[rival]:
        text = f"{UNSEEN} {models_take} bits per {unit}"
        return f"{text},\nfewer than the best baseline ({rival}, {value})"
    if min(models) < bits[rival]:
        return f"{UNSEEN} the best baseline ({rival}) takes {value} bits per {unit};\n{models_take}"
    for floor in ("uniform", "unigram"):
        if floor in bits and min(models) > bits[floor]:
            models_take += f", more than {_baseline(floor)} ({bits[floor]:.2f})"
            best = [
                one.best_val.bits_per_token.mean for one in summary.models.values() if one.best_val
            ]
            if len(best) == len(models):
                models_take += f", and {_hundredths(best)} at the best epoch"
            break
    return f"{UNSEEN} {_baseline(rival)} is best, with {value} bits per {unit};\n{models_take}"


def bits_per_token(summary: Summary, split: str) -> dict[str, float]:
    """Return the bits per token of each predictor on ``split``, for models the seeds' mean."""
    models = {name: one.split(split).bits_per_token.mean for name, one in summary.models.items()}
    return models | {
        name: one.split(split).bits_per_token for name, one in summary.baselines.items()
    }


def _baseline(name: str) -> str:
    return "a blind guess" if name == "uniform" else f"the {name} baseline"


def _hundredths(values: Iterable[float]) -> str:
    return span(values, "{:.2f}".format)


def calibration(uncertainty: Mapping[str, Uncertainty]) -> str:
    """State whether the models are calibrated on the validation split."""
    measured = {name: one.val.calibration for name, one in uncertainty.items()}
    confidence = percent(entry.confidence for entry in measured.values())
    accuracy = percent(entry.accuracy for entry in measured.values())
    values = f"mean confidence {confidence}, accuracy {accuracy}"
    calibrated = [name for name, entry in measured.items() if entry.ece <= CALIBRATED]
    who, be, _ = subject(list(measured))
    if len(calibrated) == len(measured):
        return f"{UNSEEN} {who} {be} well calibrated:\n{values}"
    if calibrated:
        be = "is" if len(calibrated) == 1 else "are"
        return f"{UNSEEN} only {listed(calibrated)} {be} well calibrated:\n{values}"
    gaps = [entry.confidence - entry.accuracy for entry in measured.values()]
    if min(gaps) > 0:
        return f"{UNSEEN} {who} {be} overconfident:\n{values}"
    if max(gaps) < 0:
        return f"{UNSEEN} {who} {be} underconfident:\n{values}"
    return f"{UNSEEN} {who} {be} not well calibrated:\n{values}"


def where_uncertain(uncertainty: Mapping[str, Uncertainty]) -> str:
    """State the expected and the reached perplexity on the validation split, and its extremes."""
    overall = [one.val.overall for one in uncertainty.values()]
    expected = figures(2 ** fmean(entry.entropy_bits for entry in overall))
    reached = figures(perplexity(fmean(entry.bits_per_token for entry in overall)))
    who, _, ending = subject(list(uncertainty))
    reach = "reaches" if ending else "reach"
    text = f"{UNSEEN} {who} expect{ending} a perplexity of {expected} and {reach} {reached}"
    groups = [one.val.position_in_word or {} for one in uncertainty.values()]
    places = {}
    for name in POSITIONS_IN_TEXT:
        measured = [group for of in groups if (group := of.get(name))]  # type: ignore[call-overload]
        # A perplexity is None beyond the largest float.
        if len(measured) == len(groups) and all(one.perplexity is not None for one in measured):
            places[name] = fmean(one.bits_per_token for one in measured)
    if len(places) < 2:
        return text
    worst, best = max(places, key=places.__getitem__), min(places, key=places.__getitem__)
    return (
        f"{text};\nit is highest at {POSITIONS_IN_TEXT[worst]} "
        f"({figures(perplexity(places[worst]))}) and lowest at {POSITIONS_IN_TEXT[best]} "
        f"({figures(perplexity(places[best]))})"
    )
