"""Convert the corpus to a vocabulary and three arrays of token numbers."""

from pathlib import Path

from gru_lm.core.errors import UserError, say
from gru_lm.core.params import load_params
from gru_lm.data.prepared import Prepared
from gru_lm.data.text import dropped_letters, read_text, tokenize
from gru_lm.preparation.settings import PreparationSettings
from gru_lm.preparation.splits import prepare
from stages import run_stage

RAW = Path("data/raw/corpus.txt")


def main() -> None:
    settings = load_params(PreparationSettings).prepare
    text = read_text(RAW)
    corpus = tokenize(text, settings.normalize, settings.tokens)
    if not corpus:
        raise UserError(
            f"{RAW} has no tokens with prepare.normalize = {settings.normalize}: choose another "
            "corpus" + (" or prepare.normalize = none" if settings.normalize == "letters" else "")
        )
    lost, examples = dropped_letters(text, settings.normalize)
    if lost > 0.01:
        say(
            "prepare",
            f"prepare.normalize = letters drops {lost:.1%} of the letters (such as {examples}): "
            "set it to none to keep them",
        )
    vocabulary, splits = prepare(corpus, settings)
    Prepared.write(vocabulary, splits)
    sizes = ", ".join(f"{len(tokens):,} {name}" for name, tokens in splits.items())
    unknown = ", ".join(f"{(tokens == 0).mean():.1%} {name}" for name, tokens in splits.items())
    say(
        "prepare",
        f"{len(corpus):,} tokens, {len(vocabulary)} in the vocabulary; split: {sizes}; "
        f"<unk>: {unknown}",
    )


if __name__ == "__main__":
    run_stage("prepare", main)
