"""The pictures of how true the probabilities are, and of where a model is uncertain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from gru_lm.report.drawing import findings
from gru_lm.report.style import (
    GREY,
    Look,
    empty_figure,
    key,
    key_below,
    keys,
    open_frame,
    percent_axis,
    plain_log_y,
    shift,
    to_png,
)
from gru_lm.report.wording import SPLIT_NAMES
from gru_lm.results.uncertainty import Calibration, Group, SplitUncertainty, Uncertainty

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EXPECTED: Final = "what the model expects (2^entropy)"
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
    "space": "space",
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
    """Reliability diagrams of the training and the validation split: a PNG.

    Under each diagram is the share of the predictions in each bin of confidence.
    """
    figure = empty_figure(height=4.7)
    grid = figure.add_gridspec(2, 2, height_ratios=[4, 1])
    for column, split in enumerate(("train", "val")):
        curve, histogram = (figure.add_subplot(grid[row, column]) for row in range(2))
        for axes in (curve, histogram):
            open_frame(axes)
            axes.set_xlim(0, 1)
            percent_axis(axes.xaxis)
            percent_axis(axes.yaxis)
        curve.plot([0, 1], [0, 1], color="black", lw=0.9, ls="--")
        curve.text(0.38, 0.405, "calibrated", rotation=45, rotation_mode="anchor", fontsize=9)
        for place, (variant, look) in enumerate(looks.items()):
            measured = uncertainty[variant].split(split).calibration
            _reliability(curve, histogram, look, measured, place, len(looks))
        curve.set_ylim(0, 1)
        curve.tick_params(labelbottom=False)
        curve.set_title(f"{SPLIT_NAMES[split]} split", fontsize=10)
        curve.legend(frameon=False, loc="upper left", fontsize=9)
        histogram.set_ylim(0, 1)
        histogram.set_xlabel("confidence: probability of the top prediction")
        if column == 0:
            curve.set_ylabel("accuracy: share that came true")
            histogram.set_ylabel("share")
    figure.suptitle(findings.calibration(uncertainty), fontsize=11)
    return to_png(figure)


def _reliability(
    curve: Axes, histogram: Axes, look: Look, measured: Calibration, place: int, count: int
) -> None:
    """One variant's curve, a dot's area by its share of the predictions, and its bars below."""
    bins = [entry for entry in measured.bins if entry.count]
    total = sum(entry.count for entry in bins)
    confidences = [entry.confidence or 0.0 for entry in bins]
    accuracies = [entry.accuracy or 0.0 for entry in bins]
    shares = [entry.count / total for entry in bins]
    label = f"{look.name}: ECE {measured.ece:.3f}"
    curve.plot(confidences, accuracies, lw=1.2, color=look.colour, label=label)
    areas = [5 + 60 * share for share in shares]
    curve.scatter(confidences, accuracies, areas, look.colour, clip_on=False, zorder=3)
    width = (measured.bins[0].high - measured.bins[0].low) * 0.9 / count
    middles = [(entry.low + entry.high) / 2 + shift(place, count, width) for entry in bins]
    histogram.bar(middles, shares, width, color=look.colour)


# --------------------------------------------------------------------------- where uncertain


def where_uncertain(looks: Mapping[str, Look], uncertainty: Mapping[str, Uncertainty]) -> bytes:
    """Perplexity beside the one that the model expected, by place and kind of character: a PNG.

    Validation is above, training below. Words have neither place nor kind: then there is one
    panel per split, for the split as a whole.
    """
    panels: list[tuple[str, Mapping[str, str], str]] = [
        (part, labels, title)
        for part, labels, title in PANELS
        if _present(uncertainty, part, labels)
    ]
    figure = empty_figure(height=6.4 if panels else 4.6)
    panels = panels or [("", {}, "(at word level a token has neither place nor kind)")]
    present = [_present(uncertainty, part, labels) for part, labels, _ in panels]
    present[0] = ["all", *present[0]]
    widths = [len(groups) for groups in present]
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
                _dumbbells(axes, [found.get(name) for name in groups], beside, look.colour)
            _name_groups(axes, groups, labels, crowded=sum(widths) > 13)
            axes.set_yscale("log")
            if row == 1:
                axes.set_xlabel(title)
            if column == 0:
                axes.set_ylabel(f"perplexity on the\n{SPLIT_NAMES[split]} split (log scale)")
            else:
                axes.tick_params(labelleft=False)
        if first is not None:
            plain_log_y(first)
    figure.suptitle(findings.where_uncertain(uncertainty), fontsize=11)
    handles = keys(looks.values(), marker="o", lw=1.2)
    handles.append(key(GREY, "perplexity", marker="o", ls=""))
    handles.append(key(GREY, EXPECTED, marker="_", ms=9, mew=2, ls=""))
    key_below(figure, handles)
    return to_png(figure)


def _groups(measured: SplitUncertainty, part: str) -> dict[str, Group]:
    """The groups ``position_in_word`` or ``character_class``; none at word level."""
    found: Any = getattr(measured, part) if part else None
    return dict(found or {})


def _present(uncertainty: Mapping[str, Uncertainty], part: str, names: Iterable[str]) -> list[str]:
    """Those of ``names`` that some split has, in their order. Every variant read the same text."""
    measured = next(iter(uncertainty.values()))
    present = {name for split in ("val", "train") for name in _groups(measured.split(split), part)}
    return [name for name in names if name in present]


def _name_groups(
    axes: Axes, groups: Sequence[str], labels: Mapping[str, str], crowded: bool
) -> None:
    """Name the ``groups`` on the x axis, upwards if they are too many to be side by side."""
    if groups[0] == "all" and len(groups) > 1:
        axes.axvline(0.5, color=GREY, lw=0.6, alpha=0.5)
    names = [labels.get(name, name) for name in groups]
    if crowded:
        names = [name.replace("-\n", "").replace("\n", " ") for name in names]
        axes.tick_params(axis="x", rotation=90)
    axes.set_xticks(range(len(groups)), names, fontsize=9)
    edge = 0.5 if len(groups) > 1 else 2
    axes.set_xlim(-edge, len(groups) - 1 + edge)


def _dumbbells(axes: Axes, measured: Sequence[Group | None], beside: float, colour: str) -> None:
    """A line per group, from the perplexity that the model expected to the one that it reached."""
    for place, group in enumerate(measured):
        if group is None or group.perplexity is None:
            continue
        expected, x = 2**group.entropy_bits, place + beside
        axes.plot([x, x], [expected, group.perplexity], color=colour, lw=1.2, alpha=0.7)
        axes.plot(x, group.perplexity, "o", color=colour, ms=5)
        axes.plot(x, expected, "_", color=colour, ms=6, mew=2)
