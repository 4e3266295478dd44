"""What a trained model is called and can do: ``models/<variant>/card.json``."""

from __future__ import annotations

from gru_lm.results import Result


class Card(Result):
    """For whatever names a model without loading it.

    ``label`` is its name in pictures, ``description`` what it is in a sentence;
    ``textbook_perplexity`` the chapter's figure for it, None if there is none; ``has_gates`` says
    whether its gates can be read.
    """

    variant: str
    label: str
    description: str
    textbook_perplexity: float | None
    has_gates: bool
