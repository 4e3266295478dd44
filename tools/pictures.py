"""The tools' pictures. Nothing here knows where numbers come from."""

from __future__ import annotations

import io
import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from tools.revisions import natural

# Okabe and Ito's colours but for yellow, too pale for a line; used up, they return dashed.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STYLES: Final = (("-", "o"), ("--", "s"), (":", "^"))

Curve = Sequence[tuple[int, float]]
Look = tuple[str, str, str]  # colour, dash, marker


@dataclass(frozen=True)
class Row:
    """A setting: its name, and of each of its runs the held-out perplexity and the curve."""

    label: str
    values: Sequence[float]
    curves: Sequence[Curve]


def comparison(rows: Mapping[str, Sequence[Row]], unit: str) -> bytes:
    """By variant, the curves of its settings and their held-out perplexity: a PNG.

    A setting has one colour and dash in both; each run is a dot and the mean a bar.
    """
    names = sorted({row.label for settings in rows.values() for row in settings}, key=natural)
    looks = {name: _look(index) for index, name in enumerate(names)}
    heights = [max(3.2, 1.1 + 0.36 * len(settings)) for settings in rows.values()]
    figure = Figure(figsize=(12.5, sum(heights)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), 2, squeeze=False, height_ratios=heights)
    for (variant, settings), (left, right) in zip(rows.items(), grid, strict=True):
        _draw_curves(left, settings, looks)
        strong = " (strong: the median over seeds)" if len(settings[0].curves) > 1 else ""
        left.set_title(f"{variant}: training{strong}", fontsize=11)
        _draw_values(right, settings, looks)
        right.set_xlabel(f"{unit}: a dot a seed, a bar the mean; lower is better")
        best = min(statistics.fmean(row.values) for row in settings)
        right.set_title(f"{variant}: lowest mean {best:.4g}", fontsize=11)
    return _png(figure)


def overlay(curves: Mapping[str, Mapping[str, Curve]]) -> bytes:
    """Training perplexity by epoch, one panel a variant, base and head over each other: a PNG."""
    figure = Figure(figsize=(5.6 * len(curves), 3.8), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    (panels,) = figure.subplots(1, len(curves), squeeze=False)
    for axes, (variant, by_revision) in zip(panels, curves.items(), strict=True):
        for name, curve in by_revision.items():
            colour, style = (COLOURS[1], "-") if name.startswith("base") else (COLOURS[0], "--")
            axes.plot(*zip(*curve, strict=True), color=colour, ls=style, lw=1.4, label=name)
        ends = " → ".join(f"{curve[-1][1]:.4g}" for curve in by_revision.values())
        axes.set_title(f"{variant}: training perplexity at the end {ends}", fontsize=10)
        _finish_curves(axes, [value for curve in by_revision.values() for _, value in curve])
        axes.legend(frameon=False)
    return _png(figure)


def _draw_curves(axes: Axes, settings: Sequence[Row], looks: Mapping[str, Look]) -> None:
    for row in settings:
        colour, style, _ = looks[row.label]
        curves = [curve for curve in row.curves if curve]
        if len(curves) > 1:
            for curve in curves:
                axes.plot(*zip(*curve, strict=True), color=colour, lw=0.6, alpha=0.35)
        if curves:
            axes.plot(*zip(*_median(curves), strict=True), color=colour, ls=style, lw=1.6)
    _finish_curves(axes, [y for row in settings for curve in row.curves for _, y in curve])


def _draw_values(axes: Axes, settings: Sequence[Row], looks: Mapping[str, Look]) -> None:
    for place, row in enumerate(settings):
        colour, style, marker = looks[row.label]
        mean = statistics.fmean(row.values)
        axes.axhline(place, color=colour, ls=style, lw=1.4, alpha=0.45, zorder=1)
        axes.vlines(mean, place - 0.34, place + 0.34, color=colour, lw=3.5, zorder=2)
        axes.plot(
            row.values,
            [place] * len(row.values),
            marker,
            color=colour,
            ms=6,
            mec="white",
            mew=0.7,
            zorder=3,
        )
    labels = ["\n".join(textwrap.wrap(row.label, 40)[:2]) for row in settings]
    axes.set_yticks(range(len(settings)), labels, fontsize=8.5)
    axes.set_ylim(len(settings) - 0.4, -0.6)
    axes.margins(x=0.08)
    _scale(axes.xaxis, [value for row in settings for value in row.values])
    axes.spines[["top", "right"]].set_visible(False)


def _finish_curves(axes: Axes, values: Sequence[float]) -> None:
    log = _scale(axes.yaxis, values)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=(1, 2, 5, 10)))
    axes.set_ylabel("training perplexity" + (" (log scale)" if log else ""))
    axes.spines[["top", "right"]].set_visible(False)


def _scale(axis: Axis, values: Sequence[float]) -> bool:
    """A log scale, written 1, 2, 5, 10, where the values span enough; says whether it is one."""
    finite = [value for value in values if math.isfinite(value) and value > 0]
    if not finite or max(finite) < 3 * min(finite):
        return False
    axis._set_axes_scale("log")  # type: ignore[attr-defined]
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
    return True


def _median(curves: Sequence[Curve]) -> list[tuple[int, float]]:
    """The median perplexity of each epoch, over the curves that reach it."""
    by_epoch: dict[int, list[float]] = {}
    for curve in curves:
        for epoch, value in curve:
            by_epoch.setdefault(epoch, []).append(value)
    return [(epoch, statistics.median(by_epoch[epoch])) for epoch in sorted(by_epoch)]


def _look(index: int) -> Look:
    """The colour, dash and marker of a setting; all differ up to 21 settings."""
    style, marker = STYLES[index // len(COLOURS) % len(STYLES)]
    return COLOURS[index % len(COLOURS)], style, marker


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
