"""Calibration of a model, and its surprise and entropy by group of tokens.

Each token is predicted from all tokens before it.

* A model is calibrated if, for example, 70 % of its predictions with 70 % confidence are right.
* Surprise is -log2 p of the actual token. The entropy of the predicted distribution is the surprise
  that the model expects. If the probabilities are right, the two are equal on average. A group with
  high surprise and high entropy is hard to predict. A group with high surprise and low entropy
  shows overconfidence. Groups are by position in the word and by kind of character.
"""

from __future__ import annotations

import math
import sys
import unicodedata
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from gru_lm.core.errors import OutOfRange, require_at_least, require_tokens
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.evaluation.words import POSITIONS, positions_in_word, token_categories

BINS: Final = 15  # as in Guo et al. 2017
CLASSES: Final = (
    "vowel",
    "consonant",
    "letter",
    "digit",
    "space",
    "newline",
    "punctuation",
    "other",
)


class Observations:
    """Surprise, entropy and confidence of each prediction; ``add`` observes ``evaluate``."""

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Add the next predictions, ``logits`` (T, V), and the actual tokens, ``targets`` (T,)."""
        log_probs = torch.log_softmax(logits.double(), dim=-1)  # (T, V)
        probs = log_probs.exp()
        confidence, guess = probs.max(dim=-1)  # (T,)
        rows = (
            -log_probs.gather(1, targets[:, None])[:, 0],
            torch.special.entr(probs).sum(dim=-1),  # -p log p, 0 where p is 0
            confidence,
            (guess == targets).double(),
        )
        self._rows.append(torch.stack(rows).cpu().numpy())  # (4, T)

    def columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return surprise and entropy in nats, confidence, and 1 if the top prediction was right.

        Each is (N - 1,) for a stream of N tokens. Raises ValueError without predictions.
        """
        require_at_least(1, number_of_predictions=sum(rows.shape[1] for rows in self._rows))
        surprise, entropy, confidence, right = np.concatenate(self._rows, axis=1)
        return surprise, entropy, confidence, right


def uncertainty(
    observed: Observations, tokens: np.ndarray, vocabulary: Vocabulary
) -> dict[str, Any]:
    """Return the calibration, and surprise and entropy by group, on the stream ``tokens`` (N,).

    ``observed`` has its N - 1 predictions. The result is ``calibration`` (see the function of that
    name), ``overall`` and, by group, ``position_in_word`` and ``character_class``. A group without
    a token is left out. Both are None at word level.

    Raises ValueError if ``observed`` has another number of tokens or a token is unknown.
    """
    surprise, entropy, confidence, right = observed.columns()
    if len(tokens) != len(surprise) + 1:
        raise OutOfRange("len(tokens)", len(tokens), f"{len(surprise) + 1}, as was observed")
    require_tokens(tokens, len(vocabulary))
    everything = np.zeros(len(surprise), dtype=np.intp)
    result: dict[str, Any] = {
        "calibration": calibration(confidence, right),
        "overall": _by_group(surprise, entropy, everything, ("all",))["all"],
        "position_in_word": None,
        "character_class": None,
    }
    if vocabulary.level == "char":
        positions = positions_in_word(tokens, vocabulary)[1:]
        classes = character_classes(vocabulary)[tokens[1:]]
        result["position_in_word"] = _by_group(surprise, entropy, positions, POSITIONS)
        result["character_class"] = _by_group(surprise, entropy, classes, CLASSES)
    return result


def calibration(confidence: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """Return the reliability curve of the top predictions and the expected calibration error (ECE).

    ``confidence`` (N,) is the probability of the most probable token, ``right`` (N,) is 1 if that
    token is the actual one, else 0. Bins (low, high] have equal width. The ECE is the absolute
    difference between accuracy and mean confidence of a bin, averaged over the predictions. Only
    the top prediction is used, because nearly all other probabilities are close to 0. The means of
    a bin without predictions are None.

    Raises ValueError if N is 0, the lengths differ or a confidence is negative or NaN.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599, section 2.
    """
    require_at_least(1, number_of_predictions=len(confidence))
    if len(right) != len(confidence):
        raise OutOfRange("len(right)", len(right), f"{len(confidence)}, as confidence has")
    require_at_least(0, confidence=float(np.min(confidence)))
    edges = np.linspace(0, 1, BINS + 1)
    # A rounded probability may exceed 1 slightly, and no bin contains 0.
    bins = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    confidences = np.bincount(bins, confidence, minlength=BINS)  # sums
    rights = np.bincount(bins, right, minlength=BINS)
    return {
        "ece": float(np.abs(rights - confidences).sum() / len(confidence)),
        "accuracy": float(np.mean(right)),
        "confidence": float(np.mean(confidence)),
        "bins": [
            {
                "low": float(edges[index]),
                "high": float(edges[index + 1]),
                "count": int(count),
                "confidence": float(confidences[index] / count) if count else None,
                "accuracy": float(rights[index] / count) if count else None,
            }
            for index, count in enumerate(counts)
        ],
    }


def character_classes(vocabulary: Vocabulary) -> np.ndarray:
    """Return the kind of each token of the vocabulary as (V,) indices into CLASSES.

    The vowels are a, e, i, o and u with or without accents. All other letters from a to z are
    consonants, including y. Letters of other alphabets are ``letter``. Tokens that are not a single
    character, such as ``<unk>``, are ``other``.
    """

    def kind(token: str, category: str) -> str:
        if token == "\n":
            return "newline"
        if category == "space":
            return "space"
        if category[0] in "LM":
            base = unicodedata.normalize("NFD", token)[0].lower()
            if base in "aeiou":
                return "vowel"
            return "consonant" if "a" <= base <= "z" else "letter"
        return {"N": "digit", "P": "punctuation", "S": "punctuation"}.get(category[0], "other")

    kinds = map(kind, vocabulary.tokens, token_categories(vocabulary))
    return np.array([CLASSES.index(name) for name in kinds])


def _by_group(
    surprise: np.ndarray, entropy: np.ndarray, groups: np.ndarray, names: tuple[str, ...]
) -> dict[str, dict[str, float | int | None]]:
    """Return means by group from nats per token; ``groups`` (N,) are indices into ``names``.

    ``perplexity`` is None if it exceeds the largest float.
    """
    counts = np.bincount(groups, minlength=len(names))
    surprises = np.bincount(groups, surprise, minlength=len(names))  # sums
    entropies = np.bincount(groups, entropy, minlength=len(names))
    result: dict[str, dict[str, float | int | None]] = {}
    for index, name in enumerate(names):
        if count := int(counts[index]):
            mean = float(surprises[index]) / count
            result[name] = {
                "tokens": count,
                "share": count / len(groups),
                "perplexity": math.exp(mean) if mean < math.log(sys.float_info.max) else None,
                "bits_per_token": mean / math.log(2),
                "entropy_bits": float(entropies[index]) / count / math.log(2),
            }
    return result
