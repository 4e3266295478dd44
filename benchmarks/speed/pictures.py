"""Pictures of ``training`` and ``scaling``, drawn with matplotlib as bytes of PNG files."""

from __future__ import annotations

from typing import Any, Final

from gru_lm.report.lettering import wrap
from gru_lm.report.style import (
    DASHES,
    GREY,
    INK,
    MARKERS,
    PALETTE,
    SMALL,
    WIDTH,
    empty_figure,
    headline,
    key,
    key_below,
    new_figure,
    open_frame,
    thousands_axis,
    to_png,
)
from gru_lm.report.wording import capitalised, rounded

OURS: Final = dict(zip(("scratch", "concise", "fused"), PALETTE, strict=False))
PEER: Final = PALETTE[3]
LINES: Final = ("scratch", "concise", "fused", "textbook-scratch")
AXES: Final = {
    "hidden_size": "hidden units",
    "batch_size": "sequences in a minibatch",
    "num_steps": "steps",
}


def speed_bars(result: dict[str, Any]) -> bytes:
    """Draw tokens per second of every implementation, fastest on top, with the range as a line.

    The figures have two digits, because the runs vary too much for more.
    """
    rows = sorted(
        result["implementations"].items(), key=lambda item: item[1]["tokens_per_second"]["median"]
    )
    speeds = [row["tokens_per_second"] for _, row in rows]
    medians = [speed["median"] for speed in speeds]
    figure, axes = new_figure(1.5 + 0.34 * len(rows))
    axes.barh(
        range(len(rows)),
        medians,
        color=[_colour(name) for name, _ in rows],
        xerr=[
            [speed["median"] - speed["min"] for speed in speeds],
            [speed["max"] - speed["median"] for speed in speeds],
        ],
        error_kw={"ecolor": INK, "elinewidth": 0.9, "capsize": 2},
    )
    labels = [wrap(row["label"], WIDTH / 3, SMALL) for _, row in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=SMALL)
    axes.tick_params(axis="y", length=0)
    for place, speed in enumerate(speeds):
        axes.annotate(
            rounded(speed["median"]),
            (speed["max"], place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL,
        )
    axes.set_xlim(0, max(speed["max"] for speed in speeds) * 1.15)
    axes.locator_params(axis="x", nbins=5)
    thousands_axis(axes.xaxis)
    label = (
        "training speed in tokens per second (bar: median, line: range of the runs; "
        f"{result['machine']}, {result['threads']} threads)"
    )
    axes.set_xlabel(wrap(label, WIDTH * 0.7, SMALL), fontsize=SMALL)
    headline(figure, _finding(result))
    return to_png(figure)


def scaling_curves(result: dict[str, Any]) -> bytes:
    """Draw tokens per second by each dimension on log axes, one line per implementation."""
    figure = empty_figure(4.2, width=1.5 * WIDTH)
    panels = figure.subplots(1, len(AXES), sharey=True)
    looks: dict[str, dict[str, Any]] = {
        name: {"color": _colour(name), "ls": dash, "marker": marker}
        for name, dash, marker in zip(LINES, DASHES, MARKERS, strict=False)
    }
    for axes, (dimension, label) in zip(panels, AXES.items(), strict=True):
        points = result["points"][dimension]
        for name, look in looks.items():
            line = [
                (point[dimension], point["tokens_per_second"][name])
                for point in points
                if name in point["tokens_per_second"]
            ]
            if line:
                axes.plot(*zip(*line, strict=True), **look)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        thousands_axis(axes.yaxis)
        axes.set_xlabel(f"{label} (log scale)")
        open_frame(axes)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("tokens per second (log scale)")
    headline(figure, _scaling_finding(result))
    handles = []
    for name, look in looks.items():
        label = name.replace("textbook-", "the textbook's ")
        handles.append(key(look.pop("color"), label, **look))
    key_below(figure, handles)
    return to_png(figure)


def _finding(result: dict[str, Any]) -> str:
    rows = result["implementations"]
    fastest = max(rows, key=lambda name: rows[name]["tokens_per_second"]["median"])
    parts = [
        f"{every[fastest]['of_medians']:.1f} times as fast as {label}"
        for reference, label in (
            ("textbook-scratch", "the textbook's scratch loop"),
            ("jax", "JAX"),
        )
        if fastest in (every := result["ratios"].get(reference, {}))
    ]
    label = capitalised(rows[fastest]["label"])
    return f"{label} trains fastest" + (f", {' and '.join(parts)}" if parts else "")


def _scaling_finding(result: dict[str, Any]) -> str:
    points = [point["tokens_per_second"] for some in result["points"].values() for point in some]
    wins = sum(max(speeds, key=lambda name: speeds[name]) == "fused" for speeds in points)
    return f"Fused trains fastest at {wins} of {len(points)} sizes ({result['machine']})"


def _colour(name: str) -> str:
    return GREY if name.startswith("textbook") else OURS.get(name.partition("-")[0], PEER)
