"""Pictures of the use of context, and of the losses with a gate or units held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gru_lm.report.drawing import gate_findings as findings
from gru_lm.report.lettering import wrap
from gru_lm.report.style import (
    GREY,
    INK,
    Look,
    empty_figure,
    headline,
    key,
    key_below,
    notice,
    open_frame,
    panel_title,
    percent_axis,
    to_png,
)
from gru_lm.report.wording import span
from gru_lm.results.gates import ContextCurves, GateStudy, HeldGate, Measure, Paired, Text, Weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Line style, marker and label by text and weights.
SHOWN: Final[dict[tuple[Text, Weights], tuple[str, str, str]]] = {
    ("train", "selected"): ("-", "o", "training text, {selected} weights"),
    ("val", "selected"): ("--", "s", "unseen text, {selected} weights"),
    ("val", "best"): (":", "^", "unseen text, best-epoch weights"),
}
GATES: Final[dict[HeldGate, tuple[str, str]]] = {"reset": ("-", "o"), "update": ("--", "s")}
TICKS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
SHORT_TICKS: Final = (1, 4, 16, 64)


# ----------------------------------------------------------------------------------------- context


def context(looks: Mapping[str, Look], studies: Mapping[str, GateStudy], unit: str) -> bytes:
    """Draw loss and accuracy by the number of tokens read, one column per variant.

    A row is a measure, and lines are means over the trainings. Returns a PNG.
    """
    rows: dict[Measure, str] = {
        "calibrated_bits": f"bits per {unit},\nrecalibrated",
        "bits": f"bits per {unit},\nas they are",
        "accuracy": "accuracy",
    }
    figure = empty_figure(height=7.4)
    grid = figure.subplots(len(rows), len(looks), sharex=True, sharey="row", squeeze=False)
    for column, look in enumerate(looks.values()):
        study = studies[look.name]
        grid[0, column].set_title(
            _trainings(look, len(study.seeds), len(looks)), fontsize=10, color=look.colour
        )
        for row, measure in enumerate(rows):
            axes = grid[row, column]
            open_frame(axes)
            axes.grid(lw=0.4, alpha=0.5)
            for (text, weights), (style, marker, _) in SHOWN.items():
                _draw_curve(
                    axes,
                    study.context.curves(text, weights),
                    measure,
                    look.colour,
                    style=style,
                    marker=marker,
                )
            if measure == "accuracy":
                percent_axis(axes.yaxis)
                axes.set_ylim(0, 1.03)
            else:
                axes.set_ylim(bottom=0)
        _length_ticks(grid[-1, column], study.context.curves("train", "selected"), len(looks))
    for row, label in enumerate(rows.values()):
        grid[row, 0].set_ylabel(label)
    grid[-1, len(looks) // 2].set_xlabel(f"{unit}s of context")
    headline(figure, findings.context(studies, unit))
    selected = findings.SELECTED[next(iter(studies.values())).selected]
    handles = [
        key(GREY, label.format(selected=selected), ls=style, marker=marker, ms=5, lw=1.6)
        for style, marker, label in SHOWN.values()
    ]
    key_below(figure, handles, ncols=3, fontsize=8, columnspacing=1.2)
    return to_png(figure)


def _draw_curve(
    axes: Axes, curves: ContextCurves, measure: Measure, colour: str, **look: str
) -> None:
    """Draw the mean over the trainings and their range, with the whole context at the right."""
    known = [index for index, length in enumerate(curves.lengths) if length]
    lengths = [curves.lengths[index] for index in known]
    each = np.array([one.scores.by(measure) for one in curves.trainings])
    mean, low, high = each.mean(0), each.min(0), each.max(0)
    marked = [place for place, length in enumerate(lengths) if length in TICKS]
    axes.plot(
        lengths,
        mean[known],
        ls=look["style"],
        marker=look["marker"],
        markevery=marked,
        color=colour,
        ms=4,
        lw=1.5,
    )
    axes.fill_between(lengths, low[known], high[known], color=colour, alpha=0.2, lw=0)
    whole = _whole_at(curves)
    axes.plot([whole, whole], [low[-1], high[-1]], color=colour, lw=1.5, alpha=0.4)
    axes.plot(whole, mean[-1], marker=look["marker"], color=colour, ms=5)


def _whole_at(curves: ContextCurves) -> float:
    """Return the position of the whole context on the axis of lengths."""
    return 2.2 * max(1, curves.lengths[-1])


def _length_ticks(axes: Axes, curves: ContextCurves, columns: int) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    longest, whole = max(1, curves.lengths[-1]), _whole_at(curves)
    ticks = [tick for tick in (TICKS if columns < 3 else SHORT_TICKS) if tick <= longest]
    axes.set_xticks([*ticks, whole], [*map(str, ticks), "all"])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(0.85, 1.25 * whole)


# ------------------------------------------------------------------------------------------- claim


def claim(looks: Mapping[str, Look], studies: Mapping[str, GateStudy], unit: str) -> bytes:
    """Draw the effects of holding gates and units, near and far, on the training text.

    The upper panels show the rise of the loss with each gate held by context length, the lower ones
    the differences in each training. The picture is a notice if no variant has any. Returns a PNG.
    """
    shown = {name: look for name, look in looks.items() if findings.tested(studies[name], "train")}
    title = findings.claim(studies, unit)
    if not shown:
        return notice(title)
    figure = empty_figure(height=6.8)
    grid = figure.add_gridspec(2, 1, height_ratios=(1, 1.1))
    above = figure.add_subfigure(grid[0])
    below = figure.add_subfigure(grid[1])
    panels = above.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, look in zip(panels, shown.values(), strict=True):
        _draw_rises(axes, studies[look.name], look, len(shown))
    panels[len(shown) // 2].set_xlabel(f"{unit}s of context")
    panels[0].set_ylabel(f"rise of the loss,\nbits per {unit}")
    handles = [
        key(GREY, f"{gate} gate held", ls=style, marker=marker, ms=5)
        for gate, (style, marker) in GATES.items()
    ]
    panels[0].legend(handles=handles, frameon=False, fontsize=8.5, loc="upper left")
    one = studies[next(iter(shown))].interventions.train
    left, right = below.subplots(1, 2, sharey=True)
    compared = {name: studies[name].interventions.train for name in shown}
    _draw_differences(
        left,
        shown,
        {
            name: [
                of.reset_against_update[start]["calibrated_bits"].near
                for start in ("fresh", "passage")
            ]
            for name, of in compared.items()
        },
    )
    left.set_title(
        f"reset gate minus update gate:\ncost of the last {one.near} {unit}s", fontsize=10
    )
    _draw_differences(
        right,
        shown,
        {
            name: [
                of.more_than_random["calibrated_bits"].long.far,
                of.more_than_random["calibrated_bits"].short.far,
            ]
            for name, of in compared.items()
        },
    )
    right.set_title(
        f"a tenth of the units minus a random tenth:\n"
        f"cost of {unit}s {one.near + 1} to {one.far} back",
        fontsize=10,
    )
    for axes, names in (
        (left, ("from a fresh state", "after an unrelated passage")),
        (right, ("longest-memory units", "shortest-memory units")),
    ):
        axes.set_xlabel(f"bits per {unit}")
        marks = [
            key(GREY, n, ls="", marker=m, ms=6, mfc=f)
            for n, m, f in zip(names, ("o", "D"), (GREY, "white"), strict=True)
        ]
        axes.legend(
            handles=marks,
            frameon=False,
            fontsize=8,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.2),
            ncols=2,
            handletextpad=0.1,
            columnspacing=1,
        )
    damages = [
        held.equal.fresh["reset"].calibrated_bits[-1]
        for of in compared.values()
        for held in of.gates
        if held.equal is not None
    ]
    below.supxlabel(
        f"Each gate is blended towards its mean until the loss with {one.far} {unit}s of context "
        f"rises by {span(damages, '{:.1f}'.format)} bits per {unit}.\n"
        "Thin lines and ticks: trainings. Markers and bars: their mean and its 95 % interval.\n"
        + findings.units(studies),
        fontsize=8.5,
        color=GREY,
        x=0.01,
        ha="left",
        linespacing=1.4,
    )
    headline(figure, title)
    return to_png(figure)


def _draw_rises(axes: Axes, study: GateStudy, look: Look, columns: int) -> None:
    """Draw the rise of the loss by context length, thin for each training, thick for the mean."""
    of = study.interventions.train
    places = range(len(of.lengths))
    for gate, (style, marker) in GATES.items():
        each = np.array(
            [one.equal.fresh[gate].calibrated_bits for one in of.gates if one.equal is not None]
        )
        axes.plot(places, each.T, color=look.colour, lw=0.6, ls=style, alpha=0.45)
        axes.plot(places, each.mean(0), color=look.colour, lw=2, ls=style, marker=marker, ms=5)
    axes.axvline(of.lengths.index(of.near), color=GREY, lw=0.8, ls=":")
    axes.axhline(0, color=INK, lw=0.8)
    open_frame(axes)
    axes.set_xticks(places, list(map(str, of.lengths)))
    axes.set_title(_trainings(look, len(each), columns), fontsize=10, color=look.colour)


def _trainings(look: Look, count: int, columns: int) -> str:
    return panel_title(f"{look.name}: {count} training{'' if count == 1 else 's'}", columns)


def _draw_differences(
    axes: Axes, looks: Mapping[str, Look], found: Mapping[str, Sequence[Paired]]
) -> None:
    """Draw two comparisons per variant: a tick per training, and the mean with its interval."""
    styles: tuple[dict[str, Any], ...] = ({"marker": "o"}, {"marker": "D", "mfc": "white"})
    for row, (name, pair) in enumerate(found.items()):
        colour = looks[name].colour
        for offset, paired, style in zip((-0.2, 0.2), pair, styles, strict=True):
            y = row + offset
            dots = len(paired.differences)
            axes.plot(paired.differences, [y] * dots, "|", color=colour, ms=8, mew=1, alpha=0.7)
            if paired.low is not None and paired.high is not None:
                axes.plot([paired.low, paired.high], [y, y], color=colour, lw=1.8)
            if paired.mean is not None:
                axes.plot(paired.mean, y, color=colour, ms=7, ls="", **style)
    axes.axvline(0, color=INK, lw=0.8)
    open_frame(axes, "left")
    axes.grid(axis="x", lw=0.4, alpha=0.6)
    axes.set_yticks(range(len(found)), [wrap(name, 1.2, 9) for name in found], fontsize=9)
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
