"""Dark pictures have light text on the page's ground, legible colours and correct colour maps."""

import io
import re

import numpy as np
import pytest
from conftest import PROJECT
from examples import CARDS, gate_arrays
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gru_lm.report import style
from gru_lm.report.dark import CONTRAST, GROUND, INK, contrast, dark, on_dark, recolour
from gru_lm.report.drawing import gates

CHANNEL = st.floats(0, 1)


def rgb(hexadecimal):
    return tuple(int(hexadecimal[i : i + 2], 16) / 255 for i in (1, 3, 5))


@given(CHANNEL, CHANNEL, CHANNEL, CHANNEL)
def test_legible_colours_and_opacity_are_kept(red, green, blue, alpha):
    changed = on_dark((red, green, blue, alpha))
    assert changed[3] == alpha and all(0 <= channel <= 1 for channel in changed)
    grey = max(red, green, blue) - min(red, green, blue) <= 0.06
    if alpha and not grey:
        assert contrast(changed[:3]) >= CONTRAST
        if contrast((red, green, blue)) >= CONTRAST:
            assert changed[:3] == (red, green, blue)


def test_white_and_black_are_swapped():
    assert on_dark((1, 1, 1, 1))[:3] == pytest.approx(GROUND)
    assert on_dark((0, 0, 0, 1))[:3] == pytest.approx(INK)
    assert on_dark((1, 1, 1, 0)) == (1, 1, 1, 0)
    assert contrast((1, 1, 1), (0, 0, 0)) == pytest.approx(21)


def test_colours_are_legible_and_distinct():
    colours = [on_dark((*rgb(colour), 1))[:3] for colour in (*style.PALETTE, style.GREY)]
    assert all(contrast(colour) >= CONTRAST for colour in colours)
    assert len({tuple(np.round(colour, 2)) for colour in colours}) == len(colours)


def test_ground_and_ink_match_page():
    css = (PROJECT / "src/gru_lm/report/page/page.css").read_text()
    for name, colour in (("page", GROUND), ("ink", INK)):
        found = re.search(rf"--{name}: light-dark\(#\w+, (#\w+)\)", css)[1]
        assert rgb(found) == pytest.approx(colour)


def test_all_artists_are_recoloured():
    figure, axes = style.new_figure()
    (line,) = axes.plot([0, 1], "o-", color="black", mfc="white")
    bar = axes.bar([0], [1], color=style.PALETTE[0])[0]
    dots = axes.scatter([0, 1], [0, 1], color=["black", "white"])
    mapped = axes.scatter([0, 1], [1, 0], c=[0.0, 1.0], cmap="cividis")
    note = axes.text(0, 0, "note", bbox={"fc": "white", "ec": "black"})
    axes.set_yticks([0, 1], ["one", "two"])
    axes.get_yticklabels()[0].set_color(style.PALETTE[1])
    figure.draw_without_rendering()
    before = mapped.get_facecolor().copy()
    recolour(figure)
    ground, ink = (*GROUND, 1), (*INK, 1)
    assert figure.get_facecolor() == pytest.approx(ground)
    assert axes.get_facecolor() == pytest.approx(ground)
    assert axes.spines["left"].get_edgecolor() == pytest.approx(ink)
    assert line.get_color() == pytest.approx(ink)
    assert line.get_markerfacecolor() == pytest.approx(ground)
    assert contrast(bar.get_facecolor()[:3]) >= CONTRAST
    np.testing.assert_allclose(dots.get_facecolor(), [ink, ground])
    np.testing.assert_allclose(mapped.get_facecolor(), before)
    assert note.get_color() == pytest.approx(ink)
    assert note.get_bbox_patch().get_facecolor() == pytest.approx(ground)
    first, second = axes.get_yticklabels()
    assert first.get_color() == pytest.approx((*rgb(style.PALETTE[1]), 1))
    assert second.get_color() == pytest.approx(ink)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3)


def test_heat_map_keeps_colours():
    look = style.looks(CARDS)["scratch"]
    draw = [look, gate_arrays(), tuple("abcdefghijklmnop"), "character"]
    light = gates.heat_map(*draw)
    with dark():
        night = gates.heat_map(*draw)
    assert gates.heat_map(*draw) == light  # the block has no effect after its end
    most = [np.unique(pixels(png), axis=0, return_counts=True) for png in (light, night)]
    common = [{tuple(c) for c, n in zip(*one, strict=True) if n > 2000} for one in most]
    ground = tuple(round(255 * channel) for channel in GROUND)
    assert (255, 255, 255) in common[0] and ground in common[1]
    assert len(common[0] - {(255, 255, 255)} & common[1]) > 3
