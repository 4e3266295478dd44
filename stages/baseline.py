"""Score baselines without a network on the same splits as the models."""

from pathlib import Path

from gru_lm.core.errors import say
from gru_lm.core.params import load_params
from gru_lm.core.settings import CoreSettings
from gru_lm.data.prepared import SPLITS, Prepared
from gru_lm.evaluation.baselines import (
    COMPRESSORS,
    ORDERS,
    SAMPLE,
    compressed,
    n_gram,
    uniform,
    unigram,
)
from gru_lm.results.baselines import write_baselines
from stages import run_stage


def main() -> None:
    load_params(CoreSettings)  # validates params.yaml, though this stage uses no params
    prepared = Prepared()
    vocabulary = prepared.vocabulary
    size = len(vocabulary)
    whole = {name: prepared.tokens(name) for name in SPLITS}
    splits = {name: tokens[:SAMPLE] for name, tokens in whole.items()}
    for name, tokens in whole.items():
        if len(tokens) > SAMPLE:
            say("baseline", f"only the first {SAMPLE:,} of {len(tokens):,} tokens of {name}")
    scores = {"uniform": uniform(splits, size), "unigram": unigram(splits, size)}
    scores |= {f"{order}-gram": n_gram(splits, size, order) for order in ORDERS}
    scores |= {name: compressed(splits, vocabulary, name) for name in COMPRESSORS}
    for name, by_split in scores.items():
        say("baseline", f"{name} {by_split['val']['bits_per_token']:.3f} bits per token of val")
    write_baselines(Path("analysis/baselines.json"), scores)


if __name__ == "__main__":
    run_stage("baseline", main)
