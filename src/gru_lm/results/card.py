"""Names and abilities of a trained model, in ``models/<variant>/card.json``."""

from __future__ import annotations

from gru_lm.results import Result


class Card(Result):
    """Facts about a model for code that does not load it.

    ``label`` is its name in pictures, ``description`` its name in a sentence.
    ``textbook_perplexity`` is the chapter's figure for it, or None. ``has_gates`` is true if its
    gates can be read.
    """

    variant: str
    label: str
    description: str
    textbook_perplexity: float | None
    has_gates: bool
