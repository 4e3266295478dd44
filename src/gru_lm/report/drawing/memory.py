"""The pictures of how far a model looks back, and of what is lost without gates or units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gru_lm.report.drawing import gate_findings as findings
from gru_lm.report.style import (
    GREY,
    Look,
    empty_figure,
    key,
    key_below,
    keys,
    new_figure,
    notice,
    open_frame,
    percent_axis,
    plain_log_x,
    plain_log_y,
    shift,
    to_png,
    width_below,
)
from gru_lm.report.wording import span
from gru_lm.results.gates import ALL, Band, GateStudy, Held

HELD: Final[dict[Held, str]] = {
    "reset_mean": "reset gate",
    "update_mean": "update gate",
    "long_units": "longest-memory\nunits",
    "random_units": "random units",
    "short_units": "shortest-memory\nunits",
}


def context(looks: Mapping[str, Look], studies: Mapping[str, GateStudy], unit: str) -> bytes:
    """Perplexity by the number of tokens read, on the training and validation split: a PNG."""
    figure, axes = new_figure()
    ticks: dict[int, None] = {}
    for place, look in enumerate(looks.values()):
        width = width_below(place, len(looks))
        for split, style in (("train", "-"), ("val", "--")):
            curve = studies[look.name].context.split(split)
            lengths = [int(length) for length in curve if length != ALL]
            ticks |= dict.fromkeys(lengths)
            axes.plot(
                lengths,
                [curve[str(length)] for length in lengths],
                ls=style,
                lw=width,
                marker=".",
                ms=5 + width,
                color=look.colour,
            )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.margins(y=0.08)
    plain_log_y(axes)
    plain_log_x(axes, sorted(ticks))
    axes.set_xlabel(f"{unit}s read before the one to predict (log scale)")
    axes.set_ylabel("perplexity (log scale; lower is better)")
    axes.set_title(findings.context(studies, unit))
    handles = keys(looks.values(), lw=2, marker=".")
    handles.append(key(GREY, "training split", lw=1.6))
    handles.append(key(GREY, "validation split", lw=1.6, ls="--"))
    key_below(figure, handles)
    return to_png(figure)


def claim(looks: Mapping[str, Look], studies: Mapping[str, GateStudy], unit: str) -> bytes:
    """What is lost of near and of far context with a gate or some units held: a PNG.

    Variants without a verdict are left out; if none has one, the picture says so.
    """
    verdicts = findings.verdicts(studies)
    if not verdicts:
        return notice(findings.claim(verdicts))
    first = next(iter(verdicts.values()))
    figure = empty_figure(height=5.4)
    panels = figure.subplots(1, 2, sharey=True, sharex=True)
    bands: dict[Band, str] = {
        "near": f"near: the last {first.near} {unit}s",
        "far": f"far: {first.near + 1} to {first.far} {unit}s back",
    }
    for axes, (band, title) in zip(panels, bands.items(), strict=True):
        for place, (name, verdict) in enumerate(verdicts.items()):
            beside = shift(place, len(verdicts), min(0.2, 0.8 / len(verdicts)))
            colour = looks[name].colour
            for row, held in enumerate(HELD):
                lost = verdict.calibrated_bits.losses[held][band]
                axes.plot([lost.low, lost.high], [row + beside] * 2, color=colour, lw=1.6)
                axes.plot(lost.value, row + beside, "o", color=colour, ms=6.5)
        axes.axhline(1.5, color=GREY, lw=0.8, ls=":")
        axes.axvline(0, color="black", lw=0.8)
        open_frame(axes, "left")
        axes.grid(axis="x", lw=0.4, alpha=0.6)
        axes.tick_params(axis="y", length=0)
        percent_axis(axes.xaxis)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("share of what this context gains that is lost")
    panels[0].set_yticks(range(len(HELD)), list(HELD.values()))
    panels[0].set_ylim(len(HELD) - 0.5, -0.5)
    figure.suptitle(findings.claim(verdicts), fontsize=11)
    handles = keys((looks[name] for name in verdicts), marker="o", lw=1.6)
    panels[0].legend(handles=handles, loc="lower right", frameon=False, fontsize=9)
    rise = span((verdict.rise for verdict in verdicts.values()), "{:.2f}".format)
    figure.supxlabel(
        f"Each is held at its mean just so far that it costs {rise} calibrated bits per {unit}. "
        "Bars: 95 % intervals.\n" + findings.claim_by_measure(verdicts),
        fontsize=8.5,
        color=GREY,
        x=0.01,
        ha="left",
        linespacing=1.4,
    )
    return to_png(figure)
