"""The pictures of what the models do on text that they have not seen.

As in ``gru_lm.report.style``, each is a PNG whose title states what the numbers given show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter

from gru_lm.report.style import COLOURS, LABELS, new_figure, plain_log_ticks, to_png

Curve = Sequence[tuple[int, float]]  # (epoch, perplexity) rows

GREY: Final = "#6B6B6B"
EXPECTED: Final = "what the model expects (2^entropy)"
EN_DASH: Final = "\N{EN DASH}"
OVERFITTED: Final = 1.05  # validation perplexity at the end, over its lowest
CALIBRATED: Final = 0.05  # expected calibration error up to which probabilities are called true
SPLIT_LABELS: Final = {"train": "training", "val": "validation", "test": "test"}
COMPRESSORS: Final = ("xz", "bzip2")
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
PLACES_IN_TEXT: Final = {
    "1": "a word's first letter",
    "2": "a word's second letter",
    "3": "a word's third letter",
    "4": "a word's fourth letter",
    "5": "a word's fifth letter",
    "6+": "a letter after the fifth",
    "end": "the space after a word",
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


# --------------------------------------------------------------------------------- overfitting


def overfitting(curves: Mapping[str, Mapping[str, Curve]]) -> bytes:
    """Training and validation perplexity by epoch, the lowest of validation marked: a PNG.

    ``curves`` maps a variant to its rows by split, ``train`` and ``val``; a split may have none.
    """
    figure, axes = new_figure()
    handles = []
    for index, (variant, splits) in enumerate(curves.items()):
        colour = COLOURS[variant]
        width = 1.4 + 0.6 * (len(curves) - 1 - index)  # so that one under another is still seen
        label = LABELS[variant]
        if splits["train"]:
            axes.plot(*zip(*splits["train"], strict=True), color=colour, lw=width * 0.6, ls=":")
        if splits["val"]:
            axes.plot(*zip(*splits["val"], strict=True), color=colour, lw=width)
            epoch, lowest = _lowest(splits["val"])
            axes.plot(epoch, lowest, "o", color=colour, mec="white", ms=5 + 2 * width, zorder=3)
            last = splits["val"][-1][1]
            label += f": {_short(lowest)} at epoch {epoch}, {_short(last)} at the end"
        handles.append(Line2D([], [], color=colour, lw=2, label=label))
    axes.set_yscale("log")
    _plain_ticks(axes)
    axes.set_title(overfitting_finding({name: splits["val"] for name, splits in curves.items()}))
    axes.set_xlabel("epoch")
    axes.set_ylabel("perplexity (log scale; lower is better)")
    splits_key = [
        Line2D([], [], color=GREY, lw=2, label="validation split"),
        Line2D([], [], color=GREY, ls="", marker="o", ms=8, mec="white", label="its lowest"),
        Line2D([], [], color=GREY, lw=1.2, ls=":", label="training split"),
    ]
    figure.legend(handles=handles, loc="outside lower left", frameon=False, fontsize=9)
    figure.legend(handles=splits_key, loc="outside lower right", frameon=False, fontsize=9)
    return to_png(figure)


def overfitting_finding(curves: Mapping[str, Curve]) -> str:
    """What validation perplexity by epoch shows; ``curves`` by variant."""
    curves = {name: rows for name, rows in curves.items() if rows}
    if not curves:
        return "Training perplexity; the validation split was not looked at"
    lowest = {name: _lowest(rows) for name, rows in curves.items()}
    over = [name for name in curves if curves[name][-1][1] > OVERFITTED * lowest[name][1]]
    if not over:
        best = _range(value for _, value in lowest.values())
        return f"No overfitting: validation perplexity ends at or near its lowest, {best}"
    who = "" if len(over) == len(curves) else f" ({_and(over)})"
    epochs = _range((lowest[name][0] for name in over), str)
    best = _range(lowest[name][1] for name in over)
    last = _range(curves[name][-1][1] for name in over)
    return (
        f"Overfitting after epoch {epochs}{who}: validation perplexity\n"
        f"is lowest there, {best}, and ends at {last}"
    )


def _lowest(rows: Curve) -> tuple[int, float]:
    """The row with the lowest perplexity, the first of equals."""
    return min(rows, key=lambda row: row[1])


# ------------------------------------------------------------------------------------ held out


def held_out(summary: Mapping[str, Any], unit: str = "character") -> bytes:
    """Bits a token on each split, one row a predictor, the best on validation on top: a PNG.

    ``summary`` has ``seeds``, the ``models`` with mean and spread, and the ``baselines``. A token
    is a ``unit``: a character, or a word.
    """
    models = summary["models"]
    bits = {split: _bits(summary, split) for split in SPLIT_LABELS}
    order = sorted(bits["val"], key=bits["val"].__getitem__, reverse=True)
    figure, axes = new_figure(height=1.6 + 0.3 * len(order))
    right: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 9}
    for row, name in enumerate(order):
        colour = COLOURS[name] if name in models else GREY
        marker = "o" if name in models else "s" if name in COMPRESSORS else "D"
        value, label = bits["val"][name], f"{bits['val'][name]:.2f}"
        axes.plot([0, value], [row, row], color=colour, lw=1, alpha=0.3, zorder=1)
        axes.plot(bits["train"][name], row, "|", color=colour, ms=10, mew=1.6)
        axes.plot(bits["test"][name], row, marker, mfc="white", mec=colour, ms=6)
        sd = models[name]["val"]["bits_per_token"]["sd"] if name in models else None
        if sd is not None:
            axes.errorbar(value, row, xerr=sd, color=colour, elinewidth=1.5, capsize=5, zorder=4)
            label += f" ± {sd:.2f}"
        axes.plot(value, row, marker, color=colour, mec="white", ms=8)
        if name in models and models[name].get("best_val"):
            best = models[name]["best_val"]["bits_per_token"]["mean"]
            axes.plot(best, row, "*", color=colour, mec="white", ms=12)
        axes.text(1.01, row, label, color=colour, **right)
    axes.text(1.01, len(order) - 0.3, "validation", **right)
    axes.set_yticks(range(len(order)), [_predictor(name, unit) for name in order], fontsize=9)
    for tick, name in zip(axes.get_yticklabels(), order, strict=True):
        tick.set_color(COLOURS[name] if name in models else "black")
    axes.set_xlim(left=0)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"bits per {unit} (lower is better)")
    axes.set_title(held_out_finding(summary, unit), x=0.36)
    seeds = len(summary["seeds"])
    spread = f"mean of {seeds} seeds ± standard deviation" if seeds > 1 else "one seed"
    key = [
        Line2D([], [], color="black", marker="o", ms=8, mec="white", ls="", label="validation"),
        Line2D([], [], color="black", marker="o", ms=6, mfc="white", ls="", label="test"),
        Line2D([], [], color="black", marker="|", ms=10, mew=1.6, ls="", label="training"),
        Line2D([], [], color=COLOURS["scratch"], marker="o", ls="", label=f"GRU ({spread})"),
        Line2D(
            [],
            [],
            color=COLOURS["scratch"],
            marker="*",
            ms=11,
            ls="",
            label="GRU at its best epoch",
        ),
        Line2D([], [], color=GREY, marker="D", ls="", label="n-gram"),
        Line2D([], [], color=GREY, marker="s", ls="", label="compressor"),
    ]
    figure.legend(
        handles=key,
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=8.5,
        handletextpad=0.2,
        columnspacing=1.1,
    )
    return to_png(figure)


def held_out_finding(summary: Mapping[str, Any], unit: str = "character") -> str:
    """Who is best on the validation split, and where the models stand."""
    bits = _bits(summary)
    models = {name: bits[name] for name in summary["models"]}
    baselines = {name: bits[name] for name in summary["baselines"]}
    best_model, rival = min(models, key=models.__getitem__), min(baselines, key=bits.__getitem__)
    if models[best_model] < bits[rival]:
        ahead = bits[rival] - models[best_model]
        return (
            f"On unseen text {best_model} is best: {models[best_model]:.2f} bits per {unit},\n"
            f"{ahead:.2f} fewer than {_name_in_text(rival)}"
        )
    behind = f"the best GRU needs {models[best_model] - bits[rival]:.2f} more"
    for floor, name in (("uniform", "a blind guess"), ("unigram", f"{unit} counts")):
        if floor in bits and all(value > bits[floor] for value in models.values()):
            behind = f"every GRU ends up worse than {name}, {bits[floor]:.2f}"
            if all(model.get("best_val") for model in summary["models"].values()):
                best = [m["best_val"]["bits_per_token"]["mean"] for m in summary["models"].values()]
                behind += f"\n(at its best epoch {_range(best)})"
            break
    ahead_of_all = f"{_name_in_text(rival)} is best: {bits[rival]:.2f} bits per {unit}"
    return f"On unseen text {ahead_of_all};\n{behind}"


def _bits(summary: Mapping[str, Any], split: str = "val") -> dict[str, float]:
    """Bits a token of every predictor on ``split``; of the models, the mean over the seeds."""
    models = {
        name: float(by_split[split]["bits_per_token"]["mean"])
        for name, by_split in summary["models"].items()
    }
    return models | {
        name: float(by_split[split]["bits_per_token"])
        for name, by_split in summary["baselines"].items()
    }


def _predictor(name: str, unit: str) -> str:
    """A predictor's label on the axis."""
    if name == "uniform":
        return "uniform (blind guess)"
    if name == "unigram":
        return f"unigram ({unit} counts)"
    if name.endswith("-gram"):
        return f"{name} Kneser-Ney"
    return LABELS.get(name, name)


