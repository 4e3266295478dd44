"""The rise of the loss on near and far context if gates or units are held at their mean.

The textbook claims that reset gates help capture short-term dependencies and update gates long-term
ones (Zhang et al., Dive into Deep Learning, section "Gated Recurrent Units"). According to Cho et
al. (2014, arXiv:1406.1078, section 2.3), units that learn long-term dependencies have update gates
that are mostly active. To test this, each gate is blended towards its mean in every unit, and units
with a long memory are held at their mean state.

**Near and far.** Tokens are predicted from their last k tokens only, for several k. Near context is
the last ``NEAR`` tokens. Far context is the tokens before these, up to ``FAR``. The cost of an
intervention on near context is the rise of the loss with k = ``NEAR``. Its cost on far context is
the further rise up to k = ``FAR``.

**Equal damage.** A gate that matters more costs more on both, which does not depend on distance. So
the dose of each gate is chosen to raise the loss with ``FAR`` tokens by a quarter (``SHARE``) of
the gain from these tokens. The dose is found on a part of the tokens, and a factor close to 1
makes the damage equal on all of them. If one gate then costs more on near context, it costs as much
less on far context, so the two halves of the claim are one comparison.
Its result is a difference in bits per token. By the other measures (see ``context``) the damage of
the gates is not equal, and the halves can differ. There is no comparison if the gain from far
context is below ``LEAST_GAIN``. The costs of the gates held in full are always reported.

**Start.** A gate has nothing to shut out of a zero state. So the comparison is repeated after
``PASSAGE`` unrelated tokens from elsewhere in the text. They mislead a model that memorised its
text, and holding a gate may reduce this effect. So the zero state is the main result.

**Units.** A tenth of the units is held in full and compared with ``DRAWS`` random tenths.
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
SHARE: Final = 0.25  # of the gain from FAR tokens, the wanted cost of each gate
LEAST_GAIN: Final = 0.05  # bits per token from far context, for a comparison
LEAST_DAMAGE: Final = 0.01  # bits per token; less is indistinguishable from zero
SEARCHED: Final = 4  # the dose is found on every 4th target
PASSAGE: Final = 16  # tokens of the unrelated passage
STRIDE_AFTER_PASSAGE: Final = 8  # tokens between two targets after it
DRAWS: Final = 20  # random tenths of the units
THINNED: Final = 8  # units are held for every 8th target


@dataclass(frozen=True)
class Read:
    """A training's model and its results on a text of at most ``context.TEXT`` tokens.

    ``plain`` has the scores on ``targets`` by the ``lengths`` of context. ``number`` counts the
    trainings from 0. Each training has other targets if possible, so the interval over the
    trainings includes the chance in the choice of targets.
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
        """Whether the text is too short for far context."""
        return FAR not in self.lengths

    @property
    def far_gain(self) -> float:
        """The gain from far context, in calibrated bits per token."""
        return gain_of(self.plain["calibrated_bits"], self.lengths, "calibrated_bits")[1]


# ------------------------------------------------------------------------------------- the gates


def gate_interventions(trace: Trace) -> dict[str, Intervention]:
    """Return the interventions that hold one gate at its mean in all units."""
    mean_Z, mean_R = _float(trace.mean_Z), _float(trace.mean_R)
    all_units = torch.ones_like(mean_Z)
    return {
        "reset": Intervention("R", mean_R, all_units),
        "update": Intervention("Z", mean_Z, all_units),
    }


def of_gates(one: Read) -> dict[str, Any] | None:
    """Return one training's losses with each gate held, as a JSON tree.

    ``full`` has the rises with the gates held in full, ``equal`` those at equal damage, or None if
    the gain from far context or the cost of a gate is too small. The result is None if the text is
    too short.
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
    """Return the dose, 0 to 1, at which ``rise_at`` is ``wanted`` to within 3 %.

    ``rise_at_1`` is at least ``wanted``. The method is false position on the square of the dose,
    because a small rise is proportional to it. There are at most 6 steps.
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
    """Return the gains from near and far context over trainings by measure, as a JSON tree.

    No gate is held.
    """
    return {
        measure: _halves(
            [gain_of(one["plain"][measure], LENGTHS, measure) for one in trainings],
        )
        for measure in MEASURES
    }


def gain_of(values: Sequence[float], lengths: Sequence[int], measure: Measure) -> list[float]:
    """Return the gains from near and from far context, from the scores at ``lengths``."""
    sign = 1 if measure == "accuracy" else -1
    without, near, both = (sign * values[list(lengths).index(k)] for k in (0, NEAR, FAR))
    return [near - without, both - near]


def costs_in_full(trainings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the costs of each gate held in full over trainings, by measure, as a JSON tree."""
    return {
        measure: {
            gate: _halves([near_and_far(one["full"][gate][measure], LENGTHS) for one in trainings])
            for gate in ("reset", "update")
        }
        for measure in MEASURES
    }


def compare_gates(trainings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the two halves of the claim over trainings, by start and measure, as a JSON tree.

    ``near`` is the reset gate's cost on near context minus the update gate's. ``far`` is the update
    gate's cost on far context minus the reset gate's. The claim is supported if both are above
    zero. Trainings without equal damage are left out.
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
    """Scale the ``rises`` of each gate by a factor, so that their damage equals its mean.

    The damage is the rise of the calibrated bits with the longest context.
    """
    damage = {gate: of["calibrated_bits"][-1] for gate, of in rises.items()}
    equal = sum(damage.values()) / len(damage)
    return {
        gate: {m: [value * equal / damage[gate] for value in values] for m, values in of.items()}
        for gate, of in rises.items()
    }


def differences(rises: Mapping[str, Scores], measure: Measure) -> list[float]:
    """Return the differences between the gates' costs, near and far, for one training."""
    reset, update = (near_and_far(rises[gate][measure], LENGTHS) for gate in ("reset", "update"))
    return [reset[0] - update[0], update[1] - reset[1]]


# ------------------------------------------------------------------------------------- the units


def unit_interventions(trace: Trace, seed: int = 0) -> dict[str, Intervention]:
    """Return interventions that hold a tenth of the units at their mean state.

    The mean removes a unit's information about the text but, unlike 0, keeps its average input to
    the other units. ``long`` and ``short`` hold the units with the longest and the shortest time
    constants, ``random_1``, ``random_2``, ... units drawn from all.
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
    """Return one training's losses with a tenth of its units held, as a JSON tree.

    None if the text is too short or the gain from far context too small.
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
    """Return the cost of holding a tenth of the units minus the mean cost of random tenths.

    The result is a JSON tree over trainings, by measure, for the units with the longest and with
    the shortest memory.
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
    """Return the costs on near and on far context, from ``rises`` by ``lengths`` of context."""
    near, both = (rises[lengths.index(k)] for k in (NEAR, FAR))
    return [near, both - near]


def rise(changed: Scores, plain: Scores) -> Scores:
    """Return the rise of the bits and the fall of the accuracy, by measure and length."""
    return {
        measure: [
            (after - before) * (-1 if measure == "accuracy" else 1)
            for after, before in zip(changed[measure], plain[measure], strict=True)
        ]
        for measure in MEASURES
    }


def _halves(pairs: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Summarise (near, far) differences over trainings, each half separately."""
    return {"near": paired([near for near, _ in pairs]), "far": paired([far for _, far in pairs])}


def _float(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).float()
