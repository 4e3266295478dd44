"""Pictures of the gates, with heat maps, time constants and activity by place in a word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from gru_lm.report.drawing import gate_findings as findings
from gru_lm.report.lettering import MONO, drawable, height_of, width_of, wrap
from gru_lm.report.style import (
    GREY,
    MARGIN,
    PANEL_TITLE,
    PAPER,
    SMALL,
    WIDTH,
    Look,
    empty_figure,
    headline,
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

SHOWN: Final = {"character": 72, "word": 30, "token": 40}  # most tokens in a heat map
ROWS: Final = 48  # most units in a heat map
LETTERS: Final = 7.5  # points, the size of the tokens
WIDE: Final = 0.2  # inches; a wider character is rotated
LONGEST_WORD: Final = 12  # most characters of a word
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
    """Draw both gates of up to ROWS units at the first tokens of the training passage.

    The units are sorted by time constant. If there are more than ROWS, evenly spaced ones are
    shown, including the first and the last. ``vocabulary`` has the tokens by number. Returns a PNG.
    """
    reading = arrays.readings["train"]
    order = np.argsort(arrays.time_constant, kind="stable")  # drawn upwards, the longest on top
    shown = order[evenly_spaced(len(order), ROWS)]
    tokens = [vocabulary[number] for number in reading.tokens[: SHOWN[unit]]]
    written = "\n".join(_short(visible(token)[0]) for token in tokens)
    labels, turned = _columns(drawable(written).split("\n"), unit)
    length = len(labels)
    gates: dict[Gate, np.ndarray] = {"Z": reading.Z[:length], "R": reading.R[:length]}
    panel = min(max(0.075 * len(shown), 1.2), 3.6)  # inches
    figure = empty_figure(height=2.2 + 2 * panel + (1 if any(turned) else 0))
    panels = figure.subplots(2, 1)
    for axes, (gate, meaning) in zip(panels, MEANINGS.items(), strict=True):
        image = axes.imshow(
            gates[gate].T[shown],
            cmap="cividis",
            vmin=0,
            vmax=1,
            aspect="auto",
            interpolation="nearest",
        )
        axes.invert_yaxis()
        axes.set_xticks(range(length), labels, fontsize=LETTERS, family="monospace")
        for label, turn in zip(axes.get_xticklabels(), turned, strict=True):
            label.set_parse_math(False)  # a token may hold dollar signs
            label.set_rotation(90 if turn else 0)
        axes.tick_params(axis="x", length=0, pad=2)
        marked = evenly_spaced(len(shown), 5)
        constants = [f"{arrays.time_constant[shown[row]]:.2f}" for row in marked]
        axes.set_yticks(marked, [text.replace("inf", "∞") for text in constants], fontsize=SMALL)
        axes.set_ylabel("time constant", fontsize=SMALL)
        axes.set_title(f"{GATE_NAMES[gate]} {gate}: {meaning}", fontsize=PANEL_TITLE, loc="left")
    figure.colorbar(image, ax=panels, label="value of the gate", pad=0.01, aspect=40)
    headline(figure, findings.heat_map(gates, look.name))
    note = _rows_shown(len(shown), len(order), unit)
    figure.supxlabel(wrap(note, WIDTH - 2 * MARGIN, SMALL), fontsize=SMALL)
    return to_png(figure)


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """Return at most ``most`` evenly spaced numbers below ``count``, with the first and the last.

    The result is (K,) int64; its steps differ by at most 1.
    """
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def _columns(labels: list[str], unit: str) -> tuple[list[str], list[bool]]:
    """Return the first ``labels`` that fit, and for each of them whether it is rotated.

    At character level, labels wider than WIDE are rotated, such as code points, otherwise all.
    """
    widths = [width_of(label, LETTERS, MONO) for label in labels]
    turned = [unit != "character" or width > WIDE for width in widths]
    needed = max(
        height_of(label, LETTERS, MONO) if turn else width
        for label, width, turn in zip(labels, widths, turned, strict=True)
    )
    shown = max(1, int((WIDTH - 1.5) / (needed + 0.012)))
    return labels[:shown], turned[:shown]


def _rows_shown(shown: int, units: int, unit: str) -> str:
    order = f"by time constant in {unit}s (left), longest memory on top"
    if units == 1:
        return f"The row is the only unit. Its time constant in {unit}s is on the left."
    if shown == units:
        return f"The rows are the {units} units {order}."
    return f"The rows are {shown} of the {units} units, at equal steps of their order {order}."


def _short(token: str) -> str:
    return token if len(token) <= LONGEST_WORD else token[: LONGEST_WORD - 1] + "…"


# ------------------------------------------------------------------------------ time constants


def time_constants(
    looks: Mapping[str, Look], constants: Mapping[str, np.ndarray], unit: str
) -> bytes:
    """Draw the cumulative distribution of the units' time constants, one line per variant.

    ``constants`` are (H,) in tokens. A line ends below 100 % if some are infinite, and begins above
    0 % if some are zero. Returns a PNG.
    """
    figure, axes = new_figure(height=4.4)
    everything = np.concatenate([constants[name] for name in looks])
    drawable = everything[np.isfinite(everything) & (everything > 0)]
    low, high = (drawable.min(), drawable.max()) if len(drawable) else (1.0, 1.0)
    middle, reach = np.sqrt(low * high), max(np.sqrt(high / low) * 1.2, 4)  # with a few ticks
    low, high = float(middle / reach), float(middle * reach)
    axes.axhline(0.5, color=GREY, lw=0.8, zorder=1)
    handles = []
    for place, (name, look) in enumerate(looks.items()):
        values, median = np.sort(constants[name]), float(np.median(constants[name]))
        x = np.concatenate([[low], values.clip(low)[np.isfinite(values)], [high]])
        y = np.searchsorted(values, x, side="right") / len(values)
        width = width_below(place, len(looks), least=1.5, step=0.4)
        axes.plot(x, y, drawstyle="steps-post", color=look.colour, ls=look.dash, lw=width)
        if low <= median <= high:
            axes.plot(median, 0.5, look.marker, color=look.colour, mec=PAPER, ms=8, zorder=3)
        text = f"{median:.2f}" if np.isfinite(median) else "infinite"
        label = wrap(f"{look.label}: median {text}", WIDTH - 1, SMALL)
        handles.append(key(look.colour, label, ls=look.dash, marker=look.marker, lw=1.5))
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(0, 1.02)
    steps = (1, 2, 5) if high / low < 200 else (1,)
    plain_log_x(axes, [m * 10.0**p for p in range(-9, 10) for m in steps])
    percent_axis(axes.yaxis)
    axes.set_xlabel(f"time constant of the leak, -1 / ln(mean Z), in {unit}s (log scale)")
    axes.set_ylabel("units with at most this\ntime constant")
    headline(figure, findings.time_constants(constants, unit))
    key_below(figure, handles)
    return to_png(figure)


# ------------------------------------------------------------------------------------ activity


def activity(looks: Mapping[str, Look], measured: Mapping[str, Activity]) -> bytes:
    """Draw the mean of each gate at word starts, inside words and at spaces.

    If the tokens are not characters, there are no such places, and the picture is a notice. Returns
    a PNG.
    """
    if not all(one.split("train") for one in measured.values()):
        return notice(findings.activity(measured))
    figure = empty_figure(height=4.3)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, gate in zip(panels, GATE_NAMES, strict=True):
        for place, look in enumerate(looks.values()):
            x = np.arange(len(PLACES)) + shift(place, len(looks), min(0.2, 0.8 / len(looks)))
            for split, filled in (("train", True), ("val", False)):
                found = measured[look.name].split(split) or {}
                means = [found[at].gate(gate) if at in found else np.nan for at in PLACES]
                axes.plot(
                    x if filled else x + 0.3 / (len(looks) + 1),
                    means,
                    look.marker,
                    color=look.colour,
                    ms=6,
                    mfc=look.colour if filled else PAPER,
                )
        open_frame(axes)
        axes.grid(axis="y", lw=0.4, alpha=0.6)
        axes.set_xticks(range(len(PLACES)), list(PLACES.values()), fontsize=SMALL)
        axes.set_xlim(-0.5, len(PLACES) - 0.5)
        axes.set_ylim(0, 1)
        axes.set_title(f"{GATE_NAMES[gate]} {gate}: {MEANINGS[gate]}", fontsize=PANEL_TITLE)
    panels[0].set_ylabel("mean over units and steps")
    headline(figure, findings.activity(measured))
    handles = keys(looks.values(), line=False)
    handles.append(key(GREY, "filled: training split", marker="o", ls=""))
    handles.append(key(GREY, "open: validation split", marker="o", mfc=PAPER, ls=""))
    key_below(figure, handles)
    return to_png(figure)
