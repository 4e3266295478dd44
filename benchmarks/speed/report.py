"""Medians, ratios, targets and a Markdown page from the timings of ``training``."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from benchmarks.speed.targets import TARGETS, Target

REFERENCES: Final = {
    "textbook-scratch": "textbook scratch",
    "textbook-concise": "textbook concise",
    "jax": "JAX",
}
SAMPLING_REFERENCES: Final = ("textbook-scratch", "textbook-concise")
BUSY: Final = 0.5  # a higher load average means that other programs were running

Series = Mapping[str, Sequence[float]]  # a speed per alternation, by implementation
Ratios = dict[str, dict[str, dict[str, Any]]]  # by reference, then by implementation


def summarize(values: Sequence[float]) -> dict[str, Any]:
    """Return the median, the extremes and all ``values``."""
    return {
        "median": round(statistics.median(values), 1),
        "min": round(min(values), 1),
        "max": round(max(values), 1),
        "each_alternation": [round(value, 1) for value in values],
    }


def ratio(mine: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Return the ratio of the medians, and the extremes of the ratios per alternation."""
    each = [a / b for a, b in zip(mine, theirs, strict=True)]
    return {
        "of_medians": round(statistics.median(mine) / statistics.median(theirs), 3),
        "min": round(min(each), 3),
        "max": round(max(each), 3),
    }


def ratios(speeds: Series, references: Iterable[str]) -> Ratios:
    """Return the ratios of every implementation to each measured reference."""
    return {
        reference: {
            name: ratio(values, speeds[reference])
            for name, values in speeds.items()
            if name != reference
        }
        for reference in references
        if reference in speeds
    }


def judge(device: str, training: Series, sampling: Series) -> list[dict[str, Any]]:
    """Return each target with the ratio reached on ``device`` and a verdict."""
    return [
        _judge(target, sampling if target.work == "sampling" else training)
        if target.device == device or target.work == "sampling"
        else _judge(target, {})
        for target in TARGETS
    ]


def _judge(target: Target, speeds: Series) -> dict[str, Any]:
    row: dict[str, Any] = {"target": target.text, "wanted": target.wanted}
    measured = [name for name in target.candidates if name in speeds]
    if not measured or target.reference not in speeds:
        return {**row, "reached": None, "verdict": "unmeasured"}
    best = max(measured, key=lambda name: statistics.median(speeds[name]))
    reached = ratio(speeds[best], speeds[target.reference])
    verdict = "yes" if reached["of_medians"] >= target.wanted else "no"
    return {**row, "implementation": best, "reached": reached, "verdict": verdict}


def markdown(result: dict[str, Any]) -> str:
    """Format the result as Markdown tables."""
    parts = [_heading(result), _training(result), _roofline(result), _sampling(result)]
    return "\n\n".join([*parts, _targets(result), _unmeasured(result)]) + "\n"


def _heading(result: dict[str, Any]) -> str:
    sizes = result["sizes"]
    return (
        f"Measured on {result['machine']}, {result['threads']} CPU threads, torch "
        f"{result['torch']}, {result['date'][:10]}, load average before "
        f"{result['load_average_before']}: {sizes['corpus']}, batch {sizes['batch_size']}, "
        f"{sizes['num_steps']} steps, {sizes['hidden_size']} hidden units. Medians of "
        f"{result['alternations']} alternations; in brackets the range of the ratio within them."
    )


def _training(result: dict[str, Any]) -> str:
    rows = [
        [
            row["label"],
            f"{row['tokens_per_second']['median']:,.0f}",
            *_cells(result["ratios"], name),
        ]
        for name, row in result["implementations"].items()
    ]
    return _table(
        ["implementation", "tokens/s", *(f"/ {label}" for label in REFERENCES.values())], rows
    )


def _cells(every: Ratios, name: str, references: Iterable[str] = REFERENCES) -> list[str]:
    return [
        "1" if name == reference else _range(every.get(reference, {}).get(name))
        for reference in references
    ]


def _range(one: dict[str, float] | None) -> str:
    if one is None:
        return "unmeasured"
    return f"{one['of_medians']:.2f} ({one['min']:.2f} to {one['max']:.2f})"


def _roofline(result: dict[str, Any]) -> str:
    rows = [
        [
            result["implementations"][name]["label"],
            f"{row['flop_per_second'] / 1e9:,.1f}",
            f"{row['matrix_product_flop_per_second'] / 1e9:,.1f}",
            f"{row['share']:.0%}",
        ]
        for name, row in result["roofline"]["shares"].items()
    ]
    size = result["roofline"]["matrix_size"]
    return _table(["implementation", "GFLOP/s", f"{size} x {size} product, GFLOP/s", "share"], rows)


def _sampling(result: dict[str, Any]) -> str:
    sampling = result["sampling"]
    rows = [
        [
            f"predict_ch8, {name.replace('-', ' ')}"
            if name in SAMPLING_REFERENCES
            else f"generate, {name}",
            f"{row['median']:,.0f}",
            *_cells(sampling["ratios"], name, SAMPLING_REFERENCES),
        ]
        for name, row in sampling["characters_per_second"].items()
    ]
    return _table(
        [
            "greedy sampling on the CPU",
            "characters/s",
            *(f"/ {REFERENCES[name]}" for name in SAMPLING_REFERENCES),
        ],
        rows,
    )


def _targets(result: dict[str, Any]) -> str:
    rows = [
        [row["target"], f"{row['wanted']:.1f}", _range(row["reached"]), row["verdict"]]
        for row in result["targets"]
    ]
    return _table(["target (device, implementation, reference)", "wanted", "reached", "met"], rows)


def _unmeasured(result: dict[str, Any]) -> str:
    load = result["load_average_before"]
    lines = [f"- {name} is missing: {reason}" for name, reason in result["missing"].items()]
    if load is not None and load > BUSY:
        lines.append(f"- The machine was busy before (load average {load}): measure again.")
    device = "GPU" if result["device"] == "cpu" else "CPU"
    lines.append(f"- Training on a {device} is unmeasured here.")
    return "\n".join(lines)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(heads) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows))
