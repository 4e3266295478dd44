"""The benchmarks' pictures, drawn with matplotlib: PNGs as bytes."""

from __future__ import annotations

import io
from typing import Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from gru_lm.report.style import PALETTE

COLOURS: Final = dict(zip(("scratch", "concise", "fused"), PALETTE, strict=False))
# Further ones of Okabe and Ito's colours; the textbook's side is grey.
TEXTBOOK, PEER = "#7F7F7F", "#CC79A7"
MARKS: Final = {"textbook-scratch": "o", "scratch": "s", "concise": "^", "fused": "D"}
AXES: Final = {
    "hidden_size": "hidden units",
    "batch_size": "sequences in a minibatch",
    "num_steps": "steps",
}


def speed_bars(result: dict[str, Any]) -> bytes:
    """Tokens a second of every implementation, the fastest on top, with the range as a line."""
    rows = sorted(
        result["implementations"].items(), key=lambda item: item[1]["tokens_per_second"]["median"]
    )
    speeds = [row["tokens_per_second"] for _, row in rows]
    medians = [speed["median"] for speed in speeds]
    figure = _figure(8.4, 1.3 + 0.36 * len(rows))
    axes = figure.add_subplot()
    axes.barh(
        [row["label"] for _, row in rows],
        medians,
        color=[_colour(name) for name, _ in rows],
        xerr=[
            [speed["median"] - speed["min"] for speed in speeds],
            [speed["max"] - speed["median"] for speed in speeds],
        ],
        error_kw={"ecolor": "black", "elinewidth": 0.9, "capsize": 2},
    )
    for place, speed in enumerate(speeds):
        axes.annotate(
            f"{speed['median']:,.0f}",
            (speed["max"], place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.set_xlim(0, max(speed["max"] for speed in speeds) * 1.12)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel(
        f"training speed, tokens a second (medians and ranges; {result['machine']}, "
        f"{result['threads']} threads)"
    )
    axes.set_title(_finding(result), fontsize=11, loc="right")
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def scaling_curves(result: dict[str, Any]) -> bytes:
    """Tokens a second over each dimension in turn, one line an implementation, log axes."""
    figure = _figure(11.4, 4.2)
    panels = figure.subplots(1, len(AXES), sharey=True)
    for axes, (dimension, label) in zip(panels, AXES.items(), strict=True):
        points = result["points"][dimension]
        for name, mark in MARKS.items():
            line = [
                (point[dimension], point["tokens_per_second"][name])
                for point in points
                if name in point["tokens_per_second"]
            ]
            if line:
                axes.plot(*zip(*line, strict=True), marker=mark, color=_colour(name), label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_xlabel(f"{label} (log scale)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("tokens a second (log scale)")
    panels[0].legend(frameon=False, fontsize=9)
    figure.suptitle(_scaling_finding(result), fontsize=11)
    return _png(figure)


def _finding(result: dict[str, Any]) -> str:
    rows = result["implementations"]
    fastest = max(rows, key=lambda name: rows[name]["tokens_per_second"]["median"])
    parts = [
        f"{every[fastest]['of_medians']:.1f} times {label}"
        for reference, label in (
            ("textbook-scratch", "the textbook's scratch loop"),
            ("jax", "JAX"),
        )
        if fastest in (every := result["ratios"].get(reference, {}))
    ]
    label = rows[fastest]["label"]
    return f"{label} trains fastest" + (f": {' and '.join(parts)}" if parts else "")


def _scaling_finding(result: dict[str, Any]) -> str:
    points = [point["tokens_per_second"] for some in result["points"].values() for point in some]
    wins = sum(max(speeds, key=lambda name: speeds[name]) == "fused" for speeds in points)
    return f"fused is the fastest at {wins} of {len(points)} sizes ({result['machine']})"


def _colour(name: str) -> str:
    if name.startswith("textbook"):
        return TEXTBOOK
    return COLOURS.get(name.partition("-")[0], PEER)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
