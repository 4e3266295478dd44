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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from gru_lm.core.errors import OutOfRange, require_at_least, require_tokens
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.evaluation.words import POSITIONS, WordReader, token_categories

BLOCK: Final = 1 << 20  # predictions that are summed at a time
BINS: Final = 15  # as in Guo et al. 2017
EDGES: Final = np.linspace(0, 1, BINS + 1)
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


@dataclass(frozen=True)
class Predictions:
    """Consecutive predictions, each (T,): of the actual token and of the most probable one.

    ``surprise`` and ``entropy`` are in nats. ``confidence`` is the probability of the most probable
    token, ``right`` is 1 if that token is the actual one, else 0.
    """

    surprise: np.ndarray
    entropy: np.ndarray
    confidence: np.ndarray
    right: np.ndarray

    def __len__(self) -> int:
        return len(self.surprise)


class Observations:
    """Gathers predictions and passes them on to ``readers``; ``add`` observes ``evaluate``.

    They are passed on in blocks of ``block`` predictions or a few more, the last by ``end``, so the
    memory does not grow with the stream. The sums of a stream within one block do not depend on the
    size of the pieces that are added.
    """

    def __init__(self, *readers: Callable[[Predictions], None], block: int = BLOCK) -> None:
        self._readers, self._block = readers, block
        self._rows: list[np.ndarray] = []
        self._waiting = 0

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
        self._waiting += len(targets)
        if self._waiting >= self._block:
            self.end()

    def end(self) -> None:
        """Pass on the predictions that are waiting."""
        if self._rows:
            predictions = Predictions(*np.concatenate(self._rows, axis=1))
            self._rows, self._waiting = [], 0
            for read in self._readers:
                read(predictions)


class UncertaintySums:
    """The calibration, and surprise and entropy by group, on the stream ``tokens`` (N,).

    ``add`` reads its N - 1 predictions in order. Raises ValueError if a token is unknown.
    """

    def __init__(self, tokens: np.ndarray, vocabulary: Vocabulary) -> None:
        require_tokens(tokens, len(vocabulary), least=2)
        self._tokens = tokens
        self._added = 0
        self._calibration = CalibrationSums()
        self._overall = _GroupSums(("all",))
        self._reader: WordReader | None = None
        if vocabulary.level == "char":
            self._reader = WordReader(vocabulary)
            self._reader.positions(tokens[:1])  # which is not predicted
            self._positions, self._classes = _GroupSums(POSITIONS), _GroupSums(CLASSES)
            self._class_of = character_classes(vocabulary)

    def add(self, predictions: Predictions) -> None:
        """Add the next predictions."""
        self._calibration.add(predictions.confidence, predictions.right)
        self._overall.add(predictions, np.zeros(len(predictions), dtype=np.intp))
        targets = self._tokens[self._added + 1 :][: len(predictions)]
        self._added += len(predictions)
        if self._reader is not None:
            self._positions.add(predictions, self._reader.positions(targets))
            self._classes.add(predictions, self._class_of[targets])

    def result(self) -> dict[str, Any]:
        """Return ``calibration``, ``overall``, ``position_in_word`` and ``character_class``.

        A group without a token is left out. The last two are None unless the tokens are
        characters.

        Raises ValueError if another number of predictions was added.
        """
        if self._added != len(self._tokens) - 1:
            expected = f"{self._added + 1}, as was observed"
            raise OutOfRange("len(tokens)", len(self._tokens), expected)
        at_char_level = self._reader is not None
        return {
            "calibration": self._calibration.result(),
            "overall": self._overall.result()["all"],
            "position_in_word": self._positions.result() if at_char_level else None,
            "character_class": self._classes.result() if at_char_level else None,
        }


class CalibrationSums:
    """The reliability curve of the top predictions and the expected calibration error (ECE).

    Bins (low, high] have equal width. The ECE is the absolute difference between accuracy and mean
    confidence of a bin, averaged over the predictions. Only the top prediction is used, because
    nearly all other probabilities are close to 0. The means of a bin without predictions are None.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599, section 2.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(BINS, np.int64)
        self._confidences, self._rights = np.zeros(BINS), np.zeros(BINS)  # sums
        self._confidence = self._right = 0.0

    def add(self, confidence: np.ndarray, right: np.ndarray) -> None:
        """Add predictions (T,) whose most probable token has a ``confidence`` and is ``right``.

        Raises ValueError if T is 0, the lengths differ or a confidence is negative or NaN.
        """
        require_at_least(1, number_of_predictions=len(confidence))
        if len(right) != len(confidence):
            raise OutOfRange("len(right)", len(right), f"{len(confidence)}, as confidence has")
        require_at_least(0, confidence=float(np.min(confidence)))
        # A rounded probability may exceed 1 slightly, and no bin contains 0.
        bins = np.clip(np.searchsorted(EDGES, confidence, side="left") - 1, 0, BINS - 1)
        self._counts += np.bincount(bins, minlength=BINS)
        self._confidences += np.bincount(bins, confidence, minlength=BINS)
        self._rights += np.bincount(bins, right, minlength=BINS)
        self._confidence += float(np.sum(confidence))
        self._right += float(np.sum(right))

    def result(self) -> dict[str, Any]:
        """Return ``ece``, ``accuracy``, ``confidence`` and ``bins``. Raises ValueError if empty."""
        total = int(self._counts.sum())
        require_at_least(1, number_of_predictions=total)
        return {
            "ece": float(np.abs(self._rights - self._confidences).sum() / total),
            "accuracy": self._right / total,
            "confidence": self._confidence / total,
            "bins": [
                {
                    "low": float(EDGES[index]),
                    "high": float(EDGES[index + 1]),
                    "count": int(count),
                    "confidence": float(self._confidences[index] / count) if count else None,
                    "accuracy": float(self._rights[index] / count) if count else None,
                }
                for index, count in enumerate(self._counts)
            ],
        }


class _GroupSums:
    """The means of surprise and entropy by group; ``names`` are those of the groups."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._counts = np.zeros(len(names), np.int64)
        self._surprises, self._entropies = np.zeros(len(names)), np.zeros(len(names))  # sums

    def add(self, predictions: Predictions, groups: np.ndarray) -> None:
        """Add predictions (T,), whose ``groups`` (T,) are indices into the names."""
        size = len(self._names)
        self._counts += np.bincount(groups, minlength=size)
        self._surprises += np.bincount(groups, predictions.surprise, minlength=size)
        self._entropies += np.bincount(groups, predictions.entropy, minlength=size)

    def result(self) -> dict[str, dict[str, float | int | None]]:
        """Return the means by group; ``perplexity`` is None if it exceeds the largest float."""
        found: dict[str, dict[str, float | int | None]] = {}
        total = int(self._counts.sum())
        for index, name in enumerate(self._names):
            if count := int(self._counts[index]):
                mean = float(self._surprises[index]) / count
                found[name] = {
                    "tokens": count,
                    "share": count / total,
                    "perplexity": math.exp(mean) if mean < math.log(sys.float_info.max) else None,
                    "bits_per_token": mean / math.log(2),
                    "entropy_bits": float(self._entropies[index]) / count / math.log(2),
                }
        return found


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
