"""A page with the results and figures of an experiment, and a passage to explore.

The page is page/page.html with the styles and scripts of that folder inserted. It is a single file
and needs no network. Pictures are data URLs, and the script reads one JSON document. Its
Content-Security-Policy allows only these.
"""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from gru_lm.core.errors import DamagedFile
from gru_lm.core.reading import read_bytes
from gru_lm.report import conclusions, wording
from gru_lm.report.dark import dark
from gru_lm.report.figures import Figure
from gru_lm.report.inputs import Inputs
from gru_lm.report.reader import PASSAGES, reading_document, script_json
from gru_lm.report.wording import SPLIT_NAMES
from gru_lm.results.seeds import Spread

FOLDER: Final = Path(__file__).parent / "page"
STYLES: Final = ("page.css", "tables.css", "reader.css", "pictures.css", "media.css")  # in order
FILTERS: Final = ("capitalised", "count", "figures", "listed", "minutes", "power", "typeset")
PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """A figure as two PNGs of the same size, for the light and the dark theme."""

    figure: Figure
    light: bytes
    dark: bytes

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, from the header of the PNG."""
        width, height = struct.unpack(">II", self.light[16:24])
        return width, height

    @property
    def urls(self) -> dict[str, str]:
        """The pictures as data URLs, by theme."""
        pictures = {"light": self.light, "dark": self.dark}
        return {
            theme: "data:image/png;base64," + base64.b64encode(png).decode()
            for theme, png in pictures.items()
        }


def pictures_of(inputs: Inputs, figures: Iterable[Figure]) -> list[Picture]:
    """Read the figures that the pipelines wrote, and draw them again for the dark theme.

    Raises UnusableFile, before anything is drawn, if a result or a picture is missing or damaged.
    """
    inputs.read_all()
    written = [(figure, read_png(figure.path)) for figure in figures]
    with dark():
        return [Picture(figure, light, figure.png(inputs)) for figure, light in written]


def read_png(path: Path) -> bytes:
    """Return the bytes of the PNG file ``path``. Raises UnusableFile."""
    png = read_bytes(path)
    if png[:8] != PNG_SIGNATURE or len(png) < 24:
        raise DamagedFile(path, "it is not a PNG")
    return png


def render(inputs: Inputs, pictures: Sequence[Picture]) -> str:
    """Return the page as HTML; the same results give the same text."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = {name: getattr(wording, name) for name in FILTERS}
    environment.filters |= {**filters, "spread": spread}
    scripts = ["theme.js", "pictures.js", *(["reader.js"] if inputs.gates else [])]
    css, js = (
        "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in names)
        for names in (STYLES, scripts)
    )
    document = reading_document(inputs.gate_arrays, inputs.vocabulary) if inputs.gates else None
    all_gated = len(inputs.gates) == len(inputs.variants)
    return environment.get_template("page.html").render(
        css=Markup(css),
        js=Markup(js),
        policy=content_security_policy(css, js),
        title=title(len(inputs.variants), all_gated),
        all_gated=all_gated,
        data=script_json(document) if document else None,
        of=inputs,
        summary=inputs.summary,
        splits=SPLIT_NAMES,
        passages=PASSAGES,
        blind_guess=math.log2(len(inputs.vocabulary)),
        conclusions=conclusions.of_page(
            inputs.summary,
            inputs.training,
            inputs.scores,
            len(inputs.vocabulary),
            inputs.unit,
        ),
        kept=conclusions.kept(inputs.training),
        best_known=all(one.best_val for one in inputs.training.values()),
        textbook=[name for name, aim in inputs.textbook.items() if aim is not None],
        headings=list(dict.fromkeys(picture.figure.heading for picture in pictures)),
        pictures=pictures,
        sample_headings=list(dict.fromkeys(h for texts in inputs.samples.values() for h in texts)),
    )


def title(models: int, gated: bool) -> str:
    """Return the page's title for a number of ``models``; ``gated`` if all have a GRU's gates."""
    kind = "GRU language model" if gated else "recurrent language model"
    if models == 1:
        return f"Results of a {kind}"
    return f"Results of {wording.count(models)} {kind}s"


def content_security_policy(css: str, js: str) -> str:
    """Return a policy that allows this style, this script and data URLs, and no network."""

    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest(css)}'; "
        f"script-src 'sha256-{digest(js)}'; base-uri 'none'; form-action 'none'"
    )


def spread(value: Spread) -> Markup:
    """Write mean ± standard deviation over seeds as HTML; only the mean if there is one seed."""
    if value.sd is None:
        return Markup(f"{value.mean:.2f}")
    return Markup(f'{value.mean:.2f} <span class="sd">±&nbsp;{value.sd:.2f}</span>')
