"""Names and abilities of a trained model, in ``models/<variant>/card.json``."""

from __future__ import annotations

from gru_lm.results import Perplexity, Result, Words


class Card(Result):
    """Facts about a model for code that does not load it.

    ``label`` is its name in pictures, ``description`` its name in a sentence.
    ``textbook_perplexity`` is the chapter's figure for it, or None. ``has_gates`` is true if its
    gates can be read.
    """

    variant: Words
    label: Words
    description: Words
    textbook_perplexity: Perplexity | None
    has_gates: bool
