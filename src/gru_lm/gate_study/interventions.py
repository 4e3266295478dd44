"""What a model loses where its gates or some of its units are held fast, by distance.

The claim under test is the textbook's (Zhang et al., Dive into Deep Learning, section "Gated
Recurrent Units"): reset gates help capture short-term dependencies, update gates long-term ones.
Cho et al. (2014, arXiv:1406.1078, section 2.3) say it of units: those that learn long-term
dependencies have update gates that are mostly active. So each gate is held at its own mean, which
takes away the gating and leaves the amount of it; and units with a long memory are held at theirs.

**Distance.** A token is predicted after k true tokens, which follow scrambled text; k = 0, 1, 2,
4, ... The bits saved from k to 2k are what context between k + 1 and 2k tokens away gains. An
intervention loses the share of a gain that is gone. Near is the context within ``NEAR`` tokens,
far all beyond.

**Calibrated bits.** After scrambled text a model trained by heart is sure and wrong, and costs far
more bits than a blind guess; an intervention that merely makes it less sure looks like a gain. So
logits are first divided by the temperature that suits them best, one for each intervention and
context length. Bits as they are and right answers are reported beside, and can tell another tale.

**Equal damage.** Any harm costs far context more than near, as that has to survive more steps of a
harmed network; and holding a gate of all units harms more than holding a tenth of the units.
Neither says anything about distance. So interventions are compared at the doses at which all of
them cost the same with the longest context, and units against random units. The extremes, R = 1
and Z = 0, break a network down, and what breaks down loses everything everywhere: they are
reported, not compared.

All of it is measured on the training split. Where a model knows that by heart, context from
elsewhere gains nothing that could be lost. Copied spans would be another measure of distance, but
models trained on one book predict a repeated span no better than a first one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor

from gru_lm.gate_study.reading import (
    Trace,
    powers,
    spread,
    surprise,
    time_constants,
)
from gru_lm.models.gates import Gates, Intervention

LONGEST: Final = 64  # tokens of true context
NEAR: Final = 8  # tokens
DAMAGE: Final = 1.0  # calibrated bits a token, at which interventions are compared
LEAST_DAMAGE: Final = 0.01  # less cannot be told from nothing
LEAST_GAIN: Final = 0.1  # calibrated bits a token: of a smaller gain no share is taken
DRAWS: Final = 4  # of random units
RESAMPLES: Final = 1000

COMPARED: Final = ("reset_mean", "update_mean", "long_units", "short_units")
MEASURES: Final = ("calibrated_bits", "bits", "accuracy")

Outcome = Literal["supported", "contradicted", "undecided"]


# -------------------------------------------------------------------------------- measurement


@dataclass(frozen=True)
class Probe:
    """Tokens to predict after true contexts of several lengths, each behind scrambled text.

    ``lengths`` are 0, 1, 2, 4, ...; K of them. ``targets`` (B,) are the tokens, ``true``
    (B, longest) those before them, and ``scrambled`` (B, longest) those before these in random
    order: the same for every length, so that they are read once.
    """

    lengths: list[int]
    targets: Tensor
    true: Tensor
    scrambled: Tensor

    @classmethod
    def of(cls, tokens: Tensor, count: int = 500, seed: int = 0) -> Probe | None:
        """At most ``count`` evenly spread tokens of ``tokens`` (N,); None where N is below 3."""
        if len(tokens) < 3:
            return None
        *_, longest = lengths = powers(min(LONGEST, (len(tokens) - 1) // 2))
        places = spread(2 * longest, len(tokens), count)
        windows = tokens[places[:, None] + torch.arange(-2 * longest, 0)]
        before, true = windows.chunk(2, dim=1)
        scrambled = np.random.default_rng(seed).permuted(before.numpy(), axis=1)
        return cls([0, *lengths], tokens[places], true, torch.from_numpy(scrambled))

    def last(self, k: int) -> Tensor:
        """The last ``k`` true tokens before each target: (B, k)."""
        return self.true[:, self.true.shape[1] - k :]


# One prediction measured in every way: K context lengths, B targets. "calibrated_bits" and "bits"
# are -log2 of the target's probability, "accuracy" is 1 where it was the likeliest token, else 0.
Answers = Mapping[str, np.ndarray]  # each (K, B), float64


@torch.inference_mode()
def answer(
    gates: Gates,
    probe: Probe,
    intervention: Intervention | None = None,
    lengths: list[int] | None = None,
) -> Answers:
    """Predict the targets under ``intervention``, after all of the probe's lengths or some."""
    zeros = gates.begin_state(len(probe.targets))
    start = gates.last_state(probe.scrambled, zeros, intervention)
    result: dict[str, list[np.ndarray]] = {measure: [] for measure in MEASURES}
    for k in probe.lengths if lengths is None else lengths:
        scores = gates.logits(gates.last_state(probe.last(k), start, intervention))  # (B, V)
        calibrated = scores * inverse_temperature(scores, probe.targets)
        right = scores.argmax(-1) == probe.targets
        result["calibrated_bits"].append(surprise(calibrated, probe.targets).numpy())
        result["bits"].append(surprise(scores, probe.targets).numpy())
        result["accuracy"].append(right.double().numpy())
    return {measure: np.stack(rows) for measure, rows in result.items()}


