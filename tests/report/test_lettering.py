"""The width of text in pictures, and fonts for characters that matplotlib's font lacks."""

from __future__ import annotations

from dataclasses import replace

import matplotlib.font_manager as fonts
import numpy as np
import pytest
from examples import CARDS, TIMING, gate_arrays
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from hypothesis import given
from hypothesis import strategies as st
from layout import figure_of, flaws_of, texts_of
from pictures import LOOKS, is_picture, strict

from gru_lm.report import lettering
from gru_lm.report.drawing.curves import speed
from gru_lm.report.drawing.gates import heat_map
from gru_lm.report.lettering import drawable, families, width_of, wrap
from gru_lm.report.style import looks

TEXTS = {
    "Chinese": "月寒致宙天黄宙张盈。天月天出律天、宿天天地天宇天玄玉玄。闰地盈秋玄天地",
    "Arabic": "السلام عليكم ورحمة الله وبركاته",
    "Devanagari": "नमस्ते दुनिया यह एक परीक्षा है",
    "emoji": "😀🚀🎉👍🏽❤️🇩🇪",
}
FAMILY = "Squares"


@pytest.fixture
def only_dejavu(monkeypatch):
    """Hide the installed fonts, so that only those of matplotlib are left."""
    own = [entry for entry in fonts.fontManager.ttflist if entry.name.startswith("DejaVu")]
    monkeypatch.setattr(fonts.fontManager, "ttflist", own)
    monkeypatch.setattr(lettering, "_warned", False)
    forget()
    yield
    monkeypatch.undo()
    forget()


def forget():
    for function in (lettering._fallbacks, lettering._characters, lettering._measured):
        function.cache_clear()


@pytest.fixture
def squares(only_dejavu, tmp_path):
    """Install a font with the characters of TEXTS, all drawn as the same square."""
    needed = "".join(TEXTS.values()) + "\N{DOTTED CIRCLE}"  # the base of a single accent
    characters = sorted({ord(character) for character in needed} - {32})
    builder = FontBuilder(1000, isTTF=True)
    names = [".notdef", "square"]
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap(dict.fromkeys(characters, "square"))
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for point in ((100, 800), (900, 800), (900, 0)):
        pen.lineTo(point)
    pen.closePath()
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": FAMILY, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path = tmp_path / "squares.ttf"
    builder.save(path)
    fonts.fontManager.addfont(path)
    forget()


def map_of(text):
    """Return the heat map of a passage of ``text`` by character."""
    arrays = gate_arrays(length=len(text))
    reading = replace(arrays.readings["train"], tokens=np.arange(len(text)))
    arrays = replace(arrays, readings={"train": reading})
    return lambda: heat_map(LOOKS["scratch"], arrays, tuple(text), "character")


# ------------------------------------------------------------------------------------- measuring


@given(st.text("abc mW,.", max_size=80), st.floats(0.3, 4))
def test_wrapped_lines_fit_and_keep_text(text, width):
    wrapped = wrap(text, width, 10)
    assert all(width_of(line, 10) <= width for line in wrapped.split("\n"))
    assert "".join(wrapped.split()) == "".join(text.split())


def test_fitting_line_breaks_are_kept():
    assert wrap("one\ntwo three", 3, 10) == "one\ntwo three"
    assert wrap("one\n" + "two " * 20, 3, 10).split("\n")[0] != "one"


def test_wrapped_lines_are_balanced():
    lines = wrap("word " * 11, width_of(" ".join(["word"] * 10), 10), 10).split("\n")
    assert [len(line.split()) for line in lines] in ([6, 5], [5, 6])


def test_dollars_are_escaped():
    assert wrap("$x$", 3, 10) == r"\$x\$"


# ----------------------------------------------------------------------------------------- fonts


def test_code_points_replace_characters_without_font(only_dejavu, capsys):
    assert drawable("a天地b\nж") == "a U+5929 U+5730 b\nж"
    assert families("天") == ["DejaVu Sans"]
    assert drawable("plain\ntext") == "plain\ntext"
    drawable("玄")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "天 (U+5929)" in said


@pytest.mark.parametrize("script", TEXTS)
def test_any_script_is_drawn_without_font(only_dejavu, script):
    with strict():
        assert is_picture(map_of(TEXTS[script])())
    figure = figure_of(map_of(TEXTS[script]))
    assert not flaws_of(figure)
    if script in ("Chinese", "emoji"):
        last = f"U+{ord(TEXTS[script][-1]):04X}"
        assert last in [text for text, _ in texts_of(figure)]


@pytest.mark.parametrize("script", TEXTS)
def test_installed_font_is_used(squares, script, capsys):
    text = TEXTS[script]
    with strict():
        assert is_picture(map_of(text)())
    assert drawable(text) == text
    if script != "Arabic":  # DejaVu Sans has Arabic
        assert FAMILY in families(text)
    assert not flaws_of(figure_of(map_of(text)))
    assert not capsys.readouterr().err


def test_tick_labels_use_installed_font(squares):
    found = looks({"fused": CARDS["fused"].model_copy(update={"label": "天地"})})
    with strict():
        assert is_picture(speed(found, {"fused": TIMING}))
