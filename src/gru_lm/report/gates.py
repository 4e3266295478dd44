"""The pictures of what the gates do, how far a model looks back, and what is lost without gates.

As in ``gru_lm.report.style``, each is a PNG whose title states what the numbers given show. A token
is a ``unit``: a character, or a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator, PercentFormatter

from gru_lm.report.style import COLOURS, LABELS, new_figure, plain_log_ticks, to_png

GREY: Final = "#6B6B6B"
SHOWN: Final = {"character": 72, "word": 30}  # tokens of a heat map
LONGEST_WORD: Final = 12  # characters of a word that a heat map shows
VISIBLE: Final = {" ": "␣", "\n": "↵", "\t": "→"}
GATES: Final = {"Z": "update gate", "R": "reset gate"}
PLACES: Final = {
    "first letter": "first letter\nof a word",
    "inside words": "inside\na word",
    "space": "space",
}
HELD: Final = {
    "reset_mean": "reset gate",
    "update_mean": "update gate",
    "long_units": "longest-memory\nunits",
    "random_units": "random units",
    "short_units": "shortest-memory\nunits",
}
MEASURES: Final = {
    "calibrated_bits": "calibrated bits (shown)",
    "bits": "bits as they are",
    "accuracy": "right answers",
}
MISLED: Final = 1.05  # perplexity with all context, over that with one token


# ------------------------------------------------------------------------------------ heat map


def heat_map(
    arrays: Mapping[str, np.ndarray], tokens: Sequence[str], variant: str, unit: str = "character"
) -> bytes:
    """Both gates of each unit at the first tokens of the training passage: a PNG.

    ``arrays`` are those of analysis/gates; ``tokens`` the text of ``train_tokens``, one by one.
    Units stand in order of their time constant.
    """
    length = min(SHOWN[unit], len(tokens))
    order = np.argsort(arrays["time_constant"], kind="stable")  # drawn from below: longest on top
    labels = [VISIBLE.get(token, _short_word(token)) for token in tokens[:length]]
    gates = {gate: arrays[f"train_{gate}"][:length].T[order] for gate in GATES}
    figure = _empty(height=7.2)
    panels = figure.subplots(2, 1)
    for axes, (gate, meaning) in zip(
        panels, (("Z", "1 keeps the old state"), ("R", "1 lets the old state through")), strict=True
    ):
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
        axes.set_title(f"{GATES[gate]} {gate}: {meaning}", fontsize=10, loc="left")
    figure.colorbar(image, ax=panels, label="value of the gate", pad=0.01, aspect=40)
    figure.suptitle(heat_map_finding(gates, variant), fontsize=11)
    return to_png(figure)


def heat_map_finding(gates: Mapping[str, np.ndarray], variant: str) -> str:
    """How open the gates are in the passage; ``gates`` are by letter, Z and R."""
    kept, let_in = (float((gates[gate] > 0.5).mean()) for gate in GATES)
    return (
        f"{variant}: the update gate keeps more than half of a unit's state in {kept:.0%} of the "
        f"steps;\nthe reset gate lets more than half of it through in {let_in:.0%}"
    )


def _short_word(token: str) -> str:
    return token if len(token) <= LONGEST_WORD else token[: LONGEST_WORD - 1] + "…"


# ------------------------------------------------------------------------------ time constants


def time_constants(constants: Mapping[str, np.ndarray], unit: str = "character") -> bytes:
    """How the units' time constants are distributed, one outline a variant: a PNG.

    ``constants`` maps a variant to (H,) time constants in tokens; infinite ones count as the
    largest finite one, zeros as the smallest above zero.
    """
    figure, axes = new_figure(height=3.9)
    drawable = {name: _positive(values) for name, values in constants.items()}
    everything = np.concatenate(list(drawable.values()))
    low, high = everything.min() / 1.3, everything.max() * 1.3
    edges = np.geomspace(low, high, 41).tolist()
    handles = []
    for index, (variant, values) in enumerate(drawable.items()):
        colour, median = COLOURS[variant], float(np.median(constants[variant]))
        share = np.full(len(values), 1 / len(values))
        axes.hist(values, edges, weights=share, color=colour, alpha=0.12)
        width = 1.4 + 0.6 * (len(drawable) - 1 - index)  # so that one under another is still seen
        axes.hist(values, edges, weights=share, histtype="step", color=colour, lw=width)
        axes.axvline(median, color=colour, lw=width, ls=":")
        handles.append(
            Line2D([], [], color=colour, lw=2, label=f"{LABELS[variant]}: median {median:.2f}")
        )
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    _plain_x(axes, [m * 10.0**p for p in range(-3, 6) for m in (1, 2, 5)])
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel(f"time constant of the leak, -1 / ln(mean Z), in {unit}s (log scale)")
    axes.set_ylabel("share of the units")
    axes.set_title(time_constants_finding(constants, unit))
    axes.legend(handles=handles, frameon=False, fontsize=9, loc="upper right")
    return to_png(figure)


def time_constants_finding(constants: Mapping[str, np.ndarray], unit: str = "character") -> str:
    """How long the leak keeps what the units have read."""
    medians = _range((float(np.median(values)) for values in constants.values()), "{:.2f}")
    longest = max(float(values.max()) for values in constants.values())
    slowest = (
        f"the slowest of all within {longest:.1f}" if np.isfinite(longest) else "some never do"
    )
    return (
        f"By its leak alone the median unit forgets all but 1/e within {medians} {unit}s;\n"
        f"{slowest}"
    )


def _positive(values: np.ndarray) -> np.ndarray:
    good = values[np.isfinite(values) & (values > 0)]
    if not len(good):
        return np.ones_like(values)
    clipped: np.ndarray = np.clip(values, good.min(), good.max())
    return clipped


# ------------------------------------------------------------------------------------ activity


def activity(analyses: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Mean of each gate at word starts, inside words and at spaces: a PNG.

    ``analyses`` maps a variant to its analysis/gates JSON. Words have no such places: then the
    picture says so.
    """
    if not _measured(analyses):
        figure, axes = new_figure(height=1.6)
        axes.set_axis_off()
        axes.set_title("Words have no letters: there is no activity by place to show")
        return to_png(figure)
    figure = _empty(height=4.3)
    panels = figure.subplots(1, 2)
    for axes, gate in zip(panels, GATES, strict=True):
        for index, (variant, analysis) in enumerate(analyses.items()):
            shift = (index - (len(analyses) - 1) / 2) * 0.16
            for split, face in (("train", COLOURS[variant]), ("val", "white")):
                by_place = analysis["activity"][split]
                means = [by_place[place][gate] if by_place[place] else np.nan for place in PLACES]
                axes.plot(
                    np.arange(len(PLACES)) + shift,
                    means,
                    color=COLOURS[variant],
                    lw=1.4 if split == "train" else 0,
                    marker="o",
                    ms=7 if split == "train" else 4.5,
                    mfc=face,
                    mec=COLOURS[variant],
                )
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xticks(range(len(PLACES)), list(PLACES.values()))
        axes.set_xlim(-0.5, len(PLACES) - 0.5)
        axes.margins(y=0.15)
        axes.set_title(f"{GATES[gate]} {gate}", fontsize=10)
    panels[0].set_ylabel("mean over units and steps")
    figure.suptitle(activity_finding(analyses), fontsize=11)
    key = [Line2D([], [], color=COLOURS[v], marker="o", ms=7, label=v) for v in analyses]
    key += [
        Line2D([], [], color=GREY, marker="o", ms=7, ls="", label="training split"),
        Line2D([], [], color=GREY, marker="o", ms=4.5, mfc="white", ls="", label="validation"),
    ]
    figure.legend(handles=key, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return to_png(figure)


def activity_finding(analyses: Mapping[str, Mapping[str, Any]]) -> str:
    """Where each gate is lowest on the training split, if the variants agree."""
    lowest: dict[str, str] = {}
    for gate in GATES:
        found = set()
        for analysis in analyses.values():
            by_place = analysis["activity"]["train"]
            means = {place: by_place[place][gate] for place in PLACES if by_place[place]}
            found.add(min(means, key=means.__getitem__))
        lowest[gate] = found.pop() if len(found) == 1 else ""
    where = {
        "first letter": "at a word's first letter",
        "inside words": "inside words",
        "space": "at spaces",
    }
    if lowest["Z"] and lowest["Z"] == lowest["R"]:
        return f"Both gates are lowest {where[lowest['Z']]}: the old state counts least there"
    parts = [
        f"the {GATES[gate]} is lowest {where[place]}"
        if place
        else f"the variants differ in where the {GATES[gate]} is lowest"
        for gate, place in lowest.items()
    ]
    text = "; ".join(parts)
    return text[0].upper() + text[1:]


def _measured(analyses: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether all have letters and spaces to look at."""
    return all(
        analysis["activity"][split] is not None
        for analysis in analyses.values()
        for split in ("train", "val")
    )


# ------------------------------------------------------------------------------------- context


def context(analyses: Mapping[str, Mapping[str, Any]], unit: str = "character") -> bytes:
    """Perplexity by the number of tokens read, on the training and validation split: a PNG.

    ``analyses`` maps a variant to its analysis/gates JSON.
    """
    figure, axes = new_figure()
    ticks: dict[int, None] = {}
    for index, (variant, analysis) in enumerate(analyses.items()):
        width = 1.4 + 0.6 * (len(analyses) - 1 - index)  # so that one under another is still seen
        for split, style in (("train", "-"), ("val", "--")):
            curve = analysis["context"][split]
            lengths = [int(k) for k in curve if k != "all"]
            ticks |= dict.fromkeys(lengths)
            axes.plot(
                lengths,
                [curve[str(k)] for k in lengths],
                ls=style,
                lw=width,
                marker=".",
                ms=5 + width,
                color=COLOURS[variant],
            )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    plain_log_ticks(axes)
    axes.margins(y=0.08)
    _plain_x(axes, sorted(ticks))
    axes.set_xlabel(f"{unit}s read before the one to predict (log scale)")
    axes.set_ylabel("perplexity (log scale; lower is better)")
    axes.set_title(context_finding(analyses, unit))
    key = [Line2D([], [], color=COLOURS[v], lw=2, marker=".", label=v) for v in analyses]
    key += [
        Line2D([], [], color=GREY, lw=1.6, label="training split"),
        Line2D([], [], color=GREY, lw=1.6, ls="--", label="validation split"),
    ]
    figure.legend(handles=key, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return to_png(figure)


def context_finding(analyses: Mapping[str, Mapping[str, Any]], unit: str = "character") -> str:
    """How far context helps on text that was learnt, and what it does on text that was not."""
    return (
        f"On the training split {_use(analyses, 'train', unit)};\n"
        f"on the validation split {_use(analyses, 'val', unit)}"
    )


def _use(analyses: Mapping[str, Mapping[str, Any]], split: str, unit: str) -> str:
    curves = [analysis["context"][split] for analysis in analyses.values()]
    if all(curve["all"] > MISLED * curve["1"] for curve in curves):
        return f"more than one {unit} of it only misleads"
    reach = [analysis["effective_context"][split] for analysis in analyses.values()]
    if any(k is None for k in reach):
        return "it helps some variants only" if any(reach) else "context hardly helps"
    return f"context helps up to {_range(reach, '{:.0f}')} {unit}s back"


# --------------------------------------------------------------------------------------- claim


def claim(analyses: Mapping[str, Mapping[str, Any]], unit: str = "character") -> bytes:
    """What is lost of near and of far context with a gate or some units held: a PNG.

    ``analyses`` maps a variant to its analysis/gates JSON. Variants without a verdict are left
    out; where none has one, the picture says so.
    """
    verdicts = _verdicts(analyses)
    if not verdicts:
        figure, axes = new_figure(height=1.6)
        axes.set_axis_off()
        axes.set_title(claim_finding(analyses))
        return to_png(figure)
    first = next(iter(verdicts.values()))
    figure = _empty(height=5.4)
    panels = figure.subplots(1, 2, sharey=True, sharex=True)
    titles = {
        "near": f"near: the last {first['near']} {unit}s",
        "far": f"far: {first['near'] + 1} to {first['far']} {unit}s back",
    }
    for axes, (band, title) in zip(panels, titles.items(), strict=True):
        for index, (variant, verdict) in enumerate(verdicts.items()):
            shift = (index - (len(verdicts) - 1) / 2) * 0.2
            for row, name in enumerate(HELD):
                lost = verdict["calibrated_bits"]["losses"][name][band]
                axes.plot(
                    [lost["low"], lost["high"]], [row + shift] * 2, color=COLOURS[variant], lw=1.6
                )
                axes.plot(lost["value"], row + shift, "o", color=COLOURS[variant], ms=6.5)
        axes.axhline(1.5, color=GREY, lw=0.8, ls=":")
        axes.axvline(0, color="black", lw=0.8)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="x", lw=0.4, alpha=0.6)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("share of what this context gains that is lost")
    panels[0].set_yticks(range(len(HELD)), list(HELD.values()))
    panels[0].set_ylim(len(HELD) - 0.5, -0.5)
    figure.suptitle(claim_finding(analyses), fontsize=11)
    key = [Line2D([], [], color=COLOURS[v], marker="o", lw=1.6, label=v) for v in verdicts]
    panels[0].legend(handles=key, loc="lower right", frameon=False, fontsize=9)
    rise = _range((verdict["rise"] for verdict in verdicts.values()), "{:.2f}")
    figure.supxlabel(
        f"Each is held at its mean just so far that it costs {rise} calibrated bits a {unit}. "
        "Bars: 95 % intervals.\n" + _by_measure(verdicts),
        fontsize=8.5,
        color=GREY,
        x=0.01,
        ha="left",
        linespacing=1.4,
    )
    return to_png(figure)


def claim_finding(analyses: Mapping[str, Mapping[str, Any]]) -> str:
    """In how many variants each part of the claim holds, beyond chance."""
    verdicts = _verdicts(analyses)
    if not verdicts:
        return "The claim about the gates cannot be tested: context gains too little here"
    of = len(verdicts)

    def count(part: str) -> str:
        return f"{_supported(verdicts, 'calibrated_bits', part)} of {of}"

    return (
        "In calibrated bits, near context leans more on the reset gate in "
        f"{count('reset_near')} variants,\n"
        f"far context more on the update gate in {count('update_far')},\n"
        f"and on long-memory units more than on random ones in {count('long_units_far')}"
    )


def _verdicts(analyses: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        variant: analysis["interventions"]["verdict"]
        for variant, analysis in analyses.items()
        if analysis["interventions"] and analysis["interventions"]["verdict"]
    }


def _supported(verdicts: Mapping[str, Any], measure: str, part: str) -> int:
    return sum(
        bool(verdict[measure]) and verdict[measure]["claim"][part] == "supported"
        for verdict in verdicts.values()
    )


def _by_measure(verdicts: Mapping[str, Any]) -> str:
    """The same counts by each measure, as the choice of it matters."""
    counts = [
        f"{label} "
        + ", ".join(
            str(_supported(verdicts, measure, part))
            for part in ("reset_near", "update_far", "long_units_far")
        )
        for measure, label in MEASURES.items()
    ]
    return f"The title's three counts, of {len(verdicts)}, by: " + "; ".join(counts) + "."


# -------------------------------------------------------------------------------------- shared


def _empty(height: float) -> Figure:
    """A figure of the common width without axes."""
    figure, _ = new_figure(height=height)
    figure.clear()
    return figure


def _range(values: Iterable[float], form: str) -> str:
    """One number, or the least and the greatest, written in ``form``."""
    numbers = sorted(values)
    ends = dict.fromkeys((form.format(numbers[0]), form.format(numbers[-1])))
    return " to ".join(ends)


def _plain_x(axes: Axes, ticks: Sequence[float]) -> None:
    """Write those of ``ticks`` that lie on the log x axis as plain numbers, and no others."""
    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