def inverse_temperature(scores: Tensor, targets: Tensor) -> float:
    """The factor for the logits ``scores`` (B, V) with which ``targets`` (B,) cost least.

    Temperature scaling (Guo et al. 2017, arXiv:1706.04599). The cross-entropy is convex in the
    factor: it is found by bisection between 1/64 and 4, to 1 %.
    """
    low, high = -6.0, 2.0  # powers of 2
    wanted = scores.gather(1, targets[:, None])[:, 0]
    for _ in range(9):
        middle = (low + high) / 2
        expected = ((scores * 2**middle).softmax(1) * scores).sum(1)
        if (expected - wanted).mean(dtype=torch.float64) > 0:  # the slope
            high = middle
        else:
            low = middle
    return float(2 ** ((low + high) / 2))


# ------------------------------------------------------------------------------- interventions


def gate_interventions(trace: Trace) -> dict[str, Intervention]:
    """Each gate held for all units: at its mean, and at the end that takes its function away."""
    mean_Z, mean_R = _float(trace.mean_Z), _float(trace.mean_R)
    all_units = torch.ones_like(mean_Z)
    return {
        "reset_mean": Intervention("R", mean_R, all_units),
        "update_mean": Intervention("Z", mean_Z, all_units),
        "reset_open": Intervention("R", torch.ones_like(mean_R), all_units),
        "update_zero": Intervention("Z", torch.zeros_like(mean_Z), all_units),
    }


