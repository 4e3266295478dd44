"""Turn the raw book into a vocabulary and three arrays of token numbers."""

from pathlib import Path

from gru_lm.core.errors import UserError, run_stage
from gru_lm.core.files import missing
from gru_lm.core.params import load_settings
from gru_lm.data.splits import save_splits, split_tokens
from gru_lm.data.text import read_text, tokenize
from gru_lm.data.vocabulary import Vocabulary

RAW = Path("data/raw/corpus.txt")
PREPARED = Path("data/prepared")


def main() -> None:
    settings = load_settings().prepare
    try:
        text = read_text(RAW)
    except FileNotFoundError:
        raise missing(RAW, "fetch") from None
    corpus = tokenize(text, settings.normalize, settings.tokens)
    if not corpus:
        raise UserError(
            f"{RAW} holds no token under prepare.normalize = {settings.normalize}: choose another "
            "corpus" + (" or prepare.normalize = none" if settings.normalize == "letters" else "")
        )
    vocabulary = Vocabulary.build(
        corpus, settings.tokens, settings.normalize, settings.min_freq, settings.reserved_tokens
    )
    splits = split_tokens(vocabulary.encode_tokens(corpus), settings.split)
    # Without a vocabulary nothing trains: stopped in between, no mixture of two splits is used,
    # which may have the same vocabulary.
    (PREPARED / "vocab.json").unlink(missing_ok=True)
    save_splits(PREPARED, splits, vocabulary)
    vocabulary.save(PREPARED / "vocab.json")
    sizes = ", ".join(f"{len(tokens):,} {name}" for name, tokens in splits.items())
    print(f"prepare: {len(corpus):,} tokens, {len(vocabulary)} in the vocabulary; split: {sizes}")


if __name__ == "__main__":
    run_stage("prepare", main)
