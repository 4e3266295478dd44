"""Convert the corpus to a vocabulary and three arrays of token numbers."""

import tempfile
from pathlib import Path

from gru_lm.core.errors import UserError, say
from gru_lm.core.params import load_params
from gru_lm.preparation.corpus import Corpus, TextFile
from gru_lm.preparation.settings import PreparationSettings
from gru_lm.preparation.splits import prepare
from stages import run_stage

RAW = Path("data/raw/corpus.txt")


def main() -> None:
    settings = load_params(PreparationSettings).prepare
    text = TextFile(RAW)
    with tempfile.TemporaryFile(dir=RAW.parent) as scratch:
        corpus = Corpus(text.pieces, settings.normalize, settings.tokens, scratch)
        counts = corpus.count()
        if not counts:
            raise UserError(
                f"{RAW} has no tokens with prepare.normalize = {settings.normalize}: choose "
                "another corpus"
                + (" or prepare.normalize = none" if settings.normalize == "letters" else "")
            )
        lost, examples = corpus.dropped_letters(counts)
        if lost > 0.01:
            say(
                "prepare",
                f"prepare.normalize = letters drops {lost:.1%} of the letters (such as "
                f"{examples}): set it to none to keep them",
            )
        written = prepare(corpus, counts, settings)
    sizes = ", ".join(f"{size:,} {name}" for name, size in written.tokens.items())
    unknown = ", ".join(
        f"{written.unknown[name] / size:.1%} {name}" for name, size in written.tokens.items()
    )
    unit = "characters" if settings.tokens == "bpe" else "tokens"
    say(
        "prepare",
        f"{sum(counts.values()):,} {unit}, {written.vocabulary} in the vocabulary; split: {sizes}; "
        f"<unk>: {unknown}",
    )


if __name__ == "__main__":
    run_stage("prepare", main)
