"""The sentences that the pictures' titles state. Each says what the numbers given show.

A token is a ``unit``: a character or a word. Mappings are by variant.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Final

from gru_lm.report.wording import capitalised, figures, listed, percent, rounded, span, subject
from gru_lm.results.seeds import Summary
from gru_lm.results.training import Curve, Timing
from gru_lm.results.uncertainty import Uncertainty

OVERFITTED: Final = 1.05  # validation perplexity at the end, over its lowest
CALIBRATED: Final = 0.05  # expected calibration error up to which probabilities are called true
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
    """That of a mean of so many ``bits`` per token; infinite beyond the largest float."""
    return 2**bits if bits < 1024 else float("inf")


# ------------------------------------------------------------------------------------- training


def training(last: Mapping[str, float], textbook: Mapping[str, float | None]) -> str:
    """The ``last`` training perplexities beside the textbook's; None if it has none."""
    known = {name: value for name in last if (value := textbook[name]) is not None}
    if not known:
        return f"Training perplexity ends at {span(last.values())}"
    # The textbook gives one decimal place.
    short = [name for name, value in known.items() if round(last[name], 1) > value]
    if not short:
        values = listed(list(dict.fromkeys(f"{value:.1f}" for value in known.values())))
        reach = "reaches" if len(known) == 1 else "reach"
        return f"{capitalised(listed(list(known)))} {reach} the textbook's perplexity ({values})"
    values = listed([f"{name} ({figures(last[name])}, not {known[name]:.1f})" for name in short])
    return f"Not at the textbook's perplexity: {values}"


def speed(timings: Mapping[str, Timing]) -> str:
    """Which variant trains fastest."""
    fastest = max(timings, key=lambda name: timings[name].tokens_per_second)
    figure = f"about {rounded(timings[fastest].tokens_per_second)} tokens per second"
    if len(timings) == 1:
        return f"{capitalised(fastest)} trains at {figure}"
    return f"{capitalised(fastest)} trains fastest: {figure}"


def overfitting(curves: Mapping[str, Curve]) -> str:
    """What validation perplexity by epoch shows; a curve may have no rows."""
    curves = {name: rows for name, rows in curves.items() if rows}
    if not curves:
        return "Training perplexity; the validation split was not looked at"
    lows = {name: lowest(rows) for name, rows in curves.items()}
    over = [name for name in curves if curves[name][-1][1] > OVERFITTED * lows[name][1]]
    if not over:
        best = span(value for _, value in lows.values())
        return f"No overfitting: validation perplexity ends at or near its lowest, {best}"
    who = "" if len(over) == len(curves) else f" ({listed(over)})"
    epochs = span((lows[name][0] for name in over), str)
    best = span(lows[name][1] for name in over)
    last = span(curves[name][-1][1] for name in over)
    return (
        f"Overfitting after epoch {epochs}{who}: validation perplexity\n"
        f"is lowest there, {best}, and ends at {last}"
    )


def lowest(rows: Curve) -> tuple[int, float]:
    """The row with the lowest perplexity, the first of equals."""
    return min(rows, key=lambda row: row[1])


# -------------------------------------------------------------------------------------- held out


def held_out(summary: Summary, unit: str) -> str:
    """Which predictor is best on the validation split, and how the models compare."""
    bits = bits_per_token(summary, "val")
    models = {name: bits[name] for name in summary.models}
    best_model = min(models, key=models.__getitem__)
    who = best_model if len(models) == 1 else f"the best model, {best_model},"
    if not summary.baselines:
        return f"On unseen text {best_model} takes {models[best_model]:.2f} bits per {unit}"
    rival = min(summary.baselines, key=bits.__getitem__)
    if models[best_model] < bits[rival]:
        ahead = bits[rival] - models[best_model]
        return (
            f"On unseen text {best_model} is best: {models[best_model]:.2f} bits per {unit},\n"
            f"{ahead:.2f} fewer than {_baseline(rival)}"
        )
    behind = f"{who} needs {models[best_model] - bits[rival]:.2f} more"
    for floor, name in (("uniform", "a blind guess"), ("unigram", f"{unit} counts")):
        if floor in bits and all(value > bits[floor] for value in models.values()):
            every = best_model if len(models) == 1 else "every model"
            behind = f"{every} ends up worse than {name}, {bits[floor]:.2f}"
            best = [
                one.best_val.bits_per_token.mean for one in summary.models.values() if one.best_val
            ]
            if len(best) == len(models):
                behind += f"\n(at its best epoch {span(best)})"
            break
    return (
        f"On unseen text {_baseline(rival)} is best: {bits[rival]:.2f} bits per {unit};\n{behind}"
    )


def bits_per_token(summary: Summary, split: str) -> dict[str, float]:
    """Bits per token of every predictor on ``split``; of the models, the mean over the seeds."""
    models = {name: one.split(split).bits_per_token.mean for name, one in summary.models.items()}
    return models | {
        name: one.split(split).bits_per_token for name, one in summary.baselines.items()
    }


def _baseline(name: str) -> str:
    return f"the {name} model" if name.endswith("gram") else name


def calibration(uncertainty: Mapping[str, Uncertainty]) -> str:
    """Whether the probabilities on the validation split can be believed."""
    measured = {name: one.val.calibration for name, one in uncertainty.items()}
    sure = percent(entry.confidence for entry in measured.values())
    right = percent(entry.accuracy for entry in measured.values())
    values = f"{sure} sure, {right} right"
    believed = [name for name, entry in measured.items() if entry.ece <= CALIBRATED]
    if len(believed) == len(measured):
        return f"On unseen text the probabilities can be believed: {values}"
    if believed:
        return f"On unseen text only those of {listed(believed)} can be believed: {values}"
    who, be, _ = subject(list(measured))
    gaps = [entry.confidence - entry.accuracy for entry in measured.values()]
    if min(gaps) > 0:
        return f"On unseen text {who} {be} overconfident: {values}"
    if max(gaps) < 0:
        return f"On unseen text {who} {be} underconfident: {values}"
    return f"On unseen text the probabilities cannot be believed: {values}"


def where_uncertain(uncertainty: Mapping[str, Uncertainty]) -> str:
    """What the models expect and pay on the validation split, and where they pay most and least."""
    overall = [one.val.overall for one in uncertainty.values()]
    expected = figures(2 ** fmean(entry.entropy_bits for entry in overall))
    paid = figures(perplexity(fmean(entry.bits_per_token for entry in overall)))
    who, _, ending = subject(list(uncertainty))
    reach = "reaches" if ending else "reach"
    text = f"On unseen text {who} expect{ending} a perplexity of {expected} and {reach} {paid}"
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
        f"{text};\nhardest is {POSITIONS_IN_TEXT[worst]} ({figures(perplexity(places[worst]))}), "
        f"easiest {POSITIONS_IN_TEXT[best]} ({figures(perplexity(places[best]))})"
    )
