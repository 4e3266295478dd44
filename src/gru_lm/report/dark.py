"""Dark versions of the pictures, with light text on the dark background of the page.

Only the report draws them. The drawing functions are the same; colours are changed just before a
figure is saved. Text, lines and frames are recoloured. Images, such as heat maps, and artists
coloured by a colour map are not, so their colour bars stay correct.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gru_lm.report import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUND: Final = (0x17 / 255, 0x16 / 255, 0x14 / 255)  # --page of page.css in the dark theme
INK: Final = (0xE9 / 255, 0xE5 / 255, 0xDC / 255)  # --ink of page.css in the dark theme
CONTRAST: Final = 4.5  # least contrast of a colour with the ground, level AA of WCAG for text
NEUTRAL: Final = 0.06  # largest difference between the channels of a grey

Colour = tuple[float, float, float, float]  # red, green, blue and opacity, each from 0 to 1


@contextmanager
def dark() -> Iterator[None]:
    """Draw the pictures of this block for the dark theme."""
    before = style.finish.set(recolour)
    try:
        yield
    finally:
        style.finish.reset(before)


def recolour(figure: Figure) -> None:
    """Change the colours of ``figure`` to those on the dark ground, in place."""
    from matplotlib.collections import Collection
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.text import Text

    figure.draw_without_rendering()  # ticks and their labels exist from here on
    for artist in figure.findobj():
        if isinstance(artist, Text):
            _change(artist, "color")
            if (box := artist.get_bbox_patch()) is not None:
                _change(box, "facecolor", "edgecolor")
        elif isinstance(artist, Line2D):
            _change(artist, "color", "markerfacecolor", "markeredgecolor")
        elif isinstance(artist, Patch) or (
            isinstance(artist, Collection) and artist.get_array() is None
        ):
            _change(artist, "facecolor", "edgecolor")


def _change(artist: Any, *names: str) -> None:
    """Change the colours ``names`` of an artist; all are read before the first is set."""
    from matplotlib.colors import to_rgba_array

    found = {name: to_rgba_array(getattr(artist, f"get_{name}")()) for name in names}
    for name, colours in found.items():
        changed = [on_dark((r, g, b, a)) for r, g, b, a in colours.tolist()]
        many = len(changed) != 1
        set_colour: Callable[[Any], None] = getattr(artist, f"set_{name}")
        set_colour(changed if many else changed[0])


def on_dark(colour: Colour) -> Colour:
    """Convert ``colour``, chosen for white paper, for the dark ground.

    White becomes the ground and black the ink; greys are interpolated. Any other colour is kept if
    its contrast with the ground is at least CONTRAST. Otherwise it is lightened until it is.
    """
    *channels, alpha = colour
    if alpha == 0:
        return colour
    if max(channels) - min(channels) <= NEUTRAL:
        share = sum(channels) / 3
        red, green, blue = _mix(INK, GROUND, share)
        return red, green, blue, alpha
    for white in np.linspace(0, 1, 41):
        red, green, blue = _mix((channels[0], channels[1], channels[2]), (1, 1, 1), float(white))
        if contrast((red, green, blue)) >= CONTRAST:
            break
    return red, green, blue, alpha


def contrast(
    colour: tuple[float, float, float], ground: tuple[float, float, float] = GROUND
) -> float:
    """Return the contrast ratio of two opaque colours as WCAG defines it, from 1 to 21."""
    low, high = sorted((_luminance(colour), _luminance(ground)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: tuple[float, float, float]) -> float:
    values = np.array(colour)
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def _mix(
    one: tuple[float, float, float], other: tuple[float, float, float], share: float
) -> tuple[float, float, float]:
    """Mix ``share`` of the colour ``other`` with 1 - ``share`` of ``one``."""
    red, green, blue = ((1 - share) * a + share * b for a, b in zip(one, other, strict=True))
    return red, green, blue
