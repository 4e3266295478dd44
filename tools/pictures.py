"""Pictures of the tools, drawn from their arguments alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from gru_lm.report.lettering import wrap
from gru_lm.report.style import (
    PALETTE,
    PANEL_TITLE,
    PAPER,
    SMALL,
    empty_figure,
    open_frame,
    to_png,
)
from tools.revisions import natural

# Neighbours differ in all three. A repeated colour has another dash and marker.
STYLES: Final = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"))
WIDTH: Final = 12.5  # inches, of a comparison
PANEL: Final = 5.6  # inches, of one panel of an overlay

Curve = Sequence[tuple[int, float]]
Look = tuple[str, str, str]  # colour, dash, marker


@dataclass(frozen=True)
class Row:
    """A setting, with the held-out perplexity and the curve of each of its runs."""

    label: str
    values: Sequence[float]
    curves: Sequence[Curve]


def comparison(rows: Mapping[str, Sequence[Row]], unit: str) -> bytes:
    """Draw the curves and the held-out perplexity of the settings, one row per variant.

    A setting has one colour and dash in both. Each run is a dot and the mean a bar. Returns a PNG.
    """
    names = sorted({row.label for settings in rows.values() for row in settings}, key=natural)
    looks = {name: _look(index) for index, name in enumerate(names)}
    labels = {name: wrap(name, WIDTH / 5, SMALL) for name in names}
    lines = [sum(labels[r.label].count("\n") + 1 for r in settings) for settings in rows.values()]
    heights = [
        max(3.2, 1.1 + 0.22 * len(settings) + 0.16 * number)
        for settings, number in zip(rows.values(), lines, strict=True)
    ]
    figure = empty_figure(sum(heights), WIDTH)
    grid = figure.subplots(len(rows), 2, squeeze=False, height_ratios=heights)
    for (variant, settings), (left, right) in zip(rows.items(), grid, strict=True):
        _draw_curves(left, settings, looks)
        strong = " (strong: the median over seeds)" if len(settings[0].curves) > 1 else ""
        _title(left, f"{variant}: training{strong}", WIDTH / 2 - 1)
        _draw_values(right, settings, looks, labels)
        right.set_xlabel(f"{unit} (marker: one seed, bar: mean; lower is better)")
        best = min(statistics.fmean(row.values) for row in settings)
        _title(right, f"{variant}: lowest mean {best:.4g}", WIDTH / 4)
    return to_png(figure)


def overlay(curves: Mapping[str, Mapping[str, Curve]]) -> bytes:
    """Draw training perplexity by epoch for base and head, one panel per variant. Returns a PNG."""
    figure = empty_figure(4.2, PANEL * len(curves))
    (panels,) = figure.subplots(1, len(curves), squeeze=False)
    for axes, (variant, by_revision) in zip(panels, curves.items(), strict=True):
        for name, curve in by_revision.items():
            colour, style = (PALETTE[1], "-") if name.startswith("base") else (PALETTE[0], "--")
            label = wrap(name, PANEL / 2, SMALL)
            axes.plot(*zip(*curve, strict=True), color=colour, ls=style, lw=1.4, label=label)
        ends = " → ".join(f"{curve[-1][1]:.4g}" for curve in by_revision.values())
        _title(axes, f"{variant}: training perplexity at the end {ends}", PANEL - 1)
        _finish_curves(axes, [value for curve in by_revision.values() for _, value in curve])
        axes.legend(frameon=False, fontsize=SMALL)
    return to_png(figure)


def _title(axes: Axes, text: str, width: float) -> None:
    """Write ``text`` above ``axes``, in lines of at most ``width`` inches."""
    axes.set_title(wrap(text, width, PANEL_TITLE), fontsize=PANEL_TITLE)


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


def _draw_values(
    axes: Axes, settings: Sequence[Row], looks: Mapping[str, Look], labels: Mapping[str, str]
) -> None:
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
            mec=PAPER,
            mew=0.7,
            zorder=3,
        )
    axes.set_yticks(range(len(settings)), [labels[row.label] for row in settings], fontsize=SMALL)
    axes.set_ylim(len(settings) - 0.4, -0.6)
    axes.margins(x=0.08)
    _scale(axes.xaxis, [value for row in settings for value in row.values])
    open_frame(axes)


def _finish_curves(axes: Axes, values: Sequence[float]) -> None:
    log = _scale(axes.yaxis, values)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=(1, 2, 5, 10)))
    axes.set_ylabel("training perplexity" + (" (log scale)" if log else ""))
    open_frame(axes)


def _scale(axis: Axis, values: Sequence[float]) -> bool:
    """Set a log scale labelled 1, 2, 5, 10 if the range is large; return whether it was set."""
    finite = [value for value in values if math.isfinite(value) and value > 0]
    if not finite or max(finite) < 3 * min(finite):
        return False
    axis._set_axes_scale("log")  # type: ignore[attr-defined]
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
    return True


def _median(curves: Sequence[Curve]) -> list[tuple[int, float]]:
    """Return the median perplexity of each epoch over the curves that reach it."""
    by_epoch: dict[int, list[float]] = {}
    for curve in curves:
        for epoch, value in curve:
            by_epoch.setdefault(epoch, []).append(value)
    return [(epoch, statistics.median(by_epoch[epoch])) for epoch in sorted(by_epoch)]


def _look(index: int) -> Look:
    """Return the colour, dash and marker of a setting; up to 28 settings all differ."""
    rounds, place = divmod(index, len(PALETTE))
    style, marker = STYLES[(place + rounds) % len(STYLES)]
    return PALETTE[place], style, marker
