"""Measure the unigram baseline on the same splits as the models."""

from pathlib import Path

from gru_lm.baselines import unigram
from gru_lm.errors import run_stage
from gru_lm.files import write_json
from gru_lm.tokens import SPLITS, load_split
from gru_lm.vocabulary import Vocabulary

PREPARED = Path("data/prepared")


def main() -> None:
    vocab_size = len(Vocabulary.load(PREPARED / "vocab.json"))
    splits = {name: load_split(PREPARED, name, vocab_size) for name in SPLITS}
    write_json(Path("metrics/evaluate/unigram.json"), unigram(splits, vocab_size))


if __name__ == "__main__":
    run_stage("baseline", main)
