"""Pictures of the calibration, and of surprise and entropy by group of tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from gru_lm.report.drawing import findings
from gru_lm.report.lettering import wrap
from gru_lm.report.style import (
    GREY,
    INK,
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
    open_frame,
    percent_axis,
    plain_log_y,
    shift,
    to_png,
)
from gru_lm.report.wording import SPLIT_NAMES, percent
from gru_lm.results.uncertainty import Calibration, Group, SplitUncertainty, Uncertainty

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EXPECTED: Final = "dash: perplexity that the model expects (2^entropy)"
FEWEST: Final = 20  # a bin with fewer predictions is drawn faintly
NORMAL: Final = 1.96  # standard deviations that contain 95 % of a normal distribution
POSITION_LABELS: Final = {
    "1": "1st",
    "2": "2nd",
    "3": "3rd",
    "4": "4th",
    "5": "5th",
    "6+": "6th or\nlater",
    "end": "space\nafter it",
    "other": "other",
}
CLASS_LABELS: Final = {
    "vowel": "vowel",
    "consonant": "conso-\nnant",
    "letter": "other\nletter",
    "digit": "digit",
    "space": "any\nspace",
    "newline": "new\nline",
    "punctuation": "punctu-\nation",
    "other": "other",
}
PANELS: Final = (
    ("position_in_word", POSITION_LABELS, "place in the word"),
    ("character_class", CLASS_LABELS, "kind of character"),
)


# --------------------------------------------------------------------------------- calibration


def calibration(looks: Mapping[str, Look], uncertainty: Mapping[str, Uncertainty]) -> bytes:
    """Draw reliability diagrams, one row per variant, one column per split.

    A point is a bin of confidence, with the 95 % interval of its accuracy. Grey bars show the share
    of the predictions in each bin. Returns a PNG.
    """
    figure = empty_figure(height=1.5 + 2.2 * len(looks))
    grid = figure.subplots(len(looks), len(SPLIT_NAMES), squeeze=False, sharex=True, sharey=True)
    for row, (look, panels) in enumerate(zip(looks.values(), grid, strict=True)):
        for axes, (split, name) in zip(panels, SPLIT_NAMES.items(), strict=True):
            measured = uncertainty[look.name].split(split).calibration
            _reliability(axes, look, measured)
            title = (
                f"mean confidence {percent([measured.confidence])}\n"
                f"accuracy {percent([measured.accuracy])}\n"
                f"calibration error {measured.ece:.2f}"
            )
            axes.set_title(f"{name} split\n{title}" if row == 0 else title, fontsize=SMALL)
            if row == len(looks) - 1:
                axes.set_xlabel("confidence", fontsize=SMALL)
        name = wrap(look.name, 1.6, PANEL_TITLE)
        panels[0].set_ylabel(f"{name}\naccuracy", fontsize=PANEL_TITLE)
    headline(figure, findings.calibration(uncertainty))
    few = f"accuracy in a bin with fewer than {FEWEST} predictions"
    handles = [
        key(INK, "calibrated", lw=0.9, ls="--"),
        key(GREY, "share of the predictions", marker="s", ms=8, mew=0, alpha=0.35, ls=""),
        key(INK, "accuracy in a bin of confidence, 95 % interval", marker="o", ms=4, lw=1.2),
        key(GREY, few, marker="o", ms=4, mfc=PAPER, lw=0.8),
    ]
    key_below(figure, handles, ncols=2)
    return to_png(figure)


def _reliability(axes: Axes, look: Look, measured: Calibration) -> None:
    """Draw one variant on one split, a point with an interval and a bar of the share per bin."""
    open_frame(axes)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    percent_axis(axes.xaxis)
    percent_axis(axes.yaxis)
    axes.tick_params(labelsize=SMALL)
    axes.plot([0, 1], [0, 1], color=INK, lw=0.9, ls="--", zorder=1)
    bins = [entry for entry in measured.bins if entry.count]
    total = sum(entry.count for entry in bins)
    width = (measured.bins[0].high - measured.bins[0].low) * 0.9
    middles = [(entry.low + entry.high) / 2 for entry in bins]
    shares = [entry.count / total for entry in bins]
    axes.bar(middles, shares, width, color=GREY, alpha=0.35, lw=0, zorder=0)
    for few, colour, face in ((True, GREY, PAPER), (False, look.colour, look.colour)):
        shown = [entry for entry in bins if (entry.count < FEWEST) == few]
        if not shown:
            continue  # the layout cannot place an empty artist
        x = [min(entry.confidence or 0, 1) for entry in shown]
        y = [entry.accuracy or 0 for entry in shown]
        low, high = zip(*(wilson(entry.accuracy or 0, entry.count) for entry in shown), strict=True)
        axes.vlines(x, low, high, colour, lw=0.8 if few else 1.4, clip_on=False)
        axes.plot(x, y, "o", color=colour, mfc=face, ms=4, clip_on=False, zorder=3)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a probability if ``share`` of ``count`` trials succeeded.

    The trials are independent.

    Wilson (1927), Probable inference, the law of succession, and statistical inference, in the
    Journal of the American Statistical Association 22.
    """
    square = NORMAL**2 / count
    middle = (share + square / 2) / (1 + square)
    reach = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    return max(0.0, middle - reach), min(1.0, middle + reach)


