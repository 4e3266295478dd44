"""The pictures of what the gates do: heat maps, time constants, activity by place in a word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

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
    shift,
    to_png,
    width_below,
)
from gru_lm.report.wording import GATE_NAMES, visible
from gru_lm.results.gates import Activity, Gate, GateArrays, Place

SHOWN: Final = {"character": 72, "word": 30}  # tokens of a heat map
LONGEST_WORD: Final = 12  # characters of a word that a heat map shows
MEANINGS: Final[dict[Gate, str]] = {
    "Z": "1 keeps the old state",
    "R": "1 lets the old state through",
}
PLACES: Final[dict[Place, str]] = {
    "first letter": "first letter\nof a word",
    "inside words": "inside\na word",
    "space": "space",
}


# ------------------------------------------------------------------------------------ heat map


def heat_map(look: Look, arrays: GateArrays, vocabulary: tuple[str, ...], unit: str) -> bytes:
    """Both gates of each unit at the first tokens of the training passage: a PNG.

    The units are in order of their time constant. ``vocabulary`` are the tokens by number.
    """
    reading = arrays.readings["train"]
    length = min(SHOWN[unit], len(reading.tokens))
    order = np.argsort(arrays.time_constant, kind="stable")  # drawn from below: longest on top
    labels = [_short(visible(vocabulary[number])[0]) for number in reading.tokens[:length]]
    gates: dict[Gate, np.ndarray] = {
        "Z": reading.Z[:length].T[order],
        "R": reading.R[:length].T[order],
    }
    figure = empty_figure(height=7.2)
    panels = figure.subplots(2, 1)
    for axes, (gate, meaning) in zip(panels, MEANINGS.items(), strict=True):
        image = axes.imshow(
            gates[gate], cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest"
        )
        axes.invert_yaxis()
        axes.set_xticks(range(length), labels, fontsize=7.5, family="monospace")
        for label in axes.get_xticklabels():
            label.set_parse_math(False)  # a token may hold dollar signs
            label.set_rotation(0 if unit == "character" else 90)
        axes.tick_params(axis="x", length=0, pad=2)
        axes.set_yticks([])
        axes.set_ylabel(f"{len(order)} units,\nlongest memory on top")
        axes.set_title(f"{GATE_NAMES[gate]} {gate}: {meaning}", fontsize=10, loc="left")
    figure.colorbar(image, ax=panels, label="value of the gate", pad=0.01, aspect=40)
    figure.suptitle(findings.heat_map(gates, look.name), fontsize=11)
    return to_png(figure)


def _short(token: str) -> str:
    return token if len(token) <= LONGEST_WORD else token[: LONGEST_WORD - 1] + "…"


# ------------------------------------------------------------------------------ time constants


def time_constants(
    looks: Mapping[str, Look], constants: Mapping[str, np.ndarray], unit: str
) -> bytes:
    """How the units' time constants (H,), in tokens, are distributed, one outline per variant.

    A PNG. Infinite ones count as the largest finite one, zeros as the smallest above zero.
    """
    figure, axes = new_figure(height=3.9)
    drawable = {name: _positive(constants[name]) for name in looks}
    everything = np.concatenate(list(drawable.values()))
    low, high = everything.min() / 1.3, everything.max() * 1.3
    edges = np.geomspace(low, high, 41).tolist()
    handles = []
    for place, (name, values) in enumerate(drawable.items()):
        colour, median = looks[name].colour, float(np.median(constants[name]))
        share = np.full(len(values), 1 / len(values))
        axes.hist(values, edges, weights=share, color=colour, alpha=0.12)
        width = width_below(place, len(drawable))
        axes.hist(values, edges, weights=share, histtype="step", color=colour, lw=width)
        axes.axvline(median, color=colour, lw=width, ls=":")
        handles.append(key(colour, f"{looks[name].label}: median {median:.2f}", lw=2))
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    plain_log_x(axes, [m * 10.0**p for p in range(-3, 6) for m in (1, 2, 5)])
    percent_axis(axes.yaxis)
    axes.set_xlabel(f"time constant of the leak, -1 / ln(mean Z), in {unit}s (log scale)")
    axes.set_ylabel("share of the units")
    axes.set_title(findings.time_constants(constants, unit))
    axes.legend(handles=handles, frameon=False, fontsize=9, loc="upper right")
    return to_png(figure)


def _positive(values: np.ndarray) -> np.ndarray:
    good = values[np.isfinite(values) & (values > 0)]
    if not len(good):
        return np.ones_like(values)
    clipped: np.ndarray = np.clip(values, good.min(), good.max())
    return clipped


# ------------------------------------------------------------------------------------ activity


def activity(looks: Mapping[str, Look], measured: Mapping[str, Activity]) -> bytes:
    """Mean of each gate at word starts, inside words and at spaces: a PNG.

    Words have no such places: then the picture says so.
    """
    if not all(one.split("train") for one in measured.values()):
        return notice(findings.activity(measured))
    figure = empty_figure(height=4.3)
    panels = figure.subplots(1, 2)
    for axes, gate in zip(panels, GATE_NAMES, strict=True):
        for place, look in enumerate(looks.values()):
            x = np.arange(len(PLACES)) + shift(place, len(looks), min(0.16, 0.8 / len(looks)))
            for split, filled in (("train", True), ("val", False)):
                found = measured[look.name].split(split) or {}
                means = [found[at].gate(gate) if at in found else np.nan for at in PLACES]
                axes.plot(
                    x,
                    means,
                    color=look.colour,
                    lw=1.4 if filled else 0,
                    marker="o",
                    ms=7 if filled else 4.5,
                    mfc=look.colour if filled else "white",
                    mec=look.colour,
                )
        open_frame(axes)
        axes.set_xticks(range(len(PLACES)), list(PLACES.values()))
        axes.set_xlim(-0.5, len(PLACES) - 0.5)
        axes.margins(y=0.15)
        axes.set_title(f"{GATE_NAMES[gate]} {gate}", fontsize=10)
    panels[0].set_ylabel("mean over units and steps")
    figure.suptitle(findings.activity(measured), fontsize=11)
    handles = keys(looks.values(), marker="o", ms=7)
    handles.append(key(GREY, "training split", marker="o", ms=7, ls=""))
    handles.append(key(GREY, "validation", marker="o", ms=4.5, mfc="white", ls=""))
    key_below(figure, handles)
    return to_png(figure)
