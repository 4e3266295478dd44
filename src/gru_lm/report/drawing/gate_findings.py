"""Titles of the pictures of the gates, as in ``findings``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from gru_lm.report.wording import GATE_NAMES, capitalised, listed, percent, span
from gru_lm.results.gates import Activity, Gate, GateStudy, Place, PlaceMeans, Text, Weights

FEWEST: Final = 3  # trainings for an outcome
SELECTED: Final = {"last": "last-epoch", "best_val": "best-epoch"}
PLACES_IN_TEXT: Final[dict[Place, str]] = {
    "first letter": "at a word's first letter",
    "inside words": "inside words",
    "space": "at spaces",
}

# ----------------------------------------------------------------------------------------- gates


def heat_map(gates: Mapping[Gate, np.ndarray], variant: str) -> str:
    """State how often the gates are above 0.5; ``gates`` (L, H) are by letter, Z and R."""
    kept, let_in = (float((gates[gate] > 0.5).mean()) for gate in GATE_NAMES)
    return (
        f"{variant}: the update gate keeps more than half of a unit's state in {percent([kept])} "
        f"of the steps;\nthe reset gate lets more than half of it through in {percent([let_in])}"
    )


def time_constants(constants: Mapping[str, np.ndarray], unit: str) -> str:
    """State the median and the longest time constant; ``constants`` (H,) are in tokens."""
    medians = span((float(np.median(values)) for values in constants.values()), "{:.2f}".format)
    longest = max(float(values.max()) for values in constants.values())
    slowest = (
        f"the slowest of all within {longest:.1f}" if np.isfinite(longest) else "some never do"
    )
    return (
        f"By its leak alone the median unit forgets all but 1/e within {medians} {unit}s;\n"
        f"{slowest}"
    )


def activity(measured: Mapping[str, Activity]) -> str:
    """State the place at which each gate is lowest on the training split, if variants agree."""
    places = {name: one.split("train") for name, one in measured.items()}
    if not all(places.values()):
        return "The tokens are not characters: there is no activity by place to show"
    found = {gate: _lowest_place(places.values(), gate) for gate in GATE_NAMES}
    if found["Z"] and found["Z"] == found["R"]:
        where = PLACES_IN_TEXT[found["Z"]]
        return f"Both gates are lowest {where}: the old state counts least there"
    return capitalised(
        "; ".join(
            f"the {GATE_NAMES[gate]} is lowest {PLACES_IN_TEXT[place]}"
            if place
            else f"the variants differ in where the {GATE_NAMES[gate]} is lowest"
            for gate, place in found.items()
        )
    )


def _lowest_place(measured: Iterable[dict[Place, PlaceMeans] | None], gate: Gate) -> Place | None:
    """Return the place at which ``gate`` is lowest; None if the variants differ."""
    found = {min(one, key=lambda place: one[place].gate(gate)) for one in measured if one}
    return found.pop() if len(found) == 1 else None


# ---------------------------------------------------------------------------------------- memory


def context(studies: Mapping[str, GateStudy], unit: str) -> str:
    """State up to which length context helps on training and unseen text, and whether more harms.

    The measure is recalibrated bits, as means over the trainings.
    """
    unseen: list[Weights] = ["selected", "best"]
    tolerance = next(iter(studies.values())).context.tolerance
    return (
        f"Context helps {_reach(studies, 'train', ['selected'], unit)} on training text, "
        f"{_reach(studies, 'val', unseen)} on unseen text (to {tolerance:g} bits);\n"
        f"{_harm(studies, tolerance, unit)}"
    )


def _reach(
    studies: Mapping[str, GateStudy], text: Text, weights: Iterable[Weights], unit: str = ""
) -> str:
    """Return the number of tokens up to which context helps, over the variants."""
    curves = [study.context.curves(text, w) for study in studies.values() for w in weights]
    known = [one.reach for one in curves if one.reach is not None]
    back = f" {unit}s back" if unit else ""
    if len(known) < len(curves):
        return f"beyond {max(one.lengths[-1] for one in curves)}{back}"
    up_to = "up to " if unit else ""
    return f"{up_to}{span(known, '{:.0f}'.format)}{back}" if max(known) else "hardly"


def _harm(studies: Mapping[str, GateStudy], tolerance: float, unit: str) -> str:
    """State the loss from reading the whole context on unseen text instead of the best length."""
    costs, best = {}, []
    for name, study in studies.items():
        curves = study.context.curves("val", "selected")
        *limited, whole = curves.mean("calibrated_bits")
        lowest = min(limited)
        costs[name] = whole - lowest
        best.append(curves.lengths[limited.index(lowest)])
    harmed = [name for name, cost in costs.items() if cost > tolerance]
    if not harmed:
        return "there, reading more than that does no harm"
    who = "" if len(harmed) == len(costs) else f" ({listed(harmed)})"
    epoch = SELECTED[next(iter(studies.values())).selected]
    bits = span((costs[name] for name in harmed), "{:.2f}".format)
    lengths = span((b for n, b in zip(costs, best, strict=True) if n in harmed), "{:.0f}".format)
    return f"there, {epoch} weights lose {bits} bits by reading on beyond {lengths} {unit}s{who}"


def tested(study: GateStudy, text: Text) -> bool:
    """Return whether the gates could be compared at equal damage on ``text``."""
    of = study.interventions.text(text)
    return bool(of.reset_against_update["fresh"]["calibrated_bits"].near.differences)


def claim(studies: Mapping[str, GateStudy], unit: str) -> str:
    """State the outcome for the textbook's claim on the training text and on unseen text."""
    if not any(tested(study, "train") for study in studies.values()):
        return "The claim about the gates cannot be tested: far context gains too little"
    on_training_text = f"Training text: {verdict(studies, 'train')}"
    return f"{on_training_text};\n{_on_unseen_text(studies, unit)}"


