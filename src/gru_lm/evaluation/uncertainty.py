"""Where a model is uncertain, and whether its probabilities can be believed.

Two questions about the same predictions, each token from all before it:

* Calibration: of the tokens that the model predicts with 70 % confidence, are 70 % right?
* Surprise against entropy, by position in the word and by kind of character. Surprise, -log2 p of
  the token that came, is what the model paid; the entropy of the predicted distribution is what it
  expected to pay. The two agree on average where the probabilities are true, so a group with high
  surprise and high entropy is hard to predict and known to be, while high surprise with low entropy
  is overconfidence.
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

BINS: Final = 15  # Guo et al. 2017 use as many
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
    """What is kept of each prediction on a stream; ``add`` is an observer for ``evaluate``."""

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Take in the next predictions: ``logits`` (T, V) and what came, ``targets`` (T,)."""
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
        """Surprise and entropy in nats, confidence, and 1 where the top prediction was right.

        Each (N - 1,) for a stream of N tokens. Raises ValueError if there is no prediction.
        """
        require_at_least(1, number_of_predictions=sum(rows.shape[1] for rows in self._rows))
        surprise, entropy, confidence, right = np.concatenate(self._rows, axis=1)
        return surprise, entropy, confidence, right


def uncertainty(
    observed: Observations, tokens: np.ndarray, vocabulary: Vocabulary
) -> dict[str, Any]:
    """The calibration and the groups' surprise and entropy on the stream ``tokens`` (N,).

    ``observed`` holds its N - 1 predictions. Returns ``calibration`` (see there), ``overall`` and,
    of a vocabulary of characters, ``position_in_word`` and ``character_class``, each by group;
    a group without a token is left out. At word level both are None: a word has neither. Raises
    ValueError if ``observed`` is of another number of tokens, or one of them is unknown.
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
    """The reliability curve of the top predictions, and its expected calibration error (ECE).

    ``confidence`` (N,) is the probability given to the likeliest token, ``right`` (N,) is 1 where
    that token came, else 0. Predictions fall into bins of equal width, (low, high]; the ECE is the
    gap between accuracy and confidence in a bin, averaged over the predictions. Only the top
    prediction counts: among all (position, token) pairs nearly every probability is close to 0, and
    the curve would show nothing else. A bin without a prediction has None for its means. Raises
    ValueError if N is 0, the two differ in length or a confidence is below 0 or not a number.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599, section 2.
    """
    require_at_least(1, number_of_predictions=len(confidence))
    if len(right) != len(confidence):
        raise OutOfRange("len(right)", len(right), f"{len(confidence)}, as confidence has")
    require_at_least(0, confidence=float(np.min(confidence)))
    edges = np.linspace(0, 1, BINS + 1)
    # Rounding may put a probability a hair above 1, and no bin holds 0.
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
    """The kind of each token of the vocabulary: (V,) indices into CLASSES.

    Vowels are a, e, i, o and u, accents aside; the other Latin letters of the alphabet, y among
    them, are consonants. Letters of other alphabets, whose vowels are not known here, are
    ``letter``. Tokens that are no single character, such as ``<unk>``, are ``other``.
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
    """Means by group, from nats a token; ``groups`` (N,) are indices into ``names``.

    ``perplexity`` is None where it is beyond the largest float.
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
