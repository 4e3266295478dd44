"""What a model loses if its gates or some of its units are held fast, near and far.

The claim under test is the textbook's (Zhang et al., Dive into Deep Learning, section "Gated
Recurrent Units"): reset gates help capture short-term dependencies, update gates long-term ones.
Cho et al. (2014, arXiv:1406.1078, section 2.3) say it of units: those that learn long-term
dependencies have update gates that are mostly active. So each gate is pulled towards its own mean
in every unit, which takes away the gating and leaves the amount of it; and units with a long memory
are held at their mean state.

**Near and far.** Tokens are predicted from their last k tokens alone, for several k. Near context
is the last ``NEAR`` tokens, far context those beyond it up to ``FAR``. The rise of the loss with
k = ``NEAR`` is what an intervention costs of near context; the further rise up to k = ``FAR`` is
what it costs of far context.

**Equal damage.** A gate that matters more costs more of both, which says nothing about distance. So
each gate is pulled just so far that the loss with ``FAR`` tokens rises by a quarter (``SHARE``) of
what these tokens gain, the same for both. The dose is found on a part of the tokens; a factor of
nearly 1 makes the damage equal on all of them. Then what one gate costs more of near context it
costs less of far context: the two halves of the claim are one comparison.
Its result is a difference in bits a token, which has a meaning however little far context gains. By
the other measures (see ``context``) the two gates' damage is not the same, and the halves can
differ. If far context gains less than ``LEAST_GAIN``, there is nothing to compare; what the gates
cost if they are held in full is always reported.

**What is before the near context.** A fresh state holds nothing that a gate could shut out. So the
same is measured after ``PASSAGE`` tokens from elsewhere in the text, which have nothing to do with
what follows. A model that knows its text by heart is misled by them, and a gate that is held may
let it be misled less. So the fresh state is the main result, and the passage is reported beside.

**Units.** A tenth of the units has a counterpart, ``DRAWS`` random tenths. They are held in full.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from gru_lm.gate_study.context import Scores, Targets, scores
from gru_lm.gate_study.reading import Trace, time_constants
from gru_lm.gate_study.trainings import paired
from gru_lm.models.gates import Gates, Intervention
from gru_lm.results.gates import MEASURES, Measure

NEAR: Final = 8  # tokens
FAR: Final = 32  # tokens, close to the depth of backpropagation through time
LENGTHS: Final = (0, 1, 2, 4, 8, 16, 32)  # tokens of context
SHARE: Final = 0.25  # of the gain of FAR tokens, that each gate is to cost
LEAST_GAIN: Final = 0.05  # bits a token, of far context; a smaller one cannot be shared out
LEAST_DAMAGE: Final = 0.01  # bits a token; less cannot be told from nothing
SEARCHED: Final = 4  # every 4th of the tokens is enough to find a dose
PASSAGE: Final = 16  # tokens of the unrelated passage
STRIDE_AFTER_PASSAGE: Final = 8  # tokens between two that are predicted after it
DRAWS: Final = 20  # random tenths of the units
THINNED: Final = 8  # every 8th of the tokens is predicted with units held, for each of the draws


@dataclass(frozen=True)
class Read:
    """A training's model, and what it shows reading a text of at most ``context.TEXT`` tokens.

    ``plain`` are its scores on ``targets`` by the ``lengths`` of context. ``number`` counts the
    trainings from 0: each predicts other tokens, as far as there are such, so that the interval
    over the trainings holds the chance in the choice of the tokens as well.
    """

    gates: Gates
    targets: Targets
    lengths: Sequence[int]
    plain: Scores
    trace: Trace
    number: int
    seed: int

    @property
    def too_short(self) -> bool:
        """Whether the text has no far context to speak of."""
        return FAR not in self.lengths

    @property
    def far_gain(self) -> float:
        """What far context gains, in calibrated bits a token."""
        return gain_of(self.plain["calibrated_bits"], self.lengths, "calibrated_bits")[1]


# ------------------------------------------------------------------------------------- the gates


def gate_interventions(trace: Trace) -> dict[str, Intervention]:
    """Each gate held at its mean, in all units."""
    mean_Z, mean_R = _float(trace.mean_Z), _float(trace.mean_R)
    all_units = torch.ones_like(mean_Z)
    return {
        "reset": Intervention("R", mean_R, all_units),
        "update": Intervention("Z", mean_Z, all_units),
    }


def of_gates(one: Read) -> dict[str, Any] | None:
    """What one training loses with each gate held: a JSON tree.

    ``full`` are the rises with the gates held in full, ``equal`` those at equal damage; that is
    None if far context or a gate matters too little. None altogether if the text is too short.
    """
    if one.too_short:
        return None
    held = gate_interventions(one.trace)
    plain = {m: [one.plain[m][one.lengths.index(k)] for k in LENGTHS] for m in MEASURES}
    return {
        "seed": one.seed,
        "targets": len(one.targets.places),
        "plain": plain,
        "full": _rises(one.gates, one.targets, held, plain),
        "equal": _at_equal_damage(one, held, plain) if one.far_gain >= LEAST_GAIN else None,
    }


def _at_equal_damage(
    one: Read, held: Mapping[str, Intervention], plain: Scores
) -> dict[str, Any] | None:
    some = one.targets.every(SEARCHED)
    start, end = scores(one.gates, some, [0, FAR])["calibrated_bits"]

    def cost(intervention: Intervention) -> float:
        return scores(one.gates, some, [FAR], intervention)["calibrated_bits"][0] - end

    full = {name: cost(intervention) for name, intervention in held.items()}
    wanted = min(SHARE * (start - end), *full.values())
    if not wanted >= LEAST_DAMAGE:
        return None

    def dose(name: str) -> float:
        return dose_of(wanted, lambda share: cost(held[name].at(share)), full[name])

    doses = {name: dose(name) for name in held}
    at_dose = {name: of.at(doses[name]) for name, of in held.items()}
    text, longest = one.targets.tokens, one.lengths[-1]
    after = Targets.of(text, longest, STRIDE_AFTER_PASSAGE, one.number, PASSAGE)
    plain_after = scores(one.gates, after, LENGTHS)
    return {
        "dose": doses,
        "fresh": equalised(_rises(one.gates, one.targets, at_dose, plain)),
        "passage": equalised(_rises(one.gates, after, at_dose, plain_after)),
    }


def _rises(
    gates: Gates, targets: Targets, held: Mapping[str, Intervention], plain: Scores
) -> dict[str, Scores]:
    return {
        name: rise(scores(gates, targets, LENGTHS, intervention), plain)
        for name, intervention in held.items()
    }


def dose_of(wanted: float, rise_at: Callable[[float], float], rise_at_1: float) -> float:
    """The dose, 0 to 1, at which ``rise_at`` is ``wanted`` to within 3 %; at most 6 trials.

    ``rise_at_1`` is at least ``wanted``. False position on the square of the dose, with which
    small harm grows.
    """
    low, high, rise_low, rise_high, dose = 0.0, 1.0, 0.0, rise_at_1, 1.0
    for _ in range(6):
        share = (wanted - rise_low) / (rise_high - rise_low)
        dose = math.sqrt(low**2 + share * (high**2 - low**2))
        found = rise_at(dose)
        if abs(found - wanted) <= 0.03 * wanted:
            break
        if found < wanted:
            low, rise_low = dose, found
        else:
            high, rise_high = dose, found
    return dose


def gains(trainings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By measure, what near and far context gain over trainings, no gate held: a JSON tree.

    That is what predictions would be worse by without it.
    """
    return {
        measure: _halves(
            [gain_of(one["plain"][measure], LENGTHS, measure) for one in trainings],
        )
        for measure in MEASURES
    }


