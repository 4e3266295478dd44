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
}
LABELS: Final = {
    "scratch": "scratch (the equations)",
    "concise": "concise (nn.GRU)",
    "fused": "fused (derived by hand)",
}


def training_curves(curves: Mapping[str, Sequence[tuple[int, float]]]) -> bytes:
    """Training perplexity by epoch, one line a variant, on a log axis: a PNG.

    ``curves`` maps a variant to its (epoch, perplexity) rows.
    """
    figure, axes = new_figure()
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
    plain_log_ticks(axes)
    axes.set_title(_training_finding({variant: rows[-1][1] for variant, rows in curves.items()}))
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("epoch")
    axes.set_ylabel("training perplexity (log scale)")
    axes.legend(frameon=False, title="after the last epoch", alignment="left")
    return to_png(figure)


def speed_bars(timings: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Training speed in tokens a second, one bar a variant: a PNG."""
    figure, axes = new_figure(height=2.6)
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
    return to_png(figure)


def _training_finding(last: Mapping[str, float]) -> str:
    short = [name for name, value in last.items() if round(value, 1) > TEXTBOOK_PERPLEXITY]
    if not short:
        return f"Every variant reaches the textbook's perplexity of {TEXTBOOK_PERPLEXITY}"
    return f"Not at the textbook's perplexity of {TEXTBOOK_PERPLEXITY}: {', '.join(short)}"


def new_figure(height: float = 4.2) -> tuple[Figure, Axes]:
    """An empty picture in the project's style, as wide as a README's column, in inches."""
    figure = Figure(figsize=(7.6, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.title.set_fontsize(11)
    return figure, axes


def plain_log_ticks(axes: Axes) -> None:
    """Write 1, 2, 5, 10 ... on the log axis rather than powers of ten."""
    low, high = axes.get_ylim()
    ticks = [m * 10.0**p for p in range(-1, 10) for m in (1, 2, 5) if low <= m * 10.0**p <= high]
    axes.set_yticks(ticks)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def to_png(figure: Figure) -> bytes:
    """The bytes of ``figure`` as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
