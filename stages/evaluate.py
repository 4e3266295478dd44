"""Measure one trained variant on the training, validation and test splits."""

import argparse
from pathlib import Path
from typing import get_args

import torch

from gru_lm.core.device import choose_device, describe_device
from gru_lm.core.errors import run_stage
from gru_lm.core.files import write_json
from gru_lm.core.params import Variant, load_settings
from gru_lm.data.splits import SPLITS, load_split
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.evaluation.perplexity import evaluate
from gru_lm.evaluation.uncertainty import Observations, uncertainty
from gru_lm.models.base import load_model

PREPARED = Path("data/prepared")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=get_args(Variant), required=True)
    variant: Variant = parser.parse_args().variant

    torch.set_num_threads(1)  # the order of a sum, so its last digit, must not depend on the cores
    device = choose_device(load_settings().device)
    print(f"evaluate@{variant}: on {describe_device(device)}", flush=True)
    vocabulary = Vocabulary.load(PREPARED / "vocab.json")
    model = load_model(Path("models") / variant, vocabulary.fingerprint).to(device)
    scores, uncertainties = {}, {}
    for name in SPLITS:
        tokens = load_split(PREPARED, name, vocabulary)
        observed = Observations()
        score = evaluate(model, torch.from_numpy(tokens.astype("int64")), observe=observed.add)
        scores[name] = score.as_metrics()
        uncertainties[name] = uncertainty(observed, tokens, vocabulary)
        print(f"evaluate@{variant}: {name} perplexity {scores[name]['perplexity']:.4g}")
    write_json(Path(f"metrics/evaluate/{variant}.json"), scores)
    write_json(Path(f"analysis/uncertainty/{variant}.json"), uncertainties)


if __name__ == "__main__":
    run_stage("evaluate", main)