def unit_interventions(trace: Trace, seed: int = 0) -> dict[str, Intervention]:
    """A tenth of the units held at their mean state, chosen by their gates or at random.

    At the mean rather than at 0: that takes away what a unit says about the text, and leaves the
    others the constant input that they are used to. ``long_units`` and ``short_units`` have the
    longest and the shortest time constants, ``reset_units`` the lowest mean R.
    ``random_units_1``, ``random_units_2``, ... are drawn from all units.
    """
    by_memory = np.argsort(time_constants(trace.mean_Z), kind="stable")
    by_reset = np.argsort(trace.mean_R, kind="stable")
    units = len(by_memory)
    tenth = max(1, round(units / 10))
    generator = np.random.default_rng(seed)
    chosen = {
        "long_units": by_memory[-tenth:],
        "short_units": by_memory[:tenth],
        "reset_units": by_reset[:tenth],
    }
    for draw in range(1, DRAWS + 1):
        chosen[f"random_units_{draw}"] = generator.choice(units, tenth, replace=False)
    mean_H = _float(trace.mean_H)
    return {
        name: Intervention("H", mean_H, torch.zeros(units).index_fill(0, torch.tensor(few), 1.0))
        for name, few in chosen.items()
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
        rise = rise_at(dose)
        if abs(rise - wanted) <= 0.03 * wanted:
            break
        if rise < wanted:
            low, rise_low = dose, rise
        else:
            high, rise_high = dose, rise
    return dose


# ------------------------------------------------------------------------------------- results


def study(gates: Gates, tokens: Tensor, trace: Trace) -> dict[str, Any] | None:
    """All interventions on a split (N,) that has been read, and what they say about the claim.

    A JSON tree: ``conditions`` at full dose, ``verdict`` at equal damage, None where there is too
    little gain or damage to compare. None altogether where the split is too short.
    """
    probe = Probe.of(tokens)
    if probe is None:
        return None
    held = {**gate_interventions(trace), **unit_interventions(trace)}
    plain = answer(gates, probe)
    answers = {name: answer(gates, probe, one) for name, one in held.items()}
    draws = [answers[name] for name in answers if _is_random(name)]
    conditions = {name: found for name, found in answers.items() if not _is_random(name)}
    conditions["random_units"] = {m: np.mean([draw[m] for draw in draws], axis=0) for m in MEASURES}
    return {
        "targets": len(probe.targets),
        "lengths": probe.lengths,
        "bands": [f"{a + 1}-{b}" if b - a > 1 else f"{b}" for a, b in pairwise(probe.lengths)],
        "conditions": {
            name: _describe(found, plain) for name, found in {"none": plain, **conditions}.items()
        },
        "verdict": _verdict(gates, probe, plain, held, answers),
    }


def _describe(changed: Answers, plain: Answers) -> dict[str, Any]:
    """One condition's means by context length; its gain, in calibrated bits, by band."""
    gain, whole = (-np.diff(one["calibrated_bits"].mean(1)) for one in (changed, plain))
    return {
        "rise": float((changed["bits"][-1] - plain["bits"][-1]).mean()),
        **{measure: changed[measure].mean(1).tolist() for measure in MEASURES},
        "gain": gain.tolist(),
        "lost": [
            float(1 - left / all_of_it) if all_of_it >= LEAST_GAIN else None
            for left, all_of_it in zip(gain, whole, strict=True)
        ],
    }


def _verdict(
    gates: Gates,
    probe: Probe,
    plain: Answers,
    held: Mapping[str, Intervention],
    answers: Mapping[str, Answers],
) -> dict[str, Any] | None:
    """The interventions at equal damage, by every measure."""
    if NEAR not in probe.lengths[:-1]:
        return None

    def cost(found: Answers) -> float:
        return float((found["calibrated_bits"][-1] - plain["calibrated_bits"][-1]).mean())

    rises = {name: cost(answers[name]) for name in answers if name in COMPARED or _is_random(name)}
    wanted = min(DAMAGE, *rises.values())
    if not wanted >= LEAST_DAMAGE:
        return None
    doses, equal = {}, {}
    for name, rise in rises.items():
        one = held[name]

        def rise_at(dose: float, one: Intervention = one) -> float:
            return cost(answer(gates, probe, one.at(dose), probe.lengths[-1:]))

        doses[name] = dose_of(wanted, rise_at, rise)
        equal[name] = answer(gates, probe, one.at(doses[name]))
    near = probe.lengths.index(NEAR)
    compared = {
        measure: compare(plain[measure], {n: a[measure] for n, a in equal.items()}, near)
        for measure in MEASURES
    }
    if compared["calibrated_bits"] is None:
        return None
    return {"near": NEAR, "far": probe.lengths[-1], "rise": wanted, "doses": doses, **compared}


def compare(
    plain: np.ndarray, changed: Mapping[str, np.ndarray], near: int
) -> dict[str, Any] | None:
    """Shares of the near and the far gain that are lost, their differences, and the claim.

    ``plain`` and each of ``changed`` are scores (K, B); ``near`` is the index of the length that
    parts near from far. Each number has its 95 % interval from a bootstrap over the targets
    (Efron 1979). The random units count as one intervention, ``random_units``: the mean over the
    draws and, in each resample, one of them, so that its interval holds their spread too.

    None where a gain may be no more than chance.
    """
    generator = np.random.default_rng(0)
    B = plain.shape[1]
    resamples = generator.multinomial(B, np.full(B, 1 / B), size=RESAMPLES)
    counts = np.concatenate([np.ones((1, B)), resamples])  # first the targets as they are
    draw = generator.integers(DRAWS, size=RESAMPLES)
    bands = {"near": (0, near), "far": (near, -1)}
    # Accuracy rises where bits fall.
    sign = np.sign(plain[0].mean() - plain[-1].mean())
    losses: dict[str, dict[str, np.ndarray]] = {}  # by intervention and band, (1 + RESAMPLES,)
    for band, (first, last) in bands.items():
        whole = sign * (counts @ (plain[first] - plain[last]))
        if not whole.min() > 0:
            return None
        draws = []
        for name, scores in changed.items():
            lost = 1 - sign * (counts @ (scores[first] - scores[last])) / whole
            if _is_random(name):
                draws.append(lost)
            else:
                losses.setdefault(name, {})[band] = lost
        random = np.stack(draws)  # (DRAWS, 1 + RESAMPLES)
        one_draw = random[draw, 1 + np.arange(RESAMPLES)]
        mean = random[:, :1].mean(0)
        losses.setdefault("random_units", {})[band] = np.concatenate([mean, one_draw])

    def difference(one: str, other: str) -> dict[str, dict[str, float]]:
        return {band: _estimate(losses[one][band] - losses[other][band]) for band in bands}

    differences = {
        "reset_minus_update": difference("reset_mean", "update_mean"),
        "update_minus_reset": difference("update_mean", "reset_mean"),
        "long_minus_random": difference("long_units", "random_units"),
        "short_minus_random": difference("short_units", "random_units"),
    }
    return {
        "losses": {
            name: {band: _estimate(values) for band, values in by_band.items()}
            for name, by_band in losses.items()
        },
        "differences": differences,
        "claim": {
            "reset_near": _outcome(differences["reset_minus_update"]["near"]),
            "update_far": _outcome(differences["update_minus_reset"]["far"]),
            "long_units_far": _outcome(differences["long_minus_random"]["far"]),
        },
    }


def _estimate(values: np.ndarray) -> dict[str, float]:
    """The first of ``values``, and the interval that holds 95 % of the others."""
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


def _outcome(difference: Mapping[str, float]) -> Outcome:
    """Whether a difference is above zero, below it, or cannot be told from it."""
    if difference["low"] > 0:
        return "supported"
    return "contradicted" if difference["high"] < 0 else "undecided"


def _is_random(name: str) -> bool:
    return name.startswith("random_units")


def _float(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).float()