def _name_in_text(name: str) -> str:
    return f"the {name} model" if name.endswith("gram") else name


# --------------------------------------------------------------------------------- calibration


def calibration(uncertainty: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Reliability diagrams of the training and the validation split: a PNG.

    ``uncertainty`` maps a variant to its splits, as the stage evaluate measures them. Under
    each diagram stands the share of the predictions in each bin of confidence.
    """
    figure, _ = new_figure(height=4.7)
    figure.clear()
    grid = figure.add_gridspec(2, 2, height_ratios=[4, 1])
    for column, split in enumerate(("train", "val")):
        curve, histogram = (figure.add_subplot(grid[row, column]) for row in range(2))
        for axes in (curve, histogram):
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_xlim(0, 1)
            axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
            axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        curve.plot([0, 1], [0, 1], color="black", lw=0.9, ls="--")
        curve.text(0.38, 0.405, "calibrated", rotation=45, rotation_mode="anchor", fontsize=9)
        for index, (variant, splits) in enumerate(uncertainty.items()):
            measured = splits[split]["calibration"]
            bins = [entry for entry in measured["bins"] if entry["count"]]
            count = sum(entry["count"] for entry in bins)
            confidences = [entry["confidence"] for entry in bins]
            accuracies = [entry["accuracy"] for entry in bins]
            shares = [entry["count"] / count for entry in bins]
            label = f"{variant}: ECE {measured['ece']:.3f}"
            curve.plot(confidences, accuracies, lw=1.2, color=COLOURS[variant], label=label)
            areas = [5 + 60 * share for share in shares]
            curve.scatter(confidences, accuracies, areas, COLOURS[variant], clip_on=False, zorder=3)
            width = (bins[0]["high"] - bins[0]["low"]) * 0.9 / len(uncertainty)
            histogram.bar(
                [
                    (entry["low"] + entry["high"]) / 2
                    + (index - (len(uncertainty) - 1) / 2) * width
                    for entry in bins
                ],
                shares,
                width,
                color=COLOURS[variant],
            )
        curve.set_ylim(0, 1)
        curve.tick_params(labelbottom=False)
        curve.set_title(f"{SPLIT_LABELS[split]} split", fontsize=10)
        curve.legend(frameon=False, loc="upper left", fontsize=9)
        histogram.set_ylim(0, 1)
        histogram.set_xlabel("confidence: probability of the top prediction")
        if column == 0:
            curve.set_ylabel("accuracy: share that came true")
            histogram.set_ylabel("share")
    figure.suptitle(calibration_finding(uncertainty), fontsize=11)
    return to_png(figure)


def calibration_finding(uncertainty: Mapping[str, Mapping[str, Any]]) -> str:
    """Whether the probabilities on the validation split can be believed."""
    measured = {name: splits["val"]["calibration"] for name, splits in uncertainty.items()}
    sure = _percent(entry["confidence"] for entry in measured.values())
    right = _percent(entry["accuracy"] for entry in measured.values())
    figures = f"{sure} sure, {right} right"
    believed = [name for name, entry in measured.items() if entry["ece"] <= CALIBRATED]
    if len(believed) == len(measured):
        return f"On unseen text the probabilities can be believed: {figures}"
    if believed:
        return f"On unseen text only those of {_and(believed)} can be believed: {figures}"
    gaps = [entry["confidence"] - entry["accuracy"] for entry in measured.values()]
    if min(gaps) > 0:
        return f"On unseen text the models are overconfident: {figures}"
    if max(gaps) < 0:
        return f"On unseen text the models are underconfident: {figures}"
    return f"On unseen text the probabilities cannot be believed: {figures}"


# --------------------------------------------------------------------------- where uncertain


def where_uncertain(uncertainty: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Perplexity beside the one that the model expected, by place and kind of character: a PNG.

    ``uncertainty`` maps a variant to its splits, as the stage evaluate measures them.
    Validation stands above, training below. Words have neither place nor kind: then there is one
    panel a split, for the split as a whole.
    """
    columns = [
        (key, labels, title)
        for key, labels, title in (
            ("position_in_word", POSITION_LABELS, "place in the word"),
            ("character_class", CLASS_LABELS, "kind of character"),
        )
        if _groups(uncertainty, key, labels)
    ]
    panels = columns or [("", {}, "(at word level a token has neither place nor kind)")]
    figure, _ = new_figure(height=6.4 if columns else 4.6)
    figure.clear()
    present = [_groups(uncertainty, key, labels) for key, labels, _ in panels]
    present[0] = ["all", *present[0]]
    widths = [len(groups) for groups in present]
    grid = figure.add_gridspec(2, len(panels), width_ratios=widths)
    for row, split in enumerate(("val", "train")):
        first: Axes | None = None
        for column, (key, labels, title) in enumerate(panels):
            axes = figure.add_subplot(grid[row, column], sharey=first)
            first = first or axes
            axes.spines[["top", "right"]].set_visible(False)
            groups = present[column]
            for index, (variant, splits) in enumerate(uncertainty.items()):
                shift = (index - (len(uncertainty) - 1) / 2) * 0.24
                measured = {"all": splits[split]["overall"], **(splits[split].get(key) or {})}
                _dumbbells(axes, [measured.get(name) for name in groups], shift, COLOURS[variant])
            if groups[0] == "all" and len(groups) > 1:
                axes.axvline(0.5, color=GREY, lw=0.6, alpha=0.5)
            names = [labels.get(name, name) for name in groups]
            if sum(widths) > 13:  # side by side they would run into each other
                names = [name.replace("-\n", "").replace("\n", " ") for name in names]
                axes.tick_params(axis="x", rotation=90)
            axes.set_xticks(range(len(groups)), names, fontsize=9)
            edge = 0.5 if len(groups) > 1 else 2
            axes.set_xlim(-edge, len(groups) - 1 + edge)
            axes.set_yscale("log")
            if row == 1:
                axes.set_xlabel(title)
            if column == 0:
                axes.set_ylabel(f"perplexity on the\n{SPLIT_LABELS[split]} split (log scale)")
            else:
                axes.tick_params(labelleft=False)
        if first is not None:
            _plain_ticks(first)
    figure.suptitle(where_finding(uncertainty), fontsize=11)
    key_handles = [
        Line2D([], [], color=COLOURS[variant], marker="o", lw=1.2, label=variant)
        for variant in uncertainty
    ]
    key_handles += [
        Line2D([], [], color=GREY, marker="o", ls="", label="perplexity"),
        Line2D(
            [],
            [],
            color=GREY,
            marker="_",
            ms=9,
            mew=2,
            ls="",
            label=EXPECTED,
        ),
    ]
    figure.legend(
        handles=key_handles, loc="outside lower center", ncols=5, frameon=False, fontsize=9
    )
    return to_png(figure)


def where_finding(uncertainty: Mapping[str, Mapping[str, Any]]) -> str:
    """What the models expect and pay on the validation split, and where they pay most and least."""
    overall = [splits["val"]["overall"] for splits in uncertainty.values()]
    expected = _short(2 ** fmean(entry["entropy_bits"] for entry in overall))
    paid = _short(2 ** fmean(entry["bits_per_token"] for entry in overall))
    text = f"On unseen text the models expect a perplexity of {expected} and reach {paid}"
    places = {}
    for name in _groups(uncertainty, "position_in_word", PLACES_IN_TEXT, ["val"]):
        measured = [splits["val"]["position_in_word"][name] for splits in uncertainty.values()]
        if all(entry["perplexity"] for entry in measured):  # None: beyond the largest float
            places[name] = fmean(entry["bits_per_token"] for entry in measured)
    if len(places) < 2:
        return text
    worst, best = max(places, key=places.__getitem__), min(places, key=places.__getitem__)
    return (
        f"{text};\nhardest is {PLACES_IN_TEXT[worst]} ({_short(2 ** places[worst])}), "
        f"easiest {PLACES_IN_TEXT[best]} ({_short(2 ** places[best])})"
    )


def _groups(
    uncertainty: Mapping[str, Mapping[str, Any]],
    key: str,
    names: Iterable[str],
    splits: Sequence[str] = ("val", "train"),
) -> list[str]:
    """Those of ``names`` that some split has, in their order. Every variant read the same text."""
    measured = next(iter(uncertainty.values()))
    present = {name for split in splits for name in measured[split].get(key) or ()}
    return [name for name in names if name in present]


def _dumbbells(
    axes: Axes, measured: Sequence[Mapping[str, Any] | None], shift: float, colour: str
) -> None:
    """A line a group, from the perplexity that the model expected to the one that it reached."""
    for place, entry in enumerate(measured):
        if entry is None or entry["perplexity"] is None:
            continue
        expected, x = 2 ** entry["entropy_bits"], place + shift
        axes.plot([x, x], [expected, entry["perplexity"]], color=colour, lw=1.2, alpha=0.7)
        axes.plot(x, entry["perplexity"], "o", color=colour, ms=5)
        axes.plot(x, expected, "_", color=colour, ms=6, mew=2)


# -------------------------------------------------------------------------------------- helpers


def _plain_ticks(axes: Axes) -> None:
    """Plain figures on a log axis: 1, 2, 5, 10 ..., or round steps where it spans little."""
    low, high = axes.get_ylim()
    if high > 1e9:
        return  # powers of ten are the plainest there
    if high / low > 5:
        plain_log_ticks(axes)
        return
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _short(value: float) -> str:
    """Three significant digits or a whole number: 1.30, 17.4, 115, 4,210."""
    if 999.5 <= value < 1e6:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


def _range(values: Iterable[float], write: Callable[[float], str] = _short) -> str:
    """The lowest and the highest of ``values``, or one figure where both read the same."""
    values = list(values)
    return EN_DASH.join(dict.fromkeys(map(write, (min(values), max(values)))))


def _percent(shares: Iterable[float]) -> str:
    """The range of shares, in per cent."""
    return _range((100 * share for share in shares), "{:.0f}".format) + " %"


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