def _on_unseen_text(studies: Mapping[str, GateStudy], unit: str) -> str:
    if any(tested(study, "val") for study in studies.values()):
        return f"unseen text: {verdict(studies, 'val')}"
    first = next(iter(studies.values())).interventions.val
    gains = [
        gain
        for study in studies.values()
        if (gain := study.interventions.val.gain["calibrated_bits"].far.mean) is not None
    ]
    if not gains:
        return "the unseen text is too short for a test"
    return (
        f"unseen text cannot tell: there {unit}s {first.near + 1} to {first.far} back gain "
        f"{span(gains, _bits)} bits"
    )


def verdict(studies: Mapping[str, GateStudy], text: Text) -> str:
    """State the gate on which near context depends more on ``text``, over the compared variants.

    At equal damage, far context then depends more on the other gate.
    """
    compared = [
        study.interventions.text(text).reset_against_update["fresh"]["calibrated_bits"].near
        for study in studies.values()
        if tested(study, text)
    ]
    undecided = "it is undecided which gate near context depends on more"
    most = max(len(one.differences) for one in compared)
    if most < FEWEST:
        return f"{undecided} ({most} training{'' if most == 1 else 's'})"
    outcomes = [one.outcome for one in compared]
    n, reset, update = len(outcomes), outcomes.count("supported"), outcomes.count("contradicted")
    in_all = f" in all {n} variants" if n > 1 else ""
    for gate, count in (("reset", reset), ("update", update)):
        if count == n:
            return f"near context depends more on the {gate} gate{in_all}"
    if not reset + update:
        return undecided
    others = f", undecided in {n - reset - update}" if reset + update < n else ""
    if not update:
        return f"near context depends more on the reset gate in {reset} of {n} variants{others}"
    return f"near context: reset gate in {reset} of {n} variants, update gate in {update}{others}"


def units(studies: Mapping[str, GateStudy]) -> str:
    """State whether the units with the longest memory cost more far context than random ones."""
    outcomes = [
        study.interventions.train.more_than_random["calibrated_bits"].long.far.outcome
        for study in studies.values()
        if tested(study, "train")
    ]
    words = {"supported": "more", "contradicted": "less"}
    parts = [f"{words[one]} in {outcomes.count(one)}" for one in words if one in outcomes]
    if not parts:
        return (
            "It is undecided whether the units with the longest memory matter more to far context."
        )
    what = "Compared with a random tenth, holding the longest-memory tenth costs"
    if len(outcomes) == 1:
        return f"{what} {words[outcomes[0]]} far context."
    if "undecided" in outcomes:
        parts.append(f"undecided in {outcomes.count('undecided')}")
    parts[0] = parts[0].replace(" in ", " far context in ")
    return f"{what} {', '.join(parts)} of {len(outcomes)} variants."


def _bits(value: float) -> str:
    """Write two decimals, without a minus sign before zero."""
    return f"{value + 0.0:.2f}".replace("-0.00", "0.00")
