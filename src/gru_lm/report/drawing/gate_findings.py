"""The sentences that the titles of the gates' pictures state, as in ``findings``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from gru_lm.report.wording import GATE_NAMES, capitalised, percent, span
from gru_lm.results.gates import (
    ALL,
    Activity,
    Claim,
    Comparison,
    Gate,
    GateStudy,
    Place,
    PlaceMeans,
    Verdict,
)

MISLED: Final = 1.05  # perplexity with all context, over that with one token
PLACES_IN_TEXT: Final[dict[Place, str]] = {
    "first letter": "at a word's first letter",
    "inside words": "inside words",
    "space": "at spaces",
}
MEASURES: Final = {
    "calibrated_bits": "calibrated bits (shown)",
    "bits": "bits as they are",
    "accuracy": "right answers",
}

# ----------------------------------------------------------------------------------------- gates


def heat_map(gates: Mapping[Gate, np.ndarray], variant: str) -> str:
    """How open the gates are in a passage; ``gates`` (L, H) are by letter, Z and R."""
    kept, let_in = (float((gates[gate] > 0.5).mean()) for gate in GATE_NAMES)
    return (
        f"{variant}: the update gate keeps more than half of a unit's state in {percent([kept])} "
        f"of the steps;\nthe reset gate lets more than half of it through in {percent([let_in])}"
    )


def time_constants(constants: Mapping[str, np.ndarray], unit: str) -> str:
    """How long the leak keeps what the units have read; ``constants`` (H,) in tokens."""
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
    """Where each gate is lowest on the training split, if the variants agree."""
    places = {name: one.split("train") for name, one in measured.items()}
    if not all(places.values()):
        return "Words have no letters: there is no activity by place to show"
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
    """The place at which ``gate`` is lowest; None if the variants differ."""
    found = {min(one, key=lambda place: one[place].gate(gate)) for one in measured if one}
    return found.pop() if len(found) == 1 else None


# ---------------------------------------------------------------------------------------- memory


def context(studies: Mapping[str, GateStudy], unit: str) -> str:
    """How far context helps on text that was learnt, and what it does on text that was not."""
    return (
        f"On the training split {_use(studies, 'train', unit)};\n"
        f"on the validation split {_use(studies, 'val', unit)}"
    )


def _use(studies: Mapping[str, GateStudy], split: str, unit: str) -> str:
    curves = [study.context.split(split) for study in studies.values()]
    if all(curve[ALL] > MISLED * curve["1"] for curve in curves):
        return f"more than one {unit} of it only misleads"
    reach = [study.effective_context.split(split) for study in studies.values()]
    known = [length for length in reach if length is not None]
    if len(known) < len(reach):
        return "it helps some variants only" if known else "context hardly helps"
    return f"context helps up to {span(known, '{:.0f}'.format)} {unit}s back"


def verdicts(studies: Mapping[str, GateStudy]) -> dict[str, Verdict]:
    """Those of the variants that have one."""
    return {
        name: study.interventions.verdict
        for name, study in studies.items()
        if study.interventions and study.interventions.verdict
    }


def claim(found: Mapping[str, Verdict]) -> str:
    """In how many variants each part of the textbook's claim holds, beyond chance."""
    if not found:
        return "The claim about the gates cannot be tested: context gains too little here"
    near, far, units = outcomes(found, "calibrated_bits")
    only = next(iter(found)) if len(found) == 1 else ""
    if only:
        near, far, units = f"({near})", f"({far})", f"({units})"
    else:
        of = len(found)
        near, far, units = f"in {near} of {of} variants", f"in {far} of {of}", f"in {units} of {of}"
    return (
        f"{only + ', in' if only else 'In'} calibrated bits: near context leans more on the reset "
        f"gate {near},\nfar context more on the update gate {far},\n"
        f"and on long-memory units more than on random ones {units}"
    )


def claim_by_measure(found: Mapping[str, Verdict]) -> str:
    """The same by each measure, as the choice of it matters."""
    by_measure = [
        f"{label} {', '.join(outcomes(found, measure))}" for measure, label in MEASURES.items()
    ]
    if len(found) == 1:
        return "The title's three outcomes by each measure: " + ";\n".join(by_measure) + "."
    return f"The title's three counts, of {len(found)}, by: " + "; ".join(by_measure) + "."


def outcomes(found: Mapping[str, Verdict], measure: str) -> list[str]:
    """By part of the claim, in how many variants it is supported; of one variant, its outcome."""
    compared: list[Comparison | None] = [getattr(one, measure) for one in found.values()]
    texts = []
    for part in Claim.model_fields:
        of_part = [getattr(one.claim, part) if one else "undecided" for one in compared]
        texts.append(str(of_part.count("supported")) if len(of_part) > 1 else of_part[0])
    return texts
