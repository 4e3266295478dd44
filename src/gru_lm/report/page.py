"""One page about an experiment: its numbers, its pictures, and a text to read with the models.

The page (page/page.html, with the styles and scripts beside it put into it) is a single file that
asks the network for nothing: pictures are data URLs, and the script reads one JSON document. Its
Content-Security-Policy allows these and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from gru_lm.core.errors import DamagedFile, MissingFile
from gru_lm.report import wording
from gru_lm.report.drawing import findings
from gru_lm.report.figures import Figure
from gru_lm.report.inputs import Inputs
from gru_lm.report.reader import PASSAGES, reading_document, script_json
from gru_lm.report.wording import SPLIT_NAMES
from gru_lm.results.seeds import Spread, Summary

FOLDER: Final = Path(__file__).parent / "page"
STYLES: Final = ("page.css", "tables.css", "reader.css", "pictures.css", "media.css")  # in order
FILTERS: Final = ("capitalised", "count", "figures", "minutes", "power", "typeset")
PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """A figure, and the PNG that was drawn of it."""

    figure: Figure
    png: bytes

    @classmethod
    def read(cls, figure: Figure) -> Picture:
        """The picture of the figure that has been written. Raises UnusableFile."""
        try:
            png = figure.path.read_bytes()
        except FileNotFoundError:
            raise MissingFile(figure.path) from None
        if png[:8] != PNG_SIGNATURE or len(png) < 24:
            raise DamagedFile(figure.path, "it is not a PNG")
        return cls(figure, png)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as the PNG's header has them."""
        width, height = struct.unpack(">II", self.png[16:24])
        return width, height

    @property
    def url(self) -> str:
        """The picture itself as a data URL."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


def render(inputs: Inputs, pictures: Sequence[Picture]) -> str:
    """The page as HTML; the same results make the same text."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = {name: getattr(wording, name) for name in FILTERS}
    environment.filters |= {**filters, "perplexity": findings.perplexity, "spread": spread}
    scripts = ["theme.js", *(["reader.js"] if inputs.gates else [])]
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
        predictors=predictors(inputs.summary),
        best={s: min(findings.bits_per_token(inputs.summary, s).values()) for s in SPLIT_NAMES},
        finding=findings.best_on_test(inputs.summary, inputs.unit),
        headings=list(dict.fromkeys(picture.figure.heading for picture in pictures)),
        pictures=pictures,
        sample_headings=list(dict.fromkeys(h for texts in inputs.samples.values() for h in texts)),
    )


def title(models: int, gated: bool) -> str:
    """The page's title, by the number of ``models``; ``gated`` if all have a GRU's gates."""
    kind = "gated recurrent unit" if gated else "recurrent network"
    if models == 1:
        return f"A {kind} reads a book"
    return wording.capitalised(f"{wording.count(models)} {kind}s read a book")


def content_security_policy(css: str, js: str) -> str:
    """A policy that allows this style, this script and pictures within the page: no network."""

    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest(css)}'; "
        f"script-src 'sha256-{digest(js)}'; base-uri 'none'; form-action 'none'"
    )


def predictors(summary: Summary) -> dict[str, dict[str, dict[str, float]]]:
    """Bits per token by kind of predictor, name and split."""
    bits = {split: findings.bits_per_token(summary, split) for split in SPLIT_NAMES}
    kinds = {"Models": list(summary.models), "Baselines": list(summary.baselines)}
    return {
        kind: {name: {split: bits[split][name] for split in SPLIT_NAMES} for name in names}
        for kind, names in kinds.items()
    }


def spread(value: Spread) -> Markup:
    """Mean ± standard deviation over seeds, as HTML; the mean only if there is one seed."""
    if value.sd is None:
        return Markup(f"{value.mean:.2f}")
    return Markup(f'{value.mean:.2f} <span class="sd">±&nbsp;{value.sd:.2f}</span>')
