"""One page about an experiment: its numbers, its pictures, and a text to read with the models.

The page (report.html, with report.css and report.js put into it) is a single file that asks the
network for nothing: pictures are data URLs, and the script reads one JSON document. Its
Content-Security-Policy allows these and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from gru_lm.data.vocabulary import Vocabulary

FOLDER: Final = Path(__file__).parent
SPLITS: Final = {"train": "training", "val": "validation", "test": "test"}
PASSAGES: Final = ("val", "train")
VARIANTS: Final = {
    "scratch": "the textbook's equations, written out",
    "concise": "PyTorch's own nn.GRU",
    "fused": "scratch's function, its gradients derived by hand",
}
TEXTBOOK_PERPLEXITY: Final = {"scratch": 1.1, "concise": 1.0, "fused": 1.1}  # on The Time Machine
VISIBLE: Final = {" ": ("␣", "space"), "\n": ("⏎", "line break"), "\t": ("⇥", "tab")}
SUPERSCRIPT: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Reading:
    """What a model did on L consecutive tokens with its H units, and K alternatives for each.

    ``surprise`` is -log2 of the probability that the token had before it was read, and the
    alternatives are the likeliest tokens in its place; NaN where there was no prediction. The
    gates are those of the step that reads the token.
    """

    tokens: np.ndarray  # (L,)
    update: np.ndarray  # (L, H)
    reset: np.ndarray  # (L, H)
    surprise: np.ndarray  # (L,), bits
    top_tokens: np.ndarray  # (L, K)
    top_probabilities: np.ndarray  # (L, K)


@dataclass(frozen=True)
class Gates:
    """A model's readings by split (train and val), and what its H units do on average.

    ``time_constant`` is in tokens; that of a unit which never forgets is infinite.
    """

    readings: Mapping[str, Reading]
    mean_update: np.ndarray  # (H,)
    mean_reset: np.ndarray  # (H,)
    time_constant: np.ndarray  # (H,)

    def require_fitting(self, vocab_size: int) -> None:
        """Raise ValueError where shapes, token numbers or gate values are impossible."""
        H = self.mean_update.shape
        if len(H) != 1 or {self.mean_reset.shape, self.time_constant.shape} != {H}:
            raise ValueError("the units' means are not of one length")
        for split, reading in self.readings.items():
            L, top = reading.tokens.shape, reading.top_tokens.shape
            if (
                len(L) != 1
                or {reading.update.shape, reading.reset.shape} != {L + H}
                or reading.surprise.shape != L
                or (top[:-1], top) != (L, reading.top_probabilities.shape)
            ):
                raise ValueError(f"the arrays of {split} do not fit each other")
            for gate in (reading.update, reading.reset):
                if not ((gate >= 0) & (gate <= 1)).all():
                    raise ValueError(f"a gate of {split} is not between 0 and 1")
            for numbers in (reading.tokens, reading.top_tokens):
                if not ((numbers >= 0) & (numbers < vocab_size)).all():
                    raise ValueError(f"a token of {split} is not in the vocabulary")


@dataclass(frozen=True)
class Picture:
    """A PNG, the heading that it stands under, what it shows, and what to look at in it."""

    heading: str
    png: bytes
    alt: str
    caption: str

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as the PNG's header has them."""
        width, height = struct.unpack(">II", self.png[16:24])
        return width, height

    @property
    def url(self) -> str:
        """The picture itself as a data URL."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Results:
    """All that the page shows; each mapping but ``summary`` is by variant.

    ``summary`` holds ``seeds`` and, over them, ``models`` and ``baselines``. ``training``,
    ``timing`` and ``export`` are the metrics of this run. ``samples`` maps a heading (greedy,
    temperature 0.5) to the texts under it.
    """

    summary: Mapping[str, Any]
    training: Mapping[str, Mapping[str, Any]]
    timing: Mapping[str, Mapping[str, Any]]
    export: Mapping[str, Mapping[str, Any]]
    samples: Mapping[str, Mapping[str, Sequence[str]]]
    gates: Mapping[str, Gates]
    pictures: Sequence[Picture]


def render(results: Results, vocabulary: Vocabulary) -> str:
    """The page as HTML; the same results make the same text."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    predictors = _predictors(results.summary)
    best = {
        split: min(
            (
                bits
                for rows in predictors.values()
                for score in rows.values()
                if (bits := score[split]) is not None
            ),
            default=None,
        )
        for split in SPLITS
    }
    environment.filters |= {f.__name__: f for f in (figures, spread, minutes, power, typeset)}
    css, js = ((FOLDER / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return environment.get_template("page.html").render(
        css=Markup(css),
        js=Markup(js),
        policy=content_security_policy(css, js),
        data=script_json(reading_document(results.gates, vocabulary)),
        results=results,
        variants=VARIANTS,
        textbook=TEXTBOOK_PERPLEXITY,
        splits=SPLITS,
        passages=PASSAGES,
        unit=unit_name(vocabulary),
        vocabulary=vocabulary,
        blind_guess=math.log2(len(vocabulary)),
        predictors=predictors,
        finding=_finding(predictors, unit_name(vocabulary)),
        best=best,
        headings=list(dict.fromkeys(picture.heading for picture in results.pictures)),
        sample_headings=list(dict.fromkeys(h for texts in results.samples.values() for h in texts)),
    )


def reading_document(gates: Mapping[str, Gates], vocabulary: Vocabulary) -> dict[str, Any]:
    """What report.js reads: see there. All variants must have read the same passages."""
    first = next(iter(gates.values())).readings
    readings = [model.readings[split] for model in gates.values() for split in PASSAGES]
    numbers = [array.ravel() for r in readings for array in (r.tokens, r.top_tokens)]
    used = np.unique(np.concatenate(numbers))
    place = {int(number): index for index, number in enumerate(used)}
    return {
        "unit": unit_name(vocabulary),
        "scaleTop": scale_top(reading.surprise for reading in readings),
        "texts": [visible(vocabulary.tokens[number]) for number in place],
        "passages": {s: [place[int(number)] for number in first[s].tokens] for s in PASSAGES},
        "models": {
            variant: {
                "timeConstant": _rounded(model.time_constant),
                "meanUpdate": _rounded(model.mean_update),
                "meanReset": _rounded(model.mean_reset),
                "readings": {
                    split: {
                        "surprise": _rounded(reading.surprise),
                        "alternatives": _alternatives(reading, place),
                        "update": base64.b64encode(quantise(reading.update)).decode(),
                        "reset": base64.b64encode(quantise(reading.reset)).decode(),
                    }
                    for split, reading in model.readings.items()
                },
            }
            for variant, model in gates.items()
        },
    }


def quantise(gate: np.ndarray) -> bytes:
    """Gate values between 0 and 1 (L, H) as a byte each, row by row: off by 1/510 at most."""
    quantised: bytes = np.rint(gate * 255).astype(np.uint8).tobytes()
    return quantised


def scale_top(surprises: Iterable[np.ndarray]) -> int:
    """The bits at the end of the colour scale: a multiple of 4 that one token in 20 exceeds."""
    values = np.concatenate(list(surprises))
    values = values[np.isfinite(values)]
    return max(4, 4 * math.ceil(np.quantile(values, 0.95) / 4)) if len(values) else 4


def visible(token: str) -> tuple[str, str]:
    """How ``token`` is shown, and how it is called: white space gets a sign, the rest is itself."""
    if token in VISIBLE:
        return VISIBLE[token]
    if all(unicodedata.category(character)[0] in "CZ" for character in token):
        number = " ".join(f"U+{ord(character):04X}" for character in token)
        return number, number
    if unicodedata.combining(token[0]):
        return f"◌{token}", token  # an accent needs something to stand on
    return token, token


def script_json(value: Any) -> Markup:
    """``value`` as JSON that may stand within a script element, whatever texts it holds.

    Without "<" nothing in it can end the element or open a comment. NaN and infinity are refused
    (ValueError).
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026"))


def content_security_policy(css: str, js: str) -> str:
    """A policy that allows this style, this script and pictures within the page: no network."""

    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest(css)}'; "
        f"script-src 'sha256-{digest(js)}'; base-uri 'none'; form-action 'none'"
    )


def unit_name(vocabulary: Vocabulary) -> str:
    """What a token is called in a sentence."""
    return "character" if vocabulary.level == "char" else "word"


def figures(value: float) -> str:
    """Three significant figures: 1.07, 17.4, 113 and, with all of its digits, 12,345."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def spread(value: Mapping[str, float | None]) -> Markup:
    """Mean ± standard deviation over seeds, as HTML; the mean only where there is one seed."""
    if value["sd"] is None:
        return Markup(f"{value['mean']:.2f}")
    return Markup(f'{value["mean"]:.2f} <span class="sd">±&nbsp;{value["sd"]:.2f}</span>')


def power(value: float) -> str:
    """To one figure as a power of ten, 6 × 10⁻⁵; 0 as it is."""
    if value == 0:
        return "0"
    figure, exponent = f"{value:.0e}".split("e")
    return f"{figure}\u202f\u00d7\u202f10" + str(int(exponent)).translate(SUPERSCRIPT)


def minutes(seconds: float) -> str:
    """A duration as 2:21."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02}"


def typeset(text: str) -> str:
    """With the apostrophes of print."""
    return text.replace("'", "\u2019")


def _predictors(summary: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Bits a token of models (the mean over seeds) and baselines by split, None where unknown."""
    models = {
        name: {split: score[split]["bits_per_token"]["mean"] for split in SPLITS}
        for name, score in summary["models"].items()
    }
    baselines = {
        name: {split: (score.get(split) or {}).get("bits_per_token") for split in SPLITS}
        for name, score in summary["baselines"].items()
    }
    return {"Models": models, "Baselines": baselines}


def _finding(predictors: Mapping[str, Mapping[str, Mapping[str, float | None]]], unit: str) -> str:
    """The best model and the best baseline on the test split, in a sentence."""
    best = {
        kind: min(((s["test"], name) for name, s in rows.items() if s["test"]), default=(None, ""))
        for kind, rows in predictors.items()
    }
    (bits, model), (bits_to_beat, baseline) = best["Models"], best["Baselines"]
    if bits is None or bits_to_beat is None:
        return ""
    verdict = "better" if bits < bits_to_beat else "worse"
    return (
        f"On the test text, to which nothing was fitted, the best model ({model}) takes {bits:.2f} "
        f"bits per {unit}: {verdict} than the best baseline ({baseline}), which takes "
        f"{bits_to_beat:.2f}."
    )


def _alternatives(reading: Reading, place: Mapping[int, int]) -> list[list[tuple[int, float]]]:
    """By position, (token, probability) of the likeliest tokens; none without a prediction."""
    return [
        [
            (place[int(number)], float(f"{probability:.3g}"))
            for number, probability in zip(numbers, probabilities, strict=True)
            if probability > 0  # NaN is not
        ]
        for numbers, probabilities in zip(
            reading.top_tokens, reading.top_probabilities, strict=True
        )
    ]


def _rounded(values: np.ndarray) -> list[float | None]:
    """To four significant figures; None for what is no finite number."""
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values]
