"""Helpers that check that the texts of a picture are on its canvas and do not overlap."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

TOLERANCE = 1.0  # pixels


@contextmanager
def kept_figures() -> Iterator[list[Figure]]:
    """Collect the figures that are drawn in this block, without rendering them to pixels."""
    kept: list[Figure] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda figure, *_, **__: kept.append(figure))
        yield kept


def figure_of(draw: Callable[[], object]) -> Figure:
    """Return the figure from which ``draw`` makes a PNG."""
    with kept_figures() as kept:
        draw()
    (figure,) = kept
    return figure


def texts_of(figure: Figure) -> list[tuple[str, Bbox]]:
    """Return each text that is drawn, including tick labels, and its box in pixels."""
    found: dict[int, tuple[str, Bbox]] = {}
    draw = Text.draw

    def note(text: Text, renderer, *arguments, **properties) -> None:
        draw(text, renderer, *arguments, **properties)
        if text.get_visible() and text.get_text().strip():
            found[id(text)] = text.get_text(), text.get_window_extent(renderer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", note)
        figure.draw_without_rendering()
    return list(found.values())


def flaws_of(figure: Figure) -> list[str]:
    """Return a description of each text that is cut or overlaps another."""
    texts = texts_of(figure)
    assert texts
    canvas = figure.bbox
    flaws = [
        f"cut: {text!r}"
        for text, box in texts
        if box.x0 < canvas.x0 - TOLERANCE
        or box.y0 < canvas.y0 - TOLERANCE
        or box.x1 > canvas.x1 + TOLERANCE
        or box.y1 > canvas.y1 + TOLERANCE
    ]
    for (one, box), (other, against) in itertools.combinations(texts, 2):
        width = min(box.x1, against.x1) - max(box.x0, against.x0)
        height = min(box.y1, against.y1) - max(box.y0, against.y0)
        if min(width, height) > TOLERANCE:
            flaws.append(f"overlap: {one!r} and {other!r}")
    return flaws
