"""Colours, size, axes and file format of all pictures.

matplotlib is imported when a picture is drawn, because the page needs only the list of figures.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gru_lm.report.lettering import set_fonts, wrap
from gru_lm.results.card import Card

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

WIDTH: Final = 7.6  # inches, the width of a README's column
MARGIN: Final = 0.1  # inches kept free on both sides of a text that spans the picture
TITLE, PANEL_TITLE, SMALL = 11, 9.5, 9  # points

# The colours of Okabe and Ito can be distinguished with every common kind of colour blindness.
# Yellow is left out because it is too pale for a line.
PALETTE: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
INK: Final = "#000000"
GREY: Final = "#6B6B6B"
PAPER: Final = "#FFFFFF"

# Dashes and markers distinguish the variants in grey print. There are as many as colours.
Dash = str | tuple[float, tuple[float, ...]]  # a line style of matplotlib
DASHES: Final[tuple[Dash, ...]] = (
    "-",
    (0, (5, 1.6)),
    (0, (1.1, 1.1)),
    (0, (6, 1.5, 1.1, 1.5)),
    (0, (2.6, 1.2)),
    (0, (6, 1.4, 1.1, 1.4, 1.1, 1.4)),
    (0, (9, 3)),
)
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class Look:
    """The label, colour, dash and marker of a variant in pictures."""

    name: str
    label: str
    colour: str
    dash: Dash
    marker: str


def looks(cards: Mapping[str, Card]) -> dict[str, Look]:
    """Return the look of each variant, by its place among them.

    From the eighth variant on, colours are reused with another dash and marker.
    """
    found = {}
    for place, (name, card) in enumerate(cards.items()):
        other = (place + place // len(PALETTE)) % len(MARKERS)
        colour = PALETTE[place % len(PALETTE)]
        found[name] = Look(name, card.label, colour, DASHES[other], MARKERS[other])
    return found


def empty_figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure of ``height`` by ``width`` inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def new_figure(height: float = 4.2) -> tuple[Figure, Axes]:
    """Return a figure of ``height`` inches with one pair of axes."""
    figure = empty_figure(height)
    axes = figure.add_subplot()
    open_frame(axes)
    axes.title.set_fontsize(TITLE)
    return figure, axes


def small_multiples(
    titles: Sequence[str], height: float, extra: float = 1.2, most: int = 3
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a pair of axes for each of ``titles``, at most ``most`` per row.

    All axes have the same scales. A row takes ``height`` inches; title and legend take ``extra``.
    """
    rows = math.ceil(len(titles) / most)
    columns = math.ceil(len(titles) / rows)
    lines = [panel_title(title, columns) for title in titles]
    tallest = max(title.count("\n") for title in lines)
    figure = empty_figure(extra + rows * (height + 0.16 * tallest))
    panels: list[Axes] = []
    for place, title in enumerate(lines):
        first = panels[0] if panels else None
        axes = figure.add_subplot(rows, columns, place + 1, sharex=first, sharey=first)
        axes.set_title(title, fontsize=PANEL_TITLE)
        axes.tick_params(labelleft=place % columns == 0, labelbottom=place + columns >= len(titles))
        open_frame(axes)
        panels.append(axes)
    return figure, panels


def panel_title(text: str, columns: int) -> str:
    """Wrap each line of ``text`` to the width of one of ``columns`` panels."""
    width = (WIDTH - 0.8) / columns - 0.1
    return "\n".join(wrap(line, width, PANEL_TITLE) for line in text.split("\n"))


def headline(figure: Figure, text: str) -> None:
    """Add the title of the picture, wrapped to its width."""
    width = figure.get_figwidth() - 2 * MARGIN
    figure.suptitle(wrap(text, width, TITLE), fontsize=TITLE)


def notice(text: str) -> bytes:
    """Return a PNG that shows only ``text``, in place of a picture that cannot be drawn."""
    figure, axes = new_figure(height=1.6)
    axes.set_axis_off()
    headline(figure, text)
    return to_png(figure)


# An optional function that changes a figure before it is saved. The report sets it to draw the
# pictures for the dark theme.
finish: Final[ContextVar[Callable[[Figure], None] | None]] = ContextVar("finish", default=None)


def to_png(figure: Figure) -> bytes:
    """Return ``figure`` as the bytes of a PNG file."""
    set_fonts(figure)
    if (change := finish.get()) is not None:
        change(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def open_frame(axes: Axes, *more: str) -> None:
    """Hide the top and right sides of the frame, and ``more`` sides."""
    axes.spines[["top", "right", *more]].set_visible(False)


def key(colour: str, label: str, **properties: Any) -> Line2D:
    """Return an entry of a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, label=label, **properties)


def keys(shown: Iterable[Look], line: bool = True, **properties: Any) -> list[Line2D]:
    """Return a legend entry per variant, with its name, marker and, if ``line``, its dash."""
    return [
        key(
            look.colour,
            wrap(look.name, WIDTH / 2, SMALL),
            **({"ls": look.dash if line else "", "marker": look.marker} | properties),
        )
        for look in shown
    ]


def key_below(figure: Figure, handles: Sequence[Line2D], **properties: Any) -> None:
    """Add a legend below the axes, with as many columns as fit."""
    properties = {"ncols": 6, "frameon": False, "fontsize": SMALL} | properties
    room = (figure.get_figwidth() - 2 * MARGIN) * figure.dpi
    count = len(handles)
    for most in range(min(properties.pop("ncols"), count), 0, -1):
        columns = math.ceil(count / math.ceil(count / most))  # rows of about equal length
        legend = figure.legend(
            handles=handles, loc="outside lower center", ncols=columns, **properties
        )
        if columns == 1 or legend.get_window_extent().width <= room:
            break
        legend.remove()


def width_below(place: int, count: int, least: float = 1.4, step: float = 0.6) -> float:
    """Return the line width of curve ``place`` of ``count``, wider for curves drawn first."""
    return least + step * (count - 1 - place)


def shift(place: int, count: int, step: float) -> float:
    """Return the offset of mark ``place`` of ``count`` marks side by side, centred on 0."""
    return (place - (count - 1) / 2) * step


def percent_axis(axis: Axis, symbol: str = " %") -> None:
    """Format shares as per cent."""
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=symbol))


def thousands_axis(axis: Axis) -> None:
    """Format numbers with thousands separators, as in 30,000."""
    axis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def epoch_axis(axis: Axis) -> None:
    """Put ticks at whole epochs, few enough for a narrow panel."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(4, integer=True, steps=(1, 2, 5, 10)))


def plain_log_y(axes: Axes) -> None:
    """Label a log y axis with 1, 2, 5, 10, ..., or in even steps if its range is small."""
    from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

    low, high = axes.get_ylim()
    if high > 1e9:
        return  # matplotlib's powers of ten are the most legible
    if high / low > 5:
        ticks = [m * 10.0**p for p in range(-1, 10) for m in (1, 2, 5)]
        axes.set_yticks([tick for tick in ticks if low <= tick <= high])
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def plain_log_x(axes: Axes, ticks: Sequence[float]) -> None:
    """Label a log x axis only at those of ``ticks`` that are in its range."""
    from matplotlib.ticker import NullFormatter, NullLocator

    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
