"""The document that page/reader.js reads: passages, surprise, alternatives and gates."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from markupsafe import Markup

from gru_lm.data.vocabulary import Vocabulary
from gru_lm.report.wording import LINE_BREAK, SPACE, visible
from gru_lm.results.gates import GateArrays, Reading

PASSAGES: Final = ("val", "train")  # in the order in which the page offers them


def reading_document(gates: Mapping[str, GateArrays], vocabulary: Vocabulary) -> dict[str, Any]:
    """The document that page/reader.js describes. All variants have read the same passages."""
    first = next(iter(gates.values())).readings
    readings = [model.readings[split] for model in gates.values() for split in PASSAGES]
    numbers = [array.ravel() for r in readings for array in (r.tokens, r.top_tokens)]
    used = np.unique(np.concatenate(numbers))
    place = {int(number): index for index, number in enumerate(used)}
    return {
        "unit": vocabulary.unit,
        "lineBreak": LINE_BREAK,
        "space": SPACE,
        "scaleTop": scale_top(reading.surprise for reading in readings),
        "texts": [visible(vocabulary.tokens[number]) for number in place],
        "openAt": {split: most_surprising(first[split].surprise) for split in PASSAGES},
        "passages": {s: [place[int(number)] for number in first[s].tokens] for s in PASSAGES},
        "models": {
            variant: {
                "timeConstant": _rounded(model.time_constant),
                "meanUpdate": _rounded(model.mean_Z),
                "meanReset": _rounded(model.mean_R),
                "readings": {
                    split: {
                        "surprise": _rounded(reading.surprise),
                        "alternatives": _alternatives(reading, place),
                        "update": base64.b64encode(quantise(reading.Z)).decode(),
                        "reset": base64.b64encode(quantise(reading.R)).decode(),
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


def most_surprising(surprise: np.ndarray) -> int:
    """The position with the largest ``surprise`` (L,), the first of equals.

    A position that was not predicted is NaN and is chosen only if there is no other: then it is 0.
    """
    predicted = np.nan_to_num(surprise, nan=-1.0)
    return int(predicted.argmax())


def scale_top(surprises: Iterable[np.ndarray]) -> int:
    """The bits at the end of the colour scale: a multiple of 4 that one token in 20 exceeds."""
    values = np.concatenate(list(surprises))
    values = values[np.isfinite(values)]
    return max(4, 4 * math.ceil(np.quantile(values, 0.95) / 4)) if len(values) else 4


def script_json(value: Any) -> Markup:
    """``value`` as JSON that may be put into a script element, whatever texts it holds.

    Without "<" nothing in it can end the element or open a comment. NaN and infinity are refused
    (ValueError).
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026"))


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