# --------------------------------------------------------------------------- where uncertain


def where_uncertain(looks: Mapping[str, Look], uncertainty: Mapping[str, Uncertainty]) -> bytes:
    """Draw reached and expected perplexity by place in the word and kind of character.

    The upper row is validation, the lower training. If the tokens are not characters, there is
    one panel per split, for the whole split. Returns a PNG.
    """
    panels: list[tuple[str, Mapping[str, str], str]] = [
        (part, labels, title)
        for part, labels, title in PANELS
        if _present(uncertainty, part, labels)
    ]
    figure = empty_figure(height=6.4 if panels else 4.6)
    panels = panels or [("", {}, "(only characters have a place and a kind)")]
    present = [_present(uncertainty, part, labels) for part, labels, _ in panels]
    present[0] = ["all", *present[0]]
    widths = [max(len(groups), 2) for groups in present]
    grid = figure.add_gridspec(2, len(panels), width_ratios=widths)
    for row, split in enumerate(("val", "train")):
        first: Axes | None = None
        for column, ((part, labels, title), groups) in enumerate(zip(panels, present, strict=True)):
            axes = figure.add_subplot(grid[row, column], sharey=first)
            first = first or axes
            open_frame(axes)
            for place, (variant, look) in enumerate(looks.items()):
                measured = uncertainty[variant].split(split)
                found = {"all": measured.overall, **_groups(measured, part)}
                beside = shift(place, len(looks), min(0.24, 0.72 / len(looks)))
                _dumbbells(axes, [found.get(name) for name in groups], beside, look)
            _name_groups(axes, groups, labels, crowded=sum(widths) > 13)
            axes.set_yscale("log")
            if row == 1:
                axes.set_xlabel(wrap(title, (WIDTH - 1) * widths[column] / sum(widths), 10))
            if column == 0:
                axes.set_ylabel(f"perplexity on the\n{SPLIT_NAMES[split]} split (log scale)")
            else:
                axes.tick_params(labelleft=False)
        if first is not None:
            plain_log_y(first)
    headline(figure, findings.where_uncertain(uncertainty))
    handles = keys(looks.values(), line=False)
    handles.append(key(GREY, EXPECTED, marker="_", ms=9, mew=2, ls=""))
    key_below(figure, handles)
    return to_png(figure)


def _groups(measured: SplitUncertainty, part: str) -> dict[str, Group]:
    """Return the groups ``position_in_word`` or ``character_class``; none without characters."""
    found: Any = getattr(measured, part) if part else None
    return dict(found or {})


def _present(uncertainty: Mapping[str, Uncertainty], part: str, names: Iterable[str]) -> list[str]:
    """Return those of ``names`` that some split has, in their order.

    All variants read the same text. If each space follows a word, the group is shown only once, by
    its place.
    """
    measured = next(iter(uncertainty.values()))
    splits = [measured.split(split) for split in ("val", "train")]
    present = {name for split in splits for name in _groups(split, part)}
    if part == "character_class" and all(_every_space_ends_a_word(split) for split in splits):
        present.discard("space")
    return [name for name in names if name in present]


def _every_space_ends_a_word(measured: SplitUncertainty) -> bool:
    space = _groups(measured, "character_class").get("space")
    end = _groups(measured, "position_in_word").get("end")
    return (space.tokens if space else 0) == (end.tokens if end else 0)


def _name_groups(
    axes: Axes, groups: Sequence[str], labels: Mapping[str, str], crowded: bool
) -> None:
    """Label the x axis with the ``groups``, rotated if the labels are ``crowded``."""
    if groups[0] == "all" and len(groups) > 1:
        axes.axvline(0.5, color=GREY, lw=0.6, alpha=0.5)
    names = [labels.get(name, name) for name in groups]
    if crowded:
        names = [name.replace("-\n", "").replace("\n", " ") for name in names]
        axes.tick_params(axis="x", rotation=90)
    axes.set_xticks(range(len(groups)), names, fontsize=9)
    edge = 0.5 if len(groups) > 1 else 2
    axes.set_xlim(-edge, len(groups) - 1 + edge)


def _dumbbells(axes: Axes, measured: Sequence[Group | None], beside: float, look: Look) -> None:
    """Draw a line per group, from the expected to the reached perplexity."""
    colour = look.colour
    for place, group in enumerate(measured):
        if group is None or group.perplexity is None:
            continue
        expected, x = 2**group.entropy_bits, place + beside
        axes.plot([x, x], [expected, group.perplexity], color=colour, lw=1.2, alpha=0.7)
        axes.plot(x, group.perplexity, look.marker, color=colour, ms=5)
        axes.plot(x, expected, "_", color=colour, ms=6, mew=2)
