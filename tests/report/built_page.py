"""Helpers that make a page and parse it as a browser without JavaScript does."""

import html.parser
from pathlib import Path

import pytest
from examples import png

from gru_lm.core.files import write_text
from gru_lm.core.params import load_params
from gru_lm.core.settings import CoreSettings
from gru_lm.report.figures import figures
from gru_lm.report.inputs import Inputs
from gru_lm.report.page import Picture, render


def build(root, variants=None, width=4, height=3):
    """Write the page of the project ``root`` and return its path.

    Its pictures are plain grey, so that nothing has to be drawn. ``variants`` are by default those
    of its params.yaml.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        inputs = Inputs(variants or load_params(CoreSettings).variants)
        light, dark = png(width, height), png(width, height, value=20)
        pictures = [Picture(figure, light, dark) for figure in figures(inputs)]
        write_text(Path("reports/index.html"), render(inputs, pictures))
    return root / "reports/index.html"


class Outline(html.parser.HTMLParser):
    """Elements with their attributes and text, as in a browser without JavaScript."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)

    def handle_starttag(self, name, attributes):
        element = {"name": name, "attributes": dict(attributes), "text": ""}
        self.elements.append(element)
        if name not in ("meta", "link", "img", "input", "br"):
            self.open.append(element)

    def handle_endtag(self, name):
        assert self.open.pop()["name"] == name, "the elements are nested wrongly"

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def texts(self, name):
        return [" ".join(e["text"].split()) for e in self.elements if e["name"] == name]

    def attributes(self, name):
        return [e["attributes"] for e in self.elements if e["name"] == name]
