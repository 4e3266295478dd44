"""Exact scores of a model on each split, in ``metrics/evaluate/`` and ``metrics/``."""

from __future__ import annotations

from typing import Any

from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from gru_lm.results import NotNegative, Perplexity, Positive, Result


class Score(Result):
    """Perplexity, bits per token and the number of tokens of one split.

    The measures per character and the number of characters are in the file only with byte pairs:
    those per token cannot be compared between texts cut into different tokens.
    """

    perplexity: Perplexity
    bits_per_token: NotNegative
    tokens: Positive
    perplexity_per_character: Perplexity | None = None
    bits_per_character: NotNegative | None = None
    characters: Positive | None = None

    @model_serializer(mode="wrap")
    def _without_absent(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_none(
            dump(self), "perplexity_per_character", "bits_per_character", "characters"
        )


class Blocks(Result):
    """Scores of each split read in blocks of ``length`` tokens, each from a state of zeros."""

    length: Positive
    train: Score
    val: Score
    test: Score


class Scores(Result):
    """Scores of each split read in one piece, in ``metrics/evaluate/<variant>.json``.

    ``blocks`` is in the file only if ``evaluate.block`` is set.
    """

    train: Score
    val: Score
    test: Score
    blocks: Blocks | None = None

    @model_serializer(mode="wrap")
    def _without_empty_blocks(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_none(dump(self), "blocks")

    def split(self, name: str) -> Score:
        """The split ``name``: train, val or test."""
        score: Score = getattr(self, name)
        return score


class Headline(Result):
    """The numbers that ``dvc exp show`` and ``metrics show`` list, in ``metrics/<variant>.json``.

    They are the training perplexity of the last epoch, the exact perplexities of the kept weights
    on unseen text, and the best validation perplexity of any epoch with that epoch. With byte pairs
    there are also the bits per character on the validation split.
    """

    training_perplexity: Perplexity
    val_perplexity: Perplexity
    test_perplexity: Perplexity
    best_val_perplexity: Perplexity | None
    best_epoch: Positive | None
    val_bits_per_character: NotNegative | None = None

    @model_serializer(mode="wrap")
    def _without_absent(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_none(dump(self), "val_bits_per_character")

    @model_validator(mode="after")
    def _best_is_whole(self) -> Headline:
        if (self.best_val_perplexity is None) != (self.best_epoch is None):
            raise ValueError("best_val_perplexity and best_epoch are not both given")
        return self


def _without_none(tree: dict[str, Any], *optional: str) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if value is not None or key not in optional}
