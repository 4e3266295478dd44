"""The pictures of the training: curves by epoch, and speed.

As all drawing modules, it makes PNGs of what it is given and reads no file. ``looks`` name the
variants that are drawn, in their order.
"""

from __future__ import annotations

from collections.abc import Mapping

from gru_lm.report.drawing import findings
from gru_lm.report.style import (
    GREY,
    Look,
    key,
    new_figure,
    plain_log_y,
    thousands_axis,
    to_png,
    width_below,
)
from gru_lm.report.wording import figures
from gru_lm.results.training import Curve, Timing


def training(
    looks: Mapping[str, Look],
    curves: Mapping[str, Curve],
    textbook: Mapping[str, float | None],
) -> bytes:
    """Training perplexity by epoch on a log axis, with the textbook's figures: a PNG.

    ``curves`` are (epoch, perplexity) rows; ``textbook`` is None if the chapter has no figure.
    """
    figure, axes = new_figure()
    handles = []
    for place, (variant, look) in enumerate(looks.items()):
        rows, aim = curves[variant], textbook[variant]
        width = width_below(place, len(looks), least=1.2, step=0.7)
        axes.plot(*zip(*rows, strict=True), color=look.colour, lw=width)
        label = f"{look.label}: {rows[-1][1]:.2f}"
        if aim is not None:
            axes.axhline(aim, color=look.colour, lw=1.1, ls="--", zorder=1)
            label += f" (textbook: {aim:.1f})"
        handles.append(key(look.colour, label, lw=2))
    if any(aim is not None for aim in textbook.values()):
        handles.append(key(GREY, "the textbook's result", lw=1.1, ls="--"))
    axes.set_yscale("log")
    axes.margins(y=0.08)
    plain_log_y(axes)
    last = {variant: curves[variant][-1][1] for variant in looks}
    axes.set_title(findings.training(last, textbook))
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("epoch")
    axes.set_ylabel("training perplexity (log scale)")
    axes.legend(handles=handles, frameon=False, title="after the last epoch", alignment="left")
    return to_png(figure)


def overfitting(
    looks: Mapping[str, Look], train: Mapping[str, Curve], val: Mapping[str, Curve]
) -> bytes:
    """Training and validation perplexity by epoch, the lowest of validation marked: a PNG.

    A curve may have no rows.
    """
    figure, axes = new_figure()
    handles = []
    for place, (variant, look) in enumerate(looks.items()):
        width = width_below(place, len(looks))
        label = look.label
        if train[variant]:
            rows = zip(*train[variant], strict=True)
            axes.plot(*rows, color=look.colour, lw=width * 0.6, ls=":")
        if val[variant]:
            axes.plot(*zip(*val[variant], strict=True), color=look.colour, lw=width)
            epoch, least = findings.lowest(val[variant])
            axes.plot(epoch, least, "o", color=look.colour, mec="white", ms=5 + 2 * width, zorder=3)
            last = val[variant][-1][1]
            label += f": {figures(least)} at epoch {epoch}, {figures(last)} at the end"
        handles.append(key(look.colour, label, lw=2))
    axes.set_yscale("log")
    plain_log_y(axes)
    axes.set_title(findings.overfitting({variant: val[variant] for variant in looks}))
    axes.set_xlabel("epoch")
    axes.set_ylabel("perplexity (log scale; lower is better)")
    splits = [
        key(GREY, "validation split", lw=2),
        key(GREY, "its lowest", ls="", marker="o", ms=8, mec="white"),
        key(GREY, "training split", lw=1.2, ls=":"),
    ]
    figure.legend(handles=handles, loc="outside lower left", frameon=False, fontsize=9)
    figure.legend(handles=splits, loc="outside lower right", frameon=False, fontsize=9)
    return to_png(figure)


def speed(looks: Mapping[str, Look], timings: Mapping[str, Timing]) -> bytes:
    """Training speed in tokens per second, one bar per variant: a PNG."""
    figure, axes = new_figure(height=1.4 + 0.4 * len(looks))
    speeds = [timings[variant].tokens_per_second for variant in looks]
    bars = axes.barh(
        [look.label for look in looks.values()],
        speeds,
        color=[look.colour for look in looks.values()],
    )
    labels = [f"{timings[v].tokens_per_second:,.0f}  ({timings[v].device})" for v in looks]
    axes.bar_label(bars, labels, padding=4, fontsize=9)
    axes.set_xlim(0, max(speeds) * 1.5)
    axes.invert_yaxis()
    thousands_axis(axes.xaxis)
    axes.set_xlabel("training speed (tokens per second, median over epochs)")
    axes.set_title(findings.speed({variant: timings[variant] for variant in looks}))
    return to_png(figure)
