"""Pictures of the training, with curves by epoch or step and the speed.

Like all drawing modules, this one makes PNGs from its arguments and reads no file. ``looks`` are
the variants to draw, in their order. Each variant has its own panel, because curves that nearly
coincide hide each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from gru_lm.report.drawing import findings
from gru_lm.report.lettering import wrap
from gru_lm.report.style import (
    GREY,
    INK,
    PAPER,
    SMALL,
    WIDTH,
    Look,
    epoch_axis,
    headline,
    key,
    key_below,
    new_figure,
    plain_log_y,
    small_multiples,
    thousands_axis,
    to_png,
)
from gru_lm.report.wording import figures, rounded
from gru_lm.results.training import Axis, Curve, Timing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOTS: Final = (0, (1.2, 1.2))


def training(
    looks: Mapping[str, Look],
    curves: Mapping[str, Curve],
    textbook: Mapping[str, float | None],
    axis: Axis = "epoch",
) -> bytes:
    """Draw training perplexity by ``axis`` on a log axis, one panel per variant.

    ``curves`` are (epoch or step, perplexity) rows. ``textbook`` is the chapter's perplexity for
    each variant, or None; a dashed line in the variant's panel shows it. Returns a PNG.
    """
    titles = []
    for variant, look in looks.items():
        against = "" if textbook[variant] is not None else "\nnot in the textbook"
        titles.append(f"{look.label}\nends at {figures(curves[variant][-1][1])}{against}")
    figure, panels = small_multiples(titles, height=2.6)
    for axes, (variant, look) in zip(panels, looks.items(), strict=True):
        for other in looks:
            if other != variant:
                axes.plot(*zip(*curves[other], strict=True), color=GREY, lw=0.7, alpha=0.45)
        axes.plot(*zip(*curves[variant], strict=True), color=look.colour, lw=1.6)
        if (aim := textbook[variant]) is not None:
            axes.axhline(aim, color=INK, lw=1, ls="--", zorder=3)
            place = axes.get_yaxis_transform()
            label = f"textbook: {aim:.1f}"
            axes.text(0.03, aim, label, transform=place, va="bottom", fontsize=SMALL)
    _perplexity_axes(panels, "training perplexity\n(log scale; lower is better)", axis)
    last = {variant: curves[variant][-1][1] for variant in looks}
    headline(figure, findings.training(last, textbook))
    handles = [key(INK, "the variant named above", lw=1.6)]
    if len(looks) > 1:
        handles.append(key(GREY, "the other variants", lw=0.9, alpha=0.6))
    if any(textbook[variant] is not None for variant in looks):
        handles.append(key(INK, "the textbook's result for this variant", lw=1, ls="--"))
    key_below(figure, handles)
    return to_png(figure)


def overfitting(
    looks: Mapping[str, Look],
    train: Mapping[str, Curve],
    val: Mapping[str, Curve],
    axis: Axis = "epoch",
) -> bytes:
    """Draw training and validation perplexity by ``axis``, one panel per variant.

    The epoch or step with the lowest validation perplexity is marked. A curve may have no rows.
    Returns a PNG.
    """
    titles = []
    for variant, look in looks.items():
        if val[variant]:
            place, least = findings.lowest(val[variant])
            last = figures(val[variant][-1][1])
            found = f"lowest {figures(least)} at {findings.place(place, axis)}\nlast {last}"
            titles.append(f"{look.label}\n{found}")
        else:
            titles.append(f"{look.label}\nno validation perplexity")
    figure, panels = small_multiples(titles, height=2.6, extra=1.4)
    for axes, (variant, look) in zip(panels, looks.items(), strict=True):
        if train[variant]:
            axes.plot(*zip(*train[variant], strict=True), color=look.colour, lw=1.3, ls=DOTS)
        if val[variant]:
            axes.plot(*zip(*val[variant], strict=True), color=look.colour, lw=1.8)
            place, least = findings.lowest(val[variant])
            axes.axvline(place, color=GREY, lw=0.8, zorder=1)
            axes.plot(place, least, "o", color=look.colour, mec=PAPER, ms=8, zorder=3)
    _perplexity_axes(panels, "perplexity\n(log scale; lower is better)", axis)
    headline(figure, findings.overfitting({variant: val[variant] for variant in looks}, axis))
    handles = [
        key(INK, "validation split", lw=1.8),
        key(INK, "training split", lw=1.3, ls=DOTS),
        key(INK, f"best {axis} (lowest validation perplexity)", ls="", marker="o", ms=7),
    ]
    key_below(figure, handles)
    return to_png(figure)


def _perplexity_axes(panels: list[Axes], label: str, axis: Axis) -> None:
    """Label the x axes of all ``panels`` with epochs or steps, the log y axes with perplexity."""
    first = panels[0]
    first.set_yscale("log")
    first.margins(y=0.08)
    plain_log_y(first)
    epoch_axis(first.xaxis)
    if axis == "step":
        thousands_axis(first.xaxis)
    for axes in panels:
        if axes.yaxis.get_tick_params()["labelleft"]:
            axes.set_ylabel(label)
        if axes.xaxis.get_tick_params()["labelbottom"]:
            axes.set_xlabel(axis)


def speed(looks: Mapping[str, Look], timings: Mapping[str, Timing], axis: Axis = "epoch") -> bytes:
    """Draw training speed in tokens per second, one bar per variant.

    The figures have two digits, because runs on the same machine differ in the second or third.
    Returns a PNG.
    """
    figure, axes = new_figure(height=1.5 + 0.42 * len(looks))
    speeds = [timings[variant].tokens_per_second for variant in looks]
    devices = {timings[variant].device for variant in looks}
    rows = range(len(looks))
    bars = axes.barh(rows, speeds, 0.62, color=[look.colour for look in looks.values()])
    axes.set_yticks(rows, [wrap(look.label, WIDTH / 3, SMALL) for look in looks.values()])
    labels = [rounded(value) for value in speeds]
    if len(devices) > 1:
        labels = [f"{text} ({timings[v].device})" for text, v in zip(labels, looks, strict=True)]
    axes.bar_label(bars, [wrap(text, 1.8, SMALL) for text in labels], padding=4, fontsize=SMALL)
    axes.tick_params(axis="y", length=0, labelsize=SMALL)
    axes.set_xlim(0, max(speeds) * (1.6 if len(devices) > 1 else 1.12))
    axes.invert_yaxis()
    axes.locator_params(axis="x", nbins=5)
    thousands_axis(axes.xaxis)
    where = f"; {devices.pop()}" if len(devices) == 1 else ""
    rows_timed = "epochs" if axis == "epoch" else "points of the curve"
    text = f"training speed in tokens per second (median over the {rows_timed}{where})"
    axes.set_xlabel(wrap(text, WIDTH * 0.6, 10))
    headline(figure, findings.speed({variant: timings[variant] for variant in looks}))
    return to_png(figure)
