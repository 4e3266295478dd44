"""The gate study of one variant over all of its trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from gru_lm.data.prepared import numbers
from gru_lm.gate_study import context, interventions
from gru_lm.gate_study.interventions import Read
from gru_lm.gate_study.reading import read
from gru_lm.models.gates import Gates
from gru_lm.results.gates import MEASURES, Text, Weights

WEIGHTS: Final[tuple[Weights, ...]] = ("selected", "best")

# The texts and weights of the interventions: a model that memorised its training text, and a model
# at its best validation epoch on unseen text.
STUDIED: Final[dict[Text, Weights]] = {"train": "selected", "val": "best"}


@dataclass(frozen=True)
class Trained:
    """The models of one training, with the selected weights and those of the best epoch."""

    seed: int
    gates: Mapping[Weights, Gates]


def study(trainings: Sequence[Trained], texts: Mapping[Text, np.ndarray]) -> dict[str, Any]:
    """Return context curves and interventions on ``texts`` (N,) as a JSON tree.

    Only the first ``context.TEXT`` tokens of a text are used.
    """
    curves: dict[str, Any] = {}
    held: dict[str, Any] = {}
    for name, whole_text in texts.items():
        text = numbers(whole_text[: context.TEXT])
        curves[name] = {}
        for weights in WEIGHTS:
            found, bits, reads = [], [], []
            for number, one in enumerate(trainings):
                gates = one.gates[weights]
                lengths = context.lengths_for(text)
                targets = context.Targets.of(text, lengths[-1], context.STRIDE, number)
                trace = read(gates, text, places=targets.places)
                scores = context.scores(gates, targets, lengths)
                whole = context.score(gates.logits(trace.states), targets.wanted)
                of_all = {m: [*scores[m], whole[m]] for m in MEASURES}
                found.append({"seed": one.seed, "scores": of_all})
                bits.append(of_all["calibrated_bits"])
                reads.append(Read(gates, targets, lengths, scores, trace, number, one.seed))
            *limited, with_all = np.mean(bits, axis=0).tolist()
            curves[name][weights] = {
                "targets": len(targets.places),
                "lengths": lengths,
                "reach": context.reach(lengths, limited, with_all),
                "trainings": found,
            }
            if STUDIED[name] == weights:
                held[name] = hold(reads)
    return {"context": {"tolerance": context.TOLERANCE, **curves}, "interventions": held}


def hold(reads: Sequence[Read]) -> dict[str, Any]:
    """Return the interventions on one text over trainings as a JSON tree."""
    gates, units = (
        [found for one in reads if (found := measure(one)) is not None]
        for measure in (interventions.of_gates, interventions.of_units)
    )
    return {
        "near": interventions.NEAR,
        "far": interventions.FAR,
        "lengths": list(interventions.LENGTHS),
        "gates": gates,
        "units": units,
        "gain": interventions.gains(gates),
        "held_in_full": interventions.costs_in_full(gates),
        "reset_against_update": interventions.compare_gates(gates),
        "more_than_random": interventions.compare_units(units),
    }