def gain_of(values: Sequence[float], lengths: Sequence[int], measure: Measure) -> list[float]:
    """What near context gains, and far context beyond it, by scores at ``lengths``."""
    sign = 1 if measure == "accuracy" else -1
    without, near, both = (sign * values[list(lengths).index(k)] for k in (0, NEAR, FAR))
    return [near - without, both - near]


def costs_in_full(trainings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By measure and gate, what is lost over trainings with it held in full: a JSON tree."""
    return {
        measure: {
            gate: _halves([near_and_far(one["full"][gate][measure], LENGTHS) for one in trainings])
            for gate in ("reset", "update")
        }
        for measure in MEASURES
    }


def compare_gates(trainings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By start and measure, the two halves of the claim over trainings: a JSON tree.

    ``near`` is what the reset gate costs of near context less what the update gate costs of it,
    ``far`` what the update gate costs of far context less what the reset gate costs of it. The
    claim holds if both are above zero. Trainings without equal damage do not count.
    """
    equal = [one["equal"] for one in trainings if one["equal"] is not None]
    return {
        start: {
            measure: _halves([differences(one[start], measure) for one in equal])
            for measure in MEASURES
        }
        for start in ("fresh", "passage")
    }


def equalised(rises: Mapping[str, Scores]) -> dict[str, Scores]:
    """``rises`` by gate, by a factor for each that makes their damage the same: its mean.

    The damage is the rise of the calibrated bits with the longest context.
    """
    damage = {gate: of["calibrated_bits"][-1] for gate, of in rises.items()}
    equal = sum(damage.values()) / len(damage)
    return {
        gate: {m: [value * equal / damage[gate] for value in values] for m, values in of.items()}
        for gate, of in rises.items()
    }


def differences(rises: Mapping[str, Scores], measure: Measure) -> list[float]:
    """What one gate costs more than the other, near and far, by one training's ``rises``."""
    reset, update = (near_and_far(rises[gate][measure], LENGTHS) for gate in ("reset", "update"))
    return [reset[0] - update[0], update[1] - reset[1]]


# ------------------------------------------------------------------------------------- the units


def unit_interventions(trace: Trace, seed: int = 0) -> dict[str, Intervention]:
    """A tenth of the units held at their mean state, chosen by their memory or at random.

    At the mean rather than at 0: that takes away what a unit says about the text, and leaves the
    others the constant input that they are used to. ``long`` and ``short`` have the longest and the
    shortest time constants. ``random_1``, ``random_2``, ... are drawn from all units.
    """
    by_memory = np.argsort(time_constants(trace.mean_Z), kind="stable")
    units = len(by_memory)
    tenth = max(1, round(units / 10))
    generator = np.random.default_rng(seed)
    chosen = {"long": by_memory[-tenth:], "short": by_memory[:tenth]}
    for draw in range(1, DRAWS + 1):
        chosen[f"random_{draw}"] = generator.choice(units, tenth, replace=False)
    mean_H = _float(trace.mean_H)
    return {
        name: Intervention("H", mean_H, torch.zeros(units).index_fill(0, torch.tensor(few), 1.0))
        for name, few in chosen.items()
    }


def of_units(one: Read) -> dict[str, Any] | None:
    """What one training loses with a tenth of its units held: a JSON tree.

    None if the text is too short, or far context matters too little.
    """
    if one.too_short or one.far_gain < LEAST_GAIN:
        return None
    targets, lengths = one.targets.every(THINNED), (NEAR, FAR)
    plain = scores(one.gates, targets, lengths)
    lost = {
        name: rise(scores(one.gates, targets, lengths, intervention), plain)
        for name, intervention in unit_interventions(one.trace, one.seed).items()
    }
    result: dict[str, Any] = {"seed": one.seed, "targets": len(targets.places)}
    for measure in MEASURES:
        costs = {name: near_and_far(of[measure], lengths) for name, of in lost.items()}
        long, short = costs.pop("long"), costs.pop("short")
        result[measure] = {"long": long, "short": short, "random": list(costs.values())}
    return result


def compare_units(trainings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By measure, what a tenth of the units costs beyond the mean of the random tenths.

    A JSON tree over trainings, of the units with the longest and with the shortest memory.
    """

    def more(one: Mapping[str, Any], kind: str) -> list[float]:
        return np.subtract(one[kind], np.mean(one["random"], axis=0)).tolist()  # type: ignore[no-any-return]

    return {
        measure: {
            kind: _halves([more(one[measure], kind) for one in trainings])
            for kind in ("long", "short")
        }
        for measure in MEASURES
    }


# ---------------------------------------------------------------------------------------- shared


def near_and_far(rises: Sequence[float], lengths: tuple[int, ...]) -> list[float]:
    """What is lost of near and of far context, from ``rises`` by ``lengths`` of context."""
    near, both = (rises[lengths.index(k)] for k in (NEAR, FAR))
    return [near, both - near]


def rise(changed: Scores, plain: Scores) -> Scores:
    """By measure and length, how much worse the predictions have become.

    Bits have risen, accuracy has fallen.
    """
    return {
        measure: [
            (after - before) * (-1 if measure == "accuracy" else 1)
            for after, before in zip(changed[measure], plain[measure], strict=True)
        ]
        for measure in MEASURES
    }


def _halves(pairs: Sequence[Sequence[float]]) -> dict[str, Any]:
    """From differences near and far by training, those of each."""
    return {"near": paired([near for near, _ in pairs]), "far": paired([far for _, far in pairs])}


def _float(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).float()
