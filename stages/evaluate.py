"""Evaluate one trained variant on every split and publish its model and results.

The outputs of a training in training/ are copied to their final folders after the evaluation. So a
model, its curves and its scores always belong together, and a failed training leaves the earlier
ones unchanged.
"""

import argparse
import importlib
from pathlib import Path

import numpy as np
import torch

from gru_lm.core.errors import DamagedFile, UnusableFile, say
from gru_lm.core.files import copy_file, in_pieces, read_array
from gru_lm.core.params import load_params
from gru_lm.core.settings import CoreSettings
from gru_lm.core.variants import Variant
from gru_lm.data.prepared import SPLITS, Prepared
from gru_lm.evaluation.coverage import CoverageSums
from gru_lm.evaluation.perplexity import evaluate, evaluate_blocks
from gru_lm.evaluation.settings import EvaluationSettings
from gru_lm.evaluation.uncertainty import Observations, UncertaintySums
from gru_lm.models.base import BEST, CONFIG, WEIGHTS, load_model
from gru_lm.models.device import choose_device, describe_device
from gru_lm.models.token_counts import write_token_counts
from gru_lm.results.card import Card
from gru_lm.results.coverage import Coverage
from gru_lm.results.scores import Blocks, Headline, Score, Scores
from gru_lm.results.training import TIMES_TRAINED, Timing, Training, read_curve, write_curve
from gru_lm.results.uncertainty import Uncertainty
from stages import add_variant, run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_variant(parser)
    variant: Variant = parser.parse_args().variant

    torch.set_num_threads(1)  # a sum's last digit depends on the number of threads
    device = choose_device(load_params(CoreSettings).device)
    say(f"evaluate@{variant}", f"on {describe_device(device)}")
    prepared, trained = Prepared(), Path("training") / variant
    model = load_model(trained, prepared.vocabulary.fingerprint, variant).to(device)
    training = Training.read(trained / "training.json")
    timing = Timing.read(trained / "timing.json")
    times = read_array(trained / TIMES_TRAINED, prepared.vocabulary.fingerprint)
    if times.ndim != 1 or times.dtype.kind != "u":
        raise DamagedFile(trained / TIMES_TRAINED, "it is not a list of counts")
    splits = {name: prepared.tokens(name) for name in SPLITS}
    if len(times) != len(splits["train"]) - 1:
        raise UnusableFile(
            trained, "was trained on another training split than the present one", "train it again,"
        )
    curves = {name: read_curve(trained / f"{name}.tsv") for name in ("train", "val")}

    settings = load_params(EvaluationSettings).evaluate
    measured, uncertainties = {}, {}
    covered = CoverageSums(times, training.selected_epoch)
    read = {name: split[: settings.max_tokens] for name, split in splits.items()}
    for name, tokens in read.items():
        sums = UncertaintySums(tokens, prepared.vocabulary)
        observed = Observations(sums.add)
        if name == "train":
            observed = Observations(sums.add, lambda found: covered.add(found.surprise))
        score = evaluate(model, tokens, observe=observed.add)
        observed.end()
        characters = prepared.vocabulary.characters(tokens[1:])
        found = measured[name] = Score.model_validate(score.as_metrics(characters))
        uncertainties[name] = sums.result()
        bits = found.bits_per_character
        by_character = "" if bits is None else f", {bits:.4g} bits per character"
        say(f"evaluate@{variant}", f"{name} perplexity {found.perplexity:.4g}{by_character}")
    blocks = None
    if length := settings.block:
        in_blocks = {
            name: evaluate_blocks(model, tokens, length).as_metrics(
                prepared.vocabulary.characters(tokens[1:])
            )
            for name, tokens in read.items()
        }
        blocks = Blocks.model_validate({"length": length, **in_blocks})
    scores = Scores(**measured, blocks=blocks)
    coverage = Coverage.model_validate(covered.result())
    counts = np.zeros(len(prepared.vocabulary))
    for targets, often in zip(in_pieces(splits["train"][1:]), in_pieces(times), strict=True):
        counts += np.bincount(targets, weights=often, minlength=len(counts))
    best = training.best_val

    for name in (WEIGHTS, CONFIG, f"{BEST}/{WEIGHTS}", f"{BEST}/{CONFIG}"):
        copy_file(trained / name, Path("models") / variant / name)
    write_token_counts(Path("models") / variant, counts, prepared.vocabulary.fingerprint)
    card(variant, model.has_gates()).write(Path("models") / variant / "card.json")
    for name, curve in curves.items():
        write_curve(Path(f"plots/{name}/{variant}.tsv"), curve)
    Uncertainty.model_validate(uncertainties).write(Path(f"analysis/uncertainty/{variant}.json"))
    coverage.write(Path(f"analysis/coverage/{variant}.json"))
    timing.write(Path(f"metrics/timing/{variant}.json"))
    training.write(Path(f"metrics/train/{variant}.json"))
    scores.write(Path(f"metrics/evaluate/{variant}.json"))
    Headline(
        training_perplexity=training.perplexity,
        val_perplexity=scores.val.perplexity,
        test_perplexity=scores.test.perplexity,
        best_val_perplexity=best.perplexity if best else None,
        best_epoch=best.epoch if best else None,
        val_bits_per_character=scores.val.bits_per_character,
    ).write(Path(f"metrics/{variant}.json"))


def card(variant: Variant, has_gates: bool) -> Card:
    """Return the card of ``variant``, from its settings.py."""
    about = importlib.import_module(f"gru_lm.models.{variant}.settings")
    return Card(
        variant=variant,
        label=about.LABEL,
        description=about.DESCRIPTION,
        textbook_perplexity=about.TEXTBOOK_PERPLEXITY,
        has_gates=has_gates,
    )


if __name__ == "__main__":
    run_stage("evaluate", main)
