"""The pictures, drawn with matplotlib. Nothing here knows where numbers or files come from."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

TEXTBOOK_PERPLEXITY: Final = 1.1

# Okabe and Ito's colours, told apart with every common kind of colour blindness.
COLOURS: Final = {
    "scratch": "#0072B2",
    "concise": "#D55E00",
    "fused": "#009E73",
    "unigram": "#7F7F7F",
}
LABELS: Final = {
    "scratch": "scratch (the equations)",
    "concise": "concise (nn.GRU)",
    "fused": "fused (derived by hand)",
    "unigram": "unigram baseline",
}


def training_curves(curves: Mapping[str, Sequence[tuple[int, float]]]) -> bytes:
    """Training perplexity by epoch, one line a variant, on a log axis: a PNG.

    ``curves`` maps a variant to its (epoch, perplexity) rows.
    """
    figure, axes = _figure()
    for index, (variant, rows) in enumerate(curves.items()):
        epochs, perplexities = zip(*rows, strict=True)
        label = f"{LABELS[variant]}: {perplexities[-1]:.2f}"
        width = 1.2 + 0.7 * (len(curves) - 1 - index)  # so that one under another is still seen
        axes.plot(epochs, perplexities, color=COLOURS[variant], label=label, lw=width)
    axes.axhline(TEXTBOOK_PERPLEXITY, color="black", lw=0.9, ls="--")
    axes.annotate(
        f"the textbook's {TEXTBOOK_PERPLEXITY}",
        (0.01, TEXTBOOK_PERPLEXITY),
        xycoords=("axes fraction", "data"),
        xytext=(0, 4),
        textcoords="offset points",
        fontsize=9,
    )
    axes.set_yscale("log")
    _plain_log_ticks(axes)
    axes.set_title(_training_finding({variant: rows[-1][1] for variant, rows in curves.items()}))
    axes.set_xlabel("epoch")
    axes.set_ylabel("training perplexity (log scale)")
    axes.legend(frameon=False, title="after the last epoch", alignment="left")
    return _png(figure)


def held_out_bars(scores: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> bytes:
    """Perplexity by split, one bar a predictor, on a log axis: a PNG.

    ``scores`` maps a predictor (variants, and ``unigram``) to its evaluation by split.
    """
    figure, axes = _figure()
    splits = ["train", "val", "test"]
    width = 0.8 / len(scores)
    for index, (name, by_split) in enumerate(scores.items()):
        places = [place + (index - (len(scores) - 1) / 2) * width for place in range(len(splits))]
        heights = [float(by_split[split]["perplexity"]) for split in splits]
        bars = axes.bar(places, heights, width * 0.94, color=COLOURS[name], label=LABELS[name])
        labels = [f"{height:#.3g}".rstrip(".") for height in heights]  # 1.30, 17.4, 115
        axes.bar_label(bars, labels, padding=2, fontsize=9)
    axes.set_yscale("log")
    axes.set_ylim(bottom=1)
    axes.margins(y=0.15)
    _plain_log_ticks(axes)
    axes.set_xticks(range(len(splits)), ["train", "validation", "test"])
    axes.set_ylabel("perplexity (log scale; lower is better)")
    axes.set_title(_held_out_finding(scores))
    axes.legend(frameon=False, loc="upper left", ncols=2, fontsize=9)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high**1.15)
    return _png(figure)


def speed_bars(timings: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Training speed in tokens a second, one bar a variant: a PNG."""
    figure, axes = _figure(height=2.6)
    names = list(timings)
    speeds = [float(timings[name]["tokens_per_second"]) for name in names]
    bars = axes.barh(
        [LABELS[name] for name in names], speeds, color=[COLOURS[name] for name in names]
    )
    axes.bar_label(
        bars,
        [
            f"{speed:,.0f}  ({timings[name]['device']})"
            for speed, name in zip(speeds, names, strict=True)
        ],
        padding=4,
        fontsize=9,
    )
    axes.set_xlim(0, max(speeds) * 1.5)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("training speed (tokens a second, median over epochs)")
    fastest = names[speeds.index(max(speeds))]
    axes.set_title(f"{fastest.capitalize()} trains fastest: {max(speeds):,.0f} tokens a second")
    return _png(figure)


def _training_finding(last: Mapping[str, float]) -> str:
    short = [name for name, value in last.items() if round(value, 1) > TEXTBOOK_PERPLEXITY]
    if not short:
        return f"Every variant reaches the textbook's perplexity of {TEXTBOOK_PERPLEXITY}"
    return f"Not at the textbook's perplexity of {TEXTBOOK_PERPLEXITY}: {', '.join(short)}"


def _held_out_finding(scores: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    chance = float(scores["unigram"]["test"]["perplexity"])
    models = {
        name: float(by_split["test"]["perplexity"])
        for name, by_split in scores.items()
        if name != "unigram"
    }
    worse = [name for name, value in models.items() if value > chance]
    if len(worse) == len(models):
        return "Learnt by heart: on unseen text the models do worse than letter counts"
    if not worse:
        return "On unseen text the models beat the letter counts"
    return f"On unseen text {' and '.join(worse)} does worse than letter counts"


def _figure(height: float = 4.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.6, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.title.set_fontsize(11)
    return figure, axes


def _plain_log_ticks(axes: Axes) -> None:
    """Write 1, 2, 5, 10 ... on the log axis rather than powers of ten."""
    low, high = axes.get_ylim()
    ticks = [m * 10.0**p for p in range(-1, 10) for m in (1, 2, 5) if low <= m * 10.0**p <= high]
    axes.set_yticks(ticks)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
