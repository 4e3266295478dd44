"""The JSON document with passages, surprise, alternatives and gates for page/reader.js."""

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
    """Return the document that page/reader.js describes.

    All variants must have read the same passages.
    """
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
    """Convert gate values between 0 and 1 (L, H) to bytes, row by row, with error ≤ 1/510."""
    quantised: bytes = np.rint(gate * 255).astype(np.uint8).tobytes()
    return quantised


def most_surprising(surprise: np.ndarray) -> int:
    """Return the position with the largest ``surprise`` (L,), the first of equals.

    A position without a prediction is NaN. If there are no others, the result is 0.
    """
    predicted = np.nan_to_num(surprise, nan=-1.0)
    return int(predicted.argmax())


def scale_top(surprises: Iterable[np.ndarray]) -> int:
    """Return the end of the colour scale: the 95th percentile in bits, up to a multiple of 4."""
    values = np.concatenate(list(surprises))
    values = values[np.isfinite(values)]
    return max(4, 4 * math.ceil(np.quantile(values, 0.95) / 4)) if len(values) else 4


def script_json(value: Any) -> Markup:
    """Return ``value`` as JSON that is safe inside a script element.

    Without "<" no text can end the element or open a comment. Raises ValueError if a number is NaN
    or infinite.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026"))


def _alternatives(reading: Reading, place: Mapping[int, int]) -> list[list[tuple[int, float]]]:
    """Return (token, probability) of the most probable tokens by position, if it was predicted."""
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
    """Round to four significant figures; None replaces values that are not finite."""
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values]
