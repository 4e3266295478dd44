"""Scores of predictors without a network, in ``analysis/baselines.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from gru_lm.core.files import read_json, write_json
from gru_lm.results import NotNegative, Perplexity, Positive, Result, Words, checked


class BaselineScore(Result):
    """Scores on one split; ``perplexity`` is None if it exceeds the largest float."""

    perplexity: Perplexity | None
    bits_per_token: NotNegative
    tokens: Positive


class BaselineScores(Result):
    """Scores of a baseline on every split."""

    train: BaselineScore
    val: BaselineScore
    test: BaselineScore

    def split(self, name: str) -> BaselineScore:
        """The split ``name``: train, val or test."""
        score: BaselineScore = getattr(self, name)
        return score


_BY_NAME = TypeAdapter(dict[Words, BaselineScores])


def write_baselines(path: Path, scores: Mapping[str, Any]) -> None:
    """Write the ``scores`` of each baseline, by its name, to ``path``."""
    write_json(path, _BY_NAME.dump_python(_BY_NAME.validate_python(dict(scores))))


def read_baselines(path: Path) -> dict[str, BaselineScores]:
    """Read the scores that ``write_baselines`` wrote to ``path``. Raises UnusableFile."""
    return checked(_BY_NAME, read_json(path), path)
