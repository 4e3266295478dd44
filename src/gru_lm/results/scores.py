"""How well a model predicts each split, exactly: ``metrics/evaluate/`` and ``metrics/``."""

from __future__ import annotations

from gru_lm.results import NotNegative, Perplexity, Positive, Result


class Score(Result):
    """One split: perplexity, bits per token (a character, at that level), tokens scored."""

    perplexity: Perplexity
    bits_per_token: NotNegative
    tokens: Positive


class Scores(Result):
    """``metrics/evaluate/<variant>.json``: each split read in one piece, the state carried."""

    train: Score
    val: Score
    test: Score

    def split(self, name: str) -> Score:
        """The split ``name``: train, val or test."""
        score: Score = getattr(self, name)
        return score


class Headline(Result):
    """``metrics/<variant>.json``: the few numbers that ``dvc exp show`` and ``metrics show`` list.

    The training perplexity of the last epoch, the exact perplexities of the kept weights on
    unseen text, and the best validation perplexity of any epoch with that epoch.
    """

    training_perplexity: Perplexity
    val_perplexity: Perplexity
    test_perplexity: Perplexity
    best_val_perplexity: Perplexity | None
    best_epoch: int | None
